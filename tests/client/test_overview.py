"""What a picture of the swarm says: pure, over announcements that are only written down; and, of a client, over a network that is only pretended."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import msgspec

from swarm.client.chronicle import KEPT, Chronicle
from swarm.client.distances import Distances
from swarm.client.overview import overview, overview_of, with_history
from swarm.core import ModelShape
from swarm.wire import Announcement, Claim
from tests.client.test_aio import Links, client, peer
from tests.net.virtual import run

SHAPE = ModelShape("m", 4, 8, 100, 1000, "hash", component_bytes=(10, 10**9, 10**9, 10**9, 10**9, 20), kv_bytes_per_token=(0, 1, 1, 1, 1, 0), row_bytes=16)
NOW = 1000.0


def said(who: str, *spans: tuple[int, int], state: str = "online", numerics: str = "bfloat16", **more) -> Announcement:
    return Announcement(
        1, who, (), "m", "hash", "r", numerics, 6, spans or ((0, 6),), 0.01, 0.001, 500, 400, 1000, state, 1, more.pop("time", NOW - 3), **more
    )  # fmt: skip


def test_a_hole_is_named_with_what_would_fill_it():
    seen = overview_of(SHAPE, [said("a", (0, 2)), said("b", (4, 6)), said("c", (0, 2))], NOW)
    (cover,) = seen.covers
    assert cover.holders == (2, 2, 0, 0, 1, 1) and not seen.served and not cover.complete
    assert (cover.missing, cover.memory, cover.thin) == ("1:3", 2 * 10**9, "3:4")
    assert (
        seen.sentence
        == "layers 1:3 are served by nobody; start a peer with swarm-serve --layers 1:3, about 2.0 GB of weights on one more machine or shared by several"
    )


def test_what_is_being_loaded_is_no_hole_to_be_filled_by_somebody_else():
    seen = overview_of(SHAPE, [said("a", (0, 4)), said("b", (4, 6), state="joining")], NOW)
    assert seen.covers[0].coming == (0, 0, 0, 0, 1, 1) and not seen.served
    assert "loading" in seen.sentence and "swarm-serve" not in seen.sentence


def test_thin_places_are_named_and_a_swarm_without_them_is_said_to_be_safe():
    assert "layers 0:2 are served by one peer alone" in overview_of(SHAPE, [said("a"), said("b", (3, 6))], NOW).sentence
    assert overview_of(SHAPE, [said("a"), said("b")], NOW).sentence == "every layer is served by at least two peers"
    assert "head is served by one peer alone" in overview_of(SHAPE, [said("a"), said("b", (0, 5))], NOW).sentence


def test_peers_of_other_formats_do_not_fill_one_anothers_holes():
    seen = overview_of(SHAPE, [said("a", (0, 3)), said("b", (3, 6), numerics="bfloat16-int8"), said("c", numerics="bfloat16-int4")], NOW)
    assert [(cover.numerics, cover.missing) for cover in seen.covers] == [("bfloat16-int4", ""), ("bfloat16", "2:4"), ("bfloat16-int8", "0:2")]
    assert seen.served, "one class that serves everything is enough"
    assert seen.covers[2].memory is not None and seen.covers[2].memory < 2 * 10**9, "rounded layers take less"


def test_nobody_at_all_is_a_hole_of_the_whole_model():
    seen = overview_of(SHAPE, [], NOW)
    assert not seen.served and seen.sentence.startswith("nobody serves this model; start a peer with swarm-serve --layers 0:4, about 4.0 GB")


def test_who_failed_us_serves_nothing_whatever_it_announced():
    seen = overview_of(SHAPE, [said("a", (0, 3)), said("b", (3, 6))], NOW, silent={"b"}, rtts={"a": 0.02})
    assert seen.covers[0].missing == "2:4" and {one.peer: one.state for one in seen.peers} == {"a": "online", "b": "silent"}
    assert {one.peer: one.rtt for one in seen.peers} == {"a": 20.0, "b": None}


def test_announcements_that_make_no_sense_are_passed_over_and_said_to_be():
    odd = msgspec.structs.replace(said("odd"), components=99)
    seen = overview_of(SHAPE, [said("a"), odd], NOW, problems={"odd": "announces a model of 99 components"})
    assert [one.peer for one in seen.peers] == ["a"] and seen.problems == {"odd": "announces a model of 99 components"}


def test_the_highest_claim_coordinates():
    records = [
        said("a", claim=Claim("claim", 3)),
        said("b", claim=Claim("claim", 4)),
        said("c", claim=Claim("candidate", 9)),
        said("d", claim=Claim("claim", 10**12)),
    ]
    seen = overview_of(SHAPE, records, NOW)
    assert seen.coordinator is not None and (seen.coordinator.peer, seen.coordinator.term) == ("b", 4), "a term above the seconds of the clock was made up"
    assert {one.peer: one.office for one in seen.peers} == {"a": "candidate", "b": "coordinator", "c": "candidate", "d": "candidate"}


def test_what_is_shown_does_not_hang_on_the_order_of_reading_and_is_json():
    records = [said("a", (0, 3), rtts={"b": 0.01, "c": 0.002}), said("b", (3, 6)), said("c", name="<b>")]
    one, other = overview_of(SHAPE, records, NOW), overview_of(SHAPE, records[::-1], NOW)
    assert one == other
    back = json.loads(msgspec.json.encode(one))
    assert back["peers"][0]["rtts"] == {"b": 10.0, "c": 2.0} and back["peers"][0]["age"] == 3.0 and back["covers"][0]["holders"] == [2, 2, 2, 2, 2, 2]


def test_names_are_one_short_line_and_classes_are_told_apart_by_what_was_said():
    seen = overview_of(SHAPE, [said("a", name="x" * 500, region="e\x1bu"), said("b", numerics="bfloat16\x1b")], NOW)
    assert (seen.peers[0].name, seen.peers[0].region) == ("x" * 64, "eu")
    assert [cover.holders[0] for cover in seen.covers] == [1, 1], "who only looks as if it were of a class is not counted in it"


def events(chronicle: Chronicle) -> list[tuple[str, str]]:
    return [(event.kind, event.peer) for event in chronicle.events]


def test_a_history_tells_who_came_died_moved_and_left_and_that_a_hole_was_filled():
    chronicle = Chronicle()
    looks = [
        ([said("a"), said("b", (0, 3)), said("d", (2, 3))], ()),
        ([said("a"), said("b", (0, 3)), said("c", (3, 6), state="joining"), said("d", (2, 3))], ("a",)),
        ([said("b", (0, 3)), said("c", (3, 6)), said("d", (3, 4))], ()),
        ([said("b", (0, 3), state="leaving"), said("c", (3, 6)), said("e")], ()),
        ([said("c", (3, 6)), said("e", time=NOW)], ()),
    ]
    told = []
    for at, (records, silent) in enumerate(looks):
        with_history(overview_of(SHAPE, records, NOW + at, silent=silent), chronicle)
        told.append(events(chronicle)[sum(map(len, told)) :])
    assert told == [
        [],  # who was there when we came did not join before our eyes
        [("silent", "a"), ("joined", "c"), ("hole", "")],
        [("moved", "d"), ("covered", "")],
        [("silent", "d"), ("left", "b"), ("joined", "e")],
        [("left", "b")],
    ]


def test_that_all_have_gone_is_a_hole_and_their_coming_back_fills_it():
    chronicle = Chronicle()
    for at, records in enumerate(([], [said("a")], [], [], [said("b", (0, 3))], [said("b", (0, 3)), said("c", (3, 6))], [], [said("a")])):
        with_history(overview_of(SHAPE, records, NOW + at), chronicle)
    told = [(event.time - NOW, event.kind) for event in chronicle.events if event.kind in ("hole", "covered")]
    assert told == [(2, "hole"), (4, "hole"), (5, "covered"), (6, "hole"), (7, "covered")]


def test_a_class_that_is_gone_has_not_been_covered():
    chronicle = Chronicle()
    for at, holes in enumerate(({("r", "a"): "", ("r", "b"): "0:2"}, {("r", "a"): ""}, {("r", "a"): "", ("r", "b"): "1:2"}, {("r", "a"): "", ("r", "b"): ""})):
        chronicle.see(at, {}, None, holes)
    assert [(event.time, event.kind) for event in chronicle.events] == [(2, "hole"), (3, "covered")]


def test_since_when_somebody_coordinates_is_known_exactly_only_if_it_was_seen_to_begin():
    chronicle = Chronicle()
    one, other = said("a", claim=Claim("claim", 1)), said("b", claim=Claim("claim", 2))
    for at, records in enumerate([[one], [one], [one, other], [one, other]]):
        seen = with_history(overview_of(SHAPE, records, NOW + at), chronicle)
        assert seen.coordinator is not None
        assert (seen.coordinator.peer, seen.coordinator.since, seen.coordinator.exactly) == (("a", NOW, False) if at < 2 else ("b", NOW + 2, True))
    assert events(chronicle)[-1] == ("coordinator", "b")


def test_a_repair_is_told_once_also_when_its_answer_has_ended_before_the_next_look():
    chronicle = Chronicle()
    chronicle.see(1.0, {}, None, {}, {"x": 0})
    chronicle.see(2.0, {}, None, {}, {"x": 1})
    chronicle.repaired(3.0, "x", 1)
    chronicle.repaired(3.0, "y", 2)
    assert [event.text for event in chronicle.events] == [
        "answer x lost a hop and goes on as soon as there is another way",
        "answer y lost a hop 2 times and goes on as soon as there is another way",
    ]


def test_a_history_is_bounded():
    chronicle = Chronicle()
    for at in range(2 * KEPT):
        chronicle.repaired(at, str(at), 1)
    assert len(chronicle.events) == KEPT and chronicle.events[-1].time == 2 * KEPT - 1


def test_a_client_looks_at_the_directory_and_at_whom_it_can_reach():
    async def main() -> tuple:
        it = client(peer("near"), peer("gone"), peer("far"))
        it.wall = lambda: NOW
        it._opened.shape = replace(SHAPE)
        links = Links({"near": 0.01, "far": 0.5, "gone": -1.0})
        it._distances = Distances(links, it.table, random.Random(1))

        async def refresh() -> None:
            it.records = [said("near"), said("gone", (0, 3)), said("far", (3, 6))]

        it.refresh = refresh
        first = await overview(it)
        links._seconds["gone"] = 0.03
        second = await overview(it)
        return first, second

    first, second = run(main())
    assert {one.peer: (one.state, one.rtt) for one in first.peers} == {"near": ("online", 10.0), "far": ("online", 500.0), "gone": ("silent", None)}
    assert {one.peer: one.state for one in second.peers}["gone"] == "online"
    assert [event.kind for event in second.events] == ["back"]
