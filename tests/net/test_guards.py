"""The guards around hivemind, one by one, and whether hivemind is still what they were made for. What they stop of live attacks is in `tests/attacks/`."""

import asyncio
import hashlib
import inspect
import math
import random
import time
from types import SimpleNamespace

import msgpack
import pytest
from hivemind.dht import node as hivemind_node
from hivemind.dht.node import Blacklist, DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.control import ControlClient
from hivemind.proto import dht_pb2
from hivemind.utils.serializer import MSGPackSerializer
from hivemind.utils.timed_storage import TimedStorage

from swarm import wire
from swarm.errors import ProtocolError
from swarm.net import guards
from swarm.net.clock import SwarmClock
from swarm.net.guards.asking import CALL_BYTES, CALLS, RECORDS, Quotas
from swarm.net.guards.calls import guard_calls
from swarm.net.guards.placing import MAX_NEIGHBOURS, place_of, placed
from swarm.net.guards.protocol import AT_ONCE, MAX_ASKED, MAX_BAD, MAX_CLOCKS, MAX_REPLY, NAME_BYTES, SURVEYS, GuardedProtocol, Refused
from swarm.net.guards.silent import MAX_BANNED, MAX_COUNTED
from swarm.net.guards.storing import FEW, MAX_KEYS, Gathered, GuardedDictionary, GuardedStorage
from swarm.net.identity import Identity
from swarm.net.joining import PERIOD, Membership
from swarm.net.records import LIFETIME, Guard, key_of, seal, shard_of
from tests.net.helpers import announcement
from tests.net.virtual import run

KEY = "c0ffee"

KNOWN = {
    DHTProtocol.create: "a5090f84f8c2",
    DHTProtocol.rpc_ping: "34c1159e968b",
    DHTProtocol.rpc_store: "1be6960bd046",
    DHTProtocol.rpc_find: "b7e0365bc4ba",
    DHTProtocol.call_ping: "7282d8ddc614",
    DHTProtocol.call_find: "433adef0e520",
    DHTProtocol.call_store: "61fc01b360f0",
    DHTProtocol.update_routing_table: "2deae2e944d3",
    DHTLocalStorage.store: "e2e09fb8bbae",
    DHTLocalStorage.store_subkey: "a03eb0eed2a6",
    DictionaryDHTValue.store: "ed012b155a0d",
    TimedStorage.store: "312d87832aae",
    TimedStorage.get: "fd0ffae74875",
    TimedStorage._remove_outdated: "bf66730f18d3",
    Blacklist.__init__: "d8cfb1db4f1e",
    Blacklist.register_failure: "a1b3d4130f99",
    Blacklist.register_success: "57a702eabf4b",
    DHTNode._call_find_with_blacklist: "1a0d370eecf7",
    ControlClient._read_from_persistent_conn: "7388e48bacf6",
    ControlClient._handle_persistent_request: "9c958fd0b80c",
    ControlClient.call_unary_handler: "f2704627a5ed",
}
"""What we replace of hivemind, or rely on, and the beginning of the SHA-256 of its source."""


@pytest.mark.parametrize("function", KNOWN, ids=lambda function: function.__qualname__)
def test_hivemind_is_what_the_guards_were_made_for(function):
    digest = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]
    assert digest == KNOWN[function], f"hivemind has changed {function.__qualname__}: see what is new there and in swarm/net/guards, then write {digest!r} here"


def packed(identity: Identity, age: float = 0.0, **changes: object) -> tuple[str, bytes, float]:
    """Subkey, value and expiry of a good record, as they are stored."""
    begin = time.time() - age
    record = announcement(identity.peer_id, **({"time": begin, "sequence": int(begin * 1000)} | changes))
    return identity.peer_id, MSGPackSerializer.dumps(seal(record, identity)), record.time + LIFETIME


def storage_with(*records: tuple[str, bytes, float], key: int = 1) -> GuardedStorage:
    storage = GuardedStorage(time.time)
    for record in records:
        assert storage.store_subkey(DHTID(key), *record)
    return storage


def test_a_replayed_record_does_not_take_the_newer_one_with_it():
    identity = Identity.ephemeral()
    newer, older = packed(identity), packed(identity, age=LIFETIME - 0.05)
    storage = storage_with(newer)
    assert not storage.store_subkey(DHTID(1), *older)
    time.sleep(0.06)  # the older one's end; hivemind's storage has neither of them now
    assert dict(storage.get(DHTID(1)).value.items())[identity.peer_id].value == newer[1]


