"""The map of a swarm: what it says depends on who is in it, not on how they came to be there."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from swarm.core import Span
from swarm.errors import MissingLayers
from swarm.routing import PeerView, Request, plan
from swarm.routing.atlas import DEFAULT_LATENCY, MOST_REGIONS, NOWHERE, Atlas
from tests.routing.worlds import Latencies, name, swarm


def test_one_way_is_half_the_round_trip_and_the_mean_where_both_measured():
    atlas = Atlas([PeerView("a", rtts={"b": 0.04, "c": 0.10}), PeerView("b", rtts={"a": 0.08, "b": 9.0}), PeerView("c")])
    assert atlas.between("a", "b") == atlas.between("b", "a") == pytest.approx(0.03)
    assert atlas.between("c", "a") == pytest.approx(0.05)
    assert atlas.between("b", "b") == 0
    assert atlas.default == atlas.between("b", "c") == atlas.between("a", "stranger") == atlas.between(None, "a") == pytest.approx(0.04)


def test_what_the_client_measured_joins_what_peers_measured_of_it():
    atlas = Atlas([PeerView("a", rtts={"me": 0.04}), PeerView("b"), PeerView("c", rtts={"me": float("nan")})])
    assert atlas.distance("me", {"a": 0.08}, "a") == pytest.approx(0.03)
    assert atlas.distances("me", {"a": 0.08, "c": 0.1}, ["c", "me", "b", "a", "x"]).tolist() == pytest.approx([0.05, 0.0, 0.02, 0.03, 0.02])
    assert atlas.distances(None, {}, ["a"]).tolist() == [0.02]


def test_without_a_measurement_all_are_twenty_milliseconds_apart():
    assert Atlas([PeerView("a"), PeerView("b", rtts={"a": float("nan"), "c": float("inf"), "d": -1.0})]).between("a", "b") == DEFAULT_LATENCY == 0.020


def test_a_peer_that_always_names_others_takes_no_more_room_for_it():
    atlas = Atlas([PeerView("a", rtts={"b": 0.02}), PeerView("b")])
    for number in range(200):
        atlas.put(PeerView("c", rtts={f"{number} {other}": 0.1 for other in range(60)}))
    assert len(atlas._rows) < 3 * NOWHERE
    assert atlas.between("a", "b") == 0.01


def test_a_peer_that_always_comes_from_elsewhere_takes_no_more_room_for_it():
    atlas = Atlas([PeerView("a", region="eu", rtts={"b": 0.02}), PeerView("b", region="eu")])
    for number in range(4 * NOWHERE):
        atlas.put(PeerView("c", region=f"region {number}"))
    assert len(atlas._regions) <= MOST_REGIONS + 1
    atlas.put(PeerView("d", region="eu"))
    assert atlas.between("a", "d") == 0.01
    atlas.put(PeerView("e", region="us"))
    for number in range(2 * NOWHERE):
        atlas.put(PeerView("c", region=f"another {number}"))
    assert "us" in atlas._regions, "honest newcomers are told apart again"


def test_more_regions_than_there_can_be_are_none():
    views = [PeerView(name(number), region=f"region {number}") for number in range(2 * MOST_REGIONS)]
    atlas = Atlas(views)
    assert len(atlas._regions) <= MOST_REGIONS + 1 and atlas.between(name(3), name(500)) == DEFAULT_LATENCY


def test_peers_of_two_classes_are_never_on_one_map():
    atlas = Atlas([PeerView("a", revision="one"), PeerView("b", revision="one")])
    with pytest.raises(ValueError, match="differ"):
        atlas.put(PeerView("c", revision="two"))
    assert len(atlas) == 2


def facts(atlas: Atlas, components: int, names: list[str]) -> list:
    table = atlas.matrix(atlas.rows(names))
    assert np.array_equal(table, table.T) and not table.diagonal().any()
    columns = [atlas.facts(column).tolist() for column in ("decode", "prefill", "head_weight", "free_tokens", "longest")]
    return [atlas.peers, columns, atlas.online.tolist(), atlas.holds(components).tolist(), atlas.default, table.tolist()]


@pytest.mark.parametrize("seed", range(30))
def test_a_map_kept_up_is_the_map_drawn_anew(seed):
    """Peers come, go, come back, change what they hold and whom they measured, in any order."""
    rng = random.Random(seed)
    components, atlas, there = rng.randint(2, 9), Atlas(), {}
    for _ in range(60):
        views = swarm(rng, 8, components, holes=True, known=rng.choice([0.0, 0.3, 1.0]))
        view = replace(rng.choice(views), state=rng.choice(["online", "online", "leaving"]), free_tokens=rng.randrange(100))
        if rng.random() < 0.3:
            atlas.drop(view.peer)
            there.pop(view.peer, None)
        else:
            atlas.put(view)
            there[view.peer] = view
        names = [name(number) for number in rng.sample(range(10), 10)]
        shuffled = rng.sample(sorted(there.values(), key=lambda view: view.peer), len(there))
        assert facts(atlas, components, names) == facts(Atlas(shuffled), components, names)
        slow = Latencies(list(there.values()))
        assert atlas.matrix(atlas.rows(names)).tolist() == [[pytest.approx(slow.between(one, other)) for other in names] for one in names]
        assert all(atlas.between(one, other) == pytest.approx(slow.between(one, other)) for one in names for other in names)
        try:
            route = plan(atlas, Request(components))
        except MissingLayers as error:
            with pytest.raises(MissingLayers) as caught:
                plan(list(there.values()), Request(components))
            assert str(caught.value) == str(error)
        else:
            assert route == plan(list(there.values()), Request(components))


def test_those_who_are_gone_or_only_mentioned_are_forgotten_in_time():
    atlas = Atlas([PeerView("stays", spans=(Span(0, 2),), rtts={"also": 0.1}), PeerView("also", spans=(Span(0, 2),))])
    for number in range(3 * NOWHERE):
        atlas.put(PeerView(f"passes{number}", spans=(Span(1, 2),), rtts={f"mentioned{number}": 0.1, "stays": 0.3}))
        atlas.drop(f"passes{number}")
    assert len(atlas._rows) < 2 * NOWHERE and len(atlas._ends) < 2 * NOWHERE
    assert atlas.between("stays", "also") == 0.05 == atlas.default and atlas.peers == ["also", "stays"]
