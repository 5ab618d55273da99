"""Structure-aware fuzzing of everything that turns strangers' bytes into values: `make fuzz RUNS=10000000`.

An input begins as something that honest nodes say; the tree inside is damaged (a number that is none, a list that is huge, something deep, something missing),
packed again, and sometimes damaged as bytes too. Each decoder must answer with a value or with its own kind of error, at once, and without taking memory.
atheris guides by the coverage of our own files, where it is installed (`pip install atheris`); without it the same mutator runs unguided.
`tests/test_fuzz.py` draws a few thousand from hypothesis in the default tests.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import inspect
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import msgpack
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2
from hivemind.utils.serializer import MSGPackSerializer

from swarm import wire
from swarm.core import Hop, Sampling
from swarm.errors import BadIdentity, MalformedAddress, ProtocolError
from swarm.net import guards
from swarm.net.addresses import dialable, entrance
from swarm.net.frames import Inbox, one_frame
from swarm.net.guards.protocol import GuardedProtocol, Refused
from swarm.net.guards.storing import GuardedDictionary
from swarm.net.identity import Identity, public_key, verify
from swarm.net.records import LIFETIME, Guard, key_of, seal, shard_of
from tests.net.helpers import announcement

guards.install()

ME = Identity.ephemeral()
SESSION = bytes(16)
MOST = 2**20
"""Bytes of an input."""

RECORD = announcement(ME.peer_id, rtts={ME.peer_id: 0.1}, claim=wire.Claim("candidate", 3, (1, 2)))
NOW: Callable[[], float] = lambda: RECORD.time  # noqa: E731  # it stands still, so that the record stays a good one for hours
SEALED = MSGPackSerializer.dumps(seal(RECORD, ME))
ROUTE = (Hop(ME.peer_id, 0, 4, ("/ip4/127.0.0.1/tcp/4001",)),)
ORDER = wire.Order(SESSION, 1, ME.peer_id, "r", "float32", ((0, 0),), 0, 5, 9, Sampling(), ROUTE, prefix=wire.Prefix(SESSION, 3, SESSION))
ROWS = wire.Blob("float32", 2, memoryview(bytes(16)))
STATEMENT = wire.Statement(ME.peer_id, ME.peer_id, SESSION, 1, "r", "float32", 0, 3, 0, 2, bytes(16), bytes(16))
MESSAGES = (
    wire.Hello(1, "swarm"), wire.Ping(1, b"x"), wire.Pong(1), wire.End("bye"), wire.Open(SESSION, 1, 0, wire.encode(ORDER), bytes(64)),
    wire.Step(SESSION, 1, 0, 0, 0, (1, 2), wire.Blob("float32", 2, memoryview(bytes(16))), (3,)), wire.Have(SESSION, 1, 0, 0, 5, True),
    wire.Drawn(SESSION, 1, 0, 0, 5, (7,), "stop", (wire.Logprobs(-0.1, ((7, -0.1),)),), (4,)), wire.Grant(SESSION, 1, 0, 9), wire.Keep(SESSION, 1, 0),
    wire.Close(SESSION, 1, 0, 3, True), wire.Broken(SESSION, 1, 0, 2, "moved", "", wire.Facts(((0, 4),), 1, 9)), wire.Ready(SESSION, 1, -1, 2),
    wire.Prepare(SESSION, 1, 0, wire.encode(ORDER), bytes(64), 1, 2), wire.Poll(1, "c", wire.Claim("claim", 2)), wire.Polled(1, True),
    wire.RouteRequest(1, SESSION, "c", "r", "float32", 9, 4, 5, ((0, 1),), {ME.peer_id: 0.1}, ("x",), ROUTE, {"y": 2.0}), wire.Unrouted(1, "busy"),
    wire.Routed(1, b"advice", bytes(64)), wire.Progress(SESSION, 5, True), wire.Needed("c", 0, 4),
    wire.Rows(SESSION, 1, 0, 0, 5, ROWS, (7,)), wire.Guess(SESSION, 1, 0, 5, (7, 8)), wire.Show(SESSION, 1, 0, 0, 3, 0, 2),
    wire.Shown(SESSION, 1, -1, 0, wire.encode(STATEMENT), bytes(64), ROWS), wire.Accuse("c", wire.encode(STATEMENT), bytes(64), (1, 2), ROWS, ROWS),
)  # fmt: skip


def dictionary() -> bytes:
    held = GuardedDictionary(NOW)
    held.store(ME.peer_id, SEALED, RECORD.time + LIFETIME)
    return MSGPackSerializer.dumps(held)


def requests() -> list[bytes]:
    key = DHTID.generate(source=key_of(RECORD.config_hash, shard_of(ME.peer_id))).to_bytes()
    node = dht_pb2.NodeInfo(node_id=bytes(20))
    stored = dict(keys=[key], expiration_time=[RECORD.time + LIFETIME], in_cache=[False], peer=node)
    return [
        message.SerializeToString()
        for message in (
            dht_pb2.StoreRequest(subkeys=[MSGPackSerializer.dumps(ME.peer_id)], values=[SEALED], **stored),
            dht_pb2.StoreRequest(subkeys=[b""], values=[dictionary()], **stored),
            dht_pb2.FindRequest(keys=[key], peer=node),
            dht_pb2.PingRequest(peer=node, validate=True),
        )
    ]


def replies() -> list[bytes]:
    peer = PeerID.from_base58(ME.peer_id).to_bytes()
    found = dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=dictionary(), expiration_time=9.0, nearest_node_ids=[bytes(20)], nearest_peer_ids=[peer])
    return [dht_pb2.FindResponse(results=[found], peer=dht_pb2.NodeInfo(node_id=bytes(20))).SerializeToString()]


class Calls:
    """The DHT's calls, without a network: what arrives in them, and what comes back."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._protocol = self._loop.run_until_complete(self._make())
        self._protocol._calls.take = self._protocol._records.take = lambda *_: True  # type: ignore[method-assign]  # quotas are not what is looked for here
        self._peer = PeerID.from_base58(ME.peer_id)

    async def _make(self) -> GuardedProtocol:
        async def nothing(*_: object, **__: object) -> None: ...

        p2p = SimpleNamespace(add_protobuf_handler=nothing)
        return await GuardedProtocol.create(p2p, DHTID(5), 20, 5, 5, 0.1, None, None, False, Guard(clock=NOW))

    def asked(self, data: bytes) -> None:
        protocol, context = self._protocol, SimpleNamespace(remote_id=self._peer)
        protocol.get_stub = self._silent  # type: ignore[method-assign]
        for kind, call in (
            (dht_pb2.StoreRequest, protocol.rpc_store),
            (dht_pb2.FindRequest, protocol.rpc_find),
            (dht_pb2.PingRequest, protocol.rpc_ping),
        ):
            try:
                request = kind.FromString(data)
            except Exception:  # protobuf's own kind of error, which hivemind's door has for strangers
                continue
            self._run(call(request, context))

    def told(self, data: bytes) -> None:
        async def reply(*_: object, **__: object) -> object:
            return dht_pb2.FindResponse.FromString(data)

        self._protocol.get_stub = lambda peer: SimpleNamespace(rpc_find=reply)  # type: ignore[method-assign,assignment]
        key = DHTID.generate(source=key_of(RECORD.config_hash, shard_of(ME.peer_id)))
        self._run(self._protocol.call_find(self._peer, [key]))

    def _silent(self, peer: object) -> object:
        raise OSError

    def _run(self, call: Any) -> None:
        try:
            self._loop.run_until_complete(call)
        except Refused:
            pass


