"""A serving node: a hop room, an engine, and the loops that tell the swarm about them. Does not know which network it is on, nor how its model was loaded.

Owns the tasks of everything below it; whoever runs `serve` owns those of the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

from swarm.core import PeerId, Span
from swarm.errands import Likeness
from swarm.errors import PeerLost, ProtocolError, RemoteError, contained
from swarm.machines.election import Candidacy, height
from swarm.machines.evidence import Verify
from swarm.machines.ledger import CacheLedger
from swarm.machines.limits import HopLimits
from swarm.peer.coordinator import Coordinator, Think
from swarm.peer.drafting import Drafter
from swarm.peer.holding import Holding, Loader, ServingEngine
from swarm.peer.hops import HopRoom
from swarm.peer.inspector import Inspector
from swarm.peer.judge import Judge
from swarm.peer.monitor import Monitor
from swarm.peer.moving import Mover
from swarm.peer.pace import Pace
from swarm.peer.past import KEEP_EVERY, Past
from swarm.ports import Directory, Guise, Links, Meters, Notes, Readings
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView
from swarm.wire import MOST_DRAFT_NAME, RENEW_EVERY, VERSION, Announcement, Message, Needed

log = logging.getLogger(__name__)

MEASURE_EVERY = 30.0
MEASURED_PEERS = 20
"""Round trips to about twenty peers, beside the means of whole regions, cost a route 0.3 to 2.6 % against knowing every latency (docs/routing.md)."""

MEASURE_SOON = 4.0
"""Seconds while peers still come: a pair that nobody has measured is taken to be as far apart as usual, and is planned around."""

GAUGE_EVERY, GAUGED = 600.0, 3
"""Seconds between two times that we find out what we can send, and to how many others: what is slow may be their line."""

TICK = 1.0

ASLEEP = 2.0
"""Seconds that a tick may be late. Beyond it we were frozen, and whoever gave us up meanwhile should hear at once that we are back."""

QUIET = 10.0
"""Seconds without anything computed after which a session counts as one that waits for its next turn: that turn will find another peer."""

LOOK = 0.1
"""Seconds between two looks at what still runs, while leaving."""

AT_WORK = 2.0
"""Seconds since something was computed for a session, up to which it counts as load: longer than any step, shorter than a pause for thought."""

UPTIME = 600.0
"""Seconds of uptime that make a candidate a class fitter, three times: who has stayed so long tends to stay."""

FAREWELL = 2.0
"""Seconds to tell the directory that we are gone; otherwise our last record goes on speaking of us until it expires."""


@dataclass(frozen=True, slots=True)
class About:
    """What a peer says of itself, whatever it holds."""

    model: str
    config_hash: str
    addrs: tuple[str, ...]
    name: str = ""
    region: str = ""
    max_upload: float | None = None
    """Bytes per second that its owner allows it to send."""
    lasts: bool = False
    """Whether it will be the same peer after a restart."""
    draft: str = ""
    """The model that guesses ahead where it is a first hop."""
    vocab: int = 0
    """Token ids of the model; 0 where nobody knows, and then nothing can be made up for others to compute."""


@dataclass(frozen=True, slots=True)
class Status:
    """A line for the person who serves."""

    state: str
    spans: tuple[Span, ...]
    aim: Span | None
    """Where it is about to move."""
    sessions: int
    tokens: int
    steps: int
    free_tokens: int
    peers: int
    coordinator: PeerId | None
    """Who plans routes for others, as far as we know."""
    uptime: float = 0.0
    """Seconds, and `tokens`, are of all times that this identity has served."""
    share: float = 1.0
    """Of its time, in which it computes."""
    short: bool = False
    """Whether other programs have taken memory that its cache was to have."""
    readings: Readings | None = None


class Peer:
    def __init__(
        self,
        links: Links,
        directory: Directory,
        engine: ServingEngine,
        holding: Holding,
        about: About,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        verify: Callable[[PeerId, bytes, bytes], bool],
        sign: Callable[[bytes], bytes] | None = None,
        think: Think = asyncio.to_thread,
        loader: Loader | None = None,
        improve: Callable[[], Awaitable[None]] | None = None,
        seed: int = 0,
        limits: HopLimits = HopLimits(),
        changed: Callable[[], None] = lambda: None,
        meters: Meters | None = None,
        polite: bool = False,
        notes: Notes | None = None,
        attest: Callable[[bytes], bytes] | None = None,
        likeness: Likeness | None = None,
        guise: Callable[[], AbstractAsyncContextManager[Guise]] | None = None,
        drafters: Callable[[Callable[[], None]], Sequence[Drafter]] = lambda ready: (),
    ) -> None:
        """With `sign`, the peer stands for election as coordinator of its model; with `loader`, it moves to where it helps more. `improve` is called
        whenever the engine has something new to run, and may take its time. `changed` is called when the peer begins or ceases to take sessions, or holds
        something else. With `meters` it takes no more than there is memory for, and if it is `polite` it makes way for other programs; with `notes` it
        remembers what it measured. With `attest` it signs what it made, for the clients it was made for; with `likeness`, which compares such work, it
        looks into accusations when it coordinates, and has others' work made again, under a `guise` if it has any. `drafters` as in `HopRoom`."""
        self.state = "joining"
        self._links, self._directory, self._engine, self._about = links, directory, engine, about
        self._clock, self._wall, self._random, self._changed = clock, wall, random.Random(seed), changed
        self._seed = seed
        more: dict[str, Any] = {"wall": wall, "sign": attest, "drafters": drafters}
        self.room = HopRoom(links, engine, holding.offer, _ledger(holding), clock=clock, verify=verify, limits=limits, **more)
        self._sequence, self._announced, self._announcing = 0, clock(), asyncio.Lock()
        self._began = clock()
        self._rtts: dict[PeerId, float] = {}
        self._known = 0
        self._upload, self._gauged = about.max_upload or 0.0, -GAUGE_EVERY
        self._aim: Span | None = None
        engine.results = self.room
        self._think = think
        self._monitor = None if meters is None else Monitor(meters, self.room, engine, polite=polite, clock=clock, think=think)
        self._past = None if notes is None else Past(notes, links.peer if about.lasts else None, clock)
        self._taken = asyncio.Event()
        self._take(holding)
        self._guise = guise
        self.coordinator = None if sign is None else self._candidate(sign, think, verify, likeness)
        self._mover = None if loader is None else Mover(self, loader, holding.offer.components, clock=clock, think=think, dice=self._random)
        self._moving: asyncio.Task[None] | None = None
        self._improve = improve
        links.subscribe(self._receive, self._lost)

    def _take(self, holding: Holding) -> None:
        self._engine.load(holding.model)
        self._holding, self._pace = holding, Pace(holding.decode, holding.prefill, holding.head_weight, holding.offer.components, holding.known)
        self._engine.timed = self._pace.add
        if self._monitor is not None:
            self._monitor.take(holding)
        self._taken.set()

    def _judge(self, sign: Callable[[bytes], bytes], verify: Verify, likeness: Likeness) -> Callable[[PeerTable], Judge]:
        about, components, clock, wall = self._about, self.room.offer.components, self._clock, self._wall
        dice = random.Random(self._seed + 1)
        return lambda table: Judge(self._links, about.config_hash, components, table, sign, verify, likeness, clock, wall, dice)

    def _inspector(self) -> Callable[[Judge], Inspector] | None:
        if not self._about.vocab:
            return None
        components, vocab, dice = self.room.offer.components, self._about.vocab, random.Random(self._seed + 2)
        return lambda judge: Inspector(judge, components, vocab, self._clock, self._wall, dice, self._guise)

    def _candidate(self, sign: Callable[[bytes], bytes], think: Think, verify: Verify, likeness: Likeness | None) -> Coordinator:
        return Coordinator(
            self._links,
            self._directory,
            self._about.config_hash,
            self.room.offer.components,
            self._fitness,
            announce=self._renew,
            sequence=lambda: self._sequence,
            heard=self.room.heard,
            sign=sign,
            clock=self._clock,
            wall=self._wall,
            think=think,
            judge=None if likeness is None else self._judge(sign, verify, likeness),
            inspector=None if likeness is None else self._inspector(),
        )

    @property
    def coordinates(self) -> bool:
        return self.coordinator is not None and self.coordinator.leads

    def status(self) -> Status:
        leader = self.coordinator.leader if self.coordinator is not None else None
        room, engine, monitor, past = self.room, self._engine, self._monitor, self._past
        tokens, uptime = (engine.tokens, self._clock() - self._began) if past is None else (past.tokens(engine.tokens), past.uptime)
        machine = () if monitor is None else (monitor.share, monitor.is_short, monitor.readings)
        known = (self.state, room.offer.spans, self._aim, room.sessions, tokens, engine.steps, room.ledger.free_tokens, self._known, leader)
        return Status(*known, uptime, *machine)

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Announce and answer until cancelled. `ready` is called once, when the swarm can see us."""
        try:
            await self._serve(ready)
        finally:
            if self._past is not None:
                self._past.keep(self._past.page(self._engine.tokens, self._holding, self._pace))

    async def _serve(self, ready: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._monitor is not None:
                tasks.create_task(self._monitor.run(self._renew), name="monitor")
            if self._past is not None:
                tasks.create_task(self._keep_remembering(), name="notes")
            tasks.create_task(self._engine.run(), name="engine")
            tasks.create_task(self._tick(), name="leases")
            self._become("online")
            await self.announce()
            ready()
            tasks.create_task(self._keep_announcing(), name="announce")
            tasks.create_task(self._keep_measuring(), name="measure")
            if self.coordinator is not None:
                tasks.create_task(self.coordinator.run(), name="coordinator")
            if self._improve is not None:
                tasks.create_task(self._keep_improving(self._improve), name="improve")
            if self._mover is not None:
                self._moving = tasks.create_task(self._mover.run(), name="move")

    async def _keep_improving(self, improve: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._taken.wait()
            self._taken.clear()
            await improve()

    async def _keep_remembering(self) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY)
            await self._remember()

    async def _remember(self) -> None:
        if self._past is not None:
            await self._think(self._past.keep, self._past.page(self._engine.tokens, self._holding, self._pace))

    async def drain(self, patience: float) -> bool:
        """Leave in peace: say so, let running sessions move away or finish for up to `patience` seconds. True if none was left behind that was running."""
        if self._moving is not None:
            self._moving.cancel()
        self._become("leaving")
        self.room.leave()
        if self.coordinator is not None:
            self.coordinator.leave()
        try:
            async with asyncio.timeout(patience):
                with contextlib.suppress(RemoteError):  # unheard, but our clients know from the hop room
                    await self.announce()
                await self._quiet()
        except TimeoutError:
            log.info("%d sessions were still running when patience ran out", self.room.working(QUIET))
        self.state = "left"
        with contextlib.suppress(RemoteError, TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self.announce()
        return self.room.working(QUIET) == 0

    async def _quiet(self) -> None:
        while self.room.working(QUIET):  # noqa: ASYNC110  sessions fall quiet by time alone; nobody says so
            await asyncio.sleep(LOOK)

    def _become(self, state: str, aim: Span | None = None) -> None:
        self.state, self._aim = state, aim
        self._changed()

    # --- moving (what `moving.Resident` asks) -------------------------------------------------------------------------------------------------------------

    def view(self) -> PeerView:
        return replace(PeerView.of(self._record(), self.room.offer.components), spans=self.room.offer.spans, state="online")

    async def neighbours(self) -> list[PeerView]:
        return self._others(await self._directory.read(self._about.config_hash))

    def _others(self, records: Iterable[Announcement]) -> list[PeerView]:
        ours, views = (self.room.offer.revision, self.room.offer.numerics), []
        for record in records:
            with contextlib.suppress(ProtocolError):
                views.append(PeerView.of(record, self.room.offer.components))
        return [view for view in views if view.kind == ours and view.peer != self._links.peer]

    async def aim(self, place: Span) -> None:
        self._become("joining", place)
        await self.announce()

    async def stay(self) -> None:
        self.room.leaving = False
        self._become("online")
        await self._renew()

    async def empty(self, patience: float) -> bool:
        self.room.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._quiet()
        return self.room.working(QUIET) == 0

    async def settle(self, place: Span, loader: Loader) -> None:
        """What we hold has another version from the moment on in which the old weights go, so that whoever still asks for them hears of it."""
        self.room.vacate(place, max(self.room.offer.version + 1, int(self._wall() * 1000)))
        self._become("joining", place)
        await self._renew()
        await self._remember()
        await self._engine.unload()
        holding = await loader.load(place)
        self._take(holding)
        self.room.settle(replace(holding.offer, version=self.room.offer.version), _ledger(holding))

    # --- what others are told -----------------------------------------------------------------------------------------------------------------------------

    async def announce(self) -> None:
        """Raises RemoteError."""
        async with self._announcing:  # one after the other, so that the directory gets them in order
            self._announced = self._clock()
            if self._monitor is not None:
                self._monitor.announced()
            self._sequence = max(self._sequence + 1, int(self._wall() * 1000))  # by the clock, so that it rises across restarts too
            await self._directory.announce(self._record())

    def _record(self) -> Announcement:
        about, offer, ledger, wall = self._about, self.room.offer, self.room.ledger, self._wall()
        share = 1.0 if self._monitor is None else self._monitor.share
        spans = offer.spans if self._aim is None else (self._aim,)
        return Announcement(
            version=VERSION,
            peer=self._links.peer,
            addrs=about.addrs,
            model=about.model,
            config_hash=about.config_hash,
            revision=offer.revision,
            numerics=offer.numerics,
            components=offer.components,
            spans=tuple((span.start, span.stop) for span in spans),
            decode=self._pace.decode / share,
            prefill=self._pace.prefill / share,
            cache_tokens=ledger.tokens,
            free_tokens=max(ledger.free_tokens, 0),
            max_length=offer.max_length,
            state=self.state,
            sequence=self._sequence,
            time=wall,
            name=about.name,
            sessions=self.room.working(AT_WORK),
            head_weight=self._holding.head_weight,
            rtts=self._rtts,
            span_version=offer.version,
            busy=self.room.busy(AT_WORK),
            region=about.region,
            claim=self.coordinator.claim if self.coordinator is not None else None,
            upload=self._upload,
            share=share,
            draft=about.draft[:MOST_DRAFT_NAME] if any(0 in span for span in spans) else "",
            compresses=True,
        )

    async def _keep_announcing(self) -> None:
        while True:
            if (rest := self._announced + RENEW_EVERY - self._clock()) > 0:
                await asyncio.sleep(rest)
            else:
                await self._renew()

    async def _renew(self) -> None:
        try:
            await self.announce()
        except RemoteError as error:
            log.warning("could not renew our announcement: %s", error)

    @property
    def _fitness(self) -> tuple[int, ...]:
        """How fit we are to coordinate: by how long we are here, in steps so coarse that it seldom changes."""
        return (min(int((self._clock() - self._began) / UPTIME), 3),)

    def _lost(self, peer: PeerId) -> None:
        self.room.lost(peer)
        if self.coordinator is not None and self.coordinator.judge is not None:
            self.coordinator.judge.errands.lost(peer)

    def _receive(self, sender: PeerId, message: Message) -> None:
        if self.coordinator is not None and self.coordinator.judge is not None and self.coordinator.judge.errands.receive(sender, message):
            return
        self.room.receive(sender, message)
        if self.coordinator is not None:
            self.coordinator.receive(sender, message)
        if isinstance(message, Needed) and message.config_hash == self._about.config_hash and self._mover is not None:
            self._mover.called()

    async def _tick(self) -> None:
        while True:
            before = self._clock()
            await asyncio.sleep(TICK)
            self.room.tick()
            if (slept := self._clock() - before - TICK) > ASLEEP:
                log.warning("this machine slept for %.0f s; clients that were here have gone elsewhere meanwhile", slept)
                await self._renew()
            if self.coordinator is not None:
                self.coordinator.score(self._fitness)

    async def _keep_measuring(self) -> None:
        while True:
            before = self._known
            with contained(log, "looking at others"):
                await self._look_at_others()
            await asyncio.sleep(MEASURE_SOON if self._known > before or not self._known else MEASURE_EVERY)

    async def _look_at_others(self) -> None:
        """Round trips to some peers of our model, so that whoever plans a route knows the distances between us."""
        records: list[Announcement] = []
        try:
            records = await self._directory.read(self._about.config_hash)
        except RemoteError as error:
            log.info("could not read the directory: %s", error)
        else:
            with contained(log, "what others announce"):
                await self._know(records)
        others = {record.peer: record for record in records if record.peer != self._links.peer and record.state == "online"}
        self._known = len(others)
        chosen = self._random.sample(sorted(others), min(MEASURED_PEERS, len(others)))
        for peer in chosen:
            self._links.learn(peer, others[peer].addrs)
        measured = await asyncio.gather(*(self._measure(peer) for peer in chosen))
        self._rtts = {peer: rtt for peer, rtt in zip(chosen, measured, strict=True) if rtt is not None}
        await self._gauge(self._random.sample(sorted(self._rtts), min(GAUGED, len(self._rtts))))

    async def _know(self, records: list[Announcement]) -> None:
        if self.coordinator is not None:
            await self.coordinator.know(records)
        else:
            self._hear(records)
        if self._mover is not None:
            self._mover.heard([*self._others(records), self.view()])

    def _hear(self, records: Iterable[Announcement]) -> None:
        """Who takes no part in the election knows the term from the directory."""
        found = (Candidacy.of(record.peer, record.claim, record.sequence, self._wall()) for record in records)
        claims = [candidacy for candidacy in found if candidacy is not None and candidacy.role == "claim"]
        if claims:
            self.room.heard(max(claims, key=lambda claim: height(claim, self._about.config_hash)).term)

    async def _gauge(self, peers: Sequence[PeerId]) -> None:
        """What we can send, as far as it is slow enough to matter. Never while somebody waits for what we send."""
        if not peers or self._clock() - self._gauged < GAUGE_EVERY or self.room.working(AT_WORK):
            return
        self._gauged, fastest = self._clock(), 0.0
        for peer in peers:
            with contextlib.suppress(PeerLost):
                fastest = max(fastest, await self._links.gauge(peer))
        allowed = self._about.max_upload or math.inf
        if 0 < (upload := min(fastest, allowed)):
            self._upload = upload if upload < math.inf else 0.0

    async def _measure(self, peer: PeerId) -> float | None:
        try:
            return await self._links.measure(peer)
        except PeerLost:
            return None


def _ledger(holding: Holding) -> CacheLedger:
    return CacheLedger(holding.cache_tokens, holding.offer.whole_weight)
