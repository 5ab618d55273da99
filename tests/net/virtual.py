"""Virtual time and a network of streams that exists only in it, so that a thousand double dials with any delays take seconds, and a seed is a run.

`FakeP2P` has the four things that `LinkPool` uses of hivemind's P2P. Its streams deliver bytes in order after a delay, may be cut, and end as cleanly
when their peer is gone as when it closed: that is how p2pd behaves.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from math import inf
from types import SimpleNamespace

from hivemind.p2p import P2PDaemonError, PeerID

from swarm.net.link import BUFFER

PIECE = 2**13
"""Bytes that arrive together."""


class _Instant(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("everybody waits and nothing will ever happen")
        self.loop.now += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        selector = _Instant()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(main):
    """Run a coroutine to its end in virtual time."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        while tasks := asyncio.all_tasks(loop):  # one that is cancelled may leave another behind
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.01))
        asyncio.set_event_loop(None)
        loop.close()


class _Writer:
    """One side's way out. As p2pd has it: an end of file closes the other side as a whole, and bytes for a side that has closed reset the stream, which throws
    away what is under way the other way."""

    def __init__(self, near: asyncio.StreamReader, delay: float, rate: float = inf) -> None:
        self._near, self._delay, self._rate, self._sent = near, delay, rate, 0.0
        self.gone = False
        self.other: _Writer
        self.opened_by = ""
        self.transport = self
        self._under_way: deque = deque()

    def _later(self, what, *args, size: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._sent = max(self._sent, loop.time()) + size / self._rate
        self._under_way.append((what, args))  # asyncio does not promise to call equal times in order
        loop.call_at(self._sent + self._delay, self._arrive)

    def _arrive(self) -> None:
        if self._under_way:
            what, args = self._under_way.popleft()
            what(*args)

    def write(self, data: bytes) -> None:
        if not self.gone:
            for at in range(0, len(data), PIECE):
                self._later(self._feed, bytes(data[at : at + PIECE]), size=len(data[at : at + PIECE]))

    def _feed(self, data: bytes) -> None:
        if self.other.gone:
            self.other._under_way.clear()
            self._shut()
        else:
            self.other._near.feed_data(data)

    async def drain(self) -> None:
        await asyncio.sleep(max(0.001, self._sent - asyncio.get_running_loop().time() - BUFFER / self._rate))
        if self.gone:
            raise ConnectionResetError

    def close(self) -> None:
        if not self.gone:
            self._shut()
            self._later(self.other._shut)

    def _shut(self) -> None:
        self.gone = True
        if not self._near._eof:
            self._near.feed_eof()

    abort = close

    def is_closing(self) -> bool:
        return self.gone

    def set_write_buffer_limits(self, high: int) -> None: ...


class Network:
    def __init__(self, seed: int, longest: float = 0.2) -> None:
        self.random = random.Random(seed)
        self.longest = longest
        self.peers: dict[str, FakeP2P] = {}
        self.streams: list[tuple[_Writer, _Writer]] = []
        self.broken = 0.0
        """Share of dials that fail."""
        self.rate = inf
        """Bytes per second of every line."""

    def delay(self) -> float:
        return self.random.uniform(0.001, self.longest)

    def open_streams(self) -> int:
        return sum(not (one.gone or two.gone) for one, two in self.streams)

    def cut_one(self) -> None:
        alive = [pair for pair in self.streams if not pair[0].gone and not pair[1].gone]
        if alive:
            for writer in self.random.choice(alive):
                writer.close()


class FakeP2P:
    def __init__(self, network: Network, peer: str) -> None:
        self.peer_id, self._network = PeerID.from_base58(peer), network
        self._client = SimpleNamespace(connect=self._connect)
        self._handlers: dict = {}
        network.peers[peer] = self

    async def add_binary_stream_handler(self, name, handler) -> None:
        self._handlers[name] = handler

    async def _connect(self, peer_id, addrs) -> None:
        await asyncio.sleep(self._network.delay())

    async def call_binary_stream_handler(self, peer_id, name):
        network = self._network
        await asyncio.sleep(network.delay())
        other = network.peers.get(peer_id.to_base58())
        if other is None or network.random.random() < network.broken:
            raise P2PDaemonError("nobody there")
        ours, theirs = asyncio.StreamReader(), asyncio.StreamReader()
        delay = network.delay()
        writer, far = _Writer(ours, delay, network.rate), _Writer(theirs, delay, network.rate)
        writer.other, far.other = far, writer
        writer.opened_by = far.opened_by = self.peer_id.to_base58()
        network.streams.append((writer, far))
        handler = other._handlers[name]
        asyncio.get_running_loop().call_later(network.delay(), lambda: asyncio.ensure_future(handler(SimpleNamespace(peer_id=self.peer_id), theirs, far)))
        return SimpleNamespace(peer_id=peer_id), ours, writer
