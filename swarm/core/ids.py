"""Room: core. What sessions, their hops and the positions of their tokens are known by."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

PeerId = str
"""Base58 text of a libp2p peer id; ours are Ed25519, so the public key is inside it."""


SessionId = bytes
"""Sixteen random bytes, drawn by the client."""


CLIENT = -1
"""The hop index that stands for the client: it is the predecessor of hop 0."""


class HopKey(NamedTuple):
    """A session's hop at one peer. The span, not the hop's number, is the key: a repair may put more hops before it without costing it its cache."""

    session: SessionId
    start: int
    stop: int


class Epoch(NamedTuple):
    """Which version of a session's past a frame belongs to. Compared as a pair: a new chain outranks any draft."""

    chain: int
    draft: int


def digest_of(tokens: Sequence[int]) -> bytes:
    """Sixteen bytes that only these token ids have."""
    numbers = array("I", tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    return blake2b(numbers, digest_size=16).digest()
