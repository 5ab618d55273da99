"""Links to all peers: dials when first needed, answers who dials us, keeps one stream per pair, and tells once when a link is gone. Implements `ports.Links`.

Knows p2pd only through three calls (connect, open a stream, accept streams); what happens inside a link is `link.py`'s business.

*Both dial at once.* A dial is *committed* when its Hello has been written; before that the other side cannot have accepted it. Who accepts a stream writes
its Hello as the answer, and only then do messages flow. So a stream that loses never carried a message, and nothing is ever sent twice:
- not committed: accept the incoming stream and give up our own dial;
- committed, and ours is the smaller peer id: ours stays. Hold the incoming one until its dialler gives it up, or take it if our own dial fails;
- committed, and theirs is the smaller: accept theirs, give up ours. They hold ours and will not answer it.
- already linked: the loser of a double dial that arrives late, or a peer that lost our link before we did. Hold it; if the old link ends first, or the new stream
  is still open after `patience`, the peer means it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

from hivemind.p2p import P2P, P2PDaemonError, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.utils.multiaddr import Multiaddr

from swarm import wire
from swarm.core import PeerId
from swarm.errors import PeerLost, ProtocolError
from swarm.net.addresses import dialable
from swarm.net.frames import CONTROL, Outbox
from swarm.net.link import CLOSING, IDLE, Kind, Link, Refused, Stream, Timing
from swarm.ports import Lost, Receive

log = logging.getLogger(__name__)

PROTOCOL = "/swarm/link/1"

SOFTWARE = "swarm"

MAX_STREAMS = 4
"""Streams one peer may have open to us: a link, its successor, and two that are not done closing."""

MAX_PEERS = 1024
"""Peers that may have streams to us at once. p2pd's connection manager begins to prune at 512 connections."""

MAX_OUTBOX = 4 * wire.MAX_MESSAGE
"""Bytes that may wait for one peer. Credit keeps sessions far below it; whoever gets here does not read."""

MAX_KNOWN = 4096
"""Peers whose addresses are remembered; the one learned longest ago is forgotten first."""

MAX_ADDRS = 16

DIAL_ERRORS = (P2PDaemonError, OSError, EOFError, asyncio.TimeoutError, ValueError, ProtocolError, Refused)
"""What can go wrong between us, our p2pd and a peer while a stream is opened. P2PDaemonError: p2pd says no. OSError, EOFError: p2pd itself is gone.
ValueError: a peer id that is none; routes are made by strangers."""


