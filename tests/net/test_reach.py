"""Whether others reach us, over real nodes on loopback; and what nobody can have somebody else do for him."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace

import msgspec
import pytest
from hivemind.p2p import PeerID
from hivemind.utils.multiaddr import Multiaddr

from swarm import wire
from swarm.errors import MalformedAddress, PortInUse, ProtocolError
from swarm.net.identity import Identity
from swarm.net.node import Node, probe
from swarm.net.reach import AT_ONCE, EACH_HOST, EACH_PEER, Knocker, host_of

STRANGER = Identity.ephemeral().peer_id


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_machine_that_can_be_reached_is_told_so_with_the_time_and_where_it_is_seen():
    async def main() -> None:
        node = await Node.start()
        try:
            port = free_port()
            found = await probe(node.addrs, "127.0.0.1", port)
        finally:
            await node.close()
        (answer,) = found.answers
        assert answer.reached == (f"/ip4/127.0.0.1/tcp/{port}",) and answer.seen_at == "127.0.0.1" and not answer.error
        assert abs(answer.offset) < 1.0 and answer.trip > 0 and found.relayed is None

    asyncio.run(main())


def test_a_machine_that_announces_what_nobody_reaches_is_told_why(monkeypatch):
    monkeypatch.setattr("swarm.net.reach.RELAYED", 0.5)

    async def main() -> None:
        node = await Node.start()
        try:
            nobody = f"/ip4/127.0.0.1/tcp/{free_port()}"
            found = await probe([*node.addrs, f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{STRANGER}"], "127.0.0.1", 0, [nobody])
        finally:
            await node.close()
        answer, silent = found.answers
        assert not answer.reached and dict(answer.results)[nobody].endswith("connection refused") and found.relayed == ""
        assert "does not answer" in silent.error and not silent.results

    asyncio.run(main())


def test_what_cannot_be_tried_is_said_before():
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(PortInUse):
                await probe([], "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(MalformedAddress):
            await probe([], "127.0.0.1", 0, ["/ip4/1.2.3.4"])

    asyncio.run(main())


class Daemon:
    """A p2pd that writes down what it is asked for."""

    def __init__(self, connected: tuple[str, ...] = ()) -> None:
        self.dialled: list[str] = []
        self.cut: list[str] = []
        self._connected = [SimpleNamespace(peer_id=PeerID.from_base58(peer)) for peer in connected]
        self._client = self

    async def list_peers(self):
        return self._connected

    async def connect(self, peer, addrs):
        self.dialled += map(str, addrs)

    async def disconnect(self, peer):
        self.cut.append(peer.to_base58())


def knocked(daemon: Daemon, *addrs: str, seen_at: str = "/ip4/10.0.0.7/tcp/5555") -> tuple[str, ...]:
    return asyncio.run(Knocker(daemon, lambda: 17.0)._answer(wire.DialBack(STRANGER, addrs), Multiaddr(seen_at))).results


def test_nobody_has_others_knock_elsewhere():
    daemon = Daemon()
    results = knocked(daemon, "/ip4/10.0.0.8/tcp/80", "/dns4/example.org/tcp/80", "nonsense", "/ip4/10.0.0.7/tcp/31337")
    assert daemon.dialled == ["/ip4/10.0.0.7/tcp/31337"] and [not result for result in results] == [False, False, False, True]
    assert daemon.cut == [STRANGER], "what was only tried is given up again"


def test_nobody_has_others_cut_a_connection_that_they_have():
    daemon = Daemon(connected=(STRANGER,))
    (result,) = knocked(daemon, "/ip4/10.0.0.7/tcp/31337")
    assert "connected already" in result and not daemon.dialled and not daemon.cut


@pytest.mark.parametrize(
    ("count", "peer", "host"), [(AT_ONCE, "{}", "10.0.1.{}"), (EACH_PEER, "other", "10.0.1.{}"), (EACH_HOST, "{}", "10.0.0.7")], ids=["all", "peer", "host"]
)
def test_no_more_are_answered_than_can_be(count, peer, host):
    class Stream:
        def __init__(self, data: bytes = b"") -> None:
            self.data, self.closed = data, False

        async def readexactly(self, count: int) -> bytes:
            if not self.data:
                await asyncio.sleep(3600)
            part, self.data = self.data[:count], self.data[count:]
            return part

        def write(self, data: bytes) -> None:
            self.data += data

        async def drain(self) -> None: ...

        def close(self) -> None:
            self.closed = True

    async def main() -> None:
        knocker = Knocker(Daemon(), lambda: 17.0)

        def at(peer: str, host: str) -> SimpleNamespace:
            return SimpleNamespace(peer_id=peer, addr=Multiaddr(f"/ip4/{host}/tcp/5"))

        info = at("other", "10.0.0.7")
        question = wire.encode(wire.DialBack(STRANGER, ()))
        framed = len(question).to_bytes(2, "big") + question
        idle = [asyncio.create_task(knocker(at(peer.format(number), host.format(number)), Stream(), Stream())) for number in range(count)]
        await asyncio.sleep(0)
        refused = Stream()
        await knocker(info, Stream(framed), refused)
        assert refused.closed and not refused.data
        elsewhere = Stream()
        await knocker(at("somebody else", "10.0.0.8"), Stream(framed), elsewhere)
        assert bool(elsewhere.data) == (count < AT_ONCE)
        for task in idle:
            task.cancel()
        await asyncio.wait(idle)
        answered = Stream()
        await knocker(info, Stream(framed), answered)
        assert wire.decode_dialled_back(answered.data[2:]) == wire.DialledBack((), 17.0, "10.0.0.7")
        bad = Stream()
        await knocker(info, Stream(b"\xff\xff"), bad)
        assert bad.closed and not bad.data, "too long a question is not read"

    asyncio.run(main())


def test_what_is_asked_and_answered_is_bounded():
    for text in (wire.DialBack("x", ("a",) * 5), wire.DialBack("x" * 600, ())):
        with pytest.raises(ProtocolError):
            wire.decode_dial_back(wire.encode(text))
    with pytest.raises(ProtocolError):
        wire.decode_dialled_back(msgspec.msgpack.encode([["a"], -1.0, ""]))
    assert host_of("/ip4/1.2.3.4/tcp/5") == "1.2.3.4" and host_of("nonsense") == ""
