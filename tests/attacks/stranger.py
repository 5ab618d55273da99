"""A stranger: `python stranger.py OPTIONS INITIAL_PEER ...`, OPTIONS as JSON, one of them the `attack`. Speaks to the swarm with plain hivemind, which checks
nothing, and with bytes of his own. Prints a line of JSON when he has done his worst, then stays until he is killed."""

import asyncio
import json
import math
import random
import struct
import sys
import time

import msgpack
from hivemind.dht.node import DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.servicer import ServicerBase
from hivemind.proto import dht_pb2
from hivemind.utils.serializer import MSGPackSerializer

from swarm import wire
from swarm.net.daemon import Daemon
from swarm.net.frames import one_frame
from swarm.net.guards.placing import MAX_NEIGHBOURS, place_of
from swarm.net.identity import Identity
from swarm.net.records import LIFETIME, key_of, seal, shard_of
from tests.net.helpers import announcement

KEY = "c0ffee"
LINK = "/swarm/link/1"


def flags_of(ways: list[str]) -> list[str]:
    return ["-dhtServer", "-tls", "-hostAddrs=/ip4/127.0.0.1/tcp/0", "-b", "-bootstrapPeers=" + ",".join(ways)]


class Stranger:
    def __init__(self, daemon: Daemon, identity: Identity, ways: list[str], options: dict) -> None:
        self.p2p, self.identity, self.ways, self.options = daemon.p2p, identity, ways, options
        self.victims = [PeerID.from_base58(way.rsplit("/", 1)[1]) for way in ways]
        self.random = random.Random(options.get("seed", 0))
        self.flags = flags_of(ways)
        self.daemons: list[Daemon] = []

    async def dht(self, **kwargs: object) -> DHTNode:
        """A plain node: hivemind's own protocol, any place it likes."""
        return await DHTNode.create(p2p=self.p2p, initial_peers=self.ways, strict=False, wait_timeout=10.0, **kwargs)

    async def link(self, victim: PeerID):
        _, reader, writer = await self.p2p.call_binary_stream_handler(victim, LINK)
        return reader, writer


def stub_of(p2p: P2P, victim: PeerID):
    """Calls of the DHT as plain hivemind makes them."""
    return ServicerBase.get_stub.__func__(DHTProtocol, p2p, victim)


def key_bytes(shard: int) -> bytes:
    return DHTID.generate(source=key_of(KEY, shard)).to_bytes()


def signed(identity: Identity, age: float = 0.0, **changes: object) -> tuple[bytes, float]:
    now = time.time() - age
    record = announcement(identity.peer_id, **({"time": now, "sequence": int(now * 1000)} | changes))
    return MSGPackSerializer.dumps(seal(record, identity)), record.time + LIFETIME


def store(key: bytes, subkey: object, value: bytes, expiry: float, cached: bool = False) -> dht_pb2.StoreRequest:
    tag = subkey if isinstance(subkey, bytes) else MSGPackSerializer.dumps(subkey)
    return dht_pb2.StoreRequest(keys=[key], subkeys=[tag], values=[value], expiration_time=[expiry], in_cache=[cached])


def nested(depth: int) -> bytes:
    data = b"\xc0"
    for _ in range(depth):
        data = msgpack.packb(msgpack.ExtType(0x40, b"\x91" + data))
    return data


async def quietly(call) -> object:
    try:
        return await asyncio.wait_for(call, 5)
    except Exception as error:
        return error


# --- attacks ----------------------------------------------------------------------------------------------------------------------------------------------


async def crash(me: Stranger) -> dict:
    """Payloads of nested extension types, wherever the DHT decodes something, and as replies to those who search."""
    bomb = nested(400)
    for victim in me.victims:
        for subkey, value in ((b"", bomb), (bomb, b"x"), ("x", bomb), (b"", msgpack.packb(msgpack.ExtType(0x50, bomb))), (DHTProtocol.IS_REGULAR_VALUE, bomb)):
            await quietly(stub_of(me.p2p, victim).rpc_store(store(key_bytes(0), subkey, value, time.time() + 20), timeout=3))
    return await answer_with(me, bomb)


async def answer_with(me: Stranger, value: bytes, expiry: float = math.inf) -> dict:
    """Stand at the key itself and answer every search with this."""

    async def rpc_find(request: dht_pb2.FindRequest, context: object) -> dht_pb2.FindResponse:
        me.asked = getattr(me, "asked", 0) + 1
        result = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=value, expiration_time=expiry)
        return dht_pb2.FindResponse(results=[result for _ in request.keys], peer=dht_pb2.NodeInfo(node_id=key_bytes(0)))

    DHTProtocol.rpc_find = rpc_find_as(rpc_find)
    await me.dht(node_id=DHTID.from_bytes(key_bytes(0)))
    return {}


