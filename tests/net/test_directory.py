"""Announcing and finding over a real DHT, and what strangers try to do to it."""

import asyncio
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.dht.validation import DHTRecord
from hivemind.utils.serializer import MSGPackSerializer

from swarm import wire
from swarm.errors import RemoteError
from swarm.net.directory import REPLICAS
from swarm.net.guards.protocol import AT_ONCE
from swarm.net.guards.vicinity import SPACE
from swarm.net.identity import Identity
from swarm.net.node import Node
from swarm.net.records import LIFETIME, MAX_ANNOUNCEMENT, Guard, key_of, seal, shard_of, unseal
from tests.net.helpers import announcement, eventually, nodes

NOW = 1000.0
KEY = "c0ffee"


def test_four_nodes_see_one_another_and_the_latest_word_of_each():
    async def main():
        async with nodes(4) as started:
            for node in started:
                await node.directory.announce(announcement(node.peer_id, addrs=node.addrs))
            client = await Node.start(initial_peers=started[0].addrs, client_mode=True)
            try:
                for reader in (*started, client):
                    records = await reader.directory.read(KEY)
                    assert [record.peer for record in records] == sorted(node.peer_id for node in started)
                    assert {record.peer: record.addrs for record in records} == {node.peer_id: node.addrs for node in started}
                leaver = started[2]
                await leaver.directory.announce(announcement(leaver.peer_id, state="leaving", sequence=2))
                for reader in (*started, client):
                    assert [record.peer for record in await reader.directory.read(KEY) if record.state == "leaving"] == [leaver.peer_id]
                assert await client.directory.read("another model") == []
            finally:
                await client.close()

    asyncio.run(main())


def test_a_record_lies_with_everybody_in_the_vicinity_of_its_key(monkeypatch):
    """Of seven nodes that is everybody. Plain hivemind has five hold it, and whoever stands nearer than all others with five identities holds it alone."""
    monkeypatch.setattr("swarm.net.joining.PERIOD", 0.2)
    monkeypatch.setattr("swarm.net.joining.SURVEY_EVERY", 10**9)  # one each

    async def main():
        async with nodes(7) as started:
            protocols = [node.directory._node.protocol for node in started]
            await eventually(lambda: all(protocol.surveys for protocol in protocols), 20.0)
            for protocol in protocols:
                protocol.surveys.extend([7.0] * 2)  # by chance one of a hundred swarms of seven is taken for more than EXPECTED somewhere
            assert all(protocol.radius == SPACE for protocol in protocols)
            await started[0].directory.announce(announcement(started[0].peer_id))
            key = DHTID.generate(source=key_of(KEY, shard_of(started[0].peer_id)))
            assert [protocol.storage.get(key) is not None for protocol in protocols] == [True] * 7
            protocols[0].surveys.extend([1e9] * 2)
            await started[0].directory.announce(announcement(started[0].peer_id, sequence=2))
            taken = [protocol.storage.get(key).value.data[started[0].peer_id] for protocol in protocols]
            assert sum(unseal(started[0].peer_id, wire.decode_value(value)).sequence == 2 for value, _ in taken) == REPLICAS, "where nobody is near"

    asyncio.run(main())


def test_a_read_of_many_lets_others_have_their_turn_and_checks_no_signature_again(monkeypatch):
    """A stranger may send more than `unseal` remembers."""
    count = 10 * AT_ONCE
    values = [seal(announcement(identity.peer_id), identity) for identity in (Identity.ephemeral() for _ in range(count))]
    peers = [wire.decode_announcement(wire.decode_signed(value).record).peer for value in values]

    async def main():
        async with nodes(1) as [node]:

            async def search(key):
                return {peer: (value, time.time() + 20) for peer, value in zip(peers, values, strict=True) if key == key_of(KEY, shard_of(peer))}

            monkeypatch.setattr(node.directory, "_search", search)
            monkeypatch.setattr("swarm.net.records.verify", lambda *_: 1 / 0)
            turns, reading = 0, asyncio.ensure_future(node.directory.read(KEY))
            while not reading.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns >= 10 and [record.peer for record in reading.result()] == sorted(peers)

    asyncio.run(main())


