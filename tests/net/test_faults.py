"""Peers that die, freeze, or never were: each must be noticed in time. Real processes, real p2pd, killed and frozen by pid."""

import asyncio
import os
import signal
import time

import pytest

from swarm.errors import PeerLost, SwarmError
from swarm.net.footing import Footing
from swarm.net.link import Timing
from swarm.net.node import Node
from tests.net.helpers import Collector, announcement, child, eventually, is_running, nodes, step

SILENCE = Timing().silence
SECOND = 2.0
"""What "at once" may take on a machine where other tests run beside; less than SILENCE, so that it was not silence that told."""


async def linked(node: Node, peer_id: str, seen: Collector) -> None:
    seen.messages.clear()
    node.links.send(peer_id, step())
    await seen.until(lambda seen: seen.messages)
    seen.messages.clear()
    seen.lost.clear()


def test_a_frozen_peer_is_lost_after_silence_and_may_come_back_and_a_killed_one_at_once():
    """Frozen python, frozen p2pd, killed python: one child for all three, as starting one takes seconds."""

    async def main():
        async with nodes(1) as [node], child(*node.addrs) as peer:
            seen = Collector(node.links)
            node.links.learn(peer.peer_id, peer.addrs)
            for p2pd in (False, True):
                await linked(node, peer.peer_id, seen)
                peer.signal(signal.SIGSTOP, p2pd)
                took = await seen.until(lambda seen: seen.lost)
                assert SILENCE - 1.5 < took < SILENCE + 1.5
                assert seen.lost == [peer.peer_id] and not seen.messages

                peer.signal(signal.SIGCONT, p2pd)
                node.links.send(peer.peer_id, step(7))
                await seen.until(lambda seen: seen.messages or len(seen.lost) > 1)
                assert [message.start for _, message in seen.messages] == [7]
                assert seen.lost == [peer.peer_id]

            await linked(node, peer.peer_id, seen)
            peer.signal(signal.SIGKILL)
            assert await seen.until(lambda seen: seen.lost) < SECOND
            assert seen.lost == [peer.peer_id]
            await eventually(lambda: not is_running(peer.p2pd), 2.0)  # it does not outlive its python
            node.links.send(peer.peer_id, step())  # nobody is there any more
            assert await seen.until(lambda seen: len(seen.lost) == 2) < Timing().dial + SECOND
            with pytest.raises(PeerLost):
                await node.links.measure(peer.peer_id)

    asyncio.run(main())


def test_a_killed_daemon_of_a_peer_loses_it_at_once():
    async def main():
        async with nodes(2) as [node, peer]:
            seen = Collector(node.links)
            Collector(peer.links, echo=True)
            await linked(node, peer.peer_id, seen)
            os.kill(peer._daemon.pid, signal.SIGKILL)
            assert await seen.until(lambda seen: seen.lost) < SECOND

    asyncio.run(main())


def test_a_frozen_peer_hinders_no_read_of_the_directory():
    async def main():
        async with nodes(2) as [one, two], child(*one.addrs) as peer:
            await one.directory.announce(announcement(one.peer_id))
            peer.signal(signal.SIGSTOP)
            begin = time.monotonic()
            await two.directory.announce(announcement(two.peer_id))
            records = await two.directory.read("c0ffee")
            assert {record.peer for record in records} == {one.peer_id, two.peer_id}
            assert time.monotonic() - begin < 4.0

    asyncio.run(main())


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_our_own_daemon_is_started_again_when_it_dies_or_hangs_and_we_are_announced_again(fault, monkeypatch):
    monkeypatch.setattr("swarm.net.footing.LOOK", 0.1)
    monkeypatch.setattr("swarm.net.footing.HUNG", 0.5)

    async def main():
        async with nodes(2) as [other, node]:
            seen, echo = Collector(node.links), Collector(other.links, echo=True)
            await linked(node, other.peer_id, seen)
            await node.directory.announce(announcement(node.peer_id, addrs=node.addrs))
            addrs, pid = node.addrs, node._daemon.pid
            os.kill(pid, fault)
            await seen.until(lambda seen: seen.lost, SECOND if fault is signal.SIGKILL else 2 * SILENCE)
            other.directory._node.protocol.storage.data.clear()
            await eventually(lambda: not is_running(pid) and node._daemon.pid != pid, 10.0)
            await eventually(lambda: other.directory._node.protocol.storage.data, 10.0)
            assert [record.peer for record in await other.directory.read("c0ffee")] == [node.peer_id]
            assert not node.failed.done()
            assert await node._addresses() == addrs  # the same port: whoever was told of it still finds us
            await linked(node, other.peer_id, seen)
            echo.lost.clear()
            assert await other.links.measure(node.peer_id) < 5.0

    asyncio.run(asyncio.wait_for(main(), 60))


def test_every_wait_ends_while_our_own_daemon_is_gone_and_one_that_cannot_be_started_is_said_to_be(monkeypatch):
    monkeypatch.setattr("swarm.net.node.PATIENCE", 0.3)
    monkeypatch.setattr("swarm.net.node.PAUSE", 0.1)

    async def gone(*_: object) -> None:
        raise SwarmError("no more")

    async def main():
        async with nodes(2) as [node, other]:
            seen = Collector(node.links)
            Collector(other.links, echo=True)
            await linked(node, other.peer_id, seen)
            monkeypatch.setattr(Footing, "start", gone)
            os.kill(node._daemon.pid, signal.SIGKILL)
            error = await asyncio.wait_for(asyncio.shield(node.failed), 10.0)
            assert "daemon" in str(error) and "start this node again" in str(error)
            await seen.until(lambda seen: seen.lost, 2.0)
            node.links.send(other.peer_id, step())
            took = await seen.until(lambda seen: len(seen.lost) == 2)
            assert Timing().dial - SECOND < took < Timing().dial + SECOND  # nobody tries again and again while there is no daemon
            begin = time.monotonic()
            await asyncio.gather(node.directory.announce(announcement(node.peer_id)), node.directory.read("c0ffee"), return_exceptions=True)
            assert time.monotonic() - begin < 6.0
            await asyncio.wait_for(node.close(), 5.0)

    asyncio.run(main())


def test_a_frozen_daemon_of_our_own_does_not_keep_us_from_closing():
    async def main():
        async with nodes(2) as [node, other]:
            seen = Collector(node.links)
            Collector(other.links, echo=True)
            await linked(node, other.peer_id, seen)
            os.kill(node._daemon.pid, signal.SIGSTOP)
            await asyncio.wait_for(node.close(), 8.0)
            assert not is_running(node._daemon.pid)

    asyncio.run(main())
