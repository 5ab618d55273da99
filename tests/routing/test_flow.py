import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from swarm.core import Span
from swarm.routing import PeerView
from swarm.routing.flow import BATCH, Supplies, allows, component_weights, max_flow, rate, tokens_per_second
from tests.routing.worlds import swarm

randoms = st.randoms(use_true_random=False)


def serve(name: str, start: int, stop: int, **more) -> PeerView:
    return PeerView(name, spans=(Span(start, stop),), **more)


def linear_programme(supplies: Supplies, weight_N: np.ndarray) -> float:
    """The same optimum the slow way: T is greatest, every component gets T × its weight, no peer gives more than it has."""
    rows = list(zip(supplies.start_P, supplies.stop_P, supplies.rate_P, strict=True))
    shares = [(peer, component) for peer, (start, stop, _) in enumerate(rows) for component in range(start, stop)]
    given_by, reaching = np.zeros((len(rows), len(shares) + 1)), np.zeros((len(weight_N), len(shares) + 1))
    for column, (peer, component) in enumerate(shares):
        given_by[peer, column] = reaching[component, column] = 1
    reaching[:, -1] = -weight_N
    goal = [0.0] * len(shares) + [-1.0]
    return linprog(goal, A_ub=given_by, b_ub=supplies.rate_P, A_eq=reaching, b_eq=np.zeros(len(weight_N))).x[-1]


def some_supplies(rng: random.Random, components: int, peers: int) -> Supplies:
    starts = [rng.randrange(components) for _ in range(peers)]
    stops = [rng.randint(start + 1, components) for start in starts]
    return Supplies(np.arange(peers), np.array(starts), np.array(stops), np.array([rng.uniform(0.1, 5) for _ in starts]))


@given(randoms, st.integers(2, 9), st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_it_is_the_optimum_of_the_linear_programme(rng: random.Random, components: int, peers: int):
    supplies = some_supplies(rng, components, peers)
    weight_N = np.array([rng.uniform(0.05, 2) for _ in range(components)])
    flow = max_flow(supplies, weight_N)
    assert flow == pytest.approx(linear_programme(supplies, weight_N), rel=1e-7, abs=1e-9)
    assert allows(supplies, weight_N, flow * (1 - 1e-6)) and not allows(supplies, weight_N, flow * (1 + 1e-6) + 1e-6)


def test_one_peer_makes_what_it_has_over_what_a_token_takes():
    view = serve("a", 0, 4, decode=0.033, prefill=0.001, head_weight=2.0)
    assert rate(view) == pytest.approx(1 / (0.032 / BATCH + 0.001))
    assert tokens_per_second([view], 4) == pytest.approx(rate(view) / (0.05 + 1 + 1 + 2))


def test_the_middle_of_three_helps_whichever_neighbour_is_slow():
    slow, fast, both = serve("a", 0, 3, decode=0.02, prefill=0.02), serve("b", 3, 6, decode=0.01, prefill=0.01), serve("c", 0, 6, decode=0.02, prefill=0.02)
    assert tokens_per_second([slow, fast, both], 6) == pytest.approx(200 / 5.05)  # 50 + 100 + 50 layers/s, and no half asks for more than it can get
    assert tokens_per_second([slow, fast], 6) == pytest.approx(50 / 2.05)


@given(randoms, st.integers(1, 8), st.integers(3, 9))
@settings(max_examples=100, deadline=None)
def test_a_hole_gives_nothing_and_a_peer_more_never_takes_anything(rng: random.Random, peers: int, components: int):
    views = [replace(view, head_weight=1.0) for view in swarm(rng, peers, components, holes=True)]
    covered = {component for view in views for span in view.spans for component in range(span.start, span.stop)}
    flow = tokens_per_second(views, components)
    assert (flow > 0) == (covered == set(range(components)))
    more = replace(swarm(rng, 1, components)[0], peer="zz", head_weight=1.0)
    assert tokens_per_second([*views, more], components) >= flow * (1 - 1e-9)
    assert tokens_per_second(rng.sample(views, len(views)), components) == pytest.approx(flow)


@given(randoms, st.integers(1, 8), st.integers(3, 9))
@settings(max_examples=60, deadline=None)
def test_twice_as_fast_is_twice_as_much(rng: random.Random, peers: int, components: int):
    views = swarm(rng, peers, components)
    twice = [replace(view, decode=view.decode / 2, prefill=view.prefill / 2) for view in views]
    assert tokens_per_second(twice, components) == pytest.approx(2 * tokens_per_second(views, components))


def test_several_spans_share_a_peers_time_by_weight():
    ends = PeerView("a", spans=(Span(0, 1), Span(5, 6)), decode=0.01, prefill=0.01)
    supplies = Supplies.of([ends], component_weights([ends], 6))
    assert list(supplies.rate_P) == pytest.approx([100 * 0.05 / 1.05, 100 / 1.05])
    assert tokens_per_second([ends, serve("b", 1, 5, decode=1e-5, prefill=1e-5)], 6) == pytest.approx(100 / 1.05)


def test_what_cannot_be_is_not_believed():
    assert np.isfinite(tokens_per_second([serve("a", 0, 4, decode=0.0, prefill=-1.0)], 4))
    assert rate(serve("a", 0, 4, decode=0.01, prefill=5.0)) == pytest.approx(100)
    assert tokens_per_second([serve("a", 0, 99)], 4) == tokens_per_second([serve("a", 0, 4)], 4) > 0
    assert tokens_per_second([], 4) == tokens_per_second([serve("a", 7, 9)], 4) == 0