def test_an_older_word_with_a_later_expiry_is_older():
    identity = Identity.ephemeral()
    subkey, value, expiry = packed(identity, sequence=7)
    storage = storage_with((subkey, value, expiry))
    assert not storage.store_subkey(DHTID(1), *packed(identity, sequence=6)[:2], expiry + 0.5)
    assert storage.store_subkey(DHTID(1), *packed(identity, sequence=8)[:2], expiry + 0.5)


@pytest.mark.parametrize("expiry", [math.nan, math.inf, -math.inf])
def test_an_expiry_that_is_none_reaches_no_heap(expiry):
    subkey, value, _ = packed(Identity.ephemeral())
    storage = GuardedStorage(time.time)
    assert not storage.store_subkey(DHTID(1), subkey, value, expiry)
    assert not storage.expiration_heap and not storage.data


def test_nothing_is_stored_without_a_subkey_or_beyond_what_a_reply_may_hold():
    storage, later = GuardedStorage(time.time), time.time() + 20
    assert not storage.store(DHTID(1), b"plain", later)
    large = bytes(wire.MAX_VALUE)
    kept = [storage.store_subkey(DHTID(1), f"peer{number}", large, later) for number in range(2 * FEW)]
    assert FEW <= kept.count(True) < FEW + 9
    assert len(MSGPackSerializer.dumps(storage.get(DHTID(1)).value)) <= wire.MAX_DICTIONARY
    small = [storage.store_subkey(DHTID(2), f"peer{number}", b"", later) for number in range(wire.MAX_ENTRIES + 9)]
    assert small.count(True) == wire.MAX_ENTRIES
    keys = [storage.store_subkey(DHTID(3 + number), "peer", b"", later) for number in range(MAX_KEYS)]
    assert keys.count(True) == MAX_KEYS - 2


def test_there_is_an_end_to_how_many_are_remembered_for_not_answering():
    guards.install()
    blacklist, often = hivemind_node.Blacklist(5.0, 2.0), PeerID(b"often")
    blacklist.ban_counter[often] = 3
    blacklist.register_failure(often)
    for number in range(3 * MAX_COUNTED):
        blacklist.register_failure(PeerID(number.to_bytes(4)))
        assert len(blacklist.ban_counter) <= MAX_COUNTED
    assert often in blacklist and blacklist.ban_counter[often] == 4 and PeerID((3 * MAX_COUNTED - 1).to_bytes(4)) in blacklist
    assert len(blacklist.banned_peers) <= MAX_BANNED and len(blacklist.banned_peers.expiration_heap) <= MAX_COUNTED
    blacklist.register_success(often)
    assert often not in blacklist and often not in blacklist.ban_counter


def test_what_a_search_gathers_is_not_stored():
    identity = Identity.ephemeral()
    storage = storage_with(packed(identity))
    storage.get(DHTID(1)).value.store("stranger", b"", time.time() + 20)
    assert list(storage.get(DHTID(1)).value.data) == [identity.peer_id]


def test_a_bad_entry_is_left_out_of_a_dictionary_alone():
    one, two = packed(Identity.ephemeral()), packed(Identity.ephemeral())
    dictionary = GuardedDictionary(time.time)
    for record in (one, two):
        assert dictionary.store(*record)
    raw = MSGPackSerializer.dumps(dictionary)
    assert wire.decode_dictionary(raw) == ([wire.Entry(*one), wire.Entry(*two)], 0)
    odd = [
        [[1], b"x", 2.0],
        ["a", "text", 2.0],
        ["a", b"x", "soon"],
        [1, b"x", 2.0],
        ["a" * 99, b"x", 2.0],
        ["a", bytes(9999), 2.0],
        [],
        None,
        [b"\xff", b"", 1.0],
    ]
    items = [*odd, list(one), *odd, list(two)]
    mixed = msgpack.packb(msgpack.ExtType(0x50, msgpack.packb([None, math.inf, items])))
    assert wire.decode_dictionary(mixed) == ([wire.Entry(*one), wire.Entry(*two)], 2 * len(odd))
    for wrong in (
        b"",
        b"\xc1",
        msgpack.packb(msgpack.ExtType(0x40, b"")),
        msgpack.packb(msgpack.ExtType(0x50, b"\xdd\xff\xff\xff\xff")),
        bytes(wire.MAX_DICTIONARY + 1),
    ):
        with pytest.raises(ProtocolError):
            wire.decode_dictionary(wrong)


