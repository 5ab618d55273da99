"""What a client remembers of the swarm: who is there now, on which map, and whom to avoid."""

from __future__ import annotations

import msgspec
import pytest

from swarm.core import Span
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
