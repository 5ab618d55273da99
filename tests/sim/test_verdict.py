"""The judge: what it lets pass and what it does not. A judge that never complained would make every scenario pass."""

from __future__ import annotations

import math

import pytest

from swarm.core import Span
from swarm.errors import MissingLayers, SwarmError, TimedOut
from swarm.sim.toy import answer
from swarm.sim.verdict import SETTLED, Sight, Turn, faults_of

COMPONENTS, HISTORY = 6, [3, 1, 4]
SAID = answer(HISTORY, 5, COMPONENTS)
FULL = (("a", Span(0, 3), 0.0), ("b", Span(3, 6), 0.0))


def sight(time: float, servers=FULL, side=None, last_side=frozenset(), healed=-math.inf) -> Sight:
    return Sight(time, servers, side, frozenset(last_side), healed)


def turn(tokens: list[int], error: SwarmError | None = None, ended: float | None = 110.0) -> Turn:
    return Turn("g", 100.0, HISTORY, 5, tokens, ended, error)


def missing(partial: list[int]) -> MissingLayers:
    return MissingLayers("nobody", partial=partial)


GONE = [sight(0.0), sight(105.0, FULL[:1])]


@pytest.mark.parametrize(
    ("what", "sights", "fault"),
    [
        (turn(SAID), [sight(0.0)], None),
        (turn([*SAID[:4], SAID[4] ^ 1]), [sight(0.0)], "wrong tokens after 4"),
        (turn([SAID[0], *SAID]), GONE, "wrong tokens after 1"),
        (turn(SAID[:4]), [sight(0.0)], "ended after 4"),
        (turn(SAID[:4], ended=None), [sight(0.0)], None),
        (turn(SAID[:2], missing(SAID[:2])), GONE, None),
        (turn(SAID[:2], missing(SAID[:1])), GONE, "speaks of 1"),
        (turn(SAID[:2], missing(SAID[:2])), [sight(0.0)], "somebody served every layer"),
        (turn(SAID[:2], TimedOut("late", SAID[:2])), GONE, "TimedOut"),
        (turn(SAID[:2], SwarmError("this is a bug")), GONE, "this is a bug"),
    ],
)
def test_a_turn_is_judged(what, sights, fault):
    found = faults_of([what], sights, COMPONENTS)
    assert (found == []) if fault is None else (len(found) == 1 and fault in found[0])


def test_who_only_just_came_or_cannot_be_reached_does_not_count():
    for seen, expected in [
        (sight(0.0), True),
        (sight(99.0, (FULL[0], ("b", Span(3, 6), 100.1 - SETTLED))), False),
        (sight(99.0, FULL[:1]), False),
        (sight(99.0, side={"g", "a"}), False),
        (sight(99.0, side={"g", "a", "b"}), True),
        (sight(99.0, side={"x"}), True),
        (sight(99.0, last_side={"a"}, healed=99.0), False),
        (sight(99.0, last_side={"a"}, healed=100.0 - SETTLED), True),
    ]:
        assert seen.covers("g", COMPONENTS, 100.0) is expected, seen


def test_a_gap_in_time_counts_only_while_the_turn_ran():
    hole = [sight(0.0), sight(80.0, ()), sight(90.0, FULL)]
    broke_off = turn(SAID[:2], missing(SAID[:2]))
    assert faults_of([broke_off], hole, COMPONENTS)
    broke_off.began = 85.0
    assert not faults_of([broke_off], hole, COMPONENTS)
