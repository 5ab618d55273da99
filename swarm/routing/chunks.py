"""The room `routing`: into which chunks a prompt is cut on its way through a route. Pure.

Hops work at several chunks at once, so a prompt of P tokens in chunks of n takes about Σ tᵢ(n) + (P / n − 1) max tᵢ(n), where hop i takes
tᵢ(n) = wᵢ + cᵢ n: the first chunk goes through all hops, and the slowest one sees the others pass. Small chunks keep all hops busy and pay wᵢ, the reading of
weights, more often.
"""

from __future__ import annotations

from swarm.core import on_one_machine
from swarm.routing.route import Route

SIZES = (64, 96, 128, 192, 256)

OVERHEAD = 0.0015
"""Seconds that a chunk costs a hop beside computing: messages, and turns of its loop. So much was measured of tokens (docs/performance.md)."""


def chunk_size(route: Route, prompt: int) -> int:
    """The number of tokens at which `prompt` tokens are soonest through `route`. Hops of one machine take the same cores from one another: large ones there."""
    if on_one_machine(route.hops):
        return SIZES[-1]
    return min(SIZES, key=lambda size: (_seconds(route, prompt, size), size))


def _seconds(route: Route, prompt: int, size: int) -> float:
    times = [max(leg.compute - leg.prefill, 0.0) + OVERHEAD + leg.prefill * min(size, prompt) for leg in route.legs]
    return sum(times) + max(prompt / size - 1, 0.0) * max(times)