CALLS = Calls()


def inbox(data: bytes) -> None:
    box = Inbox(max_message=MOST)
    for at in range(0, len(data), 1000):
        for message in box.feed(data[at : at + 1000]):
            wire.decode(memoryview(message))
    assert box.held <= 4 * MOST


def addresses(data: bytes) -> None:
    text = data.decode(errors="replace")
    dialable(text, ME.peer_id)
    public_key(text)
    verify(text, data, data[:64])
    entrance(text)


Decoder = tuple[Callable[[bytes], object], list[bytes]]

DECODERS: dict[str, Decoder] = {
    "message": (wire.decode, [wire.encode(message) for message in MESSAGES]),
    "order": (wire.decode_order, [wire.encode(ORDER)]),
    "advice": (wire.decode_advice, [wire.encode(wire.Advice(1, ME.peer_id, ME.peer_id, 2, ROUTE, 0.1, 0.2))]),
    "statement": (wire.decode_statement, [wire.encode(STATEMENT)]),
    "dial back": (wire.decode_dial_back, [wire.encode(wire.DialBack(ME.peer_id, ("/ip4/127.0.0.1/tcp/4001",)))]),
    "dialled back": (wire.decode_dialled_back, [wire.encode(wire.DialledBack(("",), 1.0, "127.0.0.1"))]),
    "member": (wire.decode_member, [wire.encode(wire.Member(bytes(32), ME.peer_id, 1.0, 2.0))]),
    "revocation": (wire.decode_revocation, [wire.encode(wire.Revocation(bytes(32), ME.peer_id, 1.0))]),
    "announcement": (wire.decode_announcement, [wire.encode(RECORD)]),
    "signed": (wire.decode_signed, [seal(RECORD, ME)]),
    "dictionary": (wire.decode_dictionary, [dictionary()]),
    "subkey": (wire.decode_subkey, [MSGPackSerializer.dumps(ME.peer_id)]),
    "value": (wire.decode_value, [SEALED]),
    "frames": (inbox, [one_frame(wire.encode(message)) for message in MESSAGES]),
    "asked": (CALLS.asked, requests()),
    "told": (CALLS.told, replies()),
    "hivemind's": (MSGPackSerializer.loads, [dictionary(), MSGPackSerializer.dumps(((1, (2,)), "x"))]),
    "addresses": (addresses, [f"/ip4/127.0.0.1/tcp/4001/p2p/{ME.peer_id}".encode(), ME.peer_id.encode(), b"/dns4/a.b/tcp/1"]),
    "identity": (lambda data: Identity.from_bytes(data, "a file"), [ME.to_bytes()]),
}
"""What is fuzzed, and what inputs begin as."""