def test_a_bootstrap_that_comes_back_empty_is_found_again(monkeypatch):
    """Without looking for it, whoever enters there later would never meet those who entered before."""
    monkeypatch.setattr("swarm.net.joining.PERIOD", 0.2)

    async def main():
        identity = Identity.ephemeral()
        bootstrap = await Node.start(identity)
        port = int(bootstrap.addrs[0].split("/")[4])
        addrs = bootstrap.addrs
        old = await Node.start(initial_peers=addrs)
        await bootstrap.close()
        with pytest.raises(RemoteError, match="none of the initial peers"):
            await old.directory.announce(announcement(old.peer_id))
        bootstrap = await Node.start(identity, port=port)
        await eventually(lambda: not old.directory._membership.alone)
        await old.directory.announce(announcement(old.peer_id))
        new = await Node.start(initial_peers=addrs)
        assert [record.peer for record in await new.directory.read(KEY)] == [old.peer_id]
        for node in (new, old, bootstrap):
            await node.close()

    asyncio.run(main())


def test_a_lonely_node_keeps_its_own_record():
    async def main():
        async with nodes(1) as [node]:
            await node.directory.announce(announcement(node.peer_id))
            assert [record.peer for record in await node.directory.read(KEY)] == [node.peer_id]
            with pytest.raises(ValueError):
                await node.directory.announce(announcement(Identity.ephemeral().peer_id))
            with pytest.raises(RemoteError):  # an hour slow: expired before it is stored
                await node.directory.announce(announcement(node.peer_id, time=time.time() - 3600))

    asyncio.run(main())


def test_a_record_that_a_third_peer_brought_first_has_been_announced():
    """hivemind hands what it holds to whoever it has just met. Our own copy is refused there then, as not newer."""

    async def main():
        async with nodes(2) as [writer, holder]:
            record = announcement(writer.peer_id)
            key, value = key_of(KEY, shard_of(writer.peer_id)), MSGPackSerializer.dumps(seal(record, writer.directory._identity))
            storage = holder.directory._node.protocol.storage
            assert storage.store_subkey(DHTID.generate(source=key), writer.peer_id, value, record.time + LIFETIME)
            await writer.directory.announce(record)
            storage.data.clear()
            assert storage.store_subkey(DHTID.generate(source=key), "another", value, record.time + LIFETIME)
            assert not await writer.directory._held(key, writer.peer_id, record.time + LIFETIME)

    asyncio.run(main())


def test_forged_and_broken_records_are_refused_and_harm_nobody_elses():
    """A stranger with hivemind's own tools: overwrites our subkey, replaces the dictionary, stores rubbish beside it, then answers searches with rubbish."""

    async def main():
        async with nodes(3) as [victim, stranger, reader]:
            await victim.directory.announce(announcement(victim.peer_id))
            dht = stranger.directory._node
            dht.protocol.record_validator = None  # the stranger checks nothing
            key, later = key_of(KEY, shard_of(victim.peer_id)), time.time() + 50
            identity = Identity.ephemeral()
            forged = announcement(victim.peer_id, state="leaving", sequence=9)
            theirs = wire.encode(wire.Signed(wire.encode(forged), identity.sign(wire.encode(forged))))
            await dht.store(key, theirs, later, subkey=victim.peer_id, exclude_self=True)
            await dht.store(key, "a plain value", later, exclude_self=True)
            for subkey, value in (("x", b"rubbish"), (identity.peer_id, 7), (3, b""), (identity.peer_id, bytes(100_000)), (identity.peer_id, {"a": [1]})):
                await dht.store(key, value, later, subkey=subkey, exclude_self=True)
            for expiry in (math.inf, later + 3600):
                await dht.store(key, seal(announcement(stranger.peer_id), stranger.directory._identity), expiry, subkey=stranger.peer_id, exclude_self=True)
            rubbish = DictionaryDHTValue()
            rubbish.store("x", b"\xc1", later)
            rubbish.store(victim.peer_id, MSGPackSerializer.dumps(theirs), later)
            friend = next(one for one in iter(Identity.ephemeral, None) if shard_of(one.peer_id) == shard_of(victim.peer_id))
            good = seal(announcement(friend.peer_id), friend)  # known to the stranger alone, amid the rubbish
            rubbish.store(friend.peer_id, MSGPackSerializer.dumps(good), time.time() + LIFETIME)
            dht.protocol.storage = DHTLocalStorage()
            dht.protocol.storage.store(DHTID.generate(source=key), rubbish, later)

            for node in (victim, reader):
                begin = time.monotonic()
                records = await node.directory.read(KEY)
                assert [(record.peer, record.state) for record in records] == [(peer, "online") for peer in sorted((victim.peer_id, friend.peer_id))]
                assert time.monotonic() - begin < 3.0

    asyncio.run(main())


