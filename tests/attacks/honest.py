"""An honest peer: `python honest.py OPTIONS INITIAL_PEER ...`, OPTIONS as JSON. Announces itself as peers do, echoes session messages, prints who it is as one
line of JSON, ends when its stdin does."""

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
from tests.net.helpers import announcement


class Tomorrow(wire.Announcement, frozen=True, array_like=True):
    """What a newer peer announces."""

    mood: str = "sunny"


async def main(options: dict, initial_peers: list[str]) -> None:
    identity = Identity.ephemeral()
    node = await Node.start(identity, initial_peers=initial_peers)
    node.links.subscribe(node.links.send, lambda peer: None)
    print(json.dumps({"peer_id": node.peer_id, "addrs": node.addrs, "p2pd": node._daemon.pid}), flush=True)
    announcing = asyncio.ensure_future(announce(node, options))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    announcing.cancel()
    await node.close()


async def announce(node: Node, options: dict) -> None:
    while True:
        now = time.time()
        record = announcement(node.peer_id, addrs=node.addrs, time=now, sequence=int(now * 1000), version=options.get("version", 1))
        if options.get("version", 1) > 1:
            record = msgspec.convert(msgspec.to_builtins(record), Tomorrow)
        with contextlib.suppress(RemoteError):
            await node.directory.announce(record)
        await asyncio.sleep(options.get("every", wire.RENEW_EVERY))


asyncio.run(main(OPTIONS, sys.argv[2:]))
