"""The room `routing`, its arithmetic: the cheapest way to run stages in order on nodes that each can run some of them. Knows arrays only, no peers.

Legend: K stages (components in the order in which they are run), P nodes. `work_KP` is what a node takes for a stage, inf where it cannot run it; every stage
has a node that can. `link_PP[p, q]` is how far apart two nodes are, both ways, 0 on the diagonal; `entry_P` what it costs to begin a hop at a node. A path is
one node per stage. A hop begins where it changes, and where a path or a ring begins, even if the same node comes before.

Ties fall to the lowest node number, and a node that can go on is kept before another is taken: callers number nodes by sorted peer id, so that whoever
plans from the same announcements, in whatever order they were read, gets the same route.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np

BLOCK = 8
"""Stages of a sweep whose links are gathered together. Of 4, 8 and 16 the fastest or nearly so for 1000 peers of 80 layers."""

BEAM = 16
"""States of a stage that the first try at a chain goes on from."""

MANY = 200
"""Nodes from which on a sweep in 32 bits, which is twice as fast, saves more than the looser bounds it gives take."""

VISITS = 10
"""First nodes that may be left after a sweep in 32 bits and two visits. If there are more, many rings cost nearly the same, and a sweep in 64 bits tells them
apart in less time than visits do."""

ROUGHLY = 1 - 1e-4
"""What is summed in 32 bits, less this, is surely below the true sum: each of some hundred stages rounds three times by 6e-8."""

EQUAL = 1 - 1e-12
"""Costs closer than this are sums of the same numbers in another order."""


def cheapest_chain(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, source: int, target: int, seam: int = 0) -> list[int]:
    """The path whose way from `source`, through all stages, and on to `target` is cheapest. Exact. A hop begins at stage `seam` too, whoever came before.

    A layer DP (see `sweep`) that keeps the best few states of each stage comes first. What it finds bounds the one that keeps all, which then drops every state
    from which even the fastest nodes for what is left, and the shortest way to `target`, would come too late.
    """
    start_P, home_P = link_PP[source] + entry_P, link_PP[target]
    limit = _beam(work_KP, link_PP, entry_P, start_P, home_P, seam) / EQUAL
    left_K = np.append(np.cumsum(work_KP.min(axis=1)[:0:-1])[::-1], 0.0) + home_P[work_KP[-1] < inf].min()
    after_KP = np.where(work_KP < inf, left_K[:, None], inf)
    values_KP = bounded_sweep(work_KP, link_PP, entry_P, start_P, after_KP, limit, seam)
    return trace(values_KP, link_PP, entry_P, int(np.argmin(values_KP[-1] + home_P)), seam)


def cheapest_ring(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray) -> list[int]:
    """The path whose way through all stages and from the last node back to the first is cheapest. Exact.

    Backward DP once gives `togo`, about the cost from any node at any stage to the end, without the way back. `togo[0] + back` bounds the ring through a first
    node from below; first nodes are visited by that bound until it reaches the best ring found. A visit is a forward DP that starts at that node alone and
    drops every state that `togo` proves too dear. (The usual breakpoint DP changes nodes only where a span begins or ends, which is
    exact if links obey the triangle inequality and nodes differ by one factor; measured round trips break the first and the head's weight the second, so
    ours may change anywhere, and bounds do the saving instead.)
    """
    back_P = link_PP[work_KP[-1] < inf].min(axis=0) + entry_P
    best, best_path = inf, [0] * len(work_KP)
    for bits, below in [(np.float32, ROUGHLY)] * (len(link_PP) > MANY) + [(np.float64, 1.0)]:
        togo_KP = sweep(work_KP.astype(bits), link_PP.astype(bits), entry_P.astype(bits))
        after_KP = np.subtract(togo_KP * below, work_KP, out=np.full_like(work_KP, inf), where=work_KP < inf)
        bound_P = togo_KP[0] * below + back_P
        order = np.argsort(bound_P, kind="stable")
        path = _follow(togo_KP, link_PP, entry_P, int(order[0]))
        if (cost := _ring_cost(path, work_KP, link_PP, entry_P)) < best * EQUAL:
            best, best_path = cost, path
        for visits, first in enumerate(map(int, order)):
            if bound_P[first] >= best * EQUAL:
                return best_path
            if visits == 2 and bits is np.float32 and np.count_nonzero(bound_P < best * EQUAL) > VISITS:
                break
            cost, path = _visit(first, work_KP, link_PP, entry_P, after_KP, best * EQUAL - back_P[first])
            if cost < best * EQUAL:
                best, best_path = cost, path
    return best_path


def _visit(first: int, work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, after_KP: np.ndarray, limit: float) -> tuple[float, list[int]]:
    """The cheapest ring through a first node, if it stays under `limit` before its way back."""
    start_P = np.full(len(link_PP), inf)
    start_P[first] = 0.0
    values_KP = bounded_sweep(work_KP, link_PP, entry_P, start_P, after_KP, limit)
    total_P = values_KP[-1] + link_PP[first] + entry_P[first]
    last = int(np.argmin(total_P))
    return (float(total_P[last]), trace(values_KP, link_PP, entry_P, last)) if total_P[last] < inf else (inf, [])


def _beam(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, start_P: np.ndarray, home_P: np.ndarray, seam: int = 0) -> float:
    """The cost of a good path, hardly ever of the best one by more than a little."""
    value_P = start_P + work_KP[0]
    for k in range(1, len(work_KP)):
        best = np.argpartition(value_P, BEAM)[:BEAM] if len(value_P) > BEAM else np.arange(len(value_P))
        arrival_P = (value_P[best, None] + link_PP[best]).min(axis=0) + entry_P
        if k != seam:
            np.minimum(arrival_P, value_P, out=arrival_P)
        value_P = work_KP[k] + arrival_P
    return float((value_P + home_P).min())


def _follow(togo_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, first: int) -> list[int]:
    """The way to the end that a backward sweep found from a first node."""
    path = [first]
    for togo_P in togo_KP[1:]:
        here = path[-1]
        cost_P = link_PP[here] + (entry_P + togo_P)
        nearest = int(np.argmin(cost_P))
        path.append(here if togo_P[here] <= cost_P[nearest] else nearest)
    return path


def _ring_cost(path: list[int], work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray) -> float:
    moves = [(one, other) for one, other in pairwise(path) if one != other] + [(path[-1], path[0])]
    return float(work_KP[np.arange(len(path)), path].sum()) + sum(float(link_PP[move] + entry_P[move[1]]) for move in moves)


def sweep(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray) -> np.ndarray:
    """Layer DP, backwards: `togo[k, p]` is the least cost of running stages k … last, stage k on p.

    Stages are taken in blocks, so that the links among the nodes of a block are gathered once: picking them out takes longer than the sums.
    """
    able_KP = work_KP < inf
    togo_KP = np.full_like(work_KP, inf)
    togo_KP[-1] = work_KP[-1]
    for after in range(len(work_KP) - 1, 0, -BLOCK):
        stages = range(after - 1, max(after - 1 - BLOCK, -1), -1)
        used = np.flatnonzero(able_KP[stages[-1] : after + 1].any(axis=0))
        link_UU, entry_U, value_U = link_PP[used][:, used], entry_P[used], togo_KP[after, used]
        sums_UU = np.empty_like(link_UU)
        for k in stages:
            np.add(link_UU, (value_U + entry_U)[:, None], out=sums_UU)
            value_U = work_KP[k, used] + np.minimum(value_U, sums_UU.min(axis=0))
            togo_KP[k, used] = value_U
    return togo_KP


def bounded_sweep(
    work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, start_P: np.ndarray, after_KP: np.ndarray, limit: float, seam: int = 0
) -> np.ndarray:
    """Layer DP, forwards: `values[k, p]` is the least cost of having run stages 0 … k with stage k on p, after paying `start` to reach the first node. States
    that cannot stay under `limit` become inf; `after` is a lower bound of what is left behind a state."""
    values_KP = np.full_like(work_KP, inf)
    values_KP[0] = start_P + work_KP[0]
    values_KP[0, values_KP[0] + after_KP[0] >= limit] = inf
    for k in range(1, len(work_KP)):
        alive = np.flatnonzero(values_KP[k - 1] < inf)
        if not len(alive):
            break
        arrival_P = (link_PP[alive] + values_KP[k - 1, alive, None]).min(axis=0) + entry_P
        if k != seam:
            np.minimum(arrival_P, values_KP[k - 1], out=arrival_P)
        value_P = work_KP[k] + arrival_P
        value_P[value_P + after_KP[k] >= limit] = inf
        values_KP[k] = value_P
    return values_KP


def trace(values_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, last: int, seam: int = 0) -> list[int]:
    """Walk a forward sweep back from its last node: the path that gave that node its value."""
    path = [last]
    for k in range(len(values_KP) - 1, 0, -1):
        here, value_P = path[-1], values_KP[k - 1]
        cost_P = value_P + link_PP[here]
        nearest = int(np.argmin(cost_P))
        stays = value_P[here] <= cost_P[nearest] + (entry_P[here] if k != seam else 0.0)
        path.append(here if stays else nearest)
    return path[::-1]
