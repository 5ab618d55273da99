"""Real sockets through the emulator. Times have a lower bound only: whatever else this machine does, nothing arrives early."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from swarm.far.emulator import AT_ONCE, CLIENT, Emulator, _Pipe, _Way
from swarm.far.line import BUFFER, Distance, Line
from tests.net.virtual import run

PATIENCE = 30.0


class Echo:
    """Answers what it hears, and counts who dialled."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.dialled = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self.socket.accept()
            except OSError:
                return
            self.dialled += 1
            threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _answer(self, one: socket.socket) -> None:
        with one, contextlib.suppress(ConnectionError):
            while data := one.recv(65536):
                one.sendall(data)


@pytest.fixture
def echo() -> Iterator[Echo]:
    it = Echo()
    yield it
    it.socket.close()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Peer 0 is 20 ms from peer 1 and 5 ms from clients."""
    it = Emulator(lambda one, other: Distance(0.005 if CLIENT in (one, other) else 0.02))
    yield it
    it.close()


def dial(port: int, source: int = 0) -> socket.socket:
    one = socket.socket()
    one.settimeout(PATIENCE)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", source))
    one.connect(("127.0.0.1", port))
    return one


def trip(one: socket.socket, data: bytes = b"x") -> float:
    began = time.monotonic()
    one.sendall(data)
    got = b""
    while len(got) < len(data):
        got += one.recv(65536)
    assert got == data
    return time.monotonic() - began


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def test_bytes_take_as_long_as_the_distance_of_whoever_dials(echo, emulator):
    port, theirs = emulator.listen(0, "127.0.0.1", echo.port), free_port()
    emulator.listen(1, "127.0.0.1", theirs)
    with dial(port) as client, dial(port, theirs) as peer:
        trips = [(trip(client), trip(peer)) for _ in range(5)]
        assert min(near for near, _ in trips) >= 0.01 and min(far for _, far in trips) >= 0.04
        trip(peer, bytes(range(256)) * 2000)


def test_a_cut_ends_what_there_is_and_lets_nothing_new_through(echo, emulator):
    port, theirs = emulator.listen(0, "127.0.0.1", echo.port), free_port()
    emulator.listen(1, "127.0.0.1", theirs)
    with dial(port, theirs) as peer, dial(port) as client:
        trip(peer)
        emulator.cut(1, 0)
        assert ended(peer)
        trip(client)
        with contextlib.suppress(ConnectionError), dial(port, theirs) as again:  # which a busy machine hears of after the end
            assert ended(again)
    emulator.mend(0, 1)
    with dial(port, theirs) as peer:
        trip(peer)


def ended(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True


def test_a_cut_ends_also_what_has_only_one_end_left(monkeypatch):
    gone = threading.Event()
    monkeypatch.setattr(_Way, "returned_end", lambda way: (way.ended(way._back), gone.set()))
    emulator = Emulator(lambda one, other: Distance(0.0 if one == CLIENT else 4 * PATIENCE))
    with contextlib.closing(emulator), socket.create_server(("127.0.0.1", 0)) as server:
        with dial(emulator.listen(0, "127.0.0.1", server.getsockname()[1])) as client:
            there, _ = server.accept()
            client.sendall(b"x")
            assert there.recv(1) == b"x", "the emulator has both ends"
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            there.close()
            assert gone.wait(PATIENCE)
            emulator.cut(CLIENT, 0)
            assert ended(client)


def test_the_end_comes_after_what_was_on_its_way(echo, emulator):
    port = emulator.listen(0, "127.0.0.1", echo.port)
    with dial(port) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        got = b""
        while data := client.recv(100):
            got += data
    assert got == b"last words"


def test_a_process_that_is_gone_is_said_to_be(emulator):
    port = emulator.listen(0, "127.0.0.1", free_port())
    with contextlib.suppress(ConnectionError), dial(port) as client:  # refused while it dials, or just after
        assert ended(client)


def test_it_is_closed_twice_without_harm(emulator):
    emulator.close()
    emulator.close()


class End:
    """A transport that notes when it is told what."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, float]] = []

    def __getattr__(self, name: str):
        return lambda *_: self.heard.append((name, asyncio.get_running_loop().time()))

    def is_closing(self) -> bool:
        return False


def test_whoever_sends_over_a_slow_line_is_held_up():
    """As its own socket would: else a token would wait behind a prompt that its sender has long forgotten."""
    source, sink = End(), End()

    async def main() -> float:
        pipe = _Pipe(Line(Distance(one_way=0.5, rate=BUFFER), random.Random(1).random))
        pipe.source, pipe.sink = source, sink
        began = asyncio.get_running_loop().time()
        pipe.put(bytes(3 * BUFFER))
        await asyncio.sleep(5)
        return began

    began = run(main())
    assert source.heard == [("pause_reading", began), ("resume_reading", began + 2.0)]
    assert sink.heard == [("write", began + 3.5)]
