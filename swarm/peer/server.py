"""A serving node: a hop room, an engine, and the loops that tell the swarm about them. Does not know which network it is on, nor how its model was loaded.

Owns the tasks of everything below it; whoever runs `serve` owns those of the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from swarm.core import PeerId, Span
from swarm.errors import PeerLost, RemoteError
from swarm.machines.hop import HopLimits
from swarm.machines.ledger import CacheLedger
from swarm.peer.coordinator import Coordinator, Think
from swarm.peer.engine import Results
from swarm.peer.hops import HopEngine, HopRoom, Offer
from swarm.peer.pace import Pace
from swarm.ports import Directory, Links
from swarm.wire import RENEW_EVERY, VERSION, Announcement, Message

log = logging.getLogger(__name__)

MEASURE_EVERY = 30.0
MEASURED_PEERS = 20
"""Round trips to about twenty peers, beside the means of whole regions, cost a route 0.3 to 2.6 % against knowing every latency (docs/routing.md)."""

MEASURE_SOON = 4.0
"""Seconds while peers still come: a pair that nobody has measured is taken to be as far apart as usual, and is planned around."""

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
    """What a peer says of itself when it begins to serve. Costs as in `wire.Announcement`; they are kept current from the steps it takes."""

    model: str
    config_hash: str
    addrs: tuple[str, ...]
    decode: float
    prefill: float
    head_weight: float
    name: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """A line for the person who serves."""

    state: str
    sessions: int
    tokens: int
    steps: int
    free_tokens: int
    peers: int
    coordinator: PeerId | None
    """Who plans routes for others, as far as we know."""


class ServingEngine(HopEngine, Protocol):
    """What a peer needs of its engine besides: counts of what was computed, where results go, who hears how long a round took (its components, all its rows,
    seconds), and one task for its life."""

    steps: int
    tokens: int
    results: Results | None
    timed: Callable[[Span, int, float], None]

    async def run(self) -> None: ...


class Peer:
    def __init__(
        self,
        links: Links,
        directory: Directory,
        engine: ServingEngine,
        offer: Offer,
        about: About,
        *,
        cache_tokens: int,
        clock: Callable[[], float],
        wall: Callable[[], float],
        verify: Callable[[PeerId, bytes, bytes], bool],
        sign: Callable[[bytes], bytes] | None = None,
        think: Think = asyncio.to_thread,
        seed: int = 0,
        limits: HopLimits = HopLimits(),
    ) -> None:
        """With `sign`, the peer stands for election as coordinator of its model."""
        self.state = "joining"
        self._links, self._directory, self._engine, self._offer, self._about = links, directory, engine, offer, about
        self._clock, self._wall, self._random = clock, wall, random.Random(seed)
        self._ledger = CacheLedger(cache_tokens, offer.whole_weight)
        self.room = HopRoom(links, engine, offer, self._ledger, clock=clock, verify=verify, limits=limits)
        self._sequence, self._announced, self._announcing = 0, clock(), asyncio.Lock()
        self._began = clock()
        self._rtts: dict[PeerId, float] = {}
        self._known = 0
        self._pace = Pace(about.decode, about.prefill, about.head_weight, offer.components)
        engine.results, engine.timed = self.room, self._pace.add
        self.coordinator = None if sign is None else self._candidate(sign, think)
        links.subscribe(self._receive, self.room.lost)

    def _candidate(self, sign: Callable[[bytes], bytes], think: Think) -> Coordinator:
        return Coordinator(
            self._links,
            self._directory,
            self._about.config_hash,
            self._offer.components,
            self._fitness,
            announce=self._renew,
            sequence=lambda: self._sequence,
            heard=self.room.heard,
            sign=sign,
            clock=self._clock,
            wall=self._wall,
            think=think,
        )

    @property
    def coordinates(self) -> bool:
        return self.coordinator is not None and self.coordinator.leads

    def status(self) -> Status:
        leader = self.coordinator.leader if self.coordinator is not None else None
        return Status(self.state, self.room.sessions, self._engine.tokens, self._engine.steps, self._ledger.free_tokens, self._known, leader)

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Announce and answer until cancelled. `ready` is called once, when the swarm can see us."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._engine.run(), name="engine")
            tasks.create_task(self._tick(), name="leases")
            self.state = "online"
            await self.announce()
            ready()
            tasks.create_task(self._keep_announcing(), name="announce")
            tasks.create_task(self._keep_measuring(), name="measure")
            if self.coordinator is not None:
                tasks.create_task(self.coordinator.run(), name="coordinator")

    async def drain(self, patience: float) -> bool:
        """Leave in peace: say so, let running sessions move away or finish for up to `patience` seconds. True if none was left behind that was running."""
        self.state = "leaving"
        self.room.leave()
        if self.coordinator is not None:
            self.coordinator.leave()
        try:
            async with asyncio.timeout(patience):
                with contextlib.suppress(RemoteError):  # unheard, but our clients know from the hop room
                    await self.announce()
                while self.room.working(QUIET):  # noqa: ASYNC110  sessions fall quiet by time alone; nobody says so
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            log.info("%d sessions were still running when patience ran out", self.room.working(QUIET))
        self.state = "left"
        with contextlib.suppress(RemoteError, TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self.announce()
        return self.room.working(QUIET) == 0

    async def announce(self) -> None:
        """Raises RemoteError."""
        async with self._announcing:  # one after the other, so that the directory gets them in order
            self._announced = self._clock()
            await self._directory.announce(self._record())

    def _record(self) -> Announcement:
        about, wall = self._about, self._wall()
        self._sequence = max(self._sequence + 1, int(wall * 1000))  # by the clock, so that it rises across restarts too
        return Announcement(
            version=VERSION,
            peer=self._links.peer,
            addrs=about.addrs,
            model=about.model,
            config_hash=about.config_hash,
            revision=self._offer.revision,
            numerics=self._offer.numerics,
            components=self._offer.components,
            spans=tuple((span.start, span.stop) for span in self._offer.spans),
            decode=self._pace.decode,
            prefill=self._pace.prefill,
            cache_tokens=self._ledger.tokens,
            free_tokens=max(self._ledger.free_tokens, 0),
            max_length=self._offer.max_length,
            state=self.state,
            sequence=self._sequence,
            time=wall,
            name=about.name,
            sessions=self.room.working(AT_WORK),
            head_weight=about.head_weight,
            rtts=self._rtts,
            span_version=self._offer.version,
            busy=self.room.busy(AT_WORK),
            region=about.region,
            claim=self.coordinator.claim if self.coordinator is not None else None,
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

    def _receive(self, sender: PeerId, message: Message) -> None:
        self.room.receive(sender, message)
        if self.coordinator is not None:
            self.coordinator.receive(sender, message)

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
        """Round trips to some peers of our model, so that whoever plans a route knows the distances between us."""
        while True:
            try:
                records = await self._directory.read(self._about.config_hash)
                if self.coordinator is not None:
                    await self.coordinator.know(records)
            except RemoteError as error:
                log.info("could not read the directory: %s", error)
                records = []
            others = {record.peer: record for record in records if record.peer != self._links.peer and record.state == "online"}
            before, self._known = self._known, len(others)
            chosen = self._random.sample(sorted(others), min(MEASURED_PEERS, len(others)))
            for peer in chosen:
                self._links.learn(peer, others[peer].addrs)
            measured = await asyncio.gather(*(self._measure(peer) for peer in chosen))
            self._rtts = {peer: rtt for peer, rtt in zip(chosen, measured, strict=True) if rtt is not None}
            await asyncio.sleep(MEASURE_SOON if self._known > before or not self._known else MEASURE_EVERY)

    async def _measure(self, peer: PeerId) -> float | None:
        try:
            return await self._links.measure(peer)
        except PeerLost:
            return None