def test_a_quota_is_spent_refilled_and_nobody_elses():
    quotas = Quotas(3, 1)
    assert [quotas.take("a", 1, 0.0) for _ in range(4)] == [True, True, True, False]
    assert quotas.take("b", 1, 0.0)
    assert not quotas.take("a", 1, 0.0) and quotas.take("a", 1, 0.5) and quotas.take("a", 1, 1.6)
    for number in range(5000):
        quotas.take(number, 1, 2.0)
    assert len(quotas._buckets) < 5000


def test_a_peer_is_where_its_id_says():
    peers = [PeerID.from_base58(Identity.ephemeral().peer_id) for _ in range(40)]
    found = placed([b"", bytes(900), *(peer.to_bytes() for peer in peers)])
    assert len(found) <= MAX_NEIGHBOURS and all(place_of(peer) == place for place, peer in found.items()) and found


# --- the three calls, without a network -------------------------------------------------------------------------------------------------------------------


class Context:
    def __init__(self, peer: str | None = None) -> None:
        self.remote_id = PeerID.from_base58(peer or Identity.ephemeral().peer_id)


async def guarded(client_mode: bool = False) -> GuardedProtocol:
    async def nothing(*_: object, **__: object) -> None:
        pass

    p2p = SimpleNamespace(add_protobuf_handler=nothing, remove_protobuf_handler=nothing)
    guards.install()
    return await GuardedProtocol.create(p2p, DHTID(5), 20, 5, 5, 0.1, None, None, client_mode, Guard())


def key_bytes(subkey: str) -> bytes:
    return DHTID.generate(source=key_of(KEY, shard_of(subkey))).to_bytes()


def request_of(*records: tuple[str, bytes, float], **changes: object) -> dht_pb2.StoreRequest:
    fields = dict(
        keys=[key_bytes(subkey) for subkey, _, _ in records], subkeys=[MSGPackSerializer.dumps(subkey) for subkey, _, _ in records],
        values=[value for _, value, _ in records], expiration_time=[expiry for _, _, expiry in records], in_cache=[False] * len(records),
    )  # fmt: skip
    return dht_pb2.StoreRequest(**(fields | changes))


def test_a_store_takes_good_records_and_refuses_the_rest_one_by_one():
    async def main():
        protocol, good = await guarded(), packed(Identity.ephemeral())
        other = packed(Identity.ephemeral())
        reply = await protocol.rpc_store(request_of(good, (other[0], good[1], good[2]), other), Context())
        assert list(reply.store_ok) == [True, False, True]
        assert not any((await protocol.rpc_store(request_of(packed(Identity.ephemeral()), in_cache=[True]), Context())).store_ok)
        assert not protocol.cache.data
        assert not any((await protocol.rpc_store(request_of(good, subkeys=[protocol.IS_REGULAR_VALUE]), Context())).store_ok)
        with pytest.raises(Refused):
            await protocol.rpc_store(request_of(good, subkeys=[MSGPackSerializer.dumps(("a", 1))]), Context())
        many, third = GuardedDictionary(time.time), packed(Identity.ephemeral())
        many.store(*third)
        many.store("x", b"\xc1", time.time() + 9)
        whole = {"subkeys": [protocol.IS_DICTIONARY], "values": [MSGPackSerializer.dumps(many)]}
        await protocol.rpc_store(request_of(third, **whole), Context())
        held = {subkey for item in protocol.storage.data.values() for subkey in item.value.data}
        assert held == {good[0], other[0], third[0]}

    asyncio.run(main())


def test_a_stranger_learns_nothing_of_what_went_wrong():
    async def main():
        protocol = await guarded()
        protocol.storage.get = lambda key: 1 / 0
        for call in (
            protocol.rpc_find(dht_pb2.FindRequest(keys=[bytes(20)]), Context()),
            protocol.rpc_find(dht_pb2.FindRequest(keys=[bytes(20)] * (MAX_ASKED + 1)), Context()),
            protocol.rpc_find(dht_pb2.FindRequest(keys=[bytes(30)]), Context()),
            protocol.rpc_store(dht_pb2.StoreRequest(keys=[bytes(20)]), Context()),
        ):
            with pytest.raises(Refused) as caught:
                await call
            assert repr(caught.value) == "Refused()"

    asyncio.run(main())


