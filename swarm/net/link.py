"""One stream to one peer: the handshake, then a link that reads, writes and listens for silence until it ends. Knows nothing of dialling or of other links.

What hivemind's streams do not tell, this file finds out: a stream whose peer was killed ends as cleanly as one that was closed, so an end without our End
message is a loss; a frozen peer's stream stays open for ever, so three seconds without a single byte are a loss too.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from swarm import wire
from swarm.core import PeerId
from swarm.errors import ProtocolError
from swarm.net.frames import CONTROL, MAX_CONTROL, Inbox, Outbox, one_frame
from swarm.net.uplink import Uplink

log = logging.getLogger(__name__)

OLDEST, NEWEST = wire.VERSION, wire.VERSION + 1
"""Versions we talk to: ours, the one before as soon as there is one, and the next, which promises to understand us."""

MAX_HELLO = 4096
"""Bytes a stranger may say before we know that it speaks our language."""

READ = 2**18
"""Bytes asked of the stream at once; asyncio's own limit stops at 128 KiB."""

BUFFER = 64 * 2**10
"""Bytes in our write buffer above which the writer waits. Above it fragments can still be reordered by lane, below it they cannot."""

HEARTBEAT = 0
"""The stamp of a Ping that is only a sign of life. Those that measure count from 1."""

DRIP, SLOWEST = 15.0, 4 * 2**10
"""Seconds that may pass without one whole message, and how many bytes of one allow for a second more. Who has nothing to say sends a Ping every second, and
over a slower line than that no answer would pass. It keeps strangers from holding a place, and a message begun, with a byte now and then."""

STUCK = 30.0
"""Seconds in which a peer for which something waits takes not even what is written at once (128 KiB): it does not read."""

WEIGHTY = 2**20
"""Bytes of a link above which it is asked what all links together hold."""

LINGER = 1.0
"""Seconds for the other side to close after our End: one round trip and what was still under way."""


@dataclass(frozen=True)
class Timing:
    """Seconds. A loss is noticed `silence` after the last byte; heartbeats come thrice in that time, so that two may be late."""

    heartbeat: float = 1.0
    silence: float = 3.0
    dial: float = 5.0
    """Reaching a peer and opening a stream: TCP, TLS and stream negotiation are six round trips, 2 s across the world, or a relay."""
    handshake: float = 5.0
    idle: float = 120.0
    """A link without session traffic is closed after this. A living session renews its lease every 10 s, so such a link serves nobody."""
    close: float = 1.0
    """What `close` gives links to flush and say End."""
    patience: float = 1.0
    """A second stream from a peer we are linked with is either the loser of a double dial, which its dialler gives up within a round trip, or a peer that
    lost our link before we did. After this time it is the latter."""


class Kind(enum.Enum):
    """How a link ended."""

    CUT = "cut"
    ENDED = "ended"
    SILENT = "silent"
    NONSENSE = "nonsense"


class Ending(NamedTuple):
    kind: Kind
    detail: str = ""


IDLE, CLOSING, CONFUSED, VERSION, STRANGER = "idle", "closing", "protocol", "version", "members only"
"""Reasons of an End. Never the text of an exception: that stays in our log."""


class Refused(Exception):
    """The other side, or we, would not shake hands."""


