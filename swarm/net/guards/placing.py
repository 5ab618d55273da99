"""Guard: a peer's place in the DHT is the hash of its peer id, whatever it says itself. In the room `net`; pure.

Attack: ping everybody around a key with forged node ids, one next to the other. Plain hivemind believes them, and within a second one peer holds every copy of
that key (20 of 20 nodes). Here each peer id has one place. Who wants many needs many identities, and cannot place one of them without making some thousands.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

MAX_NEIGHBOURS = 128
"""Peers that one reply may name: the twenty nearest, and where a key is crowded the others of its vicinity (`vicinity.py`)."""

MAX_PEER_ID = 64
"""Bytes of a peer id: an Ed25519 one has 38, an RSA one 34."""


@lru_cache(maxsize=4096)
def place_of(peer: PeerID) -> DHTID:
    return DHTID.generate(source=peer.to_base58())


def placed(peer_ids: Iterable[bytes]) -> dict[DHTID, PeerID]:
    """Peers that a reply names, each at its own place. What cannot be a peer id is left out."""
    few = [data for data, _ in zip(peer_ids, range(MAX_NEIGHBOURS), strict=False) if 2 < len(data) <= MAX_PEER_ID]
    return {place_of(peer): peer for peer in map(_peer, few)}


@lru_cache(maxsize=4096)
def _peer(data: bytes) -> PeerID:
    """hivemind writes each out in base 58, and a search hears the same names again and again."""
    return PeerID(data)
