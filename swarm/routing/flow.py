"""The room `routing`, its bound: how many tokens/s a swarm could make in all, whoever routes them. Pure arithmetic on announcements; it routes nothing.

Legend: N components, P supplies (a span and what its peer computes there), C swarms that differ in one supply, B boundaries between components that matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swarm.core import Span
from swarm.routing.candidates import EMBED_WEIGHT
from swarm.routing.table import FASTEST, PeerView

BATCH = 32
"""Sessions of a full decoding batch, over which reading a layer's weights is shared (docs/routing.md)."""

CLOSE = 1e-9
"""Relative difference of two flows below which they are equal: sums of the same numbers in another order."""


def rate(view: PeerView) -> float:
    """Layers/s for tokens of full batches: 1 / (w / BATCH + c), where a step of one token takes w + c (`decode`) and c is a prompt token's (`prefill`)."""
    decode = max(view.decode, FASTEST)
    compute = min(max(view.prefill, 0.0), decode)
    return 1 / ((decode - compute) / BATCH + compute)


def component_weights(peers: Sequence[PeerView], components: int) -> np.ndarray:
    """What each component takes, in layers' worth, float (N,). The head's is the median of what is announced, 1 if nothing is."""
    weight_N = np.ones(components)
    weight_N[0] = EMBED_WEIGHT
    weight_N[-1] = float(np.median([view.head_weight for view in peers])) if peers else 1.0
    return weight_N


@dataclass(frozen=True, slots=True)
class Supplies:
    """Who computes where: spans [start, stop) and layers/s of each. A peer of several spans is several supplies; `owner` is its place among the peers."""

    owner_P: np.ndarray
    start_P: np.ndarray
    stop_P: np.ndarray
    rate_P: np.ndarray

    @classmethod
    def of(cls, peers: Sequence[PeerView], weight_N: np.ndarray) -> Supplies:
        """A peer of several spans is taken to give each a share of its time by weight, which understates what it could do. Spans end at the model's end."""
        rows = [(owner, *share) for owner, view in enumerate(peers) for share in _shares(view, weight_N)]
        owner, start, stop, rates = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(np.array(owner, int), np.array(start, int), np.array(stop, int), np.array(rates, float))

    def plus(self, span: Span, rate: float) -> Supplies:
        """With one peer more."""
        return Supplies(
            np.append(self.owner_P, self.owner_P.max(initial=-1) + 1),
            np.append(self.start_P, span.start),
            np.append(self.stop_P, span.stop),
            np.append(self.rate_P, rate),
        )


def _shares(view: PeerView, weight_N: np.ndarray) -> list[tuple[int, int, float]]:
    spans = [Span(span.start, min(span.stop, len(weight_N))) for span in view.spans if span.start < len(weight_N)]
    weights = [float(weight_N[span.start : span.stop].sum()) for span in spans]
    return [(span.start, span.stop, rate(view) * weight / sum(weights)) for span, weight in zip(spans, weights, strict=True)]


def tokens_per_second(peers: Sequence[PeerView], components: int) -> float:
    """The most that these peers could make in all if every hop ran full batches and nothing else took time; 0 if some component has nobody."""
    weight_N = component_weights(peers, components)
    return max_flow(Supplies.of(peers, weight_N), weight_N)


def max_flow(supplies: Supplies, weight_N: np.ndarray) -> float:
    """The greatest T at which every component can be given T × its weight by those who hold it. Exact.

    By Hall's condition T is possible if no set S of components asks for more than the peers that touch it have: T × w(S) ≤ all − Σ inside(gap), where gaps are
    the maximal runs outside S and inside(gap) is what those have whose span lies within one. So T = min over S of that quotient; Dinkelbach's method finds it:
    ask for T, and while some S cannot give it, ask for what that S can.
    """
    if (hosts(supplies, len(weight_N)) == 0).any():
        return 0.0
    inside_BB, weight_B = _condensed(supplies, weight_N)
    flow = float(inside_BB[0, -1] / weight_B.sum())
    while True:
        slack, weight = _tightest(inside_BB, weight_B, flow)
        if slack >= -CLOSE * inside_BB[0, -1]:
            return flow
        flow += slack / weight


def allows(supplies: Supplies, weight_N: np.ndarray, flow: float) -> bool:
    """Whether `max_flow` is at least `flow`: one step of it."""
    inside_BB, weight_B = _condensed(supplies, weight_N)
    return _tightest(inside_BB, weight_B, flow)[0] >= -CLOSE * float(inside_BB[0, -1])


def hosts(supplies: Supplies, components: int) -> np.ndarray:
    """How many hold each component, int (N,)."""
    begins, ends = (np.bincount(at_P, minlength=components + 1) for at_P in (supplies.start_P, supplies.stop_P))
    return (begins - ends).cumsum()[:components]


def _condensed(supplies: Supplies, weight_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """inside[i, j], the supply of spans within boundaries [i, j), float (B, B); and the weight between one boundary and the next, float (B − 1,).

    Between two boundaries the same peers hold everything, so one component can stand for all.
    """
    bounds_B = np.unique(np.concatenate([[0, len(weight_N)], supplies.start_P, supplies.stop_P]))
    inside_BB = np.zeros((len(bounds_B), len(bounds_B)))
    np.add.at(inside_BB, (np.searchsorted(bounds_B, supplies.start_P), np.searchsorted(bounds_B, supplies.stop_P)), supplies.rate_P)
    return inside_BB[::-1].cumsum(axis=0)[::-1].cumsum(axis=1), np.add.reduceat(weight_N, bounds_B[:-1])


def _tightest(inside_BB: np.ndarray, weight_B: np.ndarray, flow: float) -> tuple[float, float]:
    """The set S that leaves least of its supply when `flow` passes: what is left (below 0: too much is asked), and its weight.

    Because supplies are intervals, a DP over boundaries finds it: f(j) = min(f(j−1) − flow × w(j−1), min over i<j of f(i) − inside(i, j)), and f(last) + all
    is what is left. O(B²), whatever the number of peers.
    """
    least_B, taken = np.zeros(len(inside_BB)), [0.0]
    ending_BB = np.ascontiguousarray(inside_BB.T)
    for j in range(1, len(inside_BB)):
        outside_J = least_B[:j] - ending_BB[j, :j]
        i = int(outside_J.argmin())
        within = least_B[j - 1] - flow * weight_B[j - 1]
        inside = within < outside_J[i]
        least_B[j] = within if inside else outside_J[i]
        taken.append(taken[j - 1] + weight_B[j - 1] if inside else taken[i])
    return float(least_B[-1] + inside_BB[0, -1]), float(taken[-1])
