"""Guards: what plain hivemind leaves open among strangers, closed once, for clients and peers alike. One file for each, with the attack that it stops.

================  ====================================================================================================================================
`decoding.py`     a payload of nested extension types overflows the C stack and kills the process
`placing.py`      a peer names the places that it takes in the DHT, and with forged ones owns every copy of a key
`vicinity.py`     identities are made until some stand nearer to a key than all others, and are the only ones who are asked to store and to tell
`searching.py`    they, or mere names that nobody runs, end a search before anybody else was asked
`silent.py`       every mere name that was called once is remembered for ever
`storing.py`      a refused record still moves the heap, and a replayed one deletes the newer; storage without an end
`asking.py`       one peer stores, asks or is told without an end
`protocol.py`     the calls of the DHT: requests and replies are checked before anything is done with them, and nobody is told our exceptions
`calls.py`        a late reply kills the task that reads from p2pd, cancelled calls are kept for ever
================  ====================================================================================================================================

What is believed of one record is `records.py`'s business; what bytes may say is `swarm/wire/`'s. `install` puts the guards in place, before the first node
starts; `tests/net/test_guards.py` notices when hivemind changes under them.
"""

from __future__ import annotations

from hivemind.dht import node as hivemind_node

from swarm.net.guards.decoding import limit_depth
from swarm.net.guards.protocol import GuardedProtocol
from swarm.net.guards.silent import BoundedBlacklist


def install() -> None:
    """Idempotent. hivemind's node asks its own module for the protocol and the blacklist: every node of this process gets ours."""
    limit_depth()
    hivemind_node.DHTProtocol = GuardedProtocol
    hivemind_node.Blacklist = BoundedBlacklist
