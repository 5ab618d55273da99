"""Who makes himself identities until they stand around a key hides nothing: how large the swarm is taken for, who is asked, and what comes of it for a crowd of
ids (`crowd.py`). Real nodes are in `tests/attacks/test_survival.py`."""

from __future__ import annotations

import random
import statistics

import pytest
from hivemind.dht.routing import DHTID, RoutingTable
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.net.guards.placing import MAX_NEIGHBOURS
from swarm.net.guards.searching import CREDIT, MOST, WITHIN, Search
from swarm.net.guards.vicinity import EXPECTED, NEAREST, ROOTS, SPACE, named, radius_of, scattered, size_of
from tests.net.crowd import Crowd, good, peer_at

sizes = st.lists(st.floats(1, 1e6), min_size=1, max_size=5)
places = st.integers(0, SPACE - 1).map(DHTID)


# --- how many there are -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 50, 1000])
def test_the_size_is_estimated_rightly_on_the_average_and_to_a_quarter_or_so_each_time(count):
    lot = random.Random(count)
    estimates = [size_of([lot.randrange(SPACE) for _ in range(count)]) for _ in range(1000)]
    assert 0.95 * count < statistics.mean(estimates) < 1.05 * count
    assert statistics.stdev(estimates) < 0.35 * count


@given(st.lists(st.integers(1, SPACE - 1), min_size=2, max_size=60), st.integers(2, 1000))
def test_nearer_neighbours_mean_more_nodes_and_farther_ones_do_not_count(distances, times):
    assert size_of([max(1, distance // times) for distance in distances]) >= size_of(distances)
    far = max(distances)
    assert size_of(distances[:NEAREST] + [far] * NEAREST) >= size_of(distances[:NEAREST]) * (1 - 1e-9) or len(distances) < NEAREST
    assert size_of([]) == 0 and size_of([5]) == 1


@given(sizes, st.floats(1, 1e6))
def test_a_vicinity_holds_what_is_expected_or_is_everything_and_one_estimate_alone_moves_it_little(estimates, absurd):
    radius = radius_of(estimates)
    assert 0 < radius <= SPACE and (radius == SPACE or EXPECTED * SPACE / radius == pytest.approx(statistics.median_low(estimates)))
    assert radius_of([size * 2 for size in estimates]) <= radius
    if len(estimates) > 1:
        assert min(estimates) <= EXPECTED * SPACE / radius_of([*estimates, absurd]) * (1 + 1e-9) or radius == SPACE
        assert radius_of([*estimates, absurd]) >= radius_of([max(estimates)])


# --- whom one is told of ----------------------------------------------------------------------------------------------------------------------------------


def test_a_reply_names_everybody_near_a_key_however_many_stand_nearer():
    lot, key = random.Random(1), DHTID(5)
    table = RoutingTable(DHTID(7), NEAREST, 5)  # stands there itself, so that its buckets have room
    crowd = [DHTID(key ^ (2**140 + number)) for number in range(60)]
    honest = [DHTID(key ^ (2**150 + number)) for number in range(5)]
    far = [DHTID(key ^ (2**158 + number)) for number in range(5)]
    for place in [*crowd, *honest, *far]:
        table.add_or_update_node(place, peer_at(place))
    assert not {*honest} & {place for place, _ in named(table, key, 0, lot)}
    told = {place for place, _ in named(table, key, 2**152, lot)}
    assert {*honest} < told and not told & {*far} and len(told) > NEAREST
    many = RoutingTable(key, 2 * MAX_NEIGHBOURS, 5)
    for number in range(1, 2 * MAX_NEIGHBOURS):
        many.add_or_update_node(DHTID(key ^ number), peer_at(DHTID(number)))
    one, other = ([place for place, _ in named(many, key, 2**152, lot)] for _ in range(2))
    assert len(one) == len(other) == MAX_NEIGHBOURS and one[:NEAREST] == other[:NEAREST] and {*one} != {*other}


def test_acquaintances_are_drawn_over_the_places_and_not_over_their_number():
    lot, table = random.Random(1), RoutingTable(DHTID(SPACE // 2 + 5), NEAREST, 5)
    alone, crowd = DHTID(SPACE // 4), [DHTID(SPACE // 2 + 2**120 + number) for number in range(NEAREST)]
    for place in [*crowd, alone]:
        table.add_or_update_node(place, peer_at(place))
    drawn = [alone in scattered(table, lot) for _ in range(400)]
    assert drawn.count(True) > 380, "half of all places are nearest to it, six times in each draw"
    assert scattered(RoutingTable(DHTID(5), NEAREST, 5), lot) == {}


# --- whom one asks ----------------------------------------------------------------------------------------------------------------------------------------


def names(*numbers: int) -> dict:
    return {DHTID(number): peer_at(DHTID(number)) for number in numbers}


def search(target: int = 0, radius: int = 0, near=(), roots=(), seed: int = 0, own: int = SPACE - 1) -> Search:
    return Search(DHTID(target), radius, names(*near), names(*roots), DHTID(own), random.Random(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 100), st.sampled_from([0, 2**155, SPACE]), st.floats(0, 1))
def test_whatever_is_answered_a_search_ends_and_asks_nobody_twice_nor_itself(seed, known, others, radius, silent):
    lot = random.Random(seed)
    everybody = [DHTID(lot.randrange(SPACE)) for _ in range(known + others + 1)]
    own, *rest = everybody
    looking = search(lot.randrange(SPACE), radius, rest[:known], lot.sample(rest, min(ROOTS, len(rest))), seed, own)
    asked, flying = [], []
    while True:
        fresh = [place for place, peer in looking.ask() if peer == peer_at(place)]
        asked += fresh
        flying += fresh
        if looking.done:
            break
        place = flying.pop(lot.randrange(len(flying)))
        if lot.random() < silent:
            looking.failed(place)
        else:
            looking.heard(place, names(*lot.sample(everybody, min(20, len(everybody)))))
    assert len(asked) == len({*asked}) <= MOST and own not in asked
    assert {*looking.answered} <= {*asked} and looking.nearest() == sorted(looking.nearest())


@pytest.mark.parametrize(("beyond", "honest"), [(0, 2**100), (NEAREST, 2**89)])
def test_who_crowds_a_key_and_answers_at_once_does_not_end_a_search_before_others_were_heard(beyond, honest):
    """Neither from within its vicinity, where they count as no more than should be there, nor from just beyond as well: some acquaintances are waited for."""
    crowd, friends = [*range(1, 60), *range(2**90, 2**90 + beyond)], [2**158 + number for number in range(ROOTS)]
    looking = search(0, 2**90, crowd, friends)
    waiting = []
    while fresh := looking.ask():
        for place, _ in fresh:
            waiting.append(place) if place == friends[0] else looking.heard(place, names(*crowd))
    assert waiting == friends[:1] and not looking.done
    looking.heard(waiting.pop(), names(honest))
    assert [place for place, _ in looking.ask()] == [honest]


def test_everybody_in_the_vicinity_is_asked_and_of_others_the_nearest():
    lot = random.Random(3)
    everybody = sorted(lot.randrange(SPACE) for _ in range(400))
    radius, asked = everybody[30] + 1, []
    looking = search(0, radius, lot.sample(everybody, NEAREST), lot.sample(everybody, ROOTS))
    while fresh := looking.ask():
        for place, _ in fresh:
            asked.append(place)
            met = sorted(lot.sample(everybody, 200))
            looking.heard(place, names(*met[:NEAREST], *(other for other in met if other < radius)))
    assert {*everybody[:31]} <= {*looking.answered} and {*everybody[31:39]} <= {*asked}
    assert len(asked) <= 31 + NEAREST + 2 * ROOTS


def test_names_of_nobody_cost_little():
    """Neither do they count as nodes that were asked, as they do for hivemind's own search."""
    liar, ghosts, honest = 2**100, range(1, 200), [2**101 + number for number in range(NEAREST)]
    looking = search(0, 2**110, [liar, *honest])
    tried = []
    while fresh := looking.ask():
        for place, _ in fresh:
            if place in ghosts:
                tried.append(place)
                looking.failed(place)
            else:
                looking.heard(place, names(*ghosts) if place == liar else {})
    assert len(tried) == CREDIT and {*looking.answered} == {liar, *honest}


def test_a_liar_earns_nothing_by_the_names_of_those_who_were_asked_already():
    liar, friend, ghosts, honest = 2**100, 2**101, range(1, 120), [2**102 + number for number in range(CREDIT)]
    looking = search(0, 2**110, [liar, friend])
    assert {place for place, _ in looking.ask()} == {liar, friend}
    looking.heard(DHTID(friend), names(*honest))
    assert {place for place, _ in looking.ask()} == {*honest}
    looking.heard(DHTID(liar), names(*ghosts, *honest))
    for place in honest:
        looking.heard(DHTID(place), {})
    tried = []
    while fresh := looking.ask():
        for place, _ in fresh:
            tried.append(place)
            looking.failed(place)
    assert len(tried) == CREDIT and {*tried} <= {*ghosts} and {*looking.answered} == {liar, friend, *honest}


def test_who_names_many_that_answer_has_all_of_them_asked():
    """Though no more wait at a time than it has credit for."""
    friend, honest = 2**100, [2**101 + number for number in range(MAX_NEIGHBOURS)]
    looking, asked = search(0, 2**110, [friend]), []
    while fresh := looking.ask():
        for place, _ in fresh:
            asked.append(place)
            looking.heard(place, names(*honest) if place == friend else {})
    assert {*asked} == {friend, *honest} and len(asked) == len({*asked})


def test_names_that_nobody_answers_for_wait_nowhere():
    """Sybils around a key name as many ghosts as a reply holds, each others: who walked past all of those at each reply would stand still for a second."""
    sybils, lot = [2**100 + number for number in range(40)], random.Random(1)
    looking, most = search(0, 2**110, sybils), 0
    while fresh := looking.ask():
        for place, _ in fresh:
            if place in sybils:
                looking.heard(place, names(*(lot.randrange(2**99) for _ in range(MAX_NEIGHBOURS))))
            else:
                looking.failed(place)
            most = max(most, len(looking._waiting))
    assert 0 < most <= (CREDIT + 1) * len(sybils) and looking.done


def test_few_calls_run_at_once_and_there_is_an_end_to_them():
    looking, asked = search(0, SPACE, range(1, 2 * MOST)), 0
    while fresh := looking.ask():
        assert len(fresh) <= WITHIN
        asked += len(fresh)
        for place, _ in fresh:
            looking.heard(place, {})
    assert asked == MOST and looking.done


# --- what comes of it -------------------------------------------------------------------------------------------------------------------------------------

HOWS = {"nearest": {}, "nearest, there first": {"first": True}, "naming ghosts": {"ghosts": 200}}


def sybils(honest: int, share: float) -> int:
    return round(honest * share / (1 - share))


@pytest.mark.parametrize("share", [0.2, 0.33])
@pytest.mark.parametrize("how", HOWS)
def test_sybils_around_a_key_hide_nobody(how, share):
    """All of them around one key; as a third of all nodes they hide everything from hivemind's own searches."""
    shares, plain = [], []
    for seed in range(3):
        shares += Crowd(50, sybils(50, share), seed, **HOWS[how]).shares(8, 8)[0]
        plain += Crowd(50, sybils(50, share), seed, **HOWS[how]).shares(8, 2, plain=True)[0]
    assert good(shares) == 1.0 and good(plain) < 0.2


def test_what_a_search_costs_where_nobody_crowds_a_key():
    for honest in (50, 200):
        shares, storing, reading = Crowd(honest, 0, 1).shares(8, 8)
        assert good(shares) == 1.0 and max(storing, reading) < 45
