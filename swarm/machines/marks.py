"""Short names of activations: what a hop notes of every row it receives, so that its predecessor can be held to what it sent. Pure: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from swarm.wire import MARK, Blob

MOST_SHOWN_BYTES = 16 * 2**20
"""Bytes of rows that a hop shows at once: a small frame asks for them, and they are copied, marked and queued while everybody waits."""


def marks(rows: Blob) -> bytes:
    """MARK bytes for each row, one after the other."""
    size = rows.row_bytes
    return b"".join(blake2b(rows.data[at : at + size], digest_size=MARK).digest() for at in range(0, rows.data.nbytes, size))


def token_marks(tokens: Sequence[int]) -> bytes:
    """The same, of what a first hop receives."""
    return b"".join(blake2b(token.to_bytes(8, "big"), digest_size=MARK).digest() for token in tokens)
