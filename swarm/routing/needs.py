"""The room `routing`, whom to call: which peer a coordinator should tell that it may help more elsewhere. Times are handed in.

What it knows of a machine is how much it serves, not what fits into it, nor whether it may move at all. So it only says where to look; every peer decides for
itself, by `placement`.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.core import PeerId, Span
from swarm.routing.placement import better_place
from swarm.routing.table import PeerView

EVERY = 10.0
"""Seconds between two calls, so that the next one sees what the last has done: whoever goes announces it within a second or two."""

AGAIN = 20.0
"""Seconds until the same peer is thought about again, as peers come and go and prove to be faster or slower than they said."""

REASONS = 120.0
"""The same for one who was called: it may have its reasons to stay."""

TRIED = 8
"""Peers that are thought about at once. Of 1000 peers each takes some 15 ms."""


class Needs:
    def __init__(self, components: int) -> None:
        self._components = components
        self._rests: dict[PeerId, float] = {}
        """Until when nobody thinks of a peer."""
        self._since = 0.0

    def due(self, now: float) -> bool:
        """Whether to ask `call` now; if so, not for a while again."""
        if now - self._since < EVERY:
            return False
        self._since = now
        return True

    def call(self, peers: Iterable[PeerView], now: float) -> tuple[PeerId, Span] | None:
        """Somebody who would help more elsewhere, and where; those first who were not thought of for longest. `peers` are of one class. While somebody is on
        its way nobody is called."""
        views = list(peers)
        if any(view.state == "joining" for view in views):
            return None
        there = {view.peer for view in views}
        self._rests = {peer: until for peer, until in self._rests.items() if peer in there}
        able = [view for view in views if view.state == "online" and len(view.spans) == 1 and self._rests.get(view.peer, now) <= now]
        for view in sorted(able, key=lambda view: (self._rests.get(view.peer, 0.0), view.peer))[:TRIED]:
            place = better_place(views, view, self._components, (1,) * self._components, len(view.spans[0]))
            self._rests[view.peer] = now + (AGAIN if place is None else REASONS)
            if place is not None:
                return view.peer, place
        return None
