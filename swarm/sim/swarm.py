"""The room `sim`, put together: real peers and real clients on a stage of virtual time, what may happen to them, and the verdict when the curtain falls.

Everything is drawn from one seed. Clients hold conversations for as long as the script lasts, and every turn is written down; afterwards each is held against
the model's own answer, and every process against what it must have given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarm.client.aio import Client
from swarm.client.session import Session
from swarm.core import PeerId, Span
from swarm.errors import RemoteError, SwarmError
from swarm.peer.drafting import Drafter
from swarm.peer.holding import Holding
from swarm.peer.offer import Offer
from swarm.peer.server import About, Peer
from swarm.ports import Guise
from swarm.routing.placement import choose_spans
from swarm.routing.table import PeerView
from swarm.sim import toy
from swarm.sim.clock import Process, VirtualLoop
from swarm.sim.directory import Directory, Table
from swarm.sim.guests import Talk
from swarm.sim.host import Meters
from swarm.sim.network import Links, Network
from swarm.sim.verdict import SETTLED, Sight, Turn, Verdict, faults_of

AFTERMATH = 180.0
"""Seconds in which the last turns must end, misfortunes being over: 30 to a first token, some silences, some patience."""

SLOW_LINE = 2000.0
"""Bytes per second: what toy's rows of eight bytes, four of them compressed, are worth compressing for."""

LEASES = 45.0
"""Seconds after which hops that nobody said goodbye to must be forgotten: a lease of 30 s, and what was under way."""


@dataclass(frozen=True)
class Scene:
    """How many, how fast, how far apart. Seconds, unless said otherwise."""

    peers: int = 20
    clients: int = 3
    """One in three of whom keeps its own ends."""
    layers: int = 8
    holds: tuple[int, int] = (3, 5)
    """Components a peer has room for, at least and at most."""
    layer: tuple[float, float] = (0.002, 0.02)
    """For a layer and step; a row costs a twentieth of it."""
    across: float = 0.08
    """One way between opposite corners."""
    loss: float = 0.002
    """Share of messages that are sent twice."""
    jitter: float = 0.2
    """By what share of its way a message may be late."""
    skew: float = 2.0
    """How far clocks are off, either way."""
    cache_tokens: int = 4000
    prompt: tuple[int, int] = (1, 40)
    """Tokens of a question."""
    answer: tuple[int, int] = (5, 60)
    """Tokens asked for."""
    think: tuple[float, float] = (0.0, 6.0)
    """Between two turns."""
    load: tuple[float, float] = (2.0, 12.0)
    """To load other layers."""
    repeats: float = 0.3
    """Share of conversations that begin as the guest's last one did."""
    impatience: float = 0.25
    """Share of answers that nobody reads to their end."""
    numerics: tuple[str, ...] = (toy.NUMERICS,)
    """What peers compute in, taken in turn as they come."""
    mixed: bool = False
    """Whether clients let one chain mix them."""
    audit: float = 0.0
    """The share of hops that clients audit."""
    inspects: bool = False
    """Whether coordinators have work made again."""
    guesses: float = 0.0
    """How often those who guess at first hops are right; 0 for nobody who does."""
    compress: bool = False
    """Whether clients let peers compress. Then every other peer says that its line is slow."""

    @property
    def components(self) -> int:
        return self.layers + 2


@dataclass(eq=False)
class Actor:
    """A process on the stage."""

    peer: PeerId
    process: Process
    links: Links
    task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return not self.links.gone


@dataclass(eq=False)
class Server(Actor):
    span: Span | None = None
    shell: Peer | None = None
    engine: toy.Engine | None = None
    online: float = math.inf
    """Since when it has been of use without a break."""
    leaving: bool = False
    moves: int = 0

    @property
    def hangs(self) -> bool:
        return self.engine is not None and self.engine.hangs


@dataclass(eq=False)
class Guest(Actor):
    session: Session | None = None
    client: Client | None = None


Script = Callable[["Stage"], Awaitable[None]]


