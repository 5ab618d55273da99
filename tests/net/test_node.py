"""Starting and closing: what a person can get wrong is said in one sentence."""

import asyncio
import errno
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from swarm.errors import BadIdentity, IdentityInUse, InvalidConfig, MalformedAddress, NoBootstrap, PortInUse, SwarmError
from swarm.net.addresses import entrance
from swarm.net.daemon import PREFIX
from swarm.net.footing import JOIN
from swarm.net.identity import Identity
from swarm.net.node import Node
from swarm.net.remembered import MOST, MOST_FILES, Remembered
from tests.net.helpers import announcement, child, eventually, is_running, nodes
from tests.net.virtual import run

NOBODY = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.ephemeral().peer_id}"


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(PREFIX + "*"))


def make_old(folder: Path) -> None:
    os.utime(folder, (0, 0))


@pytest.fixture
def short_tempdir(monkeypatch):
    """A place of our own for sockets; pytest's is too long for them."""
    base = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", base)
    yield Path(base)
    shutil.rmtree(base)


def test_a_node_has_its_identity_and_leaves_nothing_behind(tmp_path, short_tempdir):
    async def main():
        identity = Identity.load_or_create(tmp_path / "identity")
        node = await Node.start(identity)
        assert node.peer_id == identity.peer_id == node.links.peer
        assert [addr.endswith(f"/p2p/{node.peer_id}") for addr in node.addrs] == [True]
        (folder,) = folders()
        assert folder.stat().st_mode & 0o077 == 0
        assert sorted(path.name for path in folder.iterdir()) == ["client.sock", "lock", "p2pd.sock"]  # no key
        pid = node._daemon.pid
        await asyncio.gather(node.close(), node.close())
        await node.close()
        assert not node.failed.done() and not is_running(pid) and not folder.exists()

    asyncio.run(main())


def test_what_a_killed_node_left_behind_is_removed_and_what_a_living_one_uses_is_not(short_tempdir):
    dead = short_tempdir / (PREFIX + "dead")
    dead.mkdir()
    (dead / "lock").touch()

    async def main():
        async with nodes(1) as [node]:
            assert len(folders()) == 2
            for folder in folders():
                make_old(folder)
            async with nodes(1) as [other]:
                assert len(folders()) == 2 and dead not in folders()
                assert await other.directory.read("") == await node.directory.read("") == []

    asyncio.run(main())


def test_malformed_and_unreachable_initial_peers():
    async def main():
        peer = Identity.ephemeral().peer_id
        for wrong in ("", "hello", "/tcp/80", "/ip4/1.2.3.4/tcp/80", "/ip4/1.2.3.4/tcp/x/p2p/{}", "/ip4/1.2.3.4/udp/80/p2p/{}", "/ip4/1.2.3.4/tcp/80/p2p/{}x"):
            wrong = wrong.format(peer)
            with pytest.raises(MalformedAddress, match="looks like"):
                await Node.start(initial_peers=[wrong])
        begin = time.monotonic()
        for identity in (None, Identity.ephemeral()):
            with pytest.raises(NoBootstrap, match=r"tcp/9/p2p/12D3.*swarm-bootstrap"):
                await Node.start(identity, initial_peers=[NOBODY])
        assert time.monotonic() - begin < 2 * JOIN

    asyncio.run(main())


def test_one_initial_peer_that_answers_is_enough():
    async def main():
        async with nodes(1) as [bootstrap]:
            node = await Node.start(initial_peers=[NOBODY, *bootstrap.addrs])
            await node.close()

    asyncio.run(main())


def test_wrong_hosts_and_ports():
    async def main():
        async with nodes(1) as [other]:
            port = int(other.addrs[0].split("/")[4])
            with pytest.raises(PortInUse, match=str(port)):
                await Node.start(port=port)
        for host, port in (("localhost", 0), ("127.0.0.1", 70000)):
            with pytest.raises(InvalidConfig):
                await Node.start(host=host, port=port)
        with pytest.raises(MalformedAddress):
            await Node.start(announce_addrs=["/ip4/0.0.0.0/tcp/0"])

    asyncio.run(main())


def test_announced_addresses_replace_our_own():
    async def main():
        node = await Node.start(host="0.0.0.0", announce_addrs=["/ip4/127.0.0.1/tcp/4001"])
        try:
            assert node.addrs == (f"/ip4/127.0.0.1/tcp/4001/p2p/{node.peer_id}",)
        finally:
            await node.close()

    asyncio.run(main())


def test_an_identity_is_used_once_and_free_again_after_a_kill(tmp_path):
    async def main():
        path = tmp_path / "identity"
        async with nodes(1) as [bootstrap], child(*bootstrap.addrs, identity=path) as peer:
            identity = Identity.load_or_create(path)
            with pytest.raises(IdentityInUse, match=peer.peer_id):
                await Node.start(identity, initial_peers=bootstrap.addrs)
            with pytest.raises(IdentityInUse):  # the holder itself is the way in
                await Node.start(identity, initial_peers=peer.addrs)
            peer.signal(signal.SIGKILL)
            await eventually(lambda: not is_running(peer.p2pd))
            node = await Node.start(identity, initial_peers=[*bootstrap.addrs, *peer.addrs])
            assert node.peer_id == peer.peer_id
            await node.close()

    asyncio.run(main())


