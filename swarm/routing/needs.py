"""The room `routing`, whom to call: which peer a coordinator should tell that it may help more elsewhere. Times are handed in.

What it knows of a machine is how much it serves, not what fits into it, nor whether it may move at all. So it only says where to look; every peer decides for
itself, by `placement`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from swarm.core import PeerId, Span
from swarm.routing.placement import better_place
from swarm.routing.table import PeerView

EVERY = 10.0
"""Seconds between two calls, so that the next one sees what the last has done: whoever goes announces it within a second or two."""

AGAIN = 120.0
"""Seconds until the same peer is tried again: it may have its reasons to stay."""

TRIED = 8
"""Peers that are thought about at once. Of 1000 peers each takes some 15 ms."""


class Needs:
    def __init__(self, components: int) -> None:
        self._components = components
        self._thought_of: dict[PeerId, float] = {}
        self._since = 0.0

    def due(self, now: float) -> bool:
        """Whether to ask `call` now; if so, not for a while again."""
        if now - self._since < EVERY:
            return False
        self._since = now
        return True

    def call(self, peers: Iterable[PeerView], now: float) -> tuple[PeerId, Span] | None:
        """Somebody who would help more elsewhere, and where; those first who have not been thought of for longest. `peers` are of one class. While somebody is
        on its way nobody is called."""
        views = list(peers)
        if any(view.state == "joining" for view in views):
            return None
        settled = sorted((view for view in views if view.state == "online" and len(view.spans) == 1), key=lambda view: (self._last(view), view.peer))
        for view in islice((view for view in settled if now - self._last(view) >= AGAIN), TRIED):
            self._thought_of[view.peer] = now
            place = better_place(views, view, self._components, (1,) * self._components, len(view.spans[0]))
            if place is not None:
                return view.peer, place
        self._thought_of = {peer: since for peer, since in self._thought_of.items() if now - since < AGAIN}
        return None

    def _last(self, view: PeerView) -> float:
        return self._thought_of.get(view.peer, -AGAIN)
