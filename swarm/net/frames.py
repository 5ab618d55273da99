"""The bytes of a link: messages cut into fragments on one side, put together again on the other. Pure: no sockets, no clock, no idea what a message says.

A link carries a sequence of *fragments* each way:

    offset 0   u32   length of the payload, 1 … 65536
    offset 4   u8    flags: bit 0 "the message ends with this fragment", bit 1 "hand it on together with the next one", all others zero
    offset 5   u32   lane
    offset 9   payload

All numbers are big-endian. Fragments with the same lane number belong together: within a lane messages follow one another and never overlap, so a message
is the payloads of its lane up to the next "ends here". Lane numbers mean nothing else; the sender gives one to a session when it has something to say and
may give it to another once that is said. Lane 0 is for the link itself (Hello, Ping, Pong, End).

Why lanes: a prompt's activations are megabytes and a token is a hundred bytes. Each lane in turn sends one fragment, so a token waits for at most one
fragment of every other session (64 KiB: 5 ms at 100 Mbit/s), never for a whole prompt. And why not one stream for each session: p2pd holds a socket, two
goroutines and flow-control windows for each, an idle one is never reaped, and a hundred sessions would need a hundred heartbeats.

Messages of several sessions that leave together arrive together: bit 1 on a whole message tells the reader to hold it until the next has come, so that steps
computed as one batch here are one batch at the next hop too, however the network cuts the bytes.

What a stranger can make a reader hold is bounded: the messages that have begun and not ended are together at most MAX_MESSAGE bytes in MAX_PARTIAL lanes,
and a sender of ours keeps to that by not beginning a large message while the ones under way leave no room for it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Hashable

from swarm.errors import ProtocolError
from swarm.wire import MAX_MESSAGE

FRAGMENT = 64 * 2**10
"""Largest payload of one fragment: what a token may have to wait for."""

MAX_PARTIAL = 256
"""Messages that may be begun and not ended on one link and direction. Only messages larger than one fragment are ever in that state."""

MAX_CONTROL = 256
"""Messages that may queue in the control lane. Heartbeats need two; a peer that asks for thousands of Pongs without reading them is refused."""

WRITE = 128 * 2**10
"""Bytes handed to the socket at once. Enough to keep a fast network busy, little enough that what was handed over does not delay a token (1 ms at 1 Gbit/s)."""

CONTROL = None
"""The lane of the link itself. Every other lane is named by any hashable value, in practice a session id."""

_HEADER = struct.Struct(">IBI")
_LAST, _MORE = 1, 2
HEADER_SIZE = _HEADER.size


class Inbox:
    """Bytes in, whole messages out."""

    def __init__(self, max_message: int = MAX_MESSAGE, max_partial: int = MAX_PARTIAL) -> None:
        self.max_message = max_message
        self._max_partial = max_partial
        self._buffer = bytearray()
        self._partial: dict[int, bytearray] = {}
        self._partial_bytes = 0
        self._together: list[bytes | bytearray] = []
        self._together_bytes = 0

    @property
    def held(self) -> int:
        """Bytes kept for messages that are not whole yet."""
        return self._partial_bytes + len(self._buffer) + self._together_bytes

    def feed(self, data: bytes) -> list[bytes | bytearray]:
        """Take the next bytes of the stream, however they were cut, and return the messages that are now whole. Raises ProtocolError; the link is then over."""
        buffer = self._buffer
        buffer += data
        ready: list[bytes | bytearray] = []
        at = 0
        while len(buffer) - at >= HEADER_SIZE:
            length, flags, lane = _HEADER.unpack_from(buffer, at)
            if not 1 <= length <= FRAGMENT or flags not in (0, _LAST, _LAST | _MORE):
                raise ProtocolError(f"no fragment: length {length}, flags {flags}")
            end = at + HEADER_SIZE + length
            if len(buffer) < end:
                break
            message = self._add(lane, buffer, at + HEADER_SIZE, end, bool(flags & _LAST))
            if message is not None:
                self._together.append(message)
                self._together_bytes += len(message)
            if not flags & _MORE or self._together_bytes > WRITE:  # an honest sender never holds back more than one write
                ready += self._together
                self._together, self._together_bytes = [], 0
            at = end
        del buffer[:at]
        return ready

    def _add(self, lane: int, buffer: bytearray, start: int, end: int, last: bool) -> bytes | bytearray | None:
        partial = self._partial.get(lane)
        if (len(partial) if partial is not None else 0) + end - start > self.max_message:
            raise ProtocolError(f"a message is longer than {self.max_message} bytes")
        if partial is None and last:  # nearly every message: one fragment
            return bytes(memoryview(buffer)[start:end])
        if partial is None:
            if len(self._partial) >= self._max_partial:
                raise ProtocolError(f"more than {self._max_partial} messages under way at once")
            partial = self._partial[lane] = bytearray()
        # Extending a bytearray costs no more memory than what arrived, even if that is one byte at a time.
        partial += memoryview(buffer)[start:end]
        self._partial_bytes += end - start
        if last:
            del self._partial[lane]
            self._partial_bytes -= len(partial)
            return partial
        if self._partial_bytes > self.max_message:
            raise ProtocolError(f"more than {self.max_message} bytes of messages under way at once")
        return None


class _Lane:
    __slots__ = ("messages", "number", "open", "sent")

    def __init__(self, number: int) -> None:
        self.number = number
        self.messages: deque[bytes] = deque()
        self.sent = 0
        """Bytes of the first message that have left already."""
        self.open = False
        """Room is set aside for the first message, which is a large one."""


class Outbox:
    """Messages in, bytes out: control first, then one fragment of every lane in turn."""

    def __init__(self, max_open_bytes: int = MAX_MESSAGE, max_open: int = MAX_PARTIAL) -> None:
        self._max_open_bytes, self._max_open = max_open_bytes, max_open
        self._control: deque[bytes] = deque()
        self._lanes: dict[Hashable, _Lane] = {}
        self._ring: deque[Hashable] = deque()
        self._waiting: deque[Hashable] = deque()
        """Lanes whose next message is large and found no room yet, oldest first. No large message overtakes them, so none waits for ever."""
        self._numbers_used: set[int] = set()
        self._next_number = 1
        self._open_bytes = self._open = 0
        self.size = 0
        """Bytes of messages that have not left."""

    def __bool__(self) -> bool:
        return bool(self._control or self._lanes)

    @property
    def controls(self) -> int:
        return len(self._control)

    def put(self, lane: Hashable | None, message: bytes) -> None:
        if not 1 <= len(message) <= self._max_open_bytes:
            raise ValueError(f"a message has 1 to {self._max_open_bytes} bytes, not {len(message)}")
        if lane is CONTROL:
            if len(message) > FRAGMENT:
                raise ValueError(f"a control message of {len(message)} bytes does not fit one fragment")
            self._control.append(message)
        else:
            found = self._lanes.get(lane)
            if found is None:
                found = self._lanes[lane] = _Lane(self._new_number())
                self._ring.append(lane)
            found.messages.append(message)
        self.size += len(message)

    def take(self, budget: int = WRITE) -> bytes:
        """The next bytes for the stream: everything that is ready, up to about `budget`. Empty when nothing waits."""
        fragments: list[tuple[int, bool, bytes | memoryview]] = []
        taken = 0
        while taken < budget:
            if self._control:
                message = self._control.popleft()
                fragments.append((0, True, message))
                count = len(message)
            elif self._ring:
                count = self._take_fragment(self._ring.popleft(), fragments)
            else:
                break
            taken += count
            self.size -= count
        return _joined(fragments)

    def restart(self) -> None:
        """The stream is gone but its messages are not: those that left in part will be sent whole again on the next stream."""
        for lane in self._lanes.values():
            self.size += lane.sent
            lane.sent = 0
            lane.open = False
        self._open_bytes = self._open = 0
        self._admit()

    def _take_fragment(self, key: Hashable, fragments: list[tuple[int, bool, bytes | memoryview]]) -> int:
        lane = self._lanes[key]
        message = lane.messages[0]
        large = len(message) > FRAGMENT
        if large and not lane.open:
            self._waiting.append(key)
            self._admit()
            return 0
        piece = memoryview(message)[lane.sent : lane.sent + FRAGMENT] if large else message
        lane.sent += len(piece)
        last = lane.sent == len(message)
        fragments.append((lane.number, last, piece))
        if last:
            lane.messages.popleft()
            lane.sent, lane.open = 0, False
        if lane.messages:
            self._ring.append(key)
        else:
            del self._lanes[key]
            self._numbers_used.discard(lane.number)
        if last and large:
            self._open -= 1
            self._open_bytes -= len(message)
            self._admit()
        return len(piece)

    def _admit(self) -> None:
        """Set room aside for waiting large messages while there is any, and let their lanes in again."""
        while self._waiting:
            lane = self._lanes[self._waiting[0]]
            length = len(lane.messages[0])
            if self._open >= self._max_open or self._open_bytes + length > self._max_open_bytes:
                break
            lane.open = True
            self._open += 1
            self._open_bytes += length
            self._ring.append(self._waiting.popleft())

    def _new_number(self) -> int:
        while self._next_number in self._numbers_used:
            self._next_number = self._next_number % (2**32 - 1) + 1
        number = self._next_number
        self._numbers_used.add(number)
        self._next_number = number % (2**32 - 1) + 1
        return number


def _joined(fragments: list[tuple[int, bool, bytes | memoryview]]) -> bytes:
    """Fragments (lane, ends its message, payload) as bytes. One that ends a message says so if the next does too: then they are handed on together."""
    parts: list[bytes | memoryview] = []
    for at, (lane, last, payload) in enumerate(fragments):
        more = last and at + 1 < len(fragments) and fragments[at + 1][1]
        parts += (_HEADER.pack(len(payload), (_LAST if last else 0) | (_MORE if more else 0), lane), payload)
    return b"".join(parts)


def one_frame(message: bytes) -> bytes:
    """A control message as it stands on the stream; for the handshake, before there is an outbox."""
    return _HEADER.pack(len(message), _LAST, 0) + message
