"""We and one other peer: at most one link between the two, whoever dials, and one word when it is gone. Knows nothing of any third.

*Both dial at once.* A dial is *committed* when its Hello has been written; before that the other side cannot have accepted it. Who accepts a stream writes
its Hello as the answer, and only then do messages flow. So a stream that loses never carried a message, and nothing is ever sent twice:
- not committed: accept the incoming stream and give up our own dial;
- committed, and ours is the smaller peer id: ours stays. Hold the incoming one until its dialler gives it up, or take it if our own dial fails;
- committed, and theirs is the smaller: accept theirs, give up ours. They hold ours and will not answer it.
- already linked: the loser of a double dial that arrives late, or a peer that lost our link before we did. Hold it; if the old link ends first, or
  the new stream is still open after `patience`, the peer means it.

Every stream has one task for its whole life, which closes it in its `finally`; a dial, a link and a stream that is held are what that task is doing just now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

import msgspec
from hivemind.p2p import P2PDaemonError

from swarm import wire
from swarm.core import PeerId
from swarm.errors import PeerLost, ProtocolError
from swarm.net.frames import CONTROL, Outbox
from swarm.net.link import IDLE, STRANGER, WEIGHTY, Ending, Kind, Link, Refused, Stream, Timing
from swarm.net.members import Members
from swarm.net.uplink import Uplink

log = logging.getLogger(__name__)

SOFTWARE = "swarm"

MAX_STREAMS = 4
"""Streams one peer may have open to us: a link, its successor, and two that are not done closing."""

MAX_UNREAD, MAX_OUTBOX = 64 * 2**20, 256 * 2**20
"""Bytes that may wait for one peer, and for one that comes after us in chains: credit keeps a session far below it, but there may be many. Whoever gets here
does not read, or asks for more than its line takes."""

DIAL_ERRORS = (P2PDaemonError, OSError, EOFError, ValueError, ProtocolError, Refused)
"""What can go wrong between us, our p2pd and a peer while a stream is opened. P2PDaemonError: p2pd says no. OSError, EOFError: p2pd itself is gone; a
TimeoutError is an OSError. ValueError: a peer id that is none; routes are made by strangers."""


@dataclass(frozen=True)
class World:
    """What a pair needs from the pool that owns it."""

    me: PeerId
    timing: Timing
    open: Callable[[PeerId], Awaitable[Stream]]
    deliver: Callable[[PeerId, wire.Message], None]
    lost: Callable[[PeerId], None]
    spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
    forget: Callable[[Pair], None]
    uplink: Uplink = field(default_factory=Uplink)
    weigh: Callable[[], None] = lambda: None
    """Said whenever a pair holds much: what all of them hold together has an end."""
    members: Members | None = None
    """Of a private swarm; None for one that is open."""


class Pair:
    def __init__(self, peer: PeerId, world: World) -> None:
        self.peer = peer
        self.link: Link | None = None
        self._world = world
        self._outbox = Outbox()
        self._dial: asyncio.Task[None] | None = None
        """The task that dials, until its stream is a link or has failed."""
        self._committed = False
        self._streams = 0
        """Streams this peer has open to us."""
        self._held = 0
        """Those of them that wait for their turn."""
        self._changed = asyncio.Event()
        """Set, and replaced, whenever a dial or a link ends."""
        self._pongs: dict[int, asyncio.Future[None]] = {}
        self._closing = False
        self._onward = False
        """Something of what waits is work that the peer is to go on with."""

    @property
    def is_empty(self) -> bool:
        return self.link is None and self._dial is None and not self._streams and not self._outbox

    @property
    def held(self) -> int:
        return self._outbox.size if self.link is None else self.link.held

    # --- what the pool asks -----------------------------------------------------------------------------------------------------------------------------

    def put(self, lane: bytes | None, data: bytes, *, onward: bool = False) -> None:
        """Queue an encoded message, and dial if there is no link."""
        self._onward = onward or (self._onward and bool(self._outbox))
        if self._outbox.size + len(data) > (MAX_OUTBOX if self._onward else MAX_UNREAD):
            asyncio.get_running_loop().call_soon(self._overflow, self._outbox)
            return
        self._outbox.put(lane, data)
        if self._outbox.size > WEIGHTY:
            asyncio.get_running_loop().call_soon(self._world.weigh)
        if self.link is not None:
            if lane is not CONTROL:
                self.link.touch()
            self.link.wake.set()
        elif self._dial is None:
            self._start_dial()

    async def ping(self, stamp: int, lane: bytes | None = CONTROL, padding: bytes = b"") -> None:
        """One Ping there and its Pong back. Raises PeerLost."""
        timing = self._world.timing
        pong = self._pongs[stamp] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timing.dial + timing.handshake + timing.silence):
                self.put(lane, wire.encode(wire.Ping(stamp, padding)))
                await pong
        except TimeoutError:
            raise PeerLost(f"{self.peer} did not answer a ping") from None
        finally:
            self._pongs.pop(stamp, None)

    def accept(self, stream: Stream) -> None:
        """The peer has opened a stream to us."""
        if self._closing or self._streams >= MAX_STREAMS:
            log.debug("refused a stream from %s", self.peer)
            stream.abort()
            return
        self._streams += 1
        self._world.spawn(self._answer(stream))

    def close(self, reason: str) -> None:
        """Say goodbye; from now on the end of the link is no loss."""
        self._closing = True
        if self.link is not None:
            self.link.finish(reason)

    # --- the life of a stream that we open ----------------------------------------------------------------------------------------------------------------

    def _start_dial(self) -> None:
        self._committed = False
        self._dial = self._world.spawn(self._dialled())

    async def _dialled(self) -> None:
        me, timing = asyncio.current_task(), self._world.timing
        stream: Stream | None = None
        try:
            try:
                async with asyncio.timeout(timing.dial):
                    stream = await self._world.open(self.peer)
                self._committed = True
                stream.say(self._hello())
                async with asyncio.timeout(timing.handshake):
                    self._admit(await stream.hello())
            except DIAL_ERRORS as error:
                if self._dial is me:
                    self._dial_failed(f"cannot reach it: {str(error) or type(error).__name__}")
                return
            if self._dial is me and not self._closing:
                self._dial = None
                await self._serve(stream)
        finally:
            if self._dial is me:
                self._dial = None
            if stream is not None:
                stream.close()
            self._world.forget(self)

    def _dial_failed(self, why: str) -> None:
        self._dial = None
        if self._held:  # the peer's own stream waits for just this
            self._change()
        else:
            self.lose(why)

    # --- the life of a stream that the peer opened --------------------------------------------------------------------------------------------------------

    async def _answer(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self._world.timing.handshake):
                hello = await stream.hello()
            try:
                self._admit(hello)
            except Refused:
                stream.say(wire.End(STRANGER))
                raise
            await self._take_turn(stream)
            self._admit_again(hello)
            stream.say(self._hello())
            await self._serve(stream)
        except (Refused, ProtocolError, OSError) as error:
            log.debug("a stream from %s came to nothing: %s", self.peer, error or "it said nothing")
        finally:
            stream.close()
            self._streams -= 1
            self._world.forget(self)

    def _hello(self) -> wire.Hello:
        members = self._world.members
        return wire.Hello(wire.VERSION, SOFTWARE) if members is None else msgspec.structs.replace(members.hello(), software=SOFTWARE)

    def _admit(self, hello: wire.Hello) -> None:
        """Into a private swarm its members alone. Raises Refused."""
        if self._world.members is not None:
            try:
                self._world.members.admit(self.peer, hello)
            except ProtocolError as error:
                raise Refused(f"no member of this swarm: {error}") from error

    def _admit_again(self, hello: wire.Hello) -> None:
        """A member may be put out while its stream waits for its turn: that its old link ended is what let this one through. Raises Refused."""
        try:
            self._admit(hello)
        except Refused:
            self.lose("no member of this swarm any more")
            raise

    async def _take_turn(self, stream: Stream) -> None:
        """Wait until this stream may become the link; no other can become it before our caller's next await. Raises Refused if its dialler gives it up."""
        self._held += 1
        try:
            while self.link is not None or (self._dial is not None and self._committed and self._world.me < self.peer):
                await self._wait_for_turn(stream)
        except (Refused, ProtocolError, OSError):
            if self._held == 1 and self.link is None and self._dial is None and self._outbox:
                self.lose("neither side's dial came through")
            raise
        finally:
            self._held -= 1
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None

    async def _wait_for_turn(self, stream: Stream) -> None:
        old = self.link
        given_up, changed = asyncio.ensure_future(stream.closed()), asyncio.ensure_future(self._changed.wait())
        try:
            done, _ = await asyncio.wait({given_up, changed}, timeout=None if old is None else self._world.timing.patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            given_up.cancel()
            changed.cancel()
            await asyncio.wait({given_up, changed})
        if not given_up.cancelled():
            given_up.result()
            raise Refused("given up by its dialler")
        if not done and old is not None and self.link is old:
            self.lose("it began anew")

    # --- linked -------------------------------------------------------------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        """Be the link with this peer until it ends."""
        task = asyncio.current_task()
        assert task is not None
        link = Link(
            self.peer,
            stream,
            self._outbox,
            self._world.timing,
            lambda message: self._world.deliver(self.peer, message),
            self._pongs,
            task,
            uplink=self._world.uplink,
            weigh=self._world.weigh,
        )
        self.link = link
        self._change()
        log.debug("linked with %s", self.peer)
        ending = await link.run()
        if self.link is link:
            self._ended(ending)

    def _ended(self, ending: Ending) -> None:
        if ending == (Kind.ENDED, IDLE):  # nobody's loss: what waits is sent over a new link
            self.link = None
            self._outbox.restart()
            self._change()
            if self._outbox and not self._closing:
                self._start_dial()
            return
        if ending.kind is Kind.NONSENSE:
            log.warning("%s made no sense, its link is closed: %s", self.peer, ending.detail)
        self.lose(f"{ending.kind.value}: {ending.detail[:80]}")

    def lose(self, why: str) -> None:
        """The link, or the hope of one, is gone, and with it whatever waited. The one place that says so."""
        link, self.link = self.link, None
        dial, self._dial = self._dial, None
        for task in (link.task if link is not None else None, dial):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._outbox = Outbox()
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(PeerLost(f"the link to {self.peer} is gone ({why})"))
        self._change()
        self._world.forget(self)
        if not self._closing:
            news = link is not None and not why.startswith("ended")  # who cannot be reached is tried again and again, and whoever wanted something says so
            log.log(logging.INFO if news else logging.DEBUG, "lost the link to %s: %s", self.peer, why.splitlines()[0])
            self._world.lost(self.peer)

    def _overflow(self, outbox: Outbox) -> None:
        if self._outbox is outbox:  # several messages may have found it full
            log.warning("%s does not read: %d bytes are waiting for it; the link is given up", self.peer, outbox.size)
            self.lose("overflow")

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
