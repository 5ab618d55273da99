"""Into which chunks a prompt is cut."""

from __future__ import annotations

import pytest

from swarm.core import Hop
from swarm.routing.chunks import OVERHEAD, SIZES, chunk_size
from swarm.routing.route import Leg, Route

ROUTES = [
    [(0.01, 0.0008)] * 4,
    [(0.02, 0.00005)] * 3,
    [(0.01, 0.0008), (0.1, 0.001), (0.005, 0.0001)],
    [(0.3, 0.00001)] * 2,
    [(0.01, 0.001)],
]


def route(*speeds: tuple[float, float], addrs: str = "/ip4/10.0.0.{}/tcp/1") -> Route:
    """Hops of one component, each with its seconds for a chunk and for a token of it."""
    hops = [Hop(f"p{i}", i, i + 1, (addrs.format(i),)) for i in range(len(speeds))]
    return Route(len(speeds), tuple(Leg(hop, w + c, 0.0, c, 0.0) for hop, (w, c) in zip(hops, speeds, strict=True)), 0.0)


def simulated(speeds, prompt: int, size: int) -> float:
    """When the last chunk has left the last hop, each of which takes one after the other."""
    free = [0.0] * len(speeds)
    done = 0.0
    for at in range(0, prompt, size):
        done = 0.0
        for i, (w, c) in enumerate(speeds):
            free[i] = done = max(done, free[i]) + w + OVERHEAD + c * min(size, prompt - at)
    return done


@pytest.mark.parametrize("prompt", [64, 300, 1024, 4096])
@pytest.mark.parametrize(
    "speeds", [[(0.01, 0.0008)] * 4, [(0.02, 0.00005)] * 3, [(0.01, 0.0008), (0.1, 0.001), (0.005, 0.0001)], [(0.3, 0.00001)] * 2, [(0.01, 0.001)]]
)
def test_no_size_is_much_sooner_through_the_route(speeds, prompt):
    times = {size: simulated(speeds, prompt, size) for size in SIZES}
    assert times[chunk_size(route(*speeds), prompt)] <= 1.1 * min(times.values())


def test_slow_hops_get_small_chunks_and_those_that_read_long_get_large_ones():
    assert chunk_size(route(*[(0.005, 0.002)] * 6), 1024) == SIZES[0]
    assert chunk_size(route(*[(0.5, 0.00001)] * 3), 2048) == SIZES[-1]


def test_hops_of_one_machine_get_large_ones():
    speeds = [(0.005, 0.002)] * 6
    assert chunk_size(route(*speeds, addrs="/ip4/10.0.0.1/tcp/{}"), 1024) == SIZES[-1]