def test_one_peer_brings_few_records_and_asks_little_and_others_are_served():
    async def main():
        protocol, greedy, patient = await guarded(), Context(), Context()
        kept = 0
        for _ in range(int(2 * RECORDS)):
            kept += sum((await protocol.rpc_store(request_of(packed(Identity.ephemeral())), greedy)).store_ok)
        assert RECORDS <= kept < RECORDS + 30
        mine = packed(Identity.ephemeral())
        assert list((await protocol.rpc_store(request_of(mine), patient)).store_ok) == [True]
        ask = dht_pb2.FindRequest(keys=[key_bytes(mine[0])])
        told = [(await protocol.rpc_find(ask, greedy)).results[0].type for _ in range(int(2 * CALLS))]
        assert told.count(dht_pb2.FOUND_DICTIONARY) < CALLS
        assert (await protocol.rpc_find(ask, patient)).results[0].type == dht_pb2.FOUND_DICTIONARY

    asyncio.run(main())


def test_a_reply_has_an_end_however_many_full_keys_are_asked_for_and_all_that_was_looked_at_counts(monkeypatch):
    monkeypatch.setattr("swarm.net.guards.protocol.time", SimpleNamespace(monotonic=lambda: 0.0, time=time.time))

    async def main():
        protocol, greedy = await guarded(), Context()
        keys, later = [DHTID(number).to_bytes() for number in range(3, 7)], time.time() + 20
        for key in keys:
            for number in range(2 * FEW):
                protocol.storage.store_subkey(DHTID.from_bytes(key), f"peer{number}", bytes(wire.MAX_VALUE), later)
        told = await protocol.rpc_find(dht_pb2.FindRequest(keys=keys), greedy)
        found = [len(result.value) for result in told.results if result.type == dht_pb2.FOUND_DICTIONARY]
        assert 0 < len(found) < len(keys) and sum(found) <= MAX_REPLY and told.ByteSize() < 2**22
        left, _ = protocol._calls._buckets[greedy.remote_id]
        assert CALLS - left > len(keys) * found[0] / CALL_BYTES > sum(found) / CALL_BYTES + 10

    asyncio.run(main())


def test_who_asks_for_much_has_asked_often(monkeypatch):
    """A call that brings or takes a megabyte is as good as many. (No time passes, so nothing is refilled.)"""
    monkeypatch.setattr("swarm.net.guards.protocol.time", SimpleNamespace(monotonic=lambda: 0.0, time=time.time))

    async def main():
        protocol, taker, bringer, pinger = await guarded(), Context(), Context(), Context()
        key, later = DHTID(3).to_bytes(), time.time() + 20
        for number in range(2 * FEW):
            protocol.storage.store_subkey(DHTID.from_bytes(key), f"peer{number}", bytes(wire.MAX_VALUE), later)
        ask = dht_pb2.FindRequest(keys=[key])
        told = [(await protocol.rpc_find(ask, taker)).results[0].type for _ in range(50)]
        assert told.count(dht_pb2.FOUND_DICTIONARY) < 20
        heavy = dht_pb2.StoreRequest(keys=[key], subkeys=[protocol.IS_REGULAR_VALUE], values=[bytes(2**21)], expiration_time=[later], in_cache=[True])
        for _ in range(50):
            await protocol.rpc_store(heavy, bringer)
        mine = packed(Identity.ephemeral())
        assert not any((await protocol.rpc_store(request_of(mine), bringer)).store_ok) and any((await protocol.rpc_store(request_of(mine), Context())).store_ok)
        asked = []
        protocol.get_stub = lambda peer: asked.append(peer)
        for _ in range(int(2 * CALLS)):
            await protocol.rpc_ping(dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=bytes(20)), validate=True), pinger)
        assert len(asked) == CALLS

    asyncio.run(main())


