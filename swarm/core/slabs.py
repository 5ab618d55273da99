"""Room: core. How much room a cache takes as it grows and is cut, which whoever counts must know as well as whoever allocates."""

from __future__ import annotations

FIRST_SLAB = 64
"""Positions of the smallest slab of a cache: a short question and its answer without copying, 80 KB a layer for 5 heads of 64 in bfloat16."""


def slab_size(positions: int, limit: int | None = None) -> int:
    """Positions for which a cache has room that has grown to so many: it doubles, but not beyond the limit of its session. (A later turn may have outgrown the
    first one's.)"""
    capacity = max(FIRST_SLAB, 1 << (positions - 1).bit_length()) if positions else 0
    return min(capacity, limit) if limit is not None and positions <= limit else capacity


def slab_after_cut(capacity: int, positions: int) -> int:
    """Of a cache with room for `capacity` positions that is cut to so many: far less than half of it full, it gives memory back."""
    return min(capacity, needed) if capacity > 2 * (needed := slab_size(positions)) else capacity


def longest_after_cut(longest: int, positions: int) -> int:
    """How long a cache that had grown to `longest` positions counts as having been, once it is cut to so many: `slab_after_cut` leaves no more room than that,
    whatever limit it grew under, since a limit leaves out less than half of a slab."""
    return positions if slab_size(longest) >= 4 * slab_size(positions) else longest
