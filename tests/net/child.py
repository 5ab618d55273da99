"""A peer to be killed and frozen: `python child.py [--identity FILE] [INITIAL_PEER ...]`. Prints who it is as one line of JSON, echoes session messages,
ends when its stdin does."""

import asyncio
import json
import sys

from swarm.net.identity import Identity
from swarm.net.node import Node


async def main(arguments: list[str]) -> None:
    identity = None
    if arguments[:1] == ["--identity"]:
        identity, arguments = Identity.load_or_create(arguments[1]), arguments[2:]
    node = await Node.start(identity, initial_peers=arguments)
    node.links.subscribe(node.links.send, lambda peer: None)
    print(json.dumps({"peer_id": node.peer_id, "addrs": node.addrs, "p2pd": node._daemon.pid}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await node.close()


asyncio.run(main(sys.argv[1:]))
