"""The room `routing`: between which hops of a route rows had best be compressed. Pure: announcements in, a yes or no out."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.core import Hop, PeerId
from swarm.routing.table import PeerView
from swarm.wire import COMPRESSED, row_size

WORTH = 1e-3
"""Seconds that a position must save on the wire: well above some ten small operations on a row, for the answer is another one, too."""


def compresses(one: Hop, other: Hop, views: Mapping[PeerId, PeerView], width: int, row_bytes: int) -> bool | None:
    """Whether rows of so many bytes from one hop to the next are; None where one of the two cannot. Nobody knows the line of a client: its own rows are not."""
    if one.peer == other.peer:
        return False
    ends = [views[hop.peer] for hop in (one, other) if hop.peer in views]
    if not all(view.compresses for view in ends):
        return None
    upload = views[one.peer].upload if one.peer in views else 0.0
    return upload > 0 and (row_bytes - row_size(COMPRESSED, width)) / upload > WORTH
