"""The room `routing`, its arithmetic: the cheapest way to run stages in order on nodes that each can run some of them. Knows arrays only, no peers.

Legend: K stages (components in the order in which they are run), P nodes. `work_KP` is what a node takes for a stage, inf where it cannot run it; every stage
has a node that can. `link_PP[p, q]` is what handing over from p to q costs, 0 on the diagonal. A path is one node per stage; where it changes, a hop ends.
A hop ends as well where a path begins or ends, even if the same node goes on there: then it is entered anew, which costs `entry_P` (and no link: what links
cost includes it).

Ties fall to the lowest node number, and a node that can go on is kept before another is taken: callers number nodes by sorted peer id, so that whoever
plans from the same announcements, in whatever order they were read, gets the same route.
"""

from __future__ import annotations

from math import inf

import numpy as np

BLOCK = 8
"""Stages of a sweep whose links are gathered together. Of 4, 8 and 16 the fastest or nearly so for 1000 peers of 80 layers."""

BEAM = 16
"""States of a stage that the first try at a chain goes on from."""

EQUAL = 1 - 1e-12
"""Costs closer than this are sums of the same numbers in another order."""


def cheapest_chain(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, source: int, target: int) -> list[int]:
    """The path whose way from `source`, through all stages, and on to `target` is cheapest. Exact.

    A layer DP (see `sweep`) that keeps the best few states of each stage comes first. What it finds bounds the one that keeps all, which then drops every state
    from which even the fastest nodes for what is left, and the shortest way to `target`, would come too late.
    """
    start_P, home_P = link_PP[source].copy(), link_PP[:, target].copy()
    start_P[source], home_P[target] = entry_P[source], entry_P[target]
    limit = _beam(work_KP, link_PP, start_P, home_P) / EQUAL
    left_K = np.append(np.cumsum(work_KP.min(axis=1)[:0:-1])[::-1], 0.0) + home_P[work_KP[-1] < inf].min()
    after_KP = np.where(work_KP < inf, left_K[:, None], inf)
    values_KP = bounded_sweep(work_KP, link_PP, start_P, after_KP, limit)
    return trace(values_KP, link_PP, int(np.argmin(values_KP[-1] + home_P)))


def _beam(work_KP: np.ndarray, link_PP: np.ndarray, start_P: np.ndarray, home_P: np.ndarray) -> float:
    """The cost of a good path, hardly ever of the best one by more than a little."""
    value_P = start_P + work_KP[0]
    for work_P in work_KP[1:]:
        best = np.argpartition(value_P, BEAM)[:BEAM] if len(value_P) > BEAM else np.arange(len(value_P))
        value_P = work_P + (value_P[best, None] + link_PP[best]).min(axis=0)
    return float((value_P + home_P).min())


def cheapest_ring(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray) -> list[int]:
    """The path whose way through all stages and from the last node back to the first is cheapest. Exact.

    Backward DP once gives `togo`, the cost from any node at any stage to the end, without the way back. `togo[0] + back` bounds the ring through a first
    node from below; first nodes are visited by that bound until it reaches the best ring found. A visit is a forward DP that starts at that node alone and
    drops every state that `togo` proves too dear. (The usual breakpoint DP changes nodes only where a span begins or ends, which is
    exact if links obey the triangle inequality and nodes differ by one factor; measured round trips break the first and the head's weight the second, so
    ours may change anywhere, and bounds do the saving instead.)
    """
    togo_KP = sweep(work_KP[::-1], np.ascontiguousarray(link_PP.T), np.zeros(len(link_PP)))[::-1]
    after_KP = np.subtract(togo_KP, work_KP, out=np.full_like(work_KP, inf), where=togo_KP < inf)
    ends_E = np.flatnonzero(work_KP[-1] < inf)
    back_EP = link_PP[ends_E]
    back_EP[np.arange(len(ends_E)), ends_E] = entry_P[ends_E]
    back_P = back_EP.min(axis=0)
    bound_P = togo_KP[0] + back_P
    order = np.argsort(bound_P, kind="stable")
    best_path = trace(togo_KP[::-1], link_PP.T, int(order[0]))[::-1]
    best = float(togo_KP[0, order[0]] + back_EP[np.searchsorted(ends_E, best_path[-1]), best_path[0]])
    for first in map(int, order):
        if bound_P[first] >= best * EQUAL:
            break
        start_P = np.full(len(link_PP), inf)
        start_P[first] = 0.0
        values_KP = bounded_sweep(work_KP, link_PP, start_P, after_KP, best * EQUAL - back_P[first])
        total_E = values_KP[-1, ends_E] + back_EP[:, first]
        if total_E.min() < best * EQUAL:
            best, best_path = float(total_E.min()), trace(values_KP, link_PP, int(ends_E[np.argmin(total_E)]))
    return best_path


def sweep(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray) -> np.ndarray:
    """Layer DP: `values[k, p]` is the least cost of having run stages 0 … k with stage k on p, after paying `entry` to reach the first node.

    Stages are taken in blocks, so that the links among the nodes of a block are gathered once: picking them out takes longer than the sums.
    """
    able_KP = work_KP < inf
    values_KP = np.full_like(work_KP, inf)
    values_KP[0] = entry_P + work_KP[0]
    for first in range(1, len(work_KP), BLOCK):
        stages = range(first, min(first + BLOCK, len(work_KP)))
        used = np.flatnonzero(able_KP[first - 1 : stages.stop].any(axis=0))
        link_UU = link_PP[used][:, used]
        sums_UU = np.empty_like(link_UU)
        value_U = values_KP[first - 1, used]
        for k in stages:
            np.add(link_UU, value_U[:, None], out=sums_UU)
            value_U = work_KP[k, used] + sums_UU.min(axis=0)
            values_KP[k, used] = value_U
    return values_KP


def bounded_sweep(work_KP: np.ndarray, link_PP: np.ndarray, entry_P: np.ndarray, after_KP: np.ndarray, limit: float) -> np.ndarray:
    """As `sweep`, but states that cannot stay under `limit` become inf. `after` is a lower bound of what is left behind a state."""
    values_KP = np.full_like(work_KP, inf)
    values_KP[0] = entry_P + work_KP[0]
    values_KP[0, values_KP[0] + after_KP[0] >= limit] = inf
    for k in range(1, len(work_KP)):
        alive = np.flatnonzero(values_KP[k - 1] < inf)
        if not len(alive):
            break
        arrival_P = (link_PP[alive] + values_KP[k - 1, alive, None]).min(axis=0)
        value_P = work_KP[k] + arrival_P
        value_P[value_P + after_KP[k] >= limit] = inf
        values_KP[k] = value_P
    return values_KP


def trace(values_KP: np.ndarray, link_PP: np.ndarray, last: int) -> list[int]:
    """Walk a sweep back from its last node: the path that gave that node its value."""
    path = [last]
    for value_P in values_KP[-2::-1]:
        here = path[-1]
        cost_P = value_P + link_PP[:, here]
        nearest = int(np.argmin(cost_P))
        path.append(here if value_P[here] <= cost_P[nearest] else nearest)
    return path[::-1]