def record_of(identity: Identity, expiry: float = NOW + LIFETIME, subkey: object = None, key: str | None = None, value: object = None, **changes) -> DHTRecord:
    record = announcement(**({"peer": identity.peer_id, "time": NOW} | changes))
    key = key or key_of(KEY, shard_of(identity.peer_id))
    return DHTRecord(
        DHTID.generate(source=key).to_bytes(),
        MSGPackSerializer.dumps(subkey or identity.peer_id),
        MSGPackSerializer.dumps(seal(record, identity) if value is None else value),
        expiry,
    )


def test_the_guard_takes_what_is_right_and_refuses_everything_else():
    identity, other = Identity.ephemeral(), Identity.ephemeral()
    guard = Guard(clock=lambda: NOW)
    assert guard.validate(record_of(identity))
    assert guard.validate(record_of(identity, version=2))  # a newer peer is welcome
    wrong = [
        record_of(identity, expiry=math.inf),
        record_of(identity, expiry=math.nan),
        record_of(identity, expiry=NOW + 61, time=NOW + 36),
        record_of(identity, expiry=NOW + LIFETIME + 20),  # a replay that would live longer than its owner said
        record_of(identity, expiry=NOW, time=NOW - LIFETIME),  # from the past
        record_of(identity, time=NOW + 3600),  # from the future: it could be replayed until then
        record_of(identity, time=math.inf),
        record_of(identity, spans=((2, 5),)),  # of a model of four components
        record_of(identity, spans=((0, 2), (3, 3))),
        record_of(identity, spans=((3, 2),)),
        record_of(identity, subkey=other.peer_id),
        record_of(identity, subkey=[1, 2]),
        record_of(identity, key=key_of("other", 0)),
        record_of(identity, key=key_of(KEY, 1 - shard_of(identity.peer_id))),
        record_of(identity, peer=other.peer_id),
        record_of(identity, value=b""),
        record_of(identity, value={"a": 1}),
        record_of(identity, value=b"x" * 5000),
        DHTRecord(b"", b"\xc1", b"\xc1", NOW),
        DHTRecord(b"", b"\xc0", b"\xc0", NOW),
    ]
    assert [guard.validate(record) for record in wrong] == [False] * len(wrong)


@pytest.mark.parametrize("wrong", [math.nan, -0.01, math.inf, 1e7, "fast", None])
@pytest.mark.parametrize("field", ["decode", "prefill", "head_weight", "time", "rtts"])
def test_costs_that_are_none_are_refused(field, wrong):
    identity = Identity.ephemeral()
    record = record_of(identity, **{field: {"q": wrong} if field == "rtts" else wrong})
    assert not Guard(clock=lambda: NOW).validate(record)


def test_a_bad_record_is_logged_once_however_often_it_is_met(caplog):
    caplog.set_level("INFO", logger="swarm.net.records")
    times, identity = [NOW], Identity.ephemeral()
    guard = Guard(clock=lambda: times[-1])
    records = [
        record_of(identity, expiry=NOW + 4000, time=NOW + 3975),
        record_of(identity, expiry=NOW + LIFETIME + 20),
        record_of(identity, expiry=NOW - 100, time=NOW - 125),
        record_of(identity, time=NOW + 3600),
        record_of(identity, spans=((2, 5),)),
    ]
    for later in (0.0, 1.5, 3.0):
        times.append(NOW + later)
        assert not any(guard.validate(record) for record in records)
    words = [record.getMessage() for record in caplog.records]
    assert len(words) == len(records) and all(identity.peer_id in word for word in words)
    guard.validate(record_of(Identity.ephemeral(), spans=((2, 5),)))
    assert len(caplog.records) == len(records) + 1


def test_an_announcement_that_would_not_be_read_is_not_written():
    identity = Identity.ephemeral()
    with pytest.raises(ValueError, match=str(MAX_ANNOUNCEMENT)):
        seal(announcement(identity.peer_id, rtts={Identity.ephemeral().peer_id: 0.1 for _ in range(80)}), identity)


def test_nested_extension_types_kill_nobody():
    """In a process of its own, which dies without the guard."""
    program = """
import msgpack
from hivemind.utils.serializer import MSGPackSerializer
from swarm.net.guards import install
install(); install()
assert MSGPackSerializer.loads(MSGPackSerializer.dumps(((1, (2,)), "x"))) == ((1, (2,)), "x")
data = b"\\xc0"
for _ in range(400):
    data = msgpack.packb(msgpack.ExtType(0x40, b"\\x91" + data))
try:
    MSGPackSerializer.loads(data)
except ValueError:
    print("alive")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert result.stdout == "alive\n", result.stderr
