"""Guard: what counts around a key is how far away a node stands, not how many stand nearer. In the room `net`; pure, lots are handed in.

Attack: nobody chooses a place in the DHT, but identities can be made until some stand nearer to a key than every honest node, which takes seconds. Records that
are stored with the five nearest are then stored with these alone, who forget them.

So everybody stores with all, and asks all, in the *vicinity* of a key: so far from it as EXPECTED honest nodes are to be expected. How many nodes there are
in all is reckoned from how near the nearest lie to places that nobody could prepare for. Who crowds a key makes lookups there longer and takes nothing out of
them (Sridhar and others 2023, "Content Censorship in the InterPlanetary File System"; that it must be so always, not only where a crowd is noticed, is in
Cholez and others 2025, "Active Sybil Attack and Efficient Defense Strategy in IPFS DHT").
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.p2p import PeerID

from swarm.net.guards.placing import MAX_NEIGHBOURS

ROOTS = 6
"""Acquaintances that every search asks. Where a third of all are sybils, these are nothing else in one of 700."""

SPACE = 2**160
"""Places that there are."""

EXPECTED = 12
"""Honest nodes in a vicinity, on the average. There are none in one of 160,000; in one of 3,000 if the swarm is taken for half as large again, as a third of
sybils would have it."""

NEAREST = 20
"""Nodes in a reply, hivemind's bucket; and by how many of them the size is estimated, to a fifth."""


def size_of(distances: Sequence[int]) -> float:
    """How many nodes there are, if those at these distances are the nearest ones to a place drawn by lot. Right on the average of many places."""
    near = sorted(distances)[:NEAREST]
    return (len(near) - 1) / near[-1] * SPACE if len(near) > 1 else float(len(near))


def radius_of(sizes: Sequence[float]) -> int:
    """How far a vicinity reaches, by some estimates of how many nodes there are. Of two the smaller counts: too wide costs calls, too narrow records."""
    size = statistics.median_low(sizes)
    return SPACE if size <= EXPECTED else int(EXPECTED / size * SPACE)


def named(table: RoutingTable, key: DHTID, radius: int, lot: random.Random, exclude: DHTID | None = None) -> list[tuple[DHTID, PeerID]]:
    """Whom a reply names: the nearest, and all others in the vicinity, or else nobody would ever be told of more than twenty sybils; those as well for whom a
    bucket has no room, since sybils who came first may have filled it. Too many for one reply are drawn by lot, others each time."""
    near = table.get_nearest_neighbors(key, NEAREST, exclude)
    if len(near) < NEAREST or key.xor_distance(near[-1][0]) >= radius:
        return near
    others = [one for one in table.uid_to_peer_id.items() if one[0] ^ key < radius and one[0] != exclude and one not in near]
    return near + (others if len(others) <= MAX_NEIGHBOURS - NEAREST else lot.sample(others, MAX_NEIGHBOURS - NEAREST))


def scattered(table: RoutingTable, lot: random.Random) -> dict[DHTID, PeerID]:
    """Acquaintances by lot: those nearest to places anywhere, so that a crowd in one place is drawn as seldom as one node that stands alone there."""
    drawn = [table.get_nearest_neighbors(DHTID(lot.randrange(SPACE)), 1) for _ in range(ROOTS)]
    return {place: peer for near in drawn for place, peer in near}
