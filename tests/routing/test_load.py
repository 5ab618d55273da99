"""The ledger of a coordinator, and routes that go by it. What load costs is held against `tests/routing/worlds.py` in `test_plan.py`."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from bench.load import bound, measure, world
from swarm.core import Hop, Span
from swarm.routing import PeerView, Request, plan, repair
from swarm.routing.atlas import Atlas
from swarm.routing.load import LEASE, WEIGHT_OF_NEWS, Ledger, Load, Share
from swarm.routing.route import Leg, Route
from tests.routing.worlds import name, some_load, swarm


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def route_of(*hops: Hop, seconds: float = 0.1) -> Route:
    return Route(hops[-1].stop, tuple(Leg(hop, seconds, 0.0, 0.0, 0.0) for hop in hops), 1.0)


ROUTE = route_of(Hop("a", 0, 4), Hop("b", 4, 6))
REQUEST = Request(6, prompt=30, output=10)


# --- the ledger -------------------------------------------------------------------------------------------------------------------------------------------


def test_placed_sessions_count_until_they_are_released():
    ledger = Ledger()
    ledger.place(key(1), ROUTE, REQUEST, 0.0)
    ledger.place(key(2), route_of(Hop("b", 0, 6)), replace(REQUEST, prompt=10), 1.0)
    assert ledger.load(1.0).shares == {"a": Share(1, 3), "b": Share(2, 7)}
    assert 1.0 < ledger.load(1.0).prompt_ratio < 2.0
    ledger.release(key(1), 2.0)
    ledger.release(key(1), 2.0)
    assert ledger.load(2.0).shares == {"b": Share(1, 5)} and len(ledger) == 1


def test_a_repaired_session_counts_where_it_is_now():
    ledger = Ledger()
    ledger.place(key(1), ROUTE, REQUEST, 0.0)
    ledger.place(key(1), route_of(Hop("a", 0, 4), Hop("c", 4, 6)), REQUEST, 5.0)
    assert ledger.load(5.0).shares == {"a": Share(1, 3), "c": Share(1, 2)}


def test_a_session_that_nobody_renews_expires():
    ledger = Ledger()
    ledger.place(key(1), ROUTE, REQUEST, 0.0)
    ledger.place(key(2), ROUTE, REQUEST, 1.0)
    assert ledger.renew(key(1), 20.0)
    assert len(ledger.load(LEASE + 0.9).shares) == 2 and len(ledger) == 2
    assert ledger.load(LEASE + 1.0).shares["a"] == Share(1, 3)
    assert not ledger.renew(key(2), LEASE + 1.0)
    assert ledger.load(20.0 + LEASE).shares == {}


def test_a_peer_entered_twice_serves_one_session_and_own_ends_are_nobodys_load():
    ledger = Ledger()
    request = Request(6, source="me", own=(Span(0, 1), Span(5, 6)))
    ledger.place(key(1), route_of(Hop("me", 0, 1), Hop("a", 1, 2), Hop("b", 2, 3), Hop("a", 3, 5), Hop("me", 5, 6)), request, 0.0)
    assert ledger.load(0.0).shares == {"a": Share(1, 3), "b": Share(1, 1)}


def test_what_a_peer_announces_adds_the_sessions_of_others_and_none_twice():
    ledger = Ledger()
    view = PeerView("a", spans=(Span(0, 4),), sessions=3)
    ledger.place(key(1), ROUTE, REQUEST, 0.0)
    ledger.news(view)
    assert ledger.load(0.0).shares["a"] == Share(3, 9), "two of others, taken to be like ours"
    ledger.place(key(2), ROUTE, REQUEST, 1.0)
    assert ledger.load(1.0).shares["a"] == Share(4, 12), "placed after the news, so not in it"
    ledger.news(replace(view, sessions=4))
    assert ledger.load(1.0).shares["a"] == Share(4, 12)
    ledger.news(replace(view, sessions=1))
    assert ledger.load(1.0).shares["a"] == Share(2, 6), "ours count, even if the peer does not know of them yet"


def test_of_strangers_sessions_all_that_the_peer_holds_is_expected_until_it_is_gone():
    ledger = Ledger()
    ledger.news(PeerView("a", spans=(Span(0, 4), Span(6, 7)), sessions=2))
    ledger.news(PeerView("b", spans=(Span(0, 4),)))
    assert ledger.load(0.0).shares == {"a": Share(2, 10)}
    ledger.gone("a")
    ledger.gone("never there")
    assert ledger.load(0.0).shares == {}


def test_a_session_to_be_mended_does_not_wait_for_itself():
    ledger = Ledger()
    ledger.place(key(1), ROUTE, REQUEST, 0.0)
    ledger.place(key(2), ROUTE, REQUEST, 0.0)
    assert ledger.load(0.0, but=key(1)).shares == {"a": Share(1, 3), "b": Share(1, 2)}
    assert ledger.load(0.0, but=key(9)).shares == ledger.load(0.0).shares == {"a": Share(2, 6), "b": Share(2, 4)}


def test_the_cycle_is_predicted_until_it_is_reported():
    ledger = Ledger()
    assert ledger.load(0.0).cycle is None
    ledger.place(key(1), ROUTE, REQUEST, 0.0)
    ledger.place(key(2), route_of(Hop("a", 0, 6), seconds=0.4), REQUEST, 0.0)
    assert ledger.load(0.0).cycle == pytest.approx(0.2 + WEIGHT_OF_NEWS * 0.2)
    ledger.release(key(2), 1.0)
    assert ledger.load(1.0).cycle == pytest.approx(0.2 + WEIGHT_OF_NEWS * 0.2)
    ledger.renew(key(1), 8.0, tokens=4)
    assert ledger.load(8.0).cycle == pytest.approx(2.0), "from its placing on, the prompt included"
    ledger.renew(key(1), 9.0, tokens=4)
    ledger.release(key(1), 18.0, tokens=20)
    share = 1 - WEIGHT_OF_NEWS
    assert ledger.load(18.0).cycle == pytest.approx((8 * share + 10) / (4 * share + 16)), "then what came since, long answers counting for more"


@pytest.mark.parametrize("lie", [dict(prompt=2**53, output=1), dict(prompt=2**53, output=2**53), dict(prompt=1, output=2**53)])
def test_one_prompt_that_cannot_be_does_not_make_all_peers_look_busy_nor_idle(lie):
    ledger = Ledger()
    for number in range(200):
        ledger.place(key(number), ROUTE, Request(6, prompt=600, output=200), 0.0)
    assert ledger.load(0.0).prompt_ratio == pytest.approx(3.0, rel=0.01)
    ledger.place(key(200), ROUTE, Request(6, **lie), 0.0)
    assert 2.4 < ledger.load(0.0).prompt_ratio < 3.7
    first = Ledger()
    first.place(key(0), ROUTE, Request(6, **lie), 0.0)
    assert 0.8 < first.load(0.0).prompt_ratio < 1.25


def test_one_report_that_cannot_be_does_not_make_all_peers_look_busy():
    ledger, honest = Ledger(), Ledger()
    for each in (ledger, honest):
        each.place(key(1), ROUTE, REQUEST, 0.0)
        each.place(key(2), ROUTE, REQUEST, 0.0)
        for seconds in range(1, 101):
            each.renew(key(1), float(seconds), tokens=5 * seconds)
            each.renew(key(2), float(seconds), tokens=5 * seconds)
    ledger.renew(key(2), 101.0, tokens=2**53)
    assert honest.load(101.0).cycle == pytest.approx(0.2) and 0.15 < ledger.load(101.0).cycle < 0.2


@pytest.mark.parametrize("seed", range(20))
def test_the_ledger_is_what_counting_anew_would_say(seed):
    rng = random.Random(seed)
    ledger, now, placed, others = Ledger(), 0.0, {}, {}
    for _ in range(120):
        now += rng.choice([0.0, 1.0, 12.0])
        placed = {session: entry for session, entry in placed.items() if entry[1] > now}
        ledger.expire(now)
        session, peer = key(rng.randrange(8)), name(rng.randrange(4))
        match rng.randrange(5):
            case 0 | 1:
                cut = rng.randrange(1, 9)
                hops = [Hop(name(rng.randrange(4)), 0, cut), Hop(name(rng.randrange(4)), cut, 9)]
                placed[session] = (hops, now + LEASE)
                ledger.place(session, route_of(*hops), REQUEST, now)
            case 2:
                assert ledger.renew(session, now) == (session in placed)
                if session in placed:
                    placed[session] = (placed[session][0], now + LEASE)
            case 3:
                placed.pop(session, None)
                ledger.release(session, now)
            case 4:
                sessions = rng.randrange(6)
                ours = sum(any(hop.peer == peer for hop in hops) for hops, _ in placed.values())
                others[peer] = max(sessions - ours, 0)
                ledger.news(PeerView(peer, spans=(Span(0, 9),), sessions=sessions))
        expected = {}
        for peer in map(name, range(4)):
            mine = [layers for hops, _ in placed.values() if (layers := [hop.stop - max(hop.start, 1) for hop in hops if hop.peer == peer])]
            each = round(sum(map(sum, mine)) / len(mine)) if mine else 9
            if count := len(mine) + others.get(peer, 0):
                expected[peer] = Share(count, sum(map(sum, mine)) + others.get(peer, 0) * each)
        assert ledger.load(now).shares == expected and len(ledger) == len(placed)


# --- what load costs --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_peers_with_nothing_to_do_cost_what_they_cost_without_load(seed):
    rng = random.Random(seed)
    peers, request = swarm(rng, 8, 6), Request(6, prompt=30)
    assert plan(peers, request, Load()) == plan(peers, request) == plan(peers, request, Load({"stranger": Share(9, 99)}, 0.01))


def test_more_work_never_waits_less():
    load, layers = Load(cycle=0.5, prompt_ratio=3.0), np.arange(0, 500, 5.0)
    delays = load.delays(0.01, 0.001, layers / 5, layers, 0.5)
    for costs in (delays.queue, delays.stretch, delays.harm):
        assert costs[0] == 0 and (np.diff(costs) >= 0).all() and np.isfinite(costs).all()
    assert delays.queue[-1] > 100 * delays.queue[1]


def test_a_cycle_takes_time():
    with pytest.raises(ValueError, match="takes time"):
        Load(cycle=0.0)
    free = [PeerView("a", spans=(Span(0, 4),), decode=0.0, prefill=0.0)]
    assert plan(free, Request(4), Load({"a": Share(1, 4)})).cost == pytest.approx(0.04)


def test_sessions_spread_over_equal_peers_and_weigh_speed():
    """Of five sessions one goes to each of the equals before any gets a second; the slow one is left alone until waiting costs more."""
    peers = [PeerView(peer, spans=(Span(0, 4),), decode=0.010, prefill=0.0001) for peer in ("a", "b")]
    peers.append(PeerView("slow", spans=(Span(0, 4),), decode=0.016, prefill=0.0001))
    atlas, ledger, chosen = Atlas(peers), Ledger(), []
    for number in range(9):
        route = plan(atlas, Request(4), ledger.load(0.0))
        ledger.place(key(number), route, Request(4), 0.0)
        chosen.append(route.hops[0].peer)
    assert chosen[:2] == ["a", "b"] and sorted(set(chosen)) == ["a", "b", "slow"]
    assert chosen.count("slow") < chosen.count("b") <= chosen.count("a") <= chosen.count("b") + 1


def test_a_route_says_what_it_waits_and_what_others_wait_for_it():
    peers = [PeerView("a", spans=(Span(0, 4),), decode=0.012, prefill=0.002)]
    load = Load({"a": Share(2, 8)}, cycle=0.2, prompt_ratio=4.0)
    route = plan(peers, Request(4, prompt=5, output=9), load)
    used, busy = 8 * (0.002 * 5 + 0.010 / 32) / 0.2, 8 * 0.012 / 0.2
    slower, worth = 1 / (1 - used), 0.05 + 2 + 1
    residual = busy * 4 * (0.010 * slower + 0.002) / 2
    assert route.queue == pytest.approx([residual + worth * 0.010 * (slower - 1)])
    assert route.legs[0].harm == pytest.approx(residual + worth * 0.010 * slower**2 * used)
    assert route.compute == pytest.approx([worth * 0.012]) and route.seconds_per_token == pytest.approx(route.queue[0] + worth * 0.012)
    without = plan(peers, Request(4, prompt=5, output=9))
    assert route.cost - without.cost == pytest.approx(10 * (route.queue[0] + route.legs[0].harm))


# --- where a hop begins -----------------------------------------------------------------------------------------------------------------------------------

BUSY = Load({"x": Share(20, 60)}, cycle=0.6, prompt_ratio=0.0)
"""Long to wait at x before each hop, and not much slower there."""


def at(peer: str, *spans: tuple[int, int], decode: float = 0.010) -> PeerView:
    return PeerView(peer, spans=tuple(Span(*span) for span in spans), decode=decode, prefill=0.0)


def test_a_busy_peer_that_ends_the_ring_and_begins_it_is_waited_for_twice():
    peers = [at("x", (0, 2), (4, 6)), at("b", (2, 4)), at("y", (4, 6), decode=0.011)]
    assert [hop.peer for hop in plan(peers, Request(6)).hops] == ["x", "b", "x"]
    assert [hop.peer for hop in plan(peers, Request(6), BUSY).hops] == ["x", "b", "y"]


def test_a_busy_survivor_is_waited_for_again_if_it_takes_over_what_comes_next():
    peers = [at("x", (0, 4)), at("b", (2, 4), decode=0.009), at("c", (4, 6)), at("y", (2, 4), decode=0.011)]
    route = route_of(Hop("x", 0, 2), Hop("b", 2, 4), Hop("c", 4, 6))
    assert [hop.peer for hop in repair(peers, Request(6), route, {"b"}).hops] == ["x", "x", "c"]
    assert [hop.peer for hop in repair(peers, Request(6), route, {"b"}, BUSY).hops] == ["x", "y", "c"]


def test_a_busy_survivor_is_waited_for_again_if_it_takes_over_what_comes_before():
    peers = [at("x", (2, 6)), at("b", (2, 4), decode=0.009), at("c", (0, 2)), at("y", (2, 4), decode=0.011)]
    route = route_of(Hop("c", 0, 2), Hop("b", 2, 4), Hop("x", 4, 6))
    assert [hop.peer for hop in repair(peers, Request(6), route, {"b"}).hops] == ["c", "x", "x"]
    assert [hop.peer for hop in repair(peers, Request(6), route, {"b"}, BUSY).hops] == ["c", "y", "x"]


def test_a_busy_peer_that_fills_a_hole_on_both_sides_of_the_seam_is_waited_for_twice():
    """Otherwise x would be the cheapest for either side: one hop instead of two, and no way between them."""
    peers = [at("x", (0, 2), (4, 6)), at("c", (2, 4)), at("y", (4, 6), decode=0.0101)]
    route = route_of(Hop("z", 0, 2), Hop("c", 2, 4), Hop("z", 4, 6))
    assert [hop.peer for hop in repair(peers, Request(6), route, {"z"}).hops] == ["x", "c", "x"]
    assert [hop.peer for hop in repair(peers, Request(6), route, {"z"}, BUSY).hops] == ["x", "c", "y"]
    slower = [*peers[:2], at("y", (0, 2), (4, 6), decode=0.025)]
    assert [hop.peer for hop in repair(slower, Request(6), route, {"z"}, BUSY).hops] == ["y", "c", "y"], "slower by less than two waits, and by more than one"


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_reading_does_not_change_a_loaded_route(seed):
    rng = random.Random(seed)
    peers, request = swarm(rng, 30, 12), Request(12)
    load = some_load(rng, peers)
    shuffled = Load(dict(rng.sample(sorted(load.shares.items()), len(load.shares))), load.cycle, load.prompt_ratio)
    assert plan(rng.sample(peers, 30), request, shuffled) == plan(peers, request, load)


# --- the whole of it --------------------------------------------------------------------------------------------------------------------------------------


def test_of_many_streams_routes_that_know_the_load_carry_more():
    views = world(1)
    social, shortest, jsq = (measure(views, 120, 1, policy, 20.0) for policy in ("social", "shortest", "jsq"))
    assert social["tokens_per_second"] > 1.2 * shortest["tokens_per_second"]
    assert social["tokens_per_second"] > jsq["tokens_per_second"]
    assert social["median_ms_per_token"] < min(shortest["median_ms_per_token"], jsq["median_ms_per_token"])
    assert social["tokens_per_second"] < bound(views)
