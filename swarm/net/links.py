"""Links to all peers. Implements `ports.Links`: finds the pair a message belongs to, and remembers where peers may be dialled.

Knows p2pd only through three calls (connect, open a stream, accept streams). Who dials, who stays and when a link is lost is `pair.py`'s business, what happens
inside one `link.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from math import inf
from typing import Any

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.utils.multiaddr import Multiaddr

from swarm import wire
from swarm.core import PeerId
from swarm.errors import PeerLost
from swarm.net import reach
from swarm.net.addresses import dialable
from swarm.net.frames import CONTROL
from swarm.net.link import CLOSING, IDLE, Stream, Timing
from swarm.net.members import Members
from swarm.net.pair import Pair, World
from swarm.net.uplink import Uplink
from swarm.ports import Lost, Receive

log = logging.getLogger(__name__)

PROTOCOL = "/swarm/link/1"

MAX_PEERS = 1024
"""Peers that may have streams to us at once. p2pd's connection manager begins to prune at 512 connections."""

RESTING = 20.0
"""Seconds without a word of any session after which a link makes room for a newcomer where MAX_PEERS have one. A living session renews its lease every 10 s."""

MAX_HELD = 512 * 2**20
"""Bytes that all links together hold of messages begun and not ended, and of such as wait to be read. One link alone may hold 48 MiB of the former; who holds
most loses it first, so that many strangers with a little each cannot fill a machine either."""

MAX_KNOWN = 4096
"""Peers whose addresses are remembered; the one learned longest ago is forgotten first."""

MAX_ADDRS = 16

COORDINATION = b"coordination"
"""The lane of what coordinators are told and say."""

GAUGE = b"gauge"
"""The lane of padded Pings: tokens of an answer take turns with them."""

WAGON = 32 * 2**10
"""Bytes of padding of one Ping: less than a fragment."""

TRAIN, SLOW_START = 8, 4
"""Pings of a train, and how many of them TCP's window may need to grow: 128 KiB is a window for 1 MB/s over 128 ms."""

TOO_SHORT = 0.002
"""Seconds for the rest of a train that clocks and event loops do not tell from none: above 60 MB/s."""

TRIPS = 3
"""Pings of which the shortest counts: a busy moment makes a round trip longer, nothing makes it shorter."""


