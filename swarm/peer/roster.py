"""Room: peer. Whom a coordinator could compare with whom: the peers of its table that hold the same components in one class. Does not know what is compared."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection

from swarm.core import PeerId, Span, merge_spans
from swarm.machines.audits import Audits
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView

Kind = tuple[str, str]
"""A class: revision and numerics."""


class Roster:
    def __init__(self, table: PeerTable, audits: Audits, components: int, clock: Callable[[], float], dice: random.Random) -> None:
        self._table, self._audits, self._components = table, audits, components
        self._clock, self._dice = clock, dice

    def comparable(self) -> dict[Kind, set[PeerId]]:
        """By class, who holds a component (but embed) that somebody else holds too."""
        hosts = defaultdict[tuple[Kind, int], set[PeerId]](set)
        for view in self._online():
            for span in view.spans:
                for at in range(max(span.start, 1), span.stop):
                    hosts[view.kind, at].add(view.peer)
        found = defaultdict[Kind, set[PeerId]](set)
        for (kind, _), peers in hosts.items():
            if len(peers) > 1:
                found[kind] |= peers
        return found

    def holders(self, kind: Kind, at: int) -> list[PeerView]:
        """Of a component. Peers by id."""
        return [view for view in self._online() if view.kind == kind and view.holds(Span(at, at + 1))]

    def span(self, view: PeerView, at: int) -> Span:
        """What one of them holds around it."""
        return next(span for span in merge_spans(view.spans) if span.covers(Span(at, at + 1)))

    def suspect(self, able: Collection[PeerView]) -> PeerView:
        """One by lot, by how seldom it was looked at."""
        (chosen,) = self._dice.choices(list(able), [self._audits.rate(view.peer) for view in able])
        return chosen

    def best_known(self, views: Collection[PeerView]) -> list[PeerView]:
        """The proven first, else by lot."""
        lot = {view.peer: self._dice.random() for view in views}
        return sorted(views, key=lambda view: (self._audits.is_new(view.peer), lot[view.peer]))

    def _online(self) -> list[PeerView]:
        out = self._table.shunned(self._clock())
        return [view for peer, view in sorted(self._table.views.items()) if view.state == "online" and peer not in out]
