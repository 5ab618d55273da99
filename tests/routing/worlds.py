"""Random swarms for the routing tests, and slow, obvious planners to hold the fast one against. They share no arithmetic with `swarm.routing`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from statistics import fmean, median

from swarm.core import Span
from swarm.routing import PeerView, Request
from swarm.routing.atlas import DEFAULT_LATENCY
from swarm.routing.load import Load, Share


class Latencies:
    """What `Atlas` says of distances, the slow way: every pair looked up in what each peer announced."""

    def __init__(self, peers: Sequence[PeerView], source: str | None = None, source_rtts: Mapping[str, float] | None = None) -> None:
        self.source, self.rtts = source, {view.peer: view.rtts for view in peers}
        pairs = {frozenset((one, other)) for one, rtts in self.rtts.items() for other in rtts if one != other}
        known = [mean for pair in pairs if (mean := self._mean(*sorted(pair))) is not None]
        self.default = median(known) if known else DEFAULT_LATENCY
        self.regions = {view.peer: view.region for view in peers}
        cells: dict[frozenset[str], list[float]] = {}
        for pair in sorted(map(sorted, pairs)):
            if (mean := self._mean(*pair)) is not None:
                cells.setdefault(frozenset(self.regions.get(peer, "") for peer in pair), []).append(mean)
        self.cells = {cell: fmean(round(mean * 1e9) for mean in means) / 1e9 for cell, means in cells.items() if "" not in cell}
        self.rtts[source] = {**self.rtts.get(source, {}), **(source_rtts or {})}

    def between(self, one: str | None, other: str | None) -> float:
        mean = self._mean(one, other)
        if mean is None and self.source not in (one, other):
            mean = self.cells.get(frozenset(self.regions.get(peer, "") for peer in (one, other)))
        return 0.0 if one == other else self.default if mean is None else mean

    def _mean(self, one: str | None, other: str | None) -> float | None:
        said = [self.rtts.get(a, {}).get(b) for a, b in ((one, other), (other, one)) if b is not None]
        sane = [rtt / 2 for rtt in said if rtt is not None and 0 <= rtt < inf]
        return fmean(sane) if sane else None


def name(number: int) -> str:
    return f"peer{number:04}"


def swarm(rng: random.Random, peers: int, components: int, *, holes: bool = False, known: float = 0.6, spans: int = 1) -> list[PeerView]:
    """Peers with random spans, speeds and round trips; no triangle inequality, as among real ones. Without `holes` every component has a peer."""
    regions = rng.choice([("",), ("", "near", "far"), ("here", "there")])
    held = [sorted({_span(rng, components) for _ in range(rng.randint(1, spans))}) for _ in range(peers)]
    if not holes:
        for component in range(components):
            if not any(component in span for mine in held for span in mine):
                held[rng.randrange(peers)].append(Span(component, component + 1))
    return [
        PeerView(
            name(number), (f"/ip4/10.0.0.{number % 250}",), tuple(sorted(mine)), decode=rng.uniform(0.001, 0.02), prefill=rng.uniform(0.0001, 0.002),
            head_weight=rng.uniform(0.2, 4.0), upload=rng.choice([0.0, 2e5, 1e6, 2e7]),
            region=rng.choice(regions), rtts={name(other): rng.uniform(0.001, 0.3) for other in range(peers) if other != number and rng.random() < known},
        )
        for number, mine in enumerate(held)
    ]  # fmt: skip


def _span(rng: random.Random, components: int) -> Span:
    start = rng.randrange(components)
    return Span(start, rng.randint(start + 1, components))


def holders(peers: Sequence[PeerView], component: int) -> list[PeerView]:
    return [view for view in peers if any(component in span for span in view.spans)]


def work(view: PeerView, component: int, request: Request) -> float:
    if component == request.components - 1:
        return (1 + request.output) * view.decode * view.head_weight
    layer = request.prompt * view.prefill + request.output * view.decode
    return 0.05 * layer if component == 0 else layer


def some_load(rng: random.Random, peers: Sequence[PeerView]) -> Load:
    """Most peers have something to do, one that nobody knows as well; some have more than they can."""
    busy = [view.peer for view in peers if rng.random() < 0.8] + ["stranger"]
    shares = {peer: Share(sessions, sessions * rng.randint(0, 4)) for peer in busy for sessions in [rng.choice([1, 2, 5, 40])]}
    return Load(shares, rng.choice([None, 0.02, 0.3, 2.0]), rng.choice([0.0, 1.0, 20.0]))


def waits(view: PeerView, peers: Sequence[PeerView], request: Request, load: Load | None) -> tuple[float, float]:
    """Seconds per round that load adds for each hop entered and for each layer's worth: the formulas of docs/routing.md."""
    if load is None or view.peer not in load.shares:
        return 0.0, 0.0
    sessions, layers = load.shares[view.peer]
    cycle = load.cycle if load.cycle else request.components * median(peer.decode for peer in peers)
    c, w = view.prefill, max(view.decode - view.prefill, 0)
    u = min(0.95, layers * (c * (1 + load.prompt_ratio) + w / 32) / cycle)
    busy, g = min(1.0, layers * (w + c) / cycle), 1 / (1 - u)
    return busy * (layers / sessions) * (w * g + c), w * g + w * g * g * u - w