def test_a_broken_identity_starts_nothing(tmp_path):
    (tmp_path / "identity").write_text("not a key")
    with pytest.raises(BadIdentity):
        Identity.load_or_create(tmp_path / "identity")


def test_a_client_that_does_not_listen_is_answered_over_the_link_it_dialled():
    async def main():
        async with nodes(1) as [peer]:
            client = await Node.start(initial_peers=peer.addrs, client_mode=True)
            try:
                assert client.addrs == ()
                assert await client.links.measure(peer.peer_id) < 1.0
                assert await peer.links.measure(client.peer_id) < 1.0
            finally:
                await client.close()

    asyncio.run(main())


def test_under_uvloop_and_beside_the_main_thread():
    """A synchronous program runs its node in a thread; p2pd then hangs on that thread's life, not on the main one's."""
    uvloop = pytest.importorskip("uvloop")
    import threading

    async def main():
        async with nodes(2) as [one, two]:
            assert await one.links.measure(two.peer_id) < 1.0
            pids.append(one._daemon.pid)

    pids: list[int] = []
    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    thread.join(30)
    assert pids and not is_running(pids[0])
    assert os.getpid() not in pids


def test_who_was_there_before_comes_in_although_every_initial_peer_is_gone(tmp_path):
    async def main():
        async with nodes(1) as [peer]:
            bootstrap = await Node.start(initial_peers=peer.addrs)
            ways = list(bootstrap.addrs)
            await peer.directory.announce(announcement(peer.peer_id, addrs=peer.addrs))
            first = await Node.start(initial_peers=ways, client_mode=True, memory=tmp_path)
            assert await first.directory.read("c0ffee")
            await first.close()
            (file,) = tmp_path.iterdir()
            assert file.stat().st_mode & 0o077 == 0 and peer.peer_id in file.read_text()
            await bootstrap.close()

            with pytest.raises(NoBootstrap):
                await Node.start(initial_peers=ways, client_mode=True)
            file.write_text(f"rubbish\n{file.read_text()}")
            begin = time.monotonic()
            again = await Node.start(initial_peers=ways, client_mode=True, memory=tmp_path)
            assert [record.peer for record in await again.directory.read("c0ffee")] == [peer.peer_id]
            assert time.monotonic() - begin < JOIN
            await again.close()
            with pytest.raises(NoBootstrap):  # another swarm's memory is another
                await Node.start(initial_peers=[NOBODY], client_mode=True, memory=tmp_path)

    asyncio.run(main())


def test_few_swarms_are_remembered_and_few_peers_of_each(tmp_path):
    place = entrance(NOBODY)
    Remembered(tmp_path, [NOBODY]).write([])
    assert not list(tmp_path.iterdir())
    for number in range(MOST_FILES + 5):
        Remembered(tmp_path, [str(number)]).write([place] * 2 * MOST)
    assert len(list(tmp_path.iterdir())) == MOST_FILES
    assert Remembered(tmp_path, [str(MOST_FILES + 4)]).read() == [place] * MOST
    Remembered(tmp_path / "a file" / "below", ["x"]).write([place])
    (tmp_path / "a file").rename(tmp_path / "moved")
    assert Remembered(tmp_path / "a file" / "below", ["x"]).read() == []


def test_on_a_full_disk_nothing_is_left_of_what_could_not_be_remembered(tmp_path, monkeypatch):
    place, remembered = entrance(NOBODY), Remembered(tmp_path, [NOBODY])
    remembered.write([place])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    remembered.write([place, place])
    assert len(list(tmp_path.iterdir())) == 1 and remembered.read() == [place]


@pytest.mark.parametrize("at", ["LinkPool.start", "Node._addresses"])
def test_a_daemon_that_hangs_right_after_its_start_is_not_waited_for_for_ever(at, monkeypatch):
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def at_once(*_: object) -> SimpleNamespace:
        return SimpleNamespace(close=at_once, daemon=SimpleNamespace(p2p=None), dht=None, membership=None)

    for name in ("Footing.start", "LinkPool.start", "Node._addresses"):
        monkeypatch.setattr(f"swarm.net.node.{name}", never if name == at else at_once)

    async def main() -> None:
        identity = Identity.ephemeral()
        node = Node(SimpleNamespace(identity=identity, clock=time.time, guard=SimpleNamespace(bad=None), client_mode=True), (), ())
        begin = asyncio.get_running_loop().time()
        with pytest.raises(SwarmError, match="does not answer"):
            await node._start(None, None, None)
        assert asyncio.get_running_loop().time() - begin <= JOIN + 1
        await node.close()

    run(main())