OWN_ERRORS = (ProtocolError, MalformedAddress, BadIdentity)
HIVEMINDS = (ValueError, TypeError, LookupError, OverflowError, msgpack.UnpackException)
"""What hivemind's decoder may raise, which stands behind a door that lets all of it through."""


def attempt(name: str, data: bytes) -> bool:
    """Whether this decodes. Anything but a value or the decoder's own kind of error is a finding, and raised."""
    decode = DECODERS[name][0]
    try:
        decode(data)
    except OWN_ERRORS:
        return False
    except HIVEMINDS:
        if name != "hivemind's":
            raise
        return False
    return True


class Mutator:
    def __init__(self, random: Random) -> None:
        self._random = random

    def input(self, name: str) -> bytes:
        """Something that honest nodes say, damaged."""
        data = self._random.choice(DECODERS[name][1])
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            data = self.damaged(data)
        return data

    def damaged(self, data: bytes) -> bytes:
        if self._random.random() < 0.7:
            try:
                tree = msgpack.unpackb(data, strict_map_key=False, raw=True)
            except Exception:  # no tree: then its bytes
                return self._bytes(data)
            data = self._packed(self._node(tree, 0))
        return self._bytes(data) if self._random.random() < 0.2 else data[:MOST]

    def _packed(self, tree: object) -> bytes:
        try:
            return msgpack.packb(tree, use_bin_type=True)
        except (ValueError, OverflowError, TypeError):
            return b"\xc1"

    def _node(self, node: Any, depth: int) -> Any:
        random = self._random
        if isinstance(node, list) and node and random.random() < 0.85:
            node, at = list(node), random.randrange(len(node))
            what = random.random()
            if what < 0.7:
                node[at] = self._node(node[at], depth + 1)
            elif what < 0.8:
                del node[at]
            elif what < 0.9:
                node.insert(at, self._hostile())
            else:
                most = 1 + MOST // len(self._packed(node[at]))  # or ours would be the memory that is too small
                node[at:at] = node[at : at + 1] * min(random.choice((1, 20, 3000)), most)
            return node
        if isinstance(node, dict) and node and random.random() < 0.8:
            key = random.choice(sorted(node, key=repr))
            return {**node, key: self._node(node[key], depth + 1)} if random.random() < 0.7 else {**node, random.choice((b"x", 1, None)): self._hostile()}
        if isinstance(node, msgpack.ExtType):
            return msgpack.ExtType(random.choice((node.code, 0x40, 0x50, 1)), self.damaged(node.data))
        if isinstance(node, bytes) and len(node) > 8 and random.random() < 0.6:
            return self.damaged(node)
        return self._hostile()

    def _hostile(self) -> Any:
        random = self._random
        return random.choice(
            (
                lambda: random.choice((0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**64 - 1, -(2**63))),
                lambda: random.choice((math.nan, math.inf, -math.inf, -0.0, 1e308, 5e-324)),
                lambda: random.choice((None, True, False, [], {}, b"", "")),
                lambda: random.randbytes(random.choice((1, 16, 64, 5000))),
                lambda: random.choice(("x", "\0", "é" * 300, "12D3KooW" + "1" * 44, "x" * 9999)),
                lambda: [self._hostile() for _ in range(random.choice((0, 1, 3)))],
                lambda: [0] * random.choice((100, 20_000)),
                lambda: self._deep(random.choice((3, 30, 400))),
                lambda: msgpack.ExtType(random.choice((0x40, 0x50, 7)), self._packed([self._hostile()])),
            )
        )()

    def _deep(self, depth: int) -> Any:
        node: Any = None
        as_ext = self._random.random() < 0.5
        for _ in range(depth):
            node = msgpack.ExtType(0x40, self._packed([node])) if as_ext else [node]
        return node

    def _bytes(self, data: bytes) -> bytes:
        random, body = self._random, bytearray(data)
        what = random.randrange(5)
        if what == 0:
            del body[random.randrange(len(body) + 1) :]
        elif what == 1:
            body += random.randbytes(random.choice((1, 9, 300)))
        elif what == 2 and body:
            at = random.randrange(len(body))
            body[at : at + 5] = random.choice((b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x40"))
        else:
            for _ in range(random.choice((1, 2, 8))):
                if body:
                    body[random.randrange(len(body))] = random.randrange(256)
        return bytes(body[:MOST])


def memory() -> float:
    """The most this process has ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


SLOW = 1.0
"""Seconds of processor time for one input that would be a hang."""

HUNG = 60.0
"""Seconds for LOOK inputs, which take one, after which the process ends and says where it is: an input that never ends."""

LOOK = 1000

MOST_MEMORY = 512
"""MiB that all inputs together may make the process grow by. An input has a MiB at most."""


@dataclass(slots=True)
class Told:
    """What became of one decoder's inputs."""

    inputs: int = 0
    good: int = 0
    bytes: int = 0
    slowest: float = 0.0


def unguided(runs: int, seed: int, seconds: float = math.inf) -> dict[str, Told]:
    """So many inputs, each decoder's in turn, or as many as the time allows. Raises what no decoder may raise; ends the process at a hang or a leak."""
    mutator, told = Mutator(Random(seed)), {name: Told() for name in DECODERS}
    begin, before, names = time.monotonic(), memory(), list(DECODERS)
    for number in range(runs):
        if number % LOOK == 0:
            faulthandler.dump_traceback_later(HUNG, exit=True)
            if memory() - before > MOST_MEMORY:
                raise SystemExit(f"that is a leak: +{memory() - before:.0f} MiB after {number:,} inputs")
            if time.monotonic() - begin > seconds:
                break
            if number and number % 1_000_000 == 0:
                print(f"{number:,} inputs, {time.monotonic() - begin:.0f} s, +{memory() - before:.0f} MiB", flush=True)
        name = names[number % len(names)]
        data = mutator.input(name)
        started = time.thread_time()
        try:
            good = attempt(name, data)
        except Exception:
            print(f"finding: {name} {data[:2000].hex()}", flush=True)
            raise
        one, took = told[name], time.thread_time() - started
        one.inputs, one.good, one.bytes, one.slowest = one.inputs + 1, one.good + good, one.bytes + len(data), max(one.slowest, took)
        if took > SLOW:
            print(f"finding: {name} {data[:2000].hex()}", flush=True)
            raise SystemExit(f"that is a hang: {took:.1f} s")
    faulthandler.cancel_dump_traceback_later()
    print(f"{'decoder':14}{'inputs':>12}{'good':>12}{'bytes a piece':>15}{'slowest, ms':>13}")
    for name, one in told.items():
        print(f"{name:14}{one.inputs:12,}{one.good:12,}{one.bytes // max(one.inputs, 1):15,}{one.slowest * 1e3:13.1f}")
    total = sum(one.inputs for one in told.values())
    took = time.monotonic() - begin
    print(f"{total:,} inputs without guidance in {took:.0f} s: 0 deaths, 0 hangs, +{memory() - before:.0f} MiB, seed {seed}", flush=True)
    return told


def guided(runs: int, seed: int, atheris: Any) -> None:
    """libFuzzer counts, watches the time and the memory of each input, and ends the process itself."""
    names = list(DECODERS)

    def one(data: bytes) -> None:
        if data:
            attempt(names[data[0] % len(names)], data[1:])

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        kind = data[0] if data and random.random() < 0.8 else random.randrange(len(names))
        name = names[kind % len(names)]
        mutator = Mutator(random)
        if len(data) < 2 or random.random() < 0.3:
            return bytes([kind]) + mutator.input(name)[: size - 1]
        if random.random() < 0.7:
            return bytes([kind]) + mutator.damaged(data[1:])[: size - 1]
        return bytes(atheris.Mutate(data, size))

    for module in (wire, sys.modules["swarm.net.frames"], sys.modules["swarm.net.records"], sys.modules["swarm.net.guards.protocol"]):
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                atheris.instrument_func(value)
    options = [f"-runs={runs}", f"-seed={seed}", f"-max_len={2**16}", "-timeout=5", "-rss_limit_mb=2048", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so long (unguided)")
    parser.add_argument("--unguided", action="store_true", help="without atheris, although it is installed")
    args = parser.parse_args()
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is None or args.unguided:
        print("atheris is not installed: the mutator runs unguided" if atheris is None else "unguided, as asked", flush=True)
        unguided(args.runs, args.seed, args.seconds)
    else:
        guided(args.runs, args.seed, atheris)


if __name__ == "__main__":
    main()