def rpc_find_as(function):
    async def rpc_find(self, request: dht_pb2.FindRequest, context: object) -> dht_pb2.FindResponse:
        return await function(request, context)

    return rpc_find


async def blind(me: Stranger) -> dict:
    """Rubbish beside good records: stored at others, and told to whoever searches; invalid bytes, wrong types, newer versions, claims that last for ever."""
    good, expiry = signed(me.identity, version=9)
    dictionary = DictionaryDHTValue()
    with dictionary.freeze():
        for subkey in ("x", 7, None, b"\xff", me.identity.peer_id, "y" * 500):
            for value in (b"\xc1", b"", good, b"\xd9\xff\xff", MSGPackSerializer.dumps({"a": [1]}), nested(3)):
                for until in (expiry, math.inf, math.nan, -1.0):
                    for victim in me.victims:
                        await quietly(stub_of(me.p2p, victim).rpc_store(store(key_bytes(me.random.randrange(2)), subkey, value, until), timeout=3))
            dictionary.store(str(subkey), b"\xc1", time.time() + 20)
    me.packed = MSGPackSerializer.dumps(dictionary)
    return await answer_with(me, me.packed)


async def forge(me: Stranger) -> dict:
    """Overwrites, replays and odd expiries of other peers' records, `count` of them."""
    done = accepted = 0
    held: dict[str, list[tuple[bytes, float]]] = {}
    while done < me.options["count"]:
        for victim in me.victims:
            reply = await quietly(stub_of(me.p2p, victim).rpc_find(dht_pb2.FindRequest(keys=[key_bytes(0), key_bytes(1)]), timeout=3))
            for shard, result in enumerate(getattr(reply, "results", [])):
                if result.type == dht_pb2.FOUND_DICTIONARY:
                    for subkey, (value, expiry) in MSGPackSerializer.loads(result.value).data.items():
                        seen = held.setdefault(subkey, [])
                        if not seen or seen[-1][0] != value:
                            seen.append((value, expiry))
                        if subkey == me.identity.peer_id:
                            continue
                        forged = signed(me.identity, state="left")[0]
                        lie = MSGPackSerializer.dumps(wire.encode(wire.Signed(wire.encode(announcement(subkey, state="left", sequence=2**50)), bytes(64))))
                        old, until = seen[0]
                        soon = time.time() + 50
                        odd = [(forged, soon), (lie, soon), (old, until), (old, until + 0.9), (old, soon - 49), (value, expiry - 10), (value, expiry + 30)]
                        calls = [store(key_bytes(shard), subkey, *said) for said in (*odd, (value, math.inf), (value, math.nan), (b"plain", soon))]
                        calls.append(store(key_bytes(shard), DHTProtocol.IS_REGULAR_VALUE, b"plain", soon))
                        for call in calls:
                            answer = await quietly(stub_of(me.p2p, victim).rpc_store(call, timeout=3))
                            accepted += sum(getattr(answer, "store_ok", []))
                            done += 1
    return {"done": done, "accepted": accepted}


async def stuff(me: Stranger) -> dict:
    """`count` records of as many identities, each properly signed, and 5 MB of large ones, from this one machine."""
    tried = kept = size = 0
    while tried < me.options["count"]:
        batch: dict[int, list[tuple[str, bytes, float]]] = {0: [], 1: []}
        for _ in range(64):
            identity = Identity.ephemeral()
            value, expiry = signed(identity, name="x" * 400, rtts={Identity.ephemeral().peer_id: 0.1 for _ in range(10)} if tried % 3 == 0 else {})
            batch[shard_of(identity.peer_id)].append((identity.peer_id, value, expiry))
            size += len(value)
            tried += 1
        for shard, records in batch.items():
            request = dht_pb2.StoreRequest(
                keys=[key_bytes(shard)] * len(records), subkeys=[MSGPackSerializer.dumps(peer) for peer, _, _ in records],
                values=[value for _, value, _ in records], expiration_time=[expiry for _, _, expiry in records], in_cache=[False] * len(records),
            )  # fmt: skip
            answers = await asyncio.gather(*(quietly(stub_of(me.p2p, victim).rpc_store(request, timeout=3)) for victim in me.victims))
            kept += sum(sum(getattr(answer, "store_ok", [])) for answer in answers)
    return {"tried": tried, "kept": kept, "bytes": size}


