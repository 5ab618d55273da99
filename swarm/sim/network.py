"""The room `sim`, its wires: implements `ports.Links` on virtual time, as `swarm.net` behaves and not as one would wish. Knows peers by their ids alone.

What is promised is promised here too: one link per pair, dialled when first needed; messages of a pair arrive in the order in which they were sent, or not at
all once the link is lost; each side hears once that it lost a link. And what makes life hard does so here:

- a *killed* process is noticed one way later, for its kernel closes what it had open; a *vanished* machine or a *frozen* process by its silence alone;
- a partition holds messages back. If it heals before the silence is noticed they arrive late, else both sides lose the link, each by its own watch;
- a dial fails at once where nobody listens or no address is known, and after its deadline where nobody answers; with it all that waited is lost;
- who was frozen first reads what had arrived, and then learns that its links were given up. What it says over them meanwhile reaches nobody.
"""

from __future__ import annotations

import asyncio
import math
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from swarm.core import PeerId
from swarm.errors import PeerLost
from swarm.ports import Lost, Receive
from swarm.sim.clock import Process, VirtualLoop
from swarm.wire import Message, Ping, Pong, decode, encode

HEARTBEAT, SILENCE, DIAL, PATIENCE = 1.0, 3.0, 5.0, 13.0
"""Seconds between signs of life, until silence is a loss, until a dial fails, and until a ping is given up: as `swarm/net/link.py` and `pair.py` have them."""

ROUNDS = 6
"""One-way trips that a dial takes: TCP, TLS and the handshake."""

AGAIN = 0.25
"""Seconds between two tries within one dial."""

HICCUP = 0.25
"""Seconds that a lost packet costs before it is sent again; what was sent after it waits as well."""

END = b""
"""What stands in a lane where the link ends."""


@dataclass(eq=False)
class Lane:
    """One direction of a link: what is under way, in order. `stalled` have arrived at a border that lets nobody pass."""

    link: Link
    sender: Links
    receiver: Links
    under_way: deque[bytes] = field(default_factory=deque)
    free_at: float = 0.0
    busy_until: float = 0.0
    stalled: int = 0


class Link:
    """A connection of two processes. Each side holds it for open until it hears otherwise."""

    def __init__(self, one: Links, other: Links) -> None:
        self.sides = (one, other)
        self.accepted = False
        """Whether the one who was dialled knows of it."""
        self.lanes = {one.peer: Lane(self, one, other), other.peer: Lane(self, other, one)}
        self.doubts: dict[PeerId, object] = {}
        """For each side that hears nothing: which watch will find out."""

    def other(self, side: Links) -> Links:
        return self.sides[1] if side is self.sides[0] else self.sides[0]


@dataclass(eq=False)
class End:
    """One side of one pair."""

    link: Link | None = None
    waiting: list[bytes] = field(default_factory=list)
    """What a dial will bring, if it comes through."""
    dial: asyncio.Task[None] | None = None
    pongs: dict[int, asyncio.Future[None]] = field(default_factory=dict)


