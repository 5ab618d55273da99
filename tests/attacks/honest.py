"""An honest peer: `python honest.py OPTIONS INITIAL_PEER ...`, OPTIONS as JSON. Announces itself as peers do, echoes session messages, prints who it is as one
line of JSON, ends when its stdin does. With `nodes` there are several in one process, each with a p2pd of its own."""

import json
import sys
import time

OPTIONS = json.loads(sys.argv[1])
if SKEW := OPTIONS.get("skew"):  # before anybody keeps the right clock for himself
    real = time.time
    time.time = lambda: real() + SKEW

# ruff: noqa: E402
import asyncio
import contextlib

import msgspec

from swarm import wire
from swarm.errors import RemoteError
from swarm.net.identity import Identity
from swarm.net.node import Node
from swarm.net.records import LIFETIME, key_of, seal, shard_of
from tests.net.helpers import announcement


class Tomorrow(wire.Announcement, frozen=True, array_like=True):
    """What a newer peer announces."""

    mood: str = "sunny"


async def main(options: dict, initial_peers: list[str]) -> None:
    nodes: list[Node] = []
    for _ in range(options.get("nodes", 1)):
        nodes.append(await Node.start(initial_peers=initial_peers or (nodes[0].addrs if nodes else ())))
        nodes[-1].links.subscribe(nodes[-1].links.send, lambda peer: None)
    first = nodes[0]
    facts = {"peer_id": first.peer_id, "addrs": first.addrs, "all": [node.peer_id for node in nodes], "ways": [node.addrs[0] for node in nodes]}
    print(json.dumps(facts), flush=True)
    if "models" in options:  # until everybody is there
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        begin = time.monotonic()
        models = [options["models"][(options["first"] + at) % len(options["models"])] for at in range(len(nodes))]
        announced = sum([await store_once(node, model, options["records"]) for node, model in zip(nodes, models, strict=True)])
        print(json.dumps({"announced": announced, "took": time.monotonic() - begin}), flush=True)
    announcing = [] if "models" in options else [asyncio.ensure_future(announce(node, options)) for node in nodes]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in announcing:
        task.cancel()
    await asyncio.gather(*(node.close() for node in nodes))


async def store_once(node: Node, model: str, count: int) -> int:
    """So many records of one model, of this node and of made-up others, with the longest life there is, each stored once: how many replicas took. (Where one
    refuses what another has handed it already, hivemind tells us that it failed.) A machine with fifty nodes may be too busy the first time."""
    dht = node.directory._node
    entries: dict[str, list[tuple[str, bytes, float]]] = {}
    for identity in [node.directory._identity, *(Identity.ephemeral() for _ in range(count - 1))]:
        record = announcement(identity.peer_id, addrs=node.addrs, time=node.clock() + 30, config_hash=model)
        entries.setdefault(key_of(model, shard_of(identity.peer_id)), []).append((identity.peer_id, seal(record, identity), record.time + LIFETIME))
    stored = 0
    for key, those in entries.items():
        for _ in range(4):
            subkeys, values, expiries = (list(column) for column in zip(*those, strict=True))
            taken = await dht.store_many([key] * len(those), values, expiries, subkeys=subkeys)
            those = [entry for entry in those if not taken[key, entry[0]]]
            if not those:
                break
        stored += len(entries[key]) - len(those)
    return stored


async def announce(node: Node, options: dict) -> None:
    """Again and again, as peers do."""
    while True:
        now = node.clock()
        record = announcement(node.peer_id, addrs=node.addrs, time=now, sequence=int(now * 1000), version=options.get("version", 1))
        if options.get("version", 1) > 1:
            record = msgspec.convert(msgspec.to_builtins(record), Tomorrow)
        with contextlib.suppress(RemoteError):
            await node.directory.announce(record)
        await asyncio.sleep(wire.RENEW_EVERY)


asyncio.run(main(OPTIONS, sys.argv[2:]))