async def eclipse(me: Stranger) -> dict:
    """Take every place around the keys with forged node ids, answer searches with nothing, and swallow what is stored."""
    asked = [0, 0]

    async def rpc_find(request: dht_pb2.FindRequest, context: object) -> dht_pb2.FindResponse:
        asked[0] += 1
        return dht_pb2.FindResponse(results=[dht_pb2.FindResult(type=dht_pb2.NOT_FOUND) for _ in request.keys], peer=dht_pb2.NodeInfo(node_id=key_bytes(0)))

    async def rpc_store(self, request: dht_pb2.StoreRequest, context: object) -> dht_pb2.StoreResponse:
        asked[1] += 1
        return dht_pb2.StoreResponse(store_ok=[True] * len(request.keys), peer=dht_pb2.NodeInfo(node_id=key_bytes(0)))

    DHTProtocol.rpc_find, DHTProtocol.rpc_store = rpc_find_as(rpc_find), rpc_store
    await me.dht(node_id=DHTID.from_bytes(key_bytes(0)))
    for near in range(1, 60):
        for shard in (0, 1):
            place = DHTID(DHTID.from_bytes(key_bytes(shard)) ^ near)
            for victim in me.victims:
                await quietly(stub_of(me.p2p, victim).rpc_ping(dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=place.to_bytes())), timeout=3))
    return {}


async def sybils(me: Stranger) -> dict:
    """`count` nodes with identities of their own, wherever these place them, that tell nothing and keep nothing."""

    async def rpc_find(self, request: dht_pb2.FindRequest, context: object) -> dht_pb2.FindResponse:
        results = [dht_pb2.FindResult(type=dht_pb2.NOT_FOUND) for _ in request.keys]
        return dht_pb2.FindResponse(results=results, peer=self.node_info)

    async def rpc_store(self, request: dht_pb2.StoreRequest, context: object) -> dht_pb2.StoreResponse:
        return dht_pb2.StoreResponse(store_ok=[True] * len(request.keys), peer=self.node_info)

    DHTProtocol.rpc_find, DHTProtocol.rpc_store = rpc_find, rpc_store
    await me.dht()
    for _ in range(me.options["count"] - 1):
        daemon = await Daemon.start(Identity.ephemeral(), me.flags)
        await DHTNode.create(p2p=daemon.p2p, initial_peers=me.ways, strict=False, wait_timeout=10.0)
        me.daemons.append(daemon)
    return {}


async def ground(me: Stranger) -> dict:
    """`count` nodes around one of the two keys, with identities that were made until each stood nearer to it than every honest node. They take what is stored
    and keep nothing, and name nobody but one another and `ghosts` as near, whom nobody runs."""
    key, tries = DHTID.from_bytes(key_bytes(0)), 0
    rival, near = min(place_of(peer) ^ key for peer in me.victims), list[Identity]()
    while len(near) < me.options["count"] + me.options["ghosts"]:
        identity, tries = Identity.ephemeral(), tries + 1
        if place_of(PeerID.from_base58(identity.peer_id)) ^ key < rival:
            near.append(identity)
    names = {place_of(peer).to_bytes(): peer.to_bytes() for peer in (PeerID.from_base58(identity.peer_id) for identity in near)}

    async def rpc_find(self, request: dht_pb2.FindRequest, context: object) -> dht_pb2.FindResponse:
        told = me.random.sample(sorted(names), min(len(names), MAX_NEIGHBOURS))
        nearest = {"nearest_node_ids": told, "nearest_peer_ids": [names[place] for place in told]}
        return dht_pb2.FindResponse(results=[dht_pb2.FindResult(type=dht_pb2.NOT_FOUND, **nearest) for _ in request.keys], peer=self.node_info)

    async def rpc_store(self, request: dht_pb2.StoreRequest, context: object) -> dht_pb2.StoreResponse:
        return dht_pb2.StoreResponse(store_ok=[True] * len(request.keys), peer=self.node_info)

    DHTProtocol.rpc_find, DHTProtocol.rpc_store = rpc_find, rpc_store
    for identity in near[: me.options["count"]]:
        daemon = await Daemon.start(identity, me.flags)
        me.daemons.append(daemon)
        place = place_of(PeerID.from_base58(identity.peer_id))
        await DHTNode.create(p2p=daemon.p2p, node_id=place, initial_peers=me.ways, strict=False, wait_timeout=10.0, ensure_bootstrap_success=False)
    return {"tries": tries}


