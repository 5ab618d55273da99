"""A proxy before every process of a swarm on this machine: whoever dials one goes through its proxy, where bytes take as long as the distance of the two asks.

Knows TCP and who listens where; not what is said. libp2p dials from the port at which it listens (SO_REUSEPORT), which is how a proxy knows who calls; whoever
calls from another port is a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from swarm.far.line import Distance, Line

T = TypeVar("T")

CLIENT = -1
"""Whoever dials and is no peer."""

Between = Callable[[int, int], Distance]
"""From one process to another, by number."""

ANSWER = 10.0
"""Seconds for the emulator's thread to do what it is asked; it takes milliseconds."""

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: a connection that is cut is reset, and its port free at once, so that who dials again is known by its port."""


class Emulator:
    """Lives in a thread of its own, so that neither torch nor the caller's loop delays anybody. Close it."""

    def __init__(self, between: Between, seed: int = 0) -> None:
        self._between, self._dice = between, random.Random(seed).random
        self._numbers: dict[int, int] = {}
        self._ways: set[_Way] = set()
        self._cut: set[frozenset[int]] = set()
        self._servers: list[asyncio.Server] = []
        # epoll counts in whole milliseconds and rounds up, which at 10 ms one way would be a tenth too far; select counts in microseconds
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="distance", daemon=True)
        self._thread.start()

    def listen(self, number: int, host: str, target: int) -> int:
        """A port at `host` behind which, so far away, the process is that listens at port `target` of 127.0.0.1."""
        return self._asked(self._listen(number, host, target))

    def cut(self, one: int, other: int) -> None:
        """End every connection between two, and let them make no other."""
        self._asked(self._break(frozenset((one, other))))

    def mend(self, one: int, other: int) -> None:
        self._cut.discard(frozenset((one, other)))

    def close(self) -> None:
        """Idempotent."""
        if self._thread.is_alive():
            self._asked(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # --- in the thread ----------------------------------------------------------------------------------------------------------------------------------------

    def _asked(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(ANSWER)

    async def _listen(self, number: int, host: str, target: int) -> int:
        self._numbers[target] = number
        server = await self._loop.create_server(lambda: _Way(self, number, target), host, 0)
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _break(self, pair: frozenset[int]) -> None:
        self._cut.add(pair)
        for way in [way for way in self._ways if way.pair == pair]:
            way.abort()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for way in list(self._ways):
            way.abort()
        await asyncio.sleep(0)

    def lines(self, way: _Way, port: int) -> tuple[Line, Line] | None:
        """There and back, of whoever dialled from this port; None where the two are cut off."""
        way.caller = caller = self._numbers.get(port, CLIENT)
        if way.pair in self._cut:
            return None
        self._ways.add(way)
        return Line(self._between(caller, way.number), self._dice), Line(self._between(way.number, caller), self._dice)

    def over(self, way: _Way) -> None:
        self._ways.discard(way)


class _Way(asyncio.Protocol):
    """One connection through the proxy: the end that was dialled. The other one is `_Far`."""

    def __init__(self, emulator: Emulator, number: int, target: int) -> None:
        self._emulator, self.number, self.caller, self._target = emulator, number, CLIENT, target
        self._there: _Pipe | None = None
        self._back: _Pipe | None = None
        self._transports: list[asyncio.Transport] = []
        self._ends, self._aborted = 0, False

    @property
    def pair(self) -> frozenset[int]:
        return frozenset((self.caller, self.number))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transports.append(transport)
        lines = self._emulator.lines(self, transport.get_extra_info("peername")[1])
        if lines is None:
            self.abort()
            return
        self._there, self._back = (_Pipe(line) for line in lines)
        self._there.source = self._back.sink = transport
        self._dialling = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        assert self._back is not None
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Far(self), "127.0.0.1", self._target)
        except OSError:
            self.abort()

    def answered(self, transport: asyncio.Transport) -> None:
        assert self._there is not None and self._back is not None
        if self._aborted:  # while it was dialled
            transport.abort()
            return
        self._transports.append(transport)
        self._back.source = self._there.sink = transport
        self._there.flush()

    def data_received(self, data: bytes) -> None:
        if self._there is not None:
            self._there.put(data)

    def data_returned(self, data: bytes) -> None:
        if self._back is not None:
            self._back.put(data)

    def eof_received(self) -> bool:
        self.data_received(b"")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.ended(self._there)

    def ended(self, pipe: _Pipe | None) -> None:
        """One end is gone; the other hears of it after what was on its way."""
        if pipe is not None:
            pipe.put(None)
        self._ends += 1
        if self._ends == 2:  # what is on its way to the other end may still be cut
            self._emulator.over(self)

    def returned_end(self) -> None:
        self.ended(self._back)

    def abort(self) -> None:
        self._aborted = True
        for transport in self._transports:
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            transport.abort()
        self._emulator.over(self)


class _Far(asyncio.Protocol):
    def __init__(self, way: _Way) -> None:
        self._way = way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._way.answered(transport)

    def data_received(self, data: bytes) -> None:
        self._way.data_returned(data)

    def eof_received(self) -> bool:
        self._way.data_returned(b"")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._way.returned_end()


class _Pipe:
    """One direction: what came in comes out when the line says so. Nothing more will be said after no bytes; `None` is the end of the connection."""

    def __init__(self, line: Line) -> None:
        self._line, self._loop = line, asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None

    def put(self, data: bytes | None) -> None:
        now = self._loop.time()
        self._waiting.append((self._line.send(len(data or b""), now), data))
        if data and self.source is not None and (pause := self._line.crowded(now)) > 0:
            self.source.pause_reading()
            self._loop.call_later(pause, self._go_on)
        if self._timer is None:
            self.flush()

    def _go_on(self) -> None:
        if self.source is not None and not self.source.is_closing():
            self.source.resume_reading()

    def flush(self) -> None:
        self._timer = None
        if self.sink is None:  # still dialling
            return
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            _, data = self._waiting.popleft()
            if data is None:
                self.sink.close()
            elif not self.sink.is_closing():
                self.sink.write(data) if data else self.sink.write_eof()
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0][0], self.flush)