@dataclass(eq=False)
class _Peer:
    """What we have with one peer."""

    id: PeerId
    outbox: Outbox = field(default_factory=Outbox)
    link: Link | None = None
    dial: asyncio.Task[None] | None = None
    """The task that dials, until its stream is a link or has failed."""
    committed: bool = False
    streams: int = 0
    """Streams this peer has open to us."""
    held: int = 0
    """Those of them that wait for their turn."""
    pongs: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, whenever a dial or a link ends."""

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class LinkPool:
    def __init__(self, p2p: P2P, timing: Timing | None = None) -> None:
        self._p2p = p2p
        self._timing = timing or Timing()
        self._peer: PeerId = p2p.peer_id.to_base58()
        self._peers: dict[PeerId, _Peer] = {}
        self._known: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._linked: set[asyncio.Task[None]] = set()
        self._receive: Receive = lambda peer, message: None
        self._lost: Lost = lambda peer: None
        self._closed = False
        self._stamp = 0

    @classmethod
    async def start(cls, p2p: P2P, timing: Timing | None = None) -> LinkPool:
        self = cls(p2p, timing)
        await p2p.add_binary_stream_handler(PROTOCOL, self._accepted)
        return self

    # --- ports.Links ----------------------------------------------------------------------------------------------------------------------------------

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
            asyncio.get_running_loop().call_soon(self._hand_over, peer, message)
            return
        self._put(self._entry(peer), message.session if isinstance(message, wire.SessionMessage) else CONTROL, wire.encode(message))

    def subscribe(self, receive: Receive, lost: Lost) -> None:
        self._receive, self._lost = receive, lost

    async def measure(self, peer: PeerId) -> float:
        if peer == self._peer:
            return 0.0
        if self._closed:
            raise PeerLost(f"cannot measure {peer}: our links are closed")
        entry = self._entry(peer)
        if entry.link is None:  # so that dialling is not measured
            await self._pong(entry)
        begin = time.perf_counter()
        await self._pong(entry)
        return time.perf_counter() - begin

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for entry in self._peers.values():
            if entry.link is not None:
                entry.link.finish(CLOSING)
        if self._linked:
            await asyncio.wait(self._linked, timeout=self._timing.close)
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- sending --------------------------------------------------------------------------------------------------------------------------------------

    def _entry(self, peer: PeerId) -> _Peer:
        entry = self._peers.get(peer)
        if entry is None:
            entry = self._peers[peer] = _Peer(peer)
        return entry

    def _put(self, entry: _Peer, lane: bytes | None, data: bytes) -> None:
        if entry.outbox.size + len(data) > MAX_OUTBOX:
            asyncio.get_running_loop().call_soon(self._overflow, entry, entry.outbox)
            return
        entry.outbox.put(lane, data)
        if entry.link is not None:
            if lane is not CONTROL:
                entry.link.touch()
            entry.link.wake.set()
        elif entry.dial is None:
            self._dial(entry)

    async def _pong(self, entry: _Peer) -> None:
        """One Ping there and its Pong back. Raises PeerLost."""
        self._stamp += 1
        stamp = self._stamp
        pong = entry.pongs[stamp] = asyncio.get_running_loop().create_future()
        try:
            self._put(entry, CONTROL, wire.encode(wire.Ping(stamp)))
            await asyncio.wait_for(pong, self._timing.dial + self._timing.handshake + self._timing.silence)
        except asyncio.TimeoutError:
            raise PeerLost(f"{entry.id} did not answer a ping") from None
        finally:
            entry.pongs.pop(stamp, None)

    def _hand_over(self, peer: PeerId, message: wire.Message) -> None:
        """The door to the shell. Broad on purpose: a bug there over one message must not cut a link that other sessions share."""
        if self._closed:
            return
        try:
            self._receive(peer, message)
        except Exception:
            log.exception("handling %s from %s failed", type(message).__name__, peer)

    # --- dialling -------------------------------------------------------------------------------------------------------------------------------------

    def _dial(self, entry: _Peer) -> None:
        entry.committed = False
        entry.dial = self._spawn(self._dialled(entry))

    async def _dialled(self, entry: _Peer) -> None:
        """The life of a stream that we open."""
        me = asyncio.current_task()
        stream: Stream | None = None
        try:
            try:
                stream = await asyncio.wait_for(self._open(entry.id), self._timing.dial)
                entry.committed = True
                stream.say(wire.Hello(wire.VERSION, SOFTWARE))
                await asyncio.wait_for(stream.hello(), self._timing.handshake)
            except DIAL_ERRORS as error:
                if entry.dial is not me:
                    return
                entry.dial = None
                if entry.held:
                    entry.change()
                else:
                    self._lose(entry, f"cannot reach it: {str(error) or type(error).__name__}")
                return
            if entry.dial is me and not self._closed:
                entry.dial = None
                await self._serve(entry, stream)
        finally:
            if entry.dial is me:
                entry.dial = None
            if stream is not None:
                stream.close()

    async def _open(self, peer: PeerId) -> Stream:
        peer_id = PeerID.from_base58(peer)
        addrs = self._known.get(peer, ())
        if addrs:
            await self._p2p._client.connect(peer_id, addrs)
        _, reader, writer = await self._p2p.call_binary_stream_handler(peer_id, PROTOCOL)
        return Stream(reader, writer)

    # --- being dialled --------------------------------------------------------------------------------------------------------------------------------

    async def _accepted(self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """hivemind calls this in a task of its own for every stream that arrives; the life of the stream is a task of ours."""
        peer = info.peer_id.to_base58()
        entry = self._peers.get(peer)
        if self._closed or (entry is None and len(self._peers) >= MAX_PEERS) or (entry is not None and entry.streams >= MAX_STREAMS):
            log.debug("refused a stream from %s", peer)
            writer.transport.abort()
            return
        entry = self._entry(peer)
        entry.streams += 1
        self._spawn(self._answer(entry, Stream(reader, writer)))

    async def _answer(self, entry: _Peer, stream: Stream) -> None:
        """The life of a stream that a peer opened."""
        try:
            await asyncio.wait_for(stream.hello(), self._timing.handshake)
            await self._take_turn(entry, stream)
            stream.say(wire.Hello(wire.VERSION, SOFTWARE))
            await self._serve(entry, stream)
        except (Refused, ProtocolError, OSError, asyncio.TimeoutError) as error:
            log.debug("a stream from %s came to nothing: %s", entry.id, error or "it said nothing")
        finally:
            stream.close()
            entry.streams -= 1
            self._forget(entry)

    async def _take_turn(self, entry: _Peer, stream: Stream) -> None:
        """Wait until this stream may become the link; no other can become it before our caller's next await. Raises Refused if its dialler gives it up."""
        entry.held += 1
        try:
            while entry.link is not None or (entry.dial is not None and entry.committed and self._peer < entry.id):
                old = entry.link
                given_up, changed = asyncio.ensure_future(stream.closed()), asyncio.ensure_future(entry.changed.wait())
                try:
                    done, _ = await asyncio.wait(
                        {given_up, changed}, timeout=None if old is None else self._timing.patience, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    given_up.cancel()
                    changed.cancel()
                    await asyncio.wait({given_up, changed})
                if not given_up.cancelled():
                    given_up.result()
                    raise Refused("given up by its dialler")
                if not done and old is not None and entry.link is old:
                    self._lose(entry, "it began anew")
        finally:
            entry.held -= 1
            if not entry.held and entry.link is None and entry.dial is None and entry.outbox and sys.exc_info()[0] is not None:
                self._lose(entry, "neither side's dial came through")
        if entry.dial is not None:
            entry.dial.cancel()
            entry.dial = None

    # --- linked ---------------------------------------------------------------------------------------------------------------------------------------

    async def _serve(self, entry: _Peer, stream: Stream) -> None:
        """Be the link with this peer until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._linked.add(task)
        link = Link(entry.id, stream, entry.outbox, self._timing, lambda message: self._hand_over(entry.id, message), entry.pongs, task)
        entry.link = link
        entry.change()
        log.debug("linked with %s", entry.id)
        try:
            ending = await link.run()
        finally:
            self._linked.discard(task)
        if entry.link is not link:
            return
        if ending == (Kind.ENDED, IDLE):
            entry.link = None
            entry.outbox.restart()
            entry.change()
            if entry.outbox and not self._closed:
                self._dial(entry)
            return
        if ending.kind is Kind.NONSENSE:
            log.warning("%s made no sense, its link is closed: %s", entry.id, ending.detail)
        self._lose(entry, f"{ending.kind.value}: {ending.detail[:80]}")

    def _lose(self, entry: _Peer, why: str) -> None:
        """The link, or the hope of one, is gone, and with it whatever waited. The one place that says so."""
        link, entry.link = entry.link, None
        dial, entry.dial = entry.dial, None
        for task in (link.task if link is not None else None, dial):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        entry.outbox = Outbox()
        for pong in entry.pongs.values():
            if not pong.done():
                pong.set_exception(PeerLost(f"the link to {entry.id} is gone ({why})"))
        entry.change()
        self._forget(entry)
        if self._closed:
            return
        log.info("lost the link to %s: %s", entry.id, why)
        try:
            self._lost(entry.id)
        except Exception:  # the same door as in _hand_over
            log.exception("handling the loss of %s failed", entry.id)

    def _overflow(self, entry: _Peer, outbox: Outbox) -> None:
        if entry.outbox is outbox:  # several messages may have found it full
            log.warning("%s does not read: %d bytes are waiting for it; the link is given up", entry.id, outbox.size)
            self._lose(entry, "overflow")

    def _forget(self, entry: _Peer) -> None:
        if entry.link is None and entry.dial is None and not entry.streams and not entry.outbox and self._peers.get(entry.id) is entry:
            del self._peers[entry.id]

    def _spawn(self, life: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(life)
        self._tasks.add(task)
        task.add_done_callback(self._buried)
        return task

    def _buried(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a bug in a link", exc_info=task.exception())