class Stage:
    def __init__(self, seed: int, scene: Scene = Scene(), note: Callable[[str], None] | None = None) -> None:
        """`note` gets every line of the trace."""
        self.seed, self.scene = seed, scene
        self.loop = self._begin()
        self.random = random.Random(f"{seed} script")
        self.network = Network(self.loop, random.Random(f"{seed} network"), self._latency, loss=scene.loss, jitter=scene.jitter)
        self.network.note = self.note
        self.table = Table(self.network, random.Random(f"{seed} directory"))
        self.shape = toy.shape(scene.layers)
        self.servers: dict[PeerId, Server] = {}
        """Everybody who ever served, by id, in the order in which they came."""
        self.guests: dict[PeerId, Guest] = {}
        self.turns: list[Turn] = []
        self._places: dict[PeerId, tuple[float, float]] = {}
        self._sights: list[Sight] = []
        self._last_side: frozenset[PeerId] = frozenset()
        self._healed = -math.inf
        self.over = False
        self._faults: list[str] = []
        self._note, self._digest = note, hashlib.blake2b(digest_size=16)
        self._tasks: set[asyncio.Task[None]] = set()
        self._engines: list[toy.Engine] = []
        self._guises = 0
        self.oracles: list[toy.Oracle] = []
        """Who guessed, in every session."""

    def run(self, script: Script) -> Verdict:
        logger = logging.getLogger("swarm")
        complaints = _Complaints(self._faults)
        logger.addHandler(complaints)
        try:
            return self.loop.run(self._run(script))
        finally:
            logger.removeHandler(complaints)

    def note(self, line: str) -> None:
        line = f"{self.loop.now:.6f} {line}\n"
        self._digest.update(line.encode())
        if self._note is not None:
            self._note(line)

    # --- who is there -------------------------------------------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> list[Server]:
        """Those who are of use now."""
        return [server for server in self.servers.values() if server.online <= self.loop.now]

    @property
    def coordinators(self) -> list[Server]:
        """Those who think they are it: one, most of the time, for each side of a partition."""
        return [server for server in self.servers.values() if server.up and server.shell is not None and server.shell.coordinates]

    def hops(self, guest: Guest) -> list[Server]:
        """The chain of a guest's session, its own ends aside."""
        if guest.session is None:
            return []
        try:
            return [self.servers[hop.peer_id] for hop in guest.session.route.hops if hop.peer_id != guest.peer]
        except SwarmError:
            return []

    # --- what may happen ----------------------------------------------------------------------------------------------------------------------------------

    def join(self, span: Span | None = None, *, slower: float = 1.0, boast: float = 1.0, meters: Meters | None = None) -> Server:
        """Somebody new: where it helps most by what the directory says, unless told. `slower` is how many times slower it is than it says until it notices,
        `boast` how many times faster it says it is, whatever it notices. With `meters` it looks at its machine, and is polite."""
        server = self._arrive(Server, f"peer{len(self.servers):03}")
        self.servers[server.peer] = server
        server.task = self._start(server, self._serve(server, span, slower, boast, meters))
        return server

    def kill(self, actor: Actor, *, silently: bool = False) -> None:
        if not actor.up:
            return
        self._happens("vanishes" if silently else "is killed", actor)
        self.network.kill(actor.links, silently=silently)
        self._end(actor)

    def freeze(self, actor: Actor) -> None:
        self._happens("freezes", actor)
        self.network.freeze(actor.links)
        self._useless(actor)

    def thaw(self, actor: Actor) -> None:
        """Nothing, if it died meanwhile."""
        if actor.up:
            self._happens("thaws", actor)
            self.network.thaw(actor.links)
            self._useful(actor)

    def hang(self, server: Server) -> None:
        """It computes nothing any more, and nobody can see that but by the missing tokens."""
        self._happens("hangs", server)
        if server.engine is not None:
            server.engine.hangs = True
        self._useless(server)

    def leave(self, server: Server, patience: float = 30.0) -> None:
        """In peace: what it runs has so long to finish or to move."""
        self._happens("leaves", server)
        server.leaving = True
        self._useless(server)
        self._start(server, self._leave(server, patience))

    def part(self, side: Iterable[PeerId]) -> None:
        self.network.part(side)
        self._last_side = frozenset(side)
        self.note(f"parted: {' '.join(sorted(self._last_side))}")
        self._look()

    def heal(self) -> None:
        self.note("healed")
        self.network.heal()
        self._healed = self.loop.now
        self._look()

    def cut(self, one: Actor, other: Actor) -> bool:
        return self.network.cut(one.peer, other.peer)

    def visit(self) -> Guest:
        """A client who talks until the script is over."""
        guest = self._arrive(Guest, f"guest{len(self.guests):03}")
        self.guests[guest.peer] = guest
        guest.task = self._start(guest, Talk(self, guest).run())
        return guest

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Unless the script is over by then."""
        self.loop.call_later(seconds, lambda: None if self.over else act())

    # --- one run ------------------------------------------------------------------------------------------------------------------------------------------

    async def _run(self, script: Script) -> Verdict:
        self._found_swarm()
        await asyncio.sleep(SETTLED)
        for _ in range(self.scene.clients):
            self.visit()
        await script(self)
        self.over = True
        await self._last_turns()
        await asyncio.sleep(LEASES)
        broken = [*self._unreturned(), *faults_of(self.turns, self._sights, self.scene.components)]
        await self._clear()
        broken += [*self._faults, *self.loop.faults, *self.network.faults]
        broken += [fault for engine in self._engines for fault in engine.faults]
        broken += sorted(f"a task was left behind: {task.get_name()}" for task in asyncio.all_tasks() if task is not asyncio.current_task())
        return Verdict(self.seed, self.turns, broken, self._digest.hexdigest(), self.loop.now, self.loop.steps)

    def _found_swarm(self) -> None:
        """The first peers, who have read each other's announcements."""
        views: list[PeerView] = []
        for _ in range(self.scene.peers):
            span = self._choose(views, self.random.randint(*self.scene.holds))
            views.append(PeerView(self.join(span).peer, spans=(span,)))

    async def _last_turns(self) -> None:
        if self.network.side is not None:
            self.heal()
        for actor in (*self.servers.values(), *self.guests.values()):
            if actor.process.frozen:
                self.thaw(actor)
            if isinstance(actor, Server) and actor.hangs:
                self.kill(actor)
        running = {guest.task for guest in self.guests.values() if guest.task is not None}
        _, late = await asyncio.wait(running, timeout=AFTERMATH) if running else (set(), set())
        self._faults += sorted(f"{task.get_name()} is still talking" for task in late)

    async def _clear(self) -> None:
        for actor in (*self.guests.values(), *self.servers.values()):
            if actor.up:
                await actor.links.close()
            self._end(actor)
        while self._tasks:
            await asyncio.wait(self._tasks)
        for actor in (*self.guests.values(), *self.servers.values()):
            if actor.task is not None and not actor.task.cancelled() and (error := actor.task.exception()) is not None:
                self._faults.append(f"{actor.peer} failed: {error!r}")

    def _unreturned(self) -> list[str]:
        broken = []
        for server in self.servers.values():
            if server.up and server.shell is not None:
                status = server.shell.status()
                if status.sessions or status.free_tokens != self.scene.cache_tokens:
                    broken.append(f"{server.peer} still holds {status.sessions} sessions, {status.free_tokens} of {self.scene.cache_tokens} tokens are free")
        return broken

    # --- who could have served ----------------------------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        servers = tuple((server.peer, server.span, server.online) for server in self.servers.values() if server.span and server.online < math.inf)
        self._sights.append(Sight(self.loop.now, servers, self.network.side, self._last_side, self._healed))

    def _useful(self, actor: Actor) -> None:
        if isinstance(actor, Server) and actor.shell is not None and not actor.leaving and not actor.hangs:
            actor.online = self.loop.now
            self._look()

    def _changed(self, server: Server) -> None:
        """It says itself whether it takes sessions, and for which layers."""
        status = server.shell.status() if server.shell is not None else None
        if status is None or status.state != "online":
            self._useless(server)
            return
        if server.span not in (None, *status.spans):
            server.moves += 1
            self._happens(f"has moved to {status.spans[0].start}:{status.spans[0].stop}", server)
        server.span = status.spans[0]
        self._useful(server)

    def _useless(self, actor: Actor) -> None:
        if isinstance(actor, Server):
            actor.online = math.inf
            self._look()

    # --- actors -------------------------------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> VirtualLoop:
        return VirtualLoop()  # type: ignore[abstract]  # what it lacks it refuses

    def _address(self, peer: PeerId) -> str:
        return f"/sim/{peer}"

    def _latency(self, one: PeerId, other: PeerId) -> float:
        return 0.001 + self.scene.across / math.sqrt(2) * math.dist(self._places[one], self._places[other])

    def _arrive(self, kind: type, peer: PeerId):
        self._places[peer] = (self.random.random(), self.random.random())
        process = Process(peer, self.random.uniform(-self.scene.skew, self.scene.skew))
        self.note(f"{peer} comes")
        return kind(peer, process, self.network.attach(peer, process))

    def _start(self, actor: Actor, life) -> asyncio.Task[None]:
        task = self.loop.create_task(life, name=actor.peer, context=actor.process.context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _happens(self, what: str, actor: Actor) -> None:
        self.note(f"{actor.peer} {what}")

    def _end(self, actor: Actor) -> None:
        """Unwind a process whose links are gone: whatever it still says reaches nobody."""
        self._useless(actor)
        if actor.process.frozen:
            self.loop.thaw(actor.process)
        if actor.task is not None:
            actor.task.cancel()

    def _choose(self, views: Sequence[PeerView], room: int) -> Span:
        return choose_spans(views, self.scene.components, (1,) * self.scene.components, room, self.scene.layer[0])

    async def _serve(self, server: Server, span: Span | None, slower: float, boast: float, meters: Meters | None) -> None:
        directory, layer = Directory(self.table, server.links), self.random.uniform(*self.scene.layer)
        if span is None:
            room = self.random.randint(*self.scene.holds)
            span = self._choose([PeerView.of(record, self.scene.components) for record in await directory.read(self.shape.config_hash)], room)
        server.engine = self.engine(layer * slower)
        server.engine.boast = boast
        number = list(self.servers).index(server.peer)
        numerics = self.scene.numerics[number % len(self.scene.numerics)]
        offer = Offer(toy.REVISION, numerics, self.scene.components, (span,), self.shape.max_length, journal=1.0, version=1, vocab=toy.VOCAB)
        held = Holding(server.engine.speed, offer, layer * 1.05 / boast, layer / 20 / boast, 1.0, self.scene.cache_tokens)
        about = About(
            self.shape.name,
            self.shape.config_hash,
            (self._address(server.peer),),
            max_upload=SLOW_LINE if self.scene.compress and number % 2 == 0 else None,
            vocab=toy.VOCAB if self.scene.inspects else 0,
        )
        server.shell = Peer(
            server.links,
            directory,
            server.engine,
            held,
            about,
            clock=self.loop.time,
            wall=directory.wall,
            verify=toy.verify,
            sign=lambda data: toy.signed(server.peer, data),
            attest=lambda data: toy.signed(server.peer, data),
            likeness=toy,
            guise=lambda: self._guise(server),
            think=_at_once,
            loader=Loader(held, self.scene, self.random),
            seed=self.random.getrandbits(32),
            changed=lambda: self._changed(server),
            meters=meters,
            polite=meters is not None,
            drafters=self._drafters,
        )
        try:
            await server.shell.serve()
        except* RemoteError:
            self._useless(server)
            self.note(f"{server.peer} could not join: nobody took its first announcement")

    @contextlib.asynccontextmanager
    async def _guise(self, server: Server) -> AsyncIterator[Guise]:
        """Somebody of whom nobody knows whose process it is. None once the script is over: what is ordered then would outlast the stage."""
        if self.over:
            raise RemoteError("the script is over")
        self._guises += 1
        peer = f"guise{self._guises:03}"
        self._places[peer] = self._places[server.peer]
        links = self.network.attach(peer, server.process)
        try:
            yield Guise(links, lambda data: toy.signed(peer, data))
        finally:
            await links.close()

    def _drafters(self, ready: Callable[[], None]) -> Sequence[Drafter]:
        if not self.scene.guesses:
            return ()
        self.oracles.append(toy.Oracle(self.scene.components, self.scene.guesses, random.Random(self.random.getrandbits(32))))
        return self.oracles[-1:]

    def engine(self, layer: float) -> toy.Engine:
        engine = toy.Engine(self.scene.components, toy.Speed(layer, layer * toy.ROW), self.loop.time)
        self._engines.append(engine)
        return engine

    async def _leave(self, server: Server, patience: float) -> None:
        if server.shell is not None:
            await server.shell.drain(patience)
        if server.up:
            await server.links.close()
            self._end(server)


class Loader:
    """Implements `holding.Loader`: any part takes some seconds to load, and is run as fast as the one before."""

    def __init__(self, held: Holding, scene: Scene, dice: random.Random) -> None:
        self.costs = (1,) * scene.components
        self._held, self._scene, self._random = held, scene, dice

    def budget(self, held: Span) -> int:
        return len(held)

    async def fetch(self, span: Span) -> None:
        await asyncio.sleep(self._random.uniform(0.0, self._scene.load[0]))

    async def load(self, span: Span) -> Holding:
        await asyncio.sleep(self._random.uniform(*self._scene.load))
        return replace(self._held, offer=replace(self._held.offer, spans=(span,)))


class _Complaints(logging.Handler):
    """What the rooms log as errors: bugs that they survived."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        self._faults.append(f"logged: {record.getMessage()} {record.exc_info[1]!r}" if record.exc_info else f"logged: {record.getMessage()}")


async def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """No threads on the stage: they live in real time."""
    return function(*arguments)
