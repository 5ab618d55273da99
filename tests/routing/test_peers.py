"""What a client remembers of the swarm: who is there now, on which map, and whom to avoid."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from swarm.core import Span
from swarm.errors import ProtocolError
from swarm.routing.peers import SHUNNED, PeerTable
from swarm.routing.table import PeerView
from swarm.wire import Facts
from tests.routing.test_table import announcement


def view(peer: str, revision: str = "one", **changes) -> PeerView:
    return PeerView(peer, spans=(Span(0, 2),), revision=revision, numerics="float32", **changes)


def maps(table: PeerTable) -> dict[str, list[str]]:
    return {revision: atlas.peers for (revision, _), atlas in sorted(table.atlases.items())}


def test_who_is_not_there_any_more_is_on_no_map_and_who_changed_is_on_another():
    table = PeerTable()
    table.show([view("b"), view("a"), view("c", "two")])
    assert maps(table) == {"one": ["a", "b"], "two": ["c"]} and sorted(table.views) == ["a", "b", "c"]
    table.show([view("a", "two"), view("b", free_tokens=7)])
    assert maps(table) == {"one": ["b"], "two": ["a"]}
    assert table.atlases["one", "float32"].facts("free_tokens").tolist() == [7]
    table.show([])
    assert not table.atlases and not table.views


def test_peers_of_several_classes_are_on_one_map_of_their_mixed_class_as_well_and_a_lone_class_lends_its_own():
    table, exact = PeerTable(), ("one", "float32-mixed")
    rounded = [replace(view(name), numerics=f"float32-{how}") for name, how in (("b", "int8"), ("c", "int4"))]
    table.show([view("a"), view("other", "two")])
    assert table.mixed[exact] is table.atlases["one", "float32"] and sorted(table.mixed) == [exact, ("two", "float32-mixed")]
    table.show([view("a"), *rounded, replace(view("d"), numerics="bfloat16")])
    mixed = table.mixed[exact]
    assert table.atlas(exact) is mixed and mixed.peers == ["a", "b", "c"] and table.atlas(("one", "float32-int8")).peers == ["b"]
    table.show([replace(rounded[0], free_tokens=7), view("e"), replace(rounded[1], revision="two")])
    assert table.mixed[exact] is mixed and mixed.peers == ["b", "e"] and mixed.facts("free_tokens").tolist()[0] == 7, "kept, and brought up to date"
    assert table.correct("b", Facts(((0, 1),), 6, 10), 10) and mixed.facts("free_tokens").tolist()[0] == 10
    table.show([view("e")])
    assert table.mixed[exact] is table.atlases["one", "float32"]
    table.show(rounded)
    assert table.atlas(exact).peers == ["b", "c"] and not len(table.atlas(("one", "float32")))


def test_nobody_announces_to_be_of_a_mixed_class():
    """Who allows no mixing might take it for a class like others."""
    with pytest.raises(ProtocolError, match="float32-mixed"):
        PeerView.of(announcement(numerics="float32-mixed"), 10)


def test_an_announcement_that_makes_no_sense_is_left_out_alone():
    table = PeerTable()
    records = [announcement(), announcement(peer="q", spans=((0, 99),)), announcement(peer="r", components=9)]
    first, again = table.update(records, 10), table.update(records, 10)
    assert list(table.views) == ["p"] and again == [], "said once"
    assert [("q announces component 98" in why, "r announces a model of 9" in why) for why in first] == [(True, False), (False, True)]
    table.update(records[:1], 10)
    assert len(table.update(records, 10)) == 2, "and once more when they come back"


@pytest.mark.parametrize("again", [False, True])
def test_who_failed_is_avoided_for_a_while_and_forgiven_first_if_it_has_spoken_since(again):
    table = PeerTable()
    table.update([announcement()], 10)
    table.shun("p", now=100.0, wall=1000.0)
    table.update([msgspec.structs.replace(announcement(), sequence=8, time=1000.5 if again else 999.5)], 10)  # both are news
    assert table.shunned(101.0) == {"p"}
    assert table.shunned(101.0, forgive=True) == (frozenset() if again else {"p"})
    assert table.shunned(100.0 + SHUNNED) == frozenset()


def test_what_a_peer_said_when_it_refused_counts_until_it_announces_itself_again():
    table = PeerTable()
    table.update([announcement(span_version=5)], 10)
    assert not table.correct("p", Facts(((0, 3),), 4, 10), 10)
    assert not table.correct("q", Facts(((0, 3),), 9, 10), 10)
    assert table.correct("p", Facts(((0, 3),), 6, 10), 10) and not table.correct("p", Facts(((0, 3),), 6, 10), 10)
    table.update([announcement(span_version=5)], 10)
    assert table.views["p"].spans == (Span(0, 3),) and table.views["p"].version == 6
    table.update([msgspec.structs.replace(announcement(span_version=5), sequence=8, time=announcement().time + 1)], 10)
    assert table.views["p"].version == 5 and table.views["p"].spans != (Span(0, 3),), "others on the way may have made it up"