class Stream:
    """A stream before it is a link. Owned by one task, which closes it in its `finally`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.inbox = Inbox(max_message=MAX_HELLO)
        self.early: list[bytes | bytearray] = []
        """Whole messages that came in one piece with the Hello."""
        writer.transport.set_write_buffer_limits(high=BUFFER)

    def say(self, message: wire.Message) -> None:
        self.writer.write(one_frame(wire.encode(message)))

    async def hello(self) -> wire.Hello:
        """The first message. Raises Refused for anything but a Hello in a version we know; ProtocolError for bytes that make no sense."""
        while not self.early:
            data = await self.reader.read(MAX_HELLO)
            if not data:
                raise Refused("the stream was closed before a word was said")
            self.early += self.inbox.feed(data)
        message = wire.decode(memoryview(self.early.pop(0)))
        if isinstance(message, wire.End):
            raise Refused(f"refused: {message.reason[:40]!r}")
        if not isinstance(message, wire.Hello):
            raise ProtocolError(f"the first message is {type(message).__name__}, not Hello")
        if not OLDEST <= message.version <= NEWEST:
            self.say(wire.End(VERSION))
            raise Refused(f"it speaks version {message.version}, we speak {wire.VERSION}")
        self.inbox.max_message = wire.MAX_MESSAGE
        return message

    async def closed(self) -> None:
        """Returns when the other side gives up a stream on which it has nothing to say yet."""
        data = await self.reader.read(1)
        if data:
            raise ProtocolError("spoke before it was answered")

    def abort(self) -> None:
        self.writer.transport.abort()

    def close(self) -> None:
        """Close once what was written has left, or after LINGER at the latest."""
        if not self.writer.transport.is_closing():
            self.writer.close()
            asyncio.get_running_loop().call_later(LINGER, self.abort)


@dataclass(eq=False)
class Link:
    """A stream on which both sides have said Hello. `run` is its whole life; `deliver` gets every message for the shell, synchronously."""

    peer: PeerId
    stream: Stream
    outbox: Outbox
    timing: Timing
    deliver: Callable[[wire.Message], None]
    pongs: dict[int, asyncio.Future[None]]
    task: asyncio.Task[None]
    """Whose life the stream is; cancelling it ends the link."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    uplink: Uplink = field(default_factory=Uplink)
    weigh: Callable[[], None] = lambda: None
    finishing: str | None = None
    _heard: float = 0.0
    _spoke: float = 0.0
    _busy: float = 0.0
    _whole: float = 0.0
    """When the last message was whole."""
    _since: int = 0
    """Bytes since then."""

    @property
    def held(self) -> int:
        """Bytes that wait for more of them, or for the peer to read."""
        return self.stream.inbox.held + self.outbox.size

    @property
    def quiet(self) -> float:
        """Since when no session has used it."""
        return self._busy

    async def run(self) -> Ending:
        loop = asyncio.get_running_loop()
        self._heard = self._spoke = self._busy = self._whole = loop.time()
        reader, watcher, writer = asyncio.ensure_future(self._read()), asyncio.ensure_future(self._watch()), asyncio.ensure_future(self._write())
        try:
            # The writer decides nothing: where it fails, the reader is about to see why, and may first find an End among what has already arrived.
            await asyncio.wait({reader, watcher}, return_when=asyncio.FIRST_COMPLETED)
            ending = (reader if reader.done() else watcher).result()
            if ending.kind is Kind.NONSENSE:
                self.stream.say(wire.End(CONFUSED))
            if ending.kind in (Kind.CUT, Kind.SILENT):
                self.stream.abort()
            return ending
        finally:
            for task in (reader, watcher, writer):
                task.cancel()
            await asyncio.wait({reader, watcher, writer})

    def finish(self, reason: str) -> None:
        """Say End once everything queued has left, then nothing more. The link ends when the other side has closed."""
        self.finishing = self.finishing or reason
        self.wake.set()

    async def _read(self) -> Ending:
        stream, loop = self.stream, asyncio.get_running_loop()
        try:
            while True:
                messages, stream.early = stream.early, []
                for raw in messages:
                    try:
                        message = wire.decode(memoryview(raw))
                    except wire.UnknownMessage:
                        continue  # from a newer peer, which must expect us not to know it
                    if isinstance(message, wire.SessionMessage | wire.Coordination):
                        self._busy = self._heard
                        self.deliver(message)
                    elif isinstance(message, wire.End):
                        return Ending(Kind.ENDED, message.reason)
                    else:
                        self._control(message)
                data = await stream.reader.read(READ)
                if not data:
                    return self._cut("the stream ended without a word")
                self._heard = loop.time()
                stream.early = stream.inbox.feed(data)
                self._whole, self._since = (self._heard, 0) if stream.early else (self._whole, self._since + len(data))
                if stream.inbox.held > WEIGHTY:
                    self.weigh()
        except ProtocolError as error:
            return Ending(Kind.NONSENSE, str(error))
        except OSError as error:
            return self._cut(str(error))

    def _cut(self, how: str) -> Ending:
        """The stream is over without an End from the other side; after an End of ours that is all we need."""
        return Ending(Kind.ENDED, self.finishing) if self.finishing else Ending(Kind.CUT, how)

    def _control(self, message: wire.Message) -> None:
        if isinstance(message, wire.Ping):
            if self.outbox.controls >= MAX_CONTROL:
                raise ProtocolError("more Pings than Pongs were read")
            self.outbox.put(CONTROL, wire.encode(wire.Pong(message.stamp)))
            self.wake.set()
        elif isinstance(message, wire.Pong):
            pong = self.pongs.pop(message.stamp, None)
            if pong is not None and not pong.done():
                pong.set_result(None)
        else:
            raise ProtocolError(f"{type(message).__name__} has no place here")

    async def _write(self) -> None:
        writer, loop = self.stream.writer, asyncio.get_running_loop()
        try:
            while True:
                while data := self.outbox.take():
                    writer.write(data)
                    await writer.drain()
                    self._spoke = loop.time()
                    await self._rest(self.uplink.spend(len(data), self._spoke))
                if self.finishing is not None:
                    # And no half-close: p2pd answers an end of file by closing both directions, so that what the other side still has to say would be lost.
                    self.stream.say(wire.End(self.finishing))
                    return
                self.wake.clear()
                await self.wake.wait()
        except OSError as error:
            log.debug("cannot write to %s: %s", self.peer, error)

    async def _rest(self, pause: float) -> None:
        """Send nothing for `pause` seconds but what keeps the other side from thinking us dead."""
        while pause > 0:
            nap = min(pause, self.timing.heartbeat / 2)
            await asyncio.sleep(nap)
            pause -= nap
            while self.outbox.controls:
                self.stream.writer.write(self.outbox.take(1))
                self._spoke = asyncio.get_running_loop().time()  # it is we who are slow: whether the other side reads is seen once there is more to send

    async def _watch(self) -> Ending:
        """Keep the other side from thinking us dead, and notice when it is."""
        timing, loop = self.timing, asyncio.get_running_loop()
        tick = timing.heartbeat / 4
        finished: float | None = None
        while True:
            before = loop.time()
            await asyncio.sleep(tick)
            now = loop.time()
            if now - before > 2 * tick:
                # We were the one who slept (a busy loop, a suspended machine): what arrived meanwhile is not read yet, so it cannot count against the peer.
                self._heard, self._whole, self._spoke = (then + now - before - tick for then in (self._heard, self._whole, self._spoke))
            if now - self._heard > timing.silence:
                return Ending(Kind.SILENT, f"no byte for {timing.silence:g} s")
            if now - self._whole > DRIP + self._since / SLOWEST:
                return Ending(Kind.SILENT, f"{self._since} bytes and no whole message in {now - self._whole:.0f} s")
            if self.outbox and now - self._spoke > STUCK:
                return Ending(Kind.SILENT, f"it has read nothing for {STUCK:g} s")
            if self.finishing is not None:
                finished = finished or now
                if now - finished > LINGER and not self.outbox:
                    return Ending(Kind.ENDED, self.finishing)
            elif now - self._spoke >= timing.heartbeat and not self.outbox.controls:
                self.outbox.put(CONTROL, wire.encode(wire.Ping(HEARTBEAT)))
                self.wake.set()
            if now - self._busy > timing.idle and not self.held:  # what is on its way would be sent again from its beginning, and again
                self.finish(IDLE)

    def touch(self) -> None:
        """A session message was queued: the link is in use."""
        self._busy = asyncio.get_running_loop().time()
