"""Room: client. How long the hops of one chain take, held to what was predicted of them, and remembered for the routes that are planned next.

Knows the route that is followed and what peers announce. Which times are slow is `swarm.routing.slow`; what to do about it is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.client.planner import Surroundings
from swarm.core import PeerId
from swarm.routing.route import Leg, Route
from swarm.routing.slow import Watch, pays


class Watching:
    """One chain after another: `follow` begins with the hops of a new one, once what was learned of the last is remembered."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._route: Route | None = None
        self._watch: Watch | None = None
        self._supposed: dict[PeerId, tuple[float, bool]] = {}
        """What peers of this chain were predicted to take for a layer's step, and whether they were known to be slower than they announced."""

    def follow(self, route: Route) -> None:
        """Watch a new chain, by the predictions that chose it. The same hops, opened again, are still being watched."""
        if self._route is not None and route.hops == self._route.hops:
            return
        self.remember()
        around = self._around
        views = around.table.views
        factors = around.slowness.factors(around.clock(), views)
        believed = around.slowness.believed(around.clock(), views)
        known = (hop.peer for hop in route.hops if hop.peer in views)
        self._supposed = {peer: (views[peer].decode * believed.get(peer, 1.0), peer in factors) for peer in known}
        self._route, self._watch = route, Watch([leg.compute for leg in route.legs])

    def forget(self) -> None:
        """Some hop hangs and nobody knows which: what this chain took says nothing of its peers."""
        self._route = self._watch = None

    def add(self, micros: Sequence[int]) -> int | None:
        """What a token took at every hop; the number of one that has become slow."""
        return self._watch.add([each / 1e6 for each in micros]) if self._watch is not None else None

    def remember(self) -> None:
        """What was learned of this chain's hops, also in answers so short that no alarm was raised: the next route is planned with it."""
        if self._route is None or self._watch is None:
            return
        for number, hop in enumerate(self._route.hops):
            if self._watch.tried(number):
                self._around.slowness.prove(hop.peer)
            _, known = self._supposed.get(hop.peer, (0.0, False))
            if self._watch.plainly(number, known=known):
                self.note(number)

    def note(self, number: int) -> None:
        """A hop is slower than its peer announces, for all sessions of this client."""
        if self._route is None or self._watch is None:
            return
        peer = self._route.hops[number].peer
        supposed, _ = self._supposed.get(peer, (0.0, False))
        view = self._around.table.views.get(peer)
        if view is not None and supposed > 0:
            self._around.slowness.note(peer, supposed * self._watch.slower(number), view.decode, self._around.clock())

    def pays(self, number: int, old: Route, new: Route, newcomers: Sequence[Leg], length: int, done: int, left: int) -> bool:
        """Whether to move from one route to another that does without this hop. Newcomers are expected to take longer than predicted by as much as the hops
        that we know."""
        if self._watch is None:
            return False
        replacement = self._watch.others(number) * sum(leg.compute for leg in newcomers) + sum(new.network) - sum(old.network)
        gain, prefill = self._watch.now(number) - replacement, sum(leg.prefill for leg in newcomers)
        return pays(gain, length, done, left, prefill)