def test_of_a_reply_of_bad_records_few_are_looked_at():
    async def main():
        protocol, looked = await guarded(), []
        bad, good = GuardedDictionary(time.time), packed(Identity.ephemeral())
        for number in range(5 * MAX_BAD):
            bad.store(f"peer{number}", b"\xc1", time.time() + 20)
        protocol._validate_record = lambda *record: looked.append(record) or False
        result = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=MSGPackSerializer.dumps(bad))
        assert await protocol._found(DHTID.from_bytes(key_bytes(good[0])), result) is None and len(looked) == MAX_BAD

    asyncio.run(main())


def full_reply(protocol: GuardedProtocol, count: int) -> dht_pb2.FindResult:
    dictionary = GuardedDictionary(time.time)
    for number in range(count):
        dictionary.store(f"peer{number}", MSGPackSerializer.dumps(b""), time.time() + 20)
    protocol._validate_record = lambda *record: True
    return dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=MSGPackSerializer.dumps(dictionary))


def test_others_have_their_turn_while_a_full_reply_is_looked_at():
    async def main():
        protocol, turns = await guarded(), 0
        looking = asyncio.ensure_future(protocol._found(DHTID(1), full_reply(protocol, 10 * AT_ONCE)))
        while not looking.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 10 and len(looking.result().value) == 10 * AT_ONCE

    asyncio.run(main())


def test_of_a_reply_that_takes_too_long_what_was_looked_at_counts(monkeypatch):
    """And that is not what whoever sent it has put first."""
    monkeypatch.setattr("swarm.net.guards.protocol.LOOKING", -1.0)

    async def main():
        protocol = await guarded()
        found = await protocol._found(DHTID(1), full_reply(protocol, 10 * AT_ONCE))
        assert len(found.value) == AT_ONCE - 1 and {*found.value.data} != {f"peer{number}" for number in range(AT_ONCE - 1)}

    asyncio.run(main())


def test_there_is_an_end_to_what_a_search_gathers_and_the_first_do_not_hide_the_last(monkeypatch):
    monkeypatch.setattr("swarm.net.guards.storing.MAX_GATHERED", 50)
    gathered, later = Gathered(time.time, random.Random(1)), time.time() + 20
    for number in range(500):
        assert gathered.store(f"sybil{number}", b"", later)
        assert not gathered.store(f"sybil{number}", b"", later - 1)
    assert gathered.store("late", b"", later)
    assert len(gathered) == 50 and "late" in gathered.data


def test_where_a_key_is_crowded_a_reply_names_more_and_that_counts(monkeypatch):
    monkeypatch.setattr("swarm.net.guards.protocol.time", SimpleNamespace(monotonic=lambda: 0.0, time=time.time))

    async def main():
        protocol, asker = await guarded(), Context()
        for _ in range(60):
            await protocol.update_routing_table(None, Context().remote_id)
        ask, told = dht_pb2.FindRequest(keys=[bytes(20)]), []
        for size in (1e9, 10.0):
            protocol.surveys.extend([size] * SURVEYS)
            told.append(len((await protocol.rpc_find(ask, asker)).results[0].nearest_peer_ids))
        assert told == [20, 60]
        left, _ = protocol._calls._buckets[asker.remote_id]
        assert left <= CALLS - 2 - 80 * NAME_BYTES / CALL_BYTES

    asyncio.run(main())


def test_nobody_chooses_a_place():
    """In requests, in pings, in replies: forged node ids lead nowhere."""

    async def main():
        protocol, forger = await guarded(), Context()
        claimed = dht_pb2.NodeInfo(node_id=DHTID(77).to_bytes())
        await protocol.rpc_ping(dht_pb2.PingRequest(peer=claimed), forger)
        await protocol.rpc_find(dht_pb2.FindRequest(keys=[bytes(20)], peer=claimed), forger)
        await protocol.rpc_store(dht_pb2.StoreRequest(peer=dht_pb2.NodeInfo(node_id=bytes(90))), forger)
        await asyncio.sleep(0)
        assert list(protocol.routing_table.uid_to_peer_id) == [place_of(forger.remote_id)]

        class Stub:
            async def rpc_find(self, request, timeout):
                honest, record = Identity.ephemeral(), packed(Identity.ephemeral())
                dictionary = GuardedDictionary(time.time)
                dictionary.store(*record)
                return dht_pb2.FindResponse(
                    peer=dht_pb2.NodeInfo(node_id=bytes(90)),
                    results=[
                        dht_pb2.FindResult(
                            type=dht_pb2.FOUND_DICTIONARY,
                            value=MSGPackSerializer.dumps(dictionary),
                            expiration_time=math.inf,
                            nearest_node_ids=[DHTID(1).to_bytes()] * 9 + [b""],
                            nearest_peer_ids=[PeerID.from_base58(honest.peer_id).to_bytes()] * 10,
                        )
                        for _ in request.keys
                    ],
                )

        protocol.get_stub = lambda peer: Stub()
        keys = [DHTID.generate(source=key_of(KEY, shard)) for shard in (0, 1)]
        found = await protocol.call_find(forger.remote_id, keys)
        for value, nearest in found.values():
            assert value is None or value.expiration_time < time.time() + 30  # "for ever" would end the search with this one answer
            assert [place_of(peer) for peer in nearest.values()] == list(nearest)
        assert sum(value is not None for value, _ in found.values()) >= 1
        await asyncio.sleep(0)
        assert DHTID(1) not in protocol.routing_table

    asyncio.run(main())


