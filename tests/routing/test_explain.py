"""Why a route was chosen: what each hop costs, and what the best route without its peer would lose."""

from __future__ import annotations

import random

import pytest

from swarm.core import Span
from swarm.routing import PeerView, Request, plan, repair
from swarm.routing.explain import explain
from swarm.routing.load import Load, Share
from tests.routing.worlds import brute_force, some_load, swarm

PEERS = [
    PeerView("12D3KooWaaaaaaaa", spans=(Span(0, 3),), decode=0.010, prefill=0.001, rtts={"12D3KooWbbbbbbbb": 0.040}),
    PeerView("12D3KooWbbbbbbbb", spans=(Span(3, 6),), decode=0.020, prefill=0.002, head_weight=2.0),
    PeerView("12D3KooWcccccccc", spans=(Span(3, 6),), decode=0.025, prefill=0.002, head_weight=2.0),
]


def test_lines_for_people():
    request = Request(6, prompt=10, output=100)
    assert explain(PEERS, request, plan(PEERS, request)).lines() == [
        "hop 0  12D3KooW…aaaaaa  layers 0:2     20.50 ms compute      0.00 ms queue     20.00 ms to the next hop",
        "       no way round it: others do not serve all that it runs here",
        "hop 1  12D3KooW…bbbbbb  layers 2:4     80.00 ms compute      0.00 ms queue     20.00 ms to the first hop",
        "       without it 2.010 s more for 100 tokens, 14.1 % of its time: 12D3KooW…cccccc 2:4",
        "ring of 2: 140.50 ms per token predicted, 7.1 tokens/s",
    ]


def test_a_route_that_was_better_once_says_so():
    request = Request(6, prompt=10, output=100)
    dear = repair(PEERS, request, plan(PEERS, request), {"12D3KooWbbbbbbbb"})
    assert "better by now, by 2.010 s for 100 tokens, 12.4 % of its time: 12D3KooW…bbbbbb 2:4" in explain(PEERS, request, dear).lines()[3]


def test_lines_under_load():
    request, load = Request(6, prompt=10, output=100), Load({"12D3KooWbbbbbbbb": Share(1, 3)}, cycle=1.0, prompt_ratio=0.0)
    explanation = explain(PEERS, request, plan(PEERS, request, load), load)
    queue, harm = explanation.route.queue[1], explanation.route.legs[1].harm
    assert queue > 0 and harm > 0 and explanation.route.queue[0] == 0
    assert f"{1000 * queue:8.2f} ms queue" in explanation.lines()[2]
    assert explanation.lines()[-1].endswith(f" tokens/s; others wait {1000 * harm:.2f} ms for each")
    assert explanation.reasons[1].loss == pytest.approx(100 * 2 * 0.005 + 101 * 2 * 0.005 - 101 * (queue + harm))


@pytest.mark.parametrize("seed", range(20))
def test_the_alternative_is_the_best_without_that_peer(seed):
    rng = random.Random(seed)
    peers, request = swarm(rng, 6, 5), Request(5, prompt=30, output=20)
    load = rng.choice([None, some_load(rng, peers)])
    explanation = explain(peers, request, plan(peers, request, load), load)
    for reason in explanation.reasons:
        # the median round trip, which stands for those nobody measured, is that of all peers: so those left out stay on the map
        left = [
            view if view.peer != reason.leg.hop.peer else PeerView(view.peer, spans=(), decode=view.decode, rtts=view.rtts, region=view.region)
            for view in peers
        ]
        best = brute_force(left, request, load=load)
        if reason.alternative is None:
            assert best == float("inf") and reason.loss is None
        else:
            assert reason.alternative.cost == pytest.approx(best) and reason.loss == pytest.approx(best - explanation.route.cost)
            assert reason.loss >= 0 and reason.leg.hop.peer not in {hop.peer for hop in reason.alternative.hops}


def test_a_route_is_priced_by_what_is_known_now():
    request, load = Request(6), Load({"12D3KooWbbbbbbbb": Share(9, 27)}, cycle=0.3)
    route = plan(PEERS, request)
    explanation = explain(PEERS, request, route, load)
    assert explanation.route.hops == route.hops and explanation.route.cost > route.cost
    assert explanation.reasons[1].loss == pytest.approx(plan(PEERS, request, load).cost - explanation.route.cost) and explanation.reasons[1].loss < 0
    assert explain(PEERS, request, repair(PEERS, request, route, set()), None).route == route


def test_the_clients_own_ends_are_its_own():
    request = Request(6, source="me", own=(Span(0, 1),))
    explanation = explain(PEERS, request, plan(PEERS, request))
    assert explanation.reasons[0].own and explanation.lines()[1] == "       the client's own"
    assert not explanation.reasons[1].own and explanation.reasons[1].alternative is None