class LinkPool:
    def __init__(self, p2p: P2P, timing: Timing | None = None, uplink: Uplink | None = None, members: Members | None = None) -> None:
        self._p2p = p2p
        self._peer: PeerId = p2p.peer_id.to_base58()
        self._pairs: dict[PeerId, Pair] = {}
        self._known: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timing = timing or Timing()
        self._world = World(
            self._peer, self._timing, self._open, self._deliver, self._tell_lost, self._spawn, self._forget, uplink or Uplink(), self._weigh, members
        )
        self._receive: Receive = lambda peer, message: None
        self._lost: Lost = lambda peer: None
        self._closed = False
        self._stamp = 0
        self._standing = asyncio.Event()

    @classmethod
    async def start(cls, p2p: P2P, timing: Timing | None = None, uplink: Uplink | None = None, members: Members | None = None) -> LinkPool:
        self = cls(p2p, timing, uplink, members)
        await self.stand_on(p2p)
        return self

    async def stand_on(self, p2p: P2P) -> None:
        """From now on streams go through this p2pd. Those through another have ended with it."""
        self._p2p = p2p
        await p2p.add_binary_stream_handler(PROTOCOL, self._accepted)
        await p2p.add_binary_stream_handler(reach.PROTOCOL, reach.Knocker(p2p))
        self._standing.set()

    def fall(self) -> None:
        """p2pd is gone. Whoever dials now waits for another: a dial that failed at once would be tried again at once."""
        self._standing.clear()

    # --- ports.Links --------------------------------------------------------------------------------------------------------------------------------------

    @property
    def peer(self) -> PeerId:
        return self._peer

    def learn(self, peer: PeerId, addrs: Sequence[str]) -> None:
        """Addresses come from strangers' announcements, so what cannot be dialled is dropped in silence."""
        found = tuple(addr for text in addrs[:MAX_ADDRS] if (addr := dialable(text, peer)) is not None)
        if found:
            self._known.pop(peer, None)
            self._known[peer] = found
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]

    def send(self, peer: PeerId, message: wire.Message) -> None:
        """Messages to ourselves are handed over as they are, without a copy; all others are encoded here and now. After `close` nothing is sent."""
        if self._closed:
            return
        if peer == self._peer:
            asyncio.get_running_loop().call_soon(self._deliver, peer, message)
            return
        self._pair(peer).put(_lane(message), wire.encode(message), onward=isinstance(message, wire.Step))

    def expel(self, peer: PeerId) -> None:
        """It does not belong here any more."""
        if (pair := self._pairs.get(peer)) is not None:
            pair.lose("no member of this swarm any more")

    def subscribe(self, receive: Receive, lost: Lost) -> None:
        self._receive, self._lost = receive, lost

    async def measure(self, peer: PeerId) -> float:
        if peer == self._peer:
            return 0.0
        if self._closed:
            raise PeerLost(f"cannot measure {peer}: our links are closed")
        pair = self._pair(peer)
        if pair.link is None:  # so that dialling is not measured
            await pair.ping(self._next_stamp())
        trips = []
        for _ in range(TRIPS):
            begin = time.perf_counter()
            await pair.ping(self._next_stamp())
            trips.append(time.perf_counter() - begin)
        return min(trips)

    async def gauge(self, peer: PeerId) -> float:
        """From how far apart the answers to a train of padded Pings come ("What do packet dispersion techniques measure?", Dovrolis et al. 2001): the distance
        to the peer plays no part, and the first ones, which find TCP's window still small, do not count."""
        if self._closed or peer == self._peer:
            raise PeerLost(f"cannot gauge the way to {peer}")
        pair = self._pair(peer)
        await pair.ping(self._next_stamp())  # so that dialling is not measured
        arrived: list[float] = []

        async def wagon() -> None:
            await pair.ping(self._next_stamp(), GAUGE, bytes(WAGON))
            arrived.append(asyncio.get_running_loop().time())

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(TRAIN):
                    tasks.create_task(wagon(), name="gauge")
        except* PeerLost:
            raise PeerLost(f"{peer} did not answer all pings") from None
        seconds = arrived[-1] - arrived[SLOW_START - 1]
        return (TRAIN - SLOW_START) * WAGON / seconds if seconds > TOO_SHORT else inf

    async def close(self) -> None:
        """Flush what is queued and say End on every link, for `timing.close` seconds at most."""
        if self._closed:
            return
        self._closed = True
        for pair in self._pairs.values():
            pair.close(CLOSING)
        if linked := {pair.link.task for pair in self._pairs.values() if pair.link is not None}:
            await asyncio.wait(linked, timeout=self._timing.close)
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- what pairs ask of us -----------------------------------------------------------------------------------------------------------------------------

    async def _open(self, peer: PeerId) -> Stream:
        """A stream to a peer. If our caller gives up meanwhile, what p2pd then opens is closed: nobody else would, and the peer would wait for a word."""
        opening = asyncio.ensure_future(self._open_stream(peer))
        self._tasks.add(opening)
        opening.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_abandon)
            asyncio.get_running_loop().call_later(self._timing.dial, opening.cancel)
            raise

    async def _open_stream(self, peer: PeerId) -> Stream:
        peer_id = PeerID.from_base58(peer)
        await self._standing.wait()
        if addrs := self._known.get(peer):
            await self._p2p._client.connect(peer_id, addrs)
        _, reader, writer = await self._p2p.call_binary_stream_handler(peer_id, PROTOCOL)
        return Stream(reader, writer)

    def _deliver(self, peer: PeerId, message: wire.Message) -> None:
        """The door to the shell. Broad on purpose: a bug there over one message must not cut a link that other sessions share."""
        if self._closed:
            return
        try:
            self._receive(peer, message)
        except Exception:
            log.exception("handling %s from %s failed", type(message).__name__, peer)

    def _tell_lost(self, peer: PeerId) -> None:
        try:
            self._lost(peer)
        except Exception:  # the same door
            log.exception("handling the loss of %s failed", peer)

    def _spawn(self, life: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(life)
        self._tasks.add(task)
        task.add_done_callback(self._buried)
        return task

    def _buried(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a bug in a link", exc_info=task.exception())

    def _forget(self, pair: Pair) -> None:
        if pair.is_empty and self._pairs.get(pair.peer) is pair:
            del self._pairs[pair.peer]

    # ------------------------------------------------------------------------------------------------------------------------------------------------------

    def _pair(self, peer: PeerId) -> Pair:
        pair = self._pairs.get(peer)
        if pair is None:
            pair = self._pairs[peer] = Pair(peer, self._world)
        return pair

    async def _accepted(self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """hivemind calls this in a task of its own for every stream that arrives; the life of the stream is a task of ours."""
        peer = info.peer_id.to_base58()
        if self._closed or (peer not in self._pairs and len(self._pairs) >= MAX_PEERS and not self._make_room()):
            writer.transport.abort()
            return
        self._pair(peer).accept(Stream(reader, writer))

    def _make_room(self) -> bool:
        """Ask the peer whose link has been of no use for longest to leave."""
        now = asyncio.get_running_loop().time()
        links = [pair.link for pair in self._pairs.values() if pair.link is not None and pair.link.finishing is None]
        longest = min(links, key=lambda link: link.quiet, default=None)
        if longest is None or now - longest.quiet < RESTING:
            return False
        longest.finish(IDLE)
        return True

    def _weigh(self) -> None:
        if sum(pair.held for pair in self._pairs.values()) > MAX_HELD:
            heaviest = max(self._pairs.values(), key=lambda pair: pair.held)
            log.warning("%s is given up: of all that waits on links, %d bytes are its own", heaviest.peer, heaviest.held)
            heaviest.lose("holds too much")

    def _next_stamp(self) -> int:
        self._stamp += 1
        return self._stamp


def _lane(message: wire.Message) -> bytes | None:
    """Each session has its own, and all coordination one together."""
    if isinstance(message, wire.Shown):  # megabytes, which the session's tokens need not wait for
        return message.session + b" shown"
    if isinstance(message, wire.SessionMessage):
        return message.session
    return COORDINATION if isinstance(message, wire.Coordination) else CONTROL


def _abandon(opening: asyncio.Task[Stream]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