@pytest.mark.parametrize("reply", [None, ValueError("no"), dht_pb2.FindResponse(), dht_pb2.PingResponse(peer=dht_pb2.NodeInfo(node_id=bytes(90)))])
def test_whatever_comes_back_is_an_answer_or_none(reply):
    async def main():
        protocol = await guarded()

        async def answer(*_: object, **__: object):
            if isinstance(reply, Exception):
                raise reply
            return reply

        pinged = isinstance(reply, dht_pb2.PingResponse)
        protocol.get_stub = lambda peer: SimpleNamespace(rpc_ping=answer, rpc_find=answer)
        peer = Context().remote_id
        assert pinged or await protocol.call_find(peer, [DHTID(1)]) is None
        if not isinstance(reply, dht_pb2.FindResponse):
            assert await protocol.call_ping(peer) == (place_of(peer) if pinged else None)

    asyncio.run(main())


def test_a_new_peer_is_not_sent_what_we_hold():
    async def main():
        protocol = await guarded()
        await protocol.rpc_store(request_of(packed(Identity.ephemeral())), Context())
        protocol.get_stub = lambda peer: 1 / 0  # whoever asks for one means to send something
        before = set(asyncio.all_tasks())
        await protocol.update_routing_table(None, Context().remote_id)
        assert set(asyncio.all_tasks()) == before and isinstance(protocol.routing_table, RoutingTable)

    asyncio.run(main())


def test_a_reply_in_the_moment_of_its_deadline_and_a_cancelled_call_leave_nothing():
    async def main():
        control = ControlClient(None, _initialized_with_create=True)  # type: ignore[arg-type]
        guard_calls(control)
        future = asyncio.get_running_loop().create_future()
        control._pending_calls["call"] = future
        assert "call" in control._pending_calls
        future.cancel()
        assert "call" not in control._pending_calls  # else its reader would set a result on it
        assert control._pending_calls.pop("call", None) is future
        task = asyncio.ensure_future(asyncio.sleep(60))
        control._handler_tasks["call"] = task
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0)
        assert not control._handler_tasks

    asyncio.run(main())


def test_the_swarms_time_is_what_most_say():
    machine = [1000.0]
    clock = SwarmClock(lambda: machine[0])
    assert clock() == 1000.0
    for ahead, offset in (([], 0.0), ([0.4, -0.9], 0.0), ([3600.0, 3599.0, -5e9], 3599.0), ([], 3599.0), ([-7.0], -7.0), ([0.1], 0.0)):
        clock.correct(ahead)
        assert clock.offset == offset and clock() == 1000.0 + offset


def test_storage_goes_by_the_swarms_time():
    """On a machine whose clock is an hour fast everything has long expired, for hivemind."""
    clock = SwarmClock(lambda: time.time() + 3600)
    clock.correct([-3600.0])
    storage = GuardedStorage(clock)
    record = packed(Identity.ephemeral())
    assert storage.store_subkey(DHTID(1), *record)
    assert storage.get(DHTID(1)).value.data.keys() == {record[0]}
    clock.correct([-3600.0 + LIFETIME + 2])
    assert storage.get(DHTID(1)) is None