async def fuzz(me: Stranger) -> dict:
    """`count` damaged requests and streams."""
    good = [
        store(key_bytes(0), me.identity.peer_id, *signed(me.identity)).SerializeToString(),
        dht_pb2.FindRequest(keys=[key_bytes(1)]).SerializeToString(),
        b"",
    ]
    words = [one_frame(wire.encode(wire.Hello(1))), one_frame(wire.encode(wire.Ping(1, b"x" * 99))), struct.pack(">IBI", 65536, 0, 3)]
    sent = 0
    while sent < me.options["count"]:
        calls = []
        for _ in range(40):
            data = bytearray(me.random.choice(good))
            for _ in range(me.random.randrange(4)):
                if data:
                    data[me.random.randrange(len(data))] = me.random.randrange(256)
            data += me.random.randbytes(me.random.choice((0, 0, 3, 60)))
            name = "DHTProtocol." + me.random.choice(("rpc_store", "rpc_find", "rpc_ping"))
            calls.append(quietly(me.p2p._client.call_unary_handler(me.random.choice(me.victims), name, bytes(data))))
        calls.append(quietly(rubbish(me, words)))
        answers = await asyncio.gather(*calls)
        sent += len(calls)
        told = [str(answer) for answer in answers if isinstance(answer, Exception) and not isinstance(answer, TimeoutError)]
        leaks = [text for text in told if "Refused()" not in text and "DecodeError" not in text and "Traceback" in text]
        assert not leaks, leaks
    return {"sent": sent}


async def rubbish(me: Stranger, words: list[bytes]) -> None:
    _, writer = await me.link(me.random.choice(me.victims))
    if me.random.random() < 0.8:
        writer.write(words[0])
    for _ in range(me.random.randrange(30)):
        data = bytearray(me.random.choice(words))
        if me.random.random() < 0.5:
            data[me.random.randrange(len(data))] = me.random.randrange(256)
        writer.write(bytes(data))
    asyncio.get_running_loop().call_later(1.0, writer.transport.abort)


async def hoard(me: Stranger) -> dict:
    """Lengths of a terabyte, 800 streams that say nothing, and a message that never ends, as long as it is let."""
    victim, streams = me.victims[0], []
    _, writer = await me.link(victim)
    writer.write(struct.pack(">IBI", 2**32 - 1, 0, 1) + bytes(9))
    _, writer = await me.link(victim)
    writer.write(one_frame(wire.encode(wire.Hello(1))))
    sent = 0
    try:
        async with asyncio.timeout(20):
            while sent < 200 * 2**20:
                writer.write(struct.pack(">IBI", 65536, 0, 5) + bytes(65536))
                await writer.drain()
                sent += 65536
    except (OSError, TimeoutError):
        pass
    await asyncio.sleep(2)
    for number in range(me.options["streams"]):
        name = LINK if number % 2 else "DHTProtocol.rpc_find"
        found = await quietly(me.p2p.call_binary_stream_handler(victim, name))
        if not isinstance(found, Exception):
            streams.append(found)
    await quietly(me.p2p._client.call_unary_handler(victim, "DHTProtocol.rpc_store", b"\x12\xff\xff\xff\x7f" + bytes(3 * 2**20)))
    return {"streams": len(streams), "sent": sent}


async def drip(me: Stranger) -> dict:
    """Hold a link with one byte a second, and say how long that went well."""
    reader, writer = await me.link(me.victims[0])
    writer.write(one_frame(wire.encode(wire.Hello(1))))
    begin, data = time.monotonic(), struct.pack(">IBI", 65536, 0, 5) + bytes(65536)
    reading = asyncio.ensure_future(gone(reader))
    for byte in range(90):
        writer.write(data[byte : byte + 1])
        done, _ = await asyncio.wait({reading}, timeout=1.0)
        if done:
            break
    return {"held": time.monotonic() - begin}


async def gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(2**16):
        pass


async def hang_up(me: Stranger) -> dict:
    """Call, and cancel the call at once, `count` times."""
    for _ in range(me.options["count"] // 50):
        calls = [asyncio.ensure_future(me.p2p._client.call_unary_handler(me.victims[0], "DHTProtocol.rpc_ping", b"")) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0.002)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    return {}


async def main(options: dict, ways: list[str]) -> None:
    identity = Identity.ephemeral()
    daemon = await Daemon.start(identity, flags_of(ways))
    try:
        result = await globals()[options["attack"]](Stranger(daemon, identity, ways, options))
        print(json.dumps(result), flush=True)
        await asyncio.Event().wait()
    finally:
        await daemon.close()


asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2:]))