class Network:
    def __init__(
        self, loop: VirtualLoop, generator: random.Random, latency: Callable[[PeerId, PeerId], float], *, loss: float = 0.0, jitter: float = 0.2
    ) -> None:
        """`latency` is seconds one way, to which comes up to `jitter` of it, `loss` the share of messages that are sent twice before they arrive."""
        self.loop, self.random, self.latency, self.loss, self.jitter = loop, generator, latency, loss, jitter
        self.nodes: dict[PeerId, Links] = {}
        self.side: frozenset[PeerId] | None = None
        """Who is on one side of a partition; all others are on the other."""
        self.takes: Callable[[bytes], float] = lambda data: 0.0
        """For how many seconds a line is busy with these bytes before it can begin with others."""
        self.note: Callable[[str], None] = lambda line: None
        self.faults: list[str] = []
        """Exceptions that a shell let through at the door, which real links log."""
        self._links: dict[Link, None] = {}

    def attach(self, peer: PeerId, process: Process) -> Links:
        """The links of a process that begins under this id."""
        links = self.nodes[peer] = Links(self, peer, process)
        return links

    def reaches(self, one: PeerId, other: PeerId) -> bool:
        return self.side is None or (one in self.side) == (other in self.side)

    # --- misfortunes --------------------------------------------------------------------------------------------------------------------------------------

    def kill(self, links: Links, *, silently: bool = False) -> None:
        """The process is gone; with `silently` its machine too, so that nobody says goodbye for it."""
        links.gone, links.silent = True, silently
        for link in self._of(links):
            if not silently:
                self.carry(link.lanes[links.peer], END)
        self._review(self._of(links))

    def freeze(self, links: Links) -> None:
        links.process.frozen = True
        self._review(self._of(links))

    def thaw(self, links: Links) -> None:
        """Whoever slept cannot hold it against others that it heard nothing."""
        for link in self._of(links):
            link.doubts.pop(links.peer, None)
        self.loop.thaw(links.process)
        self._review(self._of(links))

    def part(self, side: Iterable[PeerId]) -> None:
        self.side = frozenset(side)
        self._review(list(self._links))

    def heal(self) -> None:
        self.side = None
        self._review(list(self._links))
        for link in list(self._links):
            for lane in link.lanes.values():
                stalled, lane.stalled = lane.stalled, 0
                for _ in range(stalled):
                    self.loop.call_soon(self._arrive, lane, context=lane.receiver.process.context)

    def cut(self, one: PeerId, other: PeerId) -> bool:
        """Reset the link of two, if they have one: what is under way is lost, and each side hears of it."""
        for link in list(self._links):
            if {side.peer for side in link.sides} == {one, other}:
                for lane in link.lanes.values():
                    lane.under_way = deque([END] * len(lane.under_way))
                    self.carry(lane, END)
                return True
        return False

    # --- what links ask -----------------------------------------------------------------------------------------------------------------------------------

    def carry(self, lane: Lane, data: bytes) -> None:
        delay = self.latency(lane.sender.peer, lane.receiver.peer) * self.random.uniform(1.0, 1.0 + self.jitter)
        if self.loss and self.random.random() < self.loss:
            delay += HICCUP
        lane.busy_until = max(self.loop.now, lane.busy_until) + self.takes(data)
        lane.free_at = max(lane.busy_until + delay, lane.free_at)
        lane.under_way.append(data)
        self.loop.call_at(lane.free_at, self._arrive, lane, context=lane.receiver.process.context)

    def join(self, one: Links, other: Links) -> Link:
        link = Link(one, other)
        self._links[link] = None
        self.loop.call_soon(other.accept, link, context=other.process.context)
        self._review([link])
        return link

    def part_with(self, link: Link, side: Links) -> None:
        """One side has closed. The other learns it behind what is under way; when it has, nothing is left of the link."""
        if link.other(side).holds(link):
            self.carry(link.lanes[side.peer], END)
        else:
            self._links.pop(link, None)

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    def _of(self, links: Links) -> list[Link]:
        return [link for link in self._links if links in link.sides]

    def _arrive(self, lane: Lane) -> None:
        """In the receiver's process."""
        if not self.reaches(lane.sender.peer, lane.receiver.peer):
            lane.stalled += 1
            return
        data = lane.under_way.popleft()
        if data == END:
            lane.receiver.lose(lane.link)
            self._links.pop(lane.link, None)
        elif lane.receiver.holds(lane.link):
            lane.receiver.hear(lane.sender.peer, data)

    def _review(self, links: Iterable[Link]) -> None:
        """Things changed: who hears nothing now begins to doubt, who hears again stops."""
        for link in links:
            for side in link.sides:
                if not self._hears_nothing(link, side):
                    link.doubts.pop(side.peer, None)
                elif side.peer not in link.doubts:
                    doubt = link.doubts[side.peer] = object()
                    last_word = self.random.uniform(0, HEARTBEAT)
                    self.loop.call_later(SILENCE - last_word, self._give_up, link, side, doubt, context=side.process.context)

    def _hears_nothing(self, link: Link, side: Links) -> bool:
        other = link.other(side)
        return other.process.frozen or other.silent or not self.reaches(side.peer, other.peer)

    def _give_up(self, link: Link, side: Links, doubt: object) -> None:
        if link.doubts.get(side.peer) is doubt:
            side.lose(link)
            self.part_with(link, side)


