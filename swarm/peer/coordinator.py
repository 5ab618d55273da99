"""A serving node's other office: candidate for, standby of, or coordinator of one model. It keeps a table of the model's peers, takes part in their election,
and answers whoever asks for a route.

Owns the tasks of its readings and answers. Does not know sessions' frames, tensors, or which network it is on. Nothing correct depends on it: what it says is
advice, which clients check and hops check again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from swarm.core import PeerId, SessionId, Span
from swarm.errors import MissingLayers, RemoteError, contained
from swarm.machines.election import Candidacy, Election, ElectionEffect, Look, Ping, Say
from swarm.peer.inspector import Inspector
from swarm.peer.judge import Judge
from swarm.ports import Directory, Links
from swarm.routing.atlas import Class
from swarm.routing.load import Ledger, Load
from swarm.routing.needs import Needs
from swarm.routing.peers import PeerTable
from swarm.routing.plan import plan, price, repair
from swarm.routing.route import Request, Route
from swarm.wire import Accuse, Advice, Announcement, Claim, Message, Needed, Poll, Polled, Progress, Routed, RouteRequest, Unrouted, encode

log = logging.getLogger(__name__)

WAITING = 64
"""Questions that wait for an answer at once. More would be answered after their askers have planned for themselves."""

WAITING_EACH = 4
"""Of one asker."""

PLACED_EACH = 256
"""Sessions of one client in the ledger. More are planned for, and count where their peers announce them."""

BUSY = 0.5
"""Share of the time spent planning above which a coordinator divides the work with one more standby."""

WINDOW = 10.0
"""Seconds over which that is looked at."""

AFTER_A_BUG = 1.0
"""Seconds until the election is tried again, where it would else be tried at once."""

MOST_SHARDS = 8

Think = Callable[..., Awaitable[Any]]
"""Runs a function that takes milliseconds where it holds up nobody: `asyncio.to_thread`."""


class Coordinator:
    """`announce` tells the swarm what `claim` says now; `sequence` gives the number of our last announcement."""

    def __init__(
        self,
        links: Links,
        directory: Directory,
        config_hash: str,
        components: int,
        score: tuple[int, ...],
        *,
        announce: Callable[[], Coroutine[Any, Any, None]],
        sequence: Callable[[], int],
        heard: Callable[[int], None],
        sign: Callable[[bytes], bytes],
        clock: Callable[[], float],
        wall: Callable[[], float],
        think: Think = asyncio.to_thread,
        judge: Callable[[PeerTable], Judge] | None = None,
        inspector: Callable[[Judge], Inspector] | None = None,
    ) -> None:
        self.table = PeerTable()
        self.judge = None if judge is None else judge(self.table)
        self.inspector = None if self.judge is None or inspector is None else inspector(self.judge)
        self.claim = Claim("candidate", 0, score)
        self._links, self._directory, self._model, self._components = links, directory, config_hash, components
        self._announce, self._sequence, self._heard, self._sign = announce, sequence, heard, sign
        self._clock, self._wall, self._think = clock, wall, think
        self._election = Election(config_hash, links.peer, score, clock(), sequence=0)
        self._tasks: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._planning = asyncio.Lock()
        self._reading, self._look_again = False, False
        self._ledger = Ledger()
        self._needs: dict[Class, Needs] = {}
        self._placed: dict[SessionId, PeerId] = {}
        """Whose sessions are in the ledger."""
        self._asked: Counter[PeerId] = Counter()
        self._banned: frozenset[PeerId] = frozenset()
        self._polls = 0
        self._spent, self._since = 0.0, clock()

    @property
    def leads(self) -> bool:
        return self._election.leads

    @property
    def leader(self) -> PeerId | None:
        """Who coordinates, as far as we know."""
        return self._election.coordinator(self._clock())

    async def run(self) -> None:
        """Take part until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            if self.inspector is not None:
                tasks.create_task(self.inspector.run(lambda: self.leads), name="inspections")
            try:
                while True:
                    self._wake.clear()
                    rest = AFTER_A_BUG
                    with contained(log, "the election"):
                        self._do(self._election.wake(self._clock()))
                        self._divide()
                        now = self._clock()
                        rest = self._election.deadline(now) - now
                    await self._sleep(rest)
            finally:
                self._tasks = None

    def leave(self) -> None:
        """Let others take over at once, instead of after they have missed us."""
        self._do(self._election.release(self._clock()), announce=False)  # whoever leaves announces it

    def score(self, score: tuple[int, ...]) -> None:
        """How fit we are has changed; others hear of it with our next announcement."""
        self._election.score(score)

    # --- from the network -------------------------------------------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: Message) -> None:
        """A message to us as coordinator. Anything else is none of this module's business."""
        if isinstance(message, Poll) and message.config_hash == self._model:
            self._do(self._election.pinged(Candidacy.of(sender, message.claim, message.sequence, self._wall()), self._clock()))
            self._wake.set()
            self._links.send(sender, Polled(message.number, self._election.claims))
        elif isinstance(message, Polled) and message.number <= self._polls:
            self._do(self._election.pong(sender, message.leads, self._clock()))
            self._wake.set()
        elif isinstance(message, RouteRequest):
            self._take(sender, message)
        elif isinstance(message, Progress) and self._placed.get(message.session) == sender:
            tell = self._ledger.release if message.ended else self._ledger.renew
            tell(message.session, self._clock(), message.tokens)
        elif isinstance(message, Accuse) and self.judge is not None and self._tasks is not None and self.judge.takes(sender, message):
            self._spawn(self.judge.look_into(sender, message), "accusation")

    # --- the election -----------------------------------------------------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[ElectionEffect], *, announce: bool = True) -> None:
        for effect in effects:
            if isinstance(effect, Say):
                if (effect.record.role == "claim") != (self.claim.role == "claim"):
                    log.info("%s of this model, term %d", "now coordinator" if effect.record.role == "claim" else "no longer coordinator", effect.record.term)
                self.claim = Claim(effect.record.role, effect.record.term, effect.record.score, self.claim.shards)
                self._tell_term()
                if announce:
                    self._spawn(self._announce(), "announce")
            elif isinstance(effect, Look):
                self._look()
            elif isinstance(effect, Ping):
                self._poll(effect)

    def _hear(self, records: Iterable[Candidacy]) -> None:
        self._do(self._election.records(records, self._clock()))
        self._tell_term()
        self._wake.set()

    def _tell_term(self) -> None:
        if term := self._election.reign(self._clock()):
            self._heard(term)

    def _poll(self, ping: Ping) -> None:
        self._polls += 1
        claim = self.claim if ping.claim is not None else None
        if (view := self.table.views.get(ping.peer)) is not None:
            self._links.learn(ping.peer, view.addrs)
        self._links.send(ping.peer, Poll(self._polls, self._model, claim, self._sequence()))

    def _look(self) -> None:
        """Read the directory; if a reading is under way, once more after it, since what it has read already may be older than the wish to look."""
        self._look_again = self._reading
        if not self._reading:
            self._reading = True
            self._spawn(self._read(), "directory")

    async def _read(self) -> None:
        try:
            records = await self._directory.read(self._model)
            await self.know(records)
        except RemoteError as error:
            log.info("could not read the directory: %s", error)
        finally:
            self._reading = False
        if self._look_again:
            self._look()

    async def know(self, records: list[Announcement]) -> None:
        """What the directory says now."""
        async with self._planning:
            gone = set(self.table.views)
            for why in self.table.update(records, self._components):
                log.warning("an announcement is passed over: %s", why)
            for view in self.table.views.values():
                self._ledger.news(view)
            for peer in gone - set(self.table.views):
                self._ledger.gone(peer)
            self._forget_ended()
        wall = self._wall()
        found = (Candidacy.of(record.peer, record.claim, record.sequence, wall) for record in records)
        self._hear([candidacy for candidacy in found if candidacy is not None])
        self._needs = {kind: self._needs.get(kind) or Needs(self._components) for kind in self.table.atlases}
        if self.leads and (due := [kind for kind, needs in self._needs.items() if needs.due(self._clock())]):
            self._spawn(self._call(due), "needs")

    async def _call(self, kinds: Iterable[Class]) -> None:
        """Tell somebody of each class where it is needed more."""
        async with self._planning:
            for kind in kinds:
                atlas, needs = self.table.atlases.get(kind), self._needs.get(kind)
                if atlas is None or needs is None:
                    continue
                called = await self._think(needs.call, atlas.views.values(), self._clock())
                if called is not None:
                    peer, place = called
                    log.info("%s would help more at components [%d, %d)", peer, place.start, place.stop)
                    self._links.learn(peer, atlas.views[peer].addrs)
                    self._links.send(peer, Needed(self._model, place.start, place.stop))

    # --- routes -----------------------------------------------------------------------------------------------------------------------------------------------

    def _take(self, sender: PeerId, message: RouteRequest) -> None:
        if message.config_hash != self._model or not self.table.views or self._tasks is None:
            self._links.send(sender, Unrouted(message.number, "elsewhere"))
        elif self._asked.total() >= WAITING or self._asked[sender] >= WAITING_EACH:
            self._links.send(sender, Unrouted(message.number, "busy"))
        else:
            self._asked[sender] += 1
            self._spawn(self._answer(sender, message), "route")

    async def _answer(self, sender: PeerId, message: RouteRequest) -> None:
        try:
            async with self._planning:
                began = self._clock()
                self._banned = self.table.shunned(began)
                route = await self._think(self._route, sender, message, self._ledger.load(began, message.session))
                self._spent += self._clock() - began
        finally:
            self._asked.subtract([sender])
            self._asked = +self._asked  # without those who wait for nothing
        if route is None:
            self._links.send(sender, Unrouted(message.number, "missing"))
            return
        if not message.tentative and self._may_place(sender, message.session):
            self._placed[message.session] = sender
            self._ledger.place(message.session, route, self._request(sender, message), self._clock())
        self._links.send(sender, self._signed(sender, message.number, route))

    def _may_place(self, client: PeerId, session: SessionId) -> bool:
        """Whoever knows the id of another's session must not move it, and nobody may fill the ledger."""
        if session in self._placed:
            return self._placed[session] == client
        return sum(owner == client for owner in self._placed.values()) < PLACED_EACH

    def _route(self, sender: PeerId, message: RouteRequest, load: Load) -> Route | None:
        """Runs beside the event loop: reads the table, which nobody changes meanwhile, and touches nothing else."""
        atlas = self.table.atlas((message.revision, message.numerics))
        try:
            request = self._request(sender, message)
            if message.old:
                return repair(atlas, request, price(atlas, request, message.old), message.exclude, load)
            return plan(atlas, request, load)
        except (MissingLayers, ValueError) as error:
            log.debug("no route for %s: %s", sender, error)
            return None

    def _request(self, sender: PeerId, message: RouteRequest) -> Request:
        """Raises ValueError for ends that no client can keep."""
        return Request(
            components=self._components,
            tokens_needed=message.tokens_needed,
            prompt=message.prompt,
            output=message.output,
            source=sender if message.own else None,
            source_rtts=message.rtts,
            exclude=frozenset(message.exclude) | self._banned,
            slower=message.slower,
            row_bytes=message.row_bytes,
            packed_bytes=message.packed_bytes,
            guesses=message.guesses,
            own=tuple(Span(start, stop) for start, stop in message.own),
        )

    def _signed(self, sender: PeerId, number: int, route: Route) -> Routed:
        advice = encode(Advice(number, sender, self._links.peer, self._election.term, route.hops, route.cost, route.seconds_per_token))
        return Routed(number, advice, self._sign(advice))

    def _forget_ended(self) -> None:
        self._ledger.expire(self._clock())
        self._placed = {session: client for session, client in self._placed.items() if session in self._ledger}

    def _divide(self) -> None:
        """Among how many peers the work is divided: one more while planning takes more than half of our time, one less when less than a quarter would do."""
        now = self._clock()
        if now - self._since < WINDOW:
            return
        share, self._spent, self._since = self._spent / (now - self._since), 0.0, now
        shards = self.claim.shards
        if share > BUSY:
            shards = min(shards + 1, MOST_SHARDS)
        elif share * shards < BUSY / 2 * (shards - 1):
            shards -= 1
        if shards != self.claim.shards:
            log.info("planning takes %.0f %% of the time; divided among %d from now on", 100 * share, shards)
            self.claim = Claim(self.claim.role, self.claim.term, self.claim.score, shards)

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _spawn(self, life: Coroutine[Any, Any, None], name: str) -> None:
        if self._tasks is None:
            life.close()
        else:
            self._tasks.create_task(_alone(life, name), name=name)


async def _alone(life: Coroutine[Any, Any, None], name: str) -> None:
    with contained(log, f"an office of the coordinator: {name}"):
        await life