def test_who_is_pinged_tells_the_time():
    async def main():
        protocol = await guarded()

        async def answer(*_: object, **__: object):
            return dht_pb2.PingResponse(peer=dht_pb2.NodeInfo(node_id=bytes(20)), dht_time=time.time() + 77)

        protocol.get_stub = lambda peer: SimpleNamespace(rpc_ping=answer)
        for _ in range(MAX_CLOCKS + 4):
            await protocol.call_ping(Context().remote_id)
        assert len(protocol.ahead) == MAX_CLOCKS and all(76 < ahead < 78 for ahead in protocol.ahead.values())

    asyncio.run(main())


def test_nobody_becomes_a_clock_by_having_himself_pinged_or_by_crowding_the_routing_table():
    async def main():
        protocol = await guarded()

        async def answer(*_: object, **__: object):
            return dht_pb2.PingResponse(peer=dht_pb2.NodeInfo(node_id=bytes(20)), dht_time=time.time() + 77)

        protocol.get_stub = lambda peer: SimpleNamespace(rpc_ping=answer)
        request = dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=bytes(20)), validate=True)
        for _ in range(20):
            assert (await protocol.rpc_ping(request, Context())).available
        table, asked = protocol.routing_table, []
        table.add_or_update_node = lambda place, peer: (asked.append(peer), (place, peer))[1] if not asked else None  # no room: the oldest is looked for
        await protocol.update_routing_table(None, Context().remote_id)
        while protocol._tasks:
            await asyncio.wait(set(protocol._tasks))
        assert asked and not protocol.ahead

    asyncio.run(main())


def named(count: int) -> list[PeerID]:
    return [PeerID(bytes([0, 36, 8, 1, 18, 32]) + bytes([number]) * 32) for number in range(count)]


def offset(entrances: int, *ahead: float) -> float:
    """Of whoever entered through so many initial peers, whom the first of `ahead` are of."""
    clock, peers = SwarmClock(), named(32)
    node = SimpleNamespace(protocol=SimpleNamespace(ahead={peer: seconds for peer, seconds in zip(peers, ahead, strict=False) if seconds is not None}))
    Membership(node, None, [SimpleNamespace(peer=peer.to_base58()) for peer in peers[:entrances]], (), clock)
    return clock.offset


def test_who_began_a_swarm_does_not_take_its_time_from_the_first_to_come():
    assert offset(0, 3600.0) == 0.0 and offset(0, 3600.0, 3601.0) == 3600.0, "but from most of them"
    assert offset(1, 3600.0) == 3600.0 and offset(2, 3600.0, 0.5) == 0.0


def test_peers_of_former_times_do_not_outvote_the_initial_peers_on_what_time_it_is():
    assert offset(1, 5.0, *16 * (3600.0,)) == 5.0
    assert offset(1, None, *16 * (3600.0,)) == 3600.0, "but where none of these answered"


def test_the_initial_peers_are_asked_again_what_time_it_is_and_while_none_answers_nobody_else_tells():
    clock, peers, answers = SwarmClock(), named(3), {}
    protocol = SimpleNamespace(ahead={peers[0]: 5.0, peers[1]: 5.0, peers[2]: 3600.0}, routing_table=SimpleNamespace(peer_id_to_uid={}))

    async def call_ping(peer: PeerID) -> None:
        if peer in answers:
            protocol.ahead[peer] = answers[peer]

    protocol.call_ping = call_ping
    membership = Membership(SimpleNamespace(protocol=protocol), None, [SimpleNamespace(peer=peer.to_base58()) for peer in peers[:2]], (), clock)
    answers[peers[1]] = 7.0
    asyncio.run(membership._ask_the_time())
    assert clock.offset == 7.0
    answers.clear()
    asyncio.run(membership._ask_the_time())
    assert clock.offset == 7.0


def test_a_bug_while_looking_for_the_initial_peers_is_logged_and_the_next_look_comes(caplog):
    async def main() -> int:
        membership, looks = Membership(SimpleNamespace(protocol=SimpleNamespace(ahead={})), None, (), (), SwarmClock()), []

        async def look() -> None:
            looks.append(None)
            raise KeyError("nobody thought of this")

        membership.look = look
        keeping = asyncio.ensure_future(membership.keep())
        await asyncio.sleep(3.5 * PERIOD)
        keeping.cancel()
        return len(looks)

    assert run(main()) == 3 and "nobody thought of this" in caplog.text
