"""The room `routing`: between which hops of a route rows had best be compressed. Pure: announcements in, a yes or no out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.core import Hop, PeerId
from swarm.routing.table import PeerView

WORTH = 1e-3
"""Seconds that a position must save on the wire: well above some ten small operations on a row, for the answer is another one, too."""


def packs(upload: Any, row_bytes: int, packed_bytes: int) -> Any:
    """Whether whoever sends so many bytes per second, one or an array of them, had best send rows packed; `packed_bytes` are 0 where nobody wants any."""
    return (packed_bytes > 0) & (upload > 0) & (row_bytes - packed_bytes > WORTH * upload)


def compresses(one: Hop, other: Hop, views: Mapping[PeerId, PeerView], row_bytes: int, packed_bytes: int) -> bool | None:
    """Whether rows of so many bytes, or so many packed, from one hop to the next are; None where one of the two cannot. Nobody knows the line of a client: its
    own rows are not."""
    if one.peer == other.peer:
        return False
    ends = [views[hop.peer] for hop in (one, other) if hop.peer in views]
    if not all(view.compresses for view in ends):
        return None
    upload = views[one.peer].upload if one.peer in views else 0.0
    return bool(packs(upload, row_bytes, packed_bytes))