class Links:
    """Implements `ports.Links` for one process."""

    def __init__(self, network: Network, peer: PeerId, process: Process) -> None:
        self.process = process
        self.gone = False
        """Killed, or closed: nothing is sent or heard any more."""
        self.silent = False
        """Gone without a word."""
        self._network, self._peer = network, peer
        self._ends: dict[PeerId, End] = {}
        self._known: set[PeerId] = set()
        self._receive: Receive = lambda peer, message: None
        self._lost: Lost = lambda peer: None
        self._stamp = 0

    # --- ports.Links --------------------------------------------------------------------------------------------------------------------------------------

    @property
    def peer(self) -> PeerId:
        return self._peer

    def learn(self, peer: PeerId, addrs: Sequence[str]) -> None:
        if addrs:
            self._known.add(peer)

    def send(self, peer: PeerId, message: Message) -> None:
        if self.gone:
            return
        if peer == self.peer:
            self._network.loop.call_soon(self._deliver, peer, message)
            return
        end, data = self._end(peer), encode(message)
        if end.link is not None:
            self._network.carry(end.link.lanes[self.peer], data)
            return
        end.waiting.append(data)
        if end.dial is None:
            end.dial = asyncio.ensure_future(self._dial(peer, end))

    def subscribe(self, receive: Receive, lost: Lost) -> None:
        self._receive, self._lost = receive, lost

    async def measure(self, peer: PeerId) -> float:
        if peer == self.peer:
            return 0.0
        if self.link_with(peer) is None:  # so that dialling is not measured
            await self._ping(peer)
        began = self._network.loop.now
        await self._ping(peer)
        return self._network.loop.now - began

    async def gauge(self, peer: PeerId) -> float:
        """Lines on the stage take any amount at once."""
        await self._ping(peer)
        return math.inf

    async def close(self) -> None:
        """What is under way still arrives, and then the end of every link."""
        self.gone = True
        for end in self._ends.values():
            if end.dial is not None:
                end.dial.cancel()
            if end.link is not None:
                self._network.carry(end.link.lanes[self.peer], END)

    # --- what the network says ----------------------------------------------------------------------------------------------------------------------------

    def holds(self, link: Link) -> bool:
        return not self.gone and self.link_with(link.other(self).peer) is link

    def link_with(self, peer: PeerId) -> Link | None:
        return self._end(peer).link

    def accept(self, link: Link) -> None:
        """Somebody has dialled us: it lost our old link, if there is one, before we did."""
        link.accepted = True
        if self.gone:
            self._network.carry(link.lanes[self.peer], END)
            return
        end = self._end(link.other(self).peer)
        if end.link is not None:
            self.lose(end.link)
        if end.dial is not None:
            end.dial.cancel()
            end.dial = None
        self._linked(end, link)

    def hear(self, sender: PeerId, data: bytes) -> None:
        self._network.note(f"{self.peer} < {sender} {len(data)} {zlib.crc32(data):08x}")
        message = decode(memoryview(data))
        if isinstance(message, Ping):
            self.send(sender, Pong(message.stamp))
        elif isinstance(message, Pong):
            if (pong := self._end(sender).pongs.get(message.stamp)) is not None and not pong.done():
                pong.set_result(None)
        else:
            self._deliver(sender, message)

    def lose(self, link: Link) -> None:
        """The link is gone, and so is what waited on it."""
        if self.holds(link):
            peer = link.other(self).peer
            self._end(peer).link = None
            self._tell_lost(peer)

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    def _end(self, peer: PeerId) -> End:
        return self._ends.setdefault(peer, End())

    def _linked(self, end: End, link: Link) -> None:
        end.link = link
        waiting, end.waiting = end.waiting, []
        for data in waiting:
            self._network.carry(link.lanes[self.peer], data)

    async def _dial(self, peer: PeerId, end: End) -> None:
        network = self._network
        try:
            async with asyncio.timeout(DIAL):
                await asyncio.sleep(ROUNDS * network.latency(self.peer, peer))
                while not self._may_join(peer):  # noqa: ASYNC110  as a dialler tries, by time alone
                    await asyncio.sleep(AGAIN)
        except (TimeoutError, ConnectionRefusedError):
            end.dial, end.waiting = None, []
            self._tell_lost(peer)
            return
        end.dial = None
        theirs = network.nodes[peer].link_with(self.peer)
        if theirs is None or theirs.accepted:  # else both dialled at once, and theirs came first
            self._linked(end, network.join(self, network.nodes[peer]))

    def _may_join(self, peer: PeerId) -> bool:
        """Whether the peer answers by now. Raises ConnectionRefusedError if it never will."""
        other = self._network.nodes.get(peer)
        if other is None or peer not in self._known:
            raise ConnectionRefusedError
        if not self._network.reaches(self.peer, peer) or other.silent or other.process.frozen:
            return False
        if other.gone:
            raise ConnectionRefusedError
        return True

    async def _ping(self, peer: PeerId) -> None:
        self._stamp += 1
        stamp, end = self._stamp, self._end(peer)
        pong = end.pongs[stamp] = self._network.loop.create_future()
        try:
            async with asyncio.timeout(PATIENCE):
                self.send(peer, Ping(stamp))
                await pong
        except TimeoutError:
            raise PeerLost(f"{peer} did not answer a ping") from None
        finally:
            del end.pongs[stamp]

    def _deliver(self, sender: PeerId, message: Message) -> None:
        if self.gone:
            return
        try:
            self._receive(sender, message)
        except Exception as error:
            self._network.faults.append(f"{self.peer}: handling {type(message).__name__} from {sender} failed: {error!r}")

    def _tell_lost(self, peer: PeerId) -> None:
        self._network.note(f"{self.peer} lost {peer}")
        for pong in self._end(peer).pongs.values():
            if not pong.done():
                pong.set_exception(PeerLost(f"the link to {peer} is gone"))
        try:
            self._lost(peer)
        except Exception as error:
            self._network.faults.append(f"{self.peer}: handling the loss of {peer} failed: {error!r}")