def sends(view: PeerView, request: Request) -> float:
    """Seconds for all activations that pass to leave a peer."""
    return request.row_bytes * (request.prompt + request.output) / view.upload if view.upload else 0.0


def receives(view: PeerView, request: Request) -> float:
    return sends(view, request) / 4


def expected(owners: Sequence[str], peers: Sequence[PeerView], request: Request, load: Load | None = None, cuts: frozenset[int] = frozenset()) -> float:
    """Seconds for an answer when component c is run by owners[c]; the client's own components cost nothing. A hop begins where the owner changes, and at the
    first component and all `cuts` also where he does not."""
    views, latencies = {view.peer: view for view in peers}, Latencies(peers, request.source, request.source_rtts)
    own = [any(c in span for span in request.own) for c in range(request.components)]
    total = sum(work(views[owner], c, request) for c, owner in enumerate(owners) if not own[c])
    ways = [latencies.between(one, other) for one, other in zip(owners, [*owners[1:], owners[0]], strict=True) if one != other]
    approach = 0.0 if own[0] else 2 * latencies.between(request.source, owners[0])
    waiting = carried = 0.0
    for c, owner in enumerate(owners):
        if not own[c]:
            entry, layer = waits(views[owner], peers, request, load)
            worth = views[owner].head_weight if c == request.components - 1 else 0.05 if c == 0 else 1.0
            waiting += worth * layer + entry * (c == 0 or c in cuts or owner != owners[c - 1])
            carried += receives(views[owner], request) * (c > 0 and (c in cuts or owner != owners[c - 1]))
            carried += sends(views[owner], request) * (c + 1 < len(owners) and (c + 1 in cuts or owner != owners[c + 1]))
    return total + (1 + request.output) * (sum(ways) + waiting) + carried + approach


def covers(peers: Sequence[PeerView], request: Request, fixed: dict[int, str]) -> Iterator[tuple[str, ...]]:
    choices = [[fixed[c]] if c in fixed else [view.peer for view in holders(peers, c)] for c in range(request.components)]
    return itertools.product(*choices)


def brute_force(
    peers: Sequence[PeerView], request: Request, fixed: dict[int, str] | None = None, load: Load | None = None, cuts: frozenset[int] = frozenset()
) -> float:
    """The least cost of all covers; `fixed` says who runs some components."""
    return min((expected(owners, peers, request, load, cuts) for owners in covers(peers, request, fixed or {})), default=inf)


def layer_dp(peers: Sequence[PeerView], request: Request, load: Load | None = None) -> float:
    """The cheapest ring, one plain DP over (component, peer) for each first peer."""
    latencies = Latencies(peers, request.source, request.source_rtts)
    rounds = 1 + request.output
    wait = {view.peer: waits(view, peers, request, load) for view in peers}
    way = {(one.peer, other.peer): rounds * (latencies.between(one.peer, other.peer) + wait[other.peer][0]) for one in peers for other in peers}
    move = {(one.peer, other.peer): way[one.peer, other.peer] + sends(one, request) + receives(other, request) for one in peers for other in peers}
    move |= {(view.peer, view.peer): 0.0 for view in peers}

    def toll(view: PeerView, component: int) -> float:
        worth = view.head_weight if component == request.components - 1 else 0.05 if component == 0 else 1.0
        return work(view, component, request) + rounds * worth * wait[view.peer][1]

    best = inf
    for first in holders(peers, 0):
        cost = {first.peer: 2 * latencies.between(request.source, first.peer) + toll(first, 0)}
        for component in range(1, request.components):
            cost = {
                view.peer: min(past + move[before, view.peer] for before, past in cost.items()) + toll(view, component) for view in holders(peers, component)
            }
        best = min([best, *(past + way[last, first.peer] for last, past in cost.items())])
    return best


def owners(route) -> list[str]:
    return [leg.hop.peer for leg in route.legs for _ in range(leg.hop.start, leg.hop.stop)]
