"""How far a polite peer makes way, and how fast: seconds and shares, nothing real."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from swarm.peer.courtesy import BUSY, FALL, FLOOR, FULL, PATIENCE, RISE, Courtesy, wanted


def shares(courtesy: Courtesy, readings, begin: float = 0.0, hot: bool = False) -> list[float]:
    """Of every second."""
    return [courtesy.heard(others, hot, begin + second) for second, others in enumerate(readings)]


def test_where_the_owner_does_little_it_takes_all_its_time():
    assert set(shares(Courtesy(), [0.0, BUSY, 0.1, BUSY] * 30)) == {1.0}


def test_what_is_over_in_a_moment_slows_nobody_down():
    assert set(shares(Courtesy(), [0.0, *[1.0] * int(PATIENCE), 0.0] * 10)) == {1.0}


def test_what_goes_on_slows_it_down_step_by_step_to_the_floor_and_no_further():
    seen = shares(Courtesy(), [0.0] * 5 + [1.0] * 30)
    assert seen == sorted(seen, reverse=True) and seen[4 + int(PATIENCE)] == 1.0 and seen[-1] == FLOOR
    assert max(before - after for before, after in pairwise(seen)) <= FALL + 1e-9
    assert seen[:: int(1 / FALL)][-1] == FLOOR and seen.index(FLOOR) <= 5 + PATIENCE + 1 / FALL


def test_it_comes_back_more_slowly_and_all_the_way():
    courtesy = Courtesy()
    shares(courtesy, [1.0] * 30)
    seen = shares(courtesy, [0.0] * 40, begin=30.0)
    assert seen == sorted(seen) and seen[0] == FLOOR and seen[-1] == 1.0
    assert max(after - before for before, after in pairwise(seen)) <= RISE + 1e-9
    assert seen.index(1.0) > (1 - FLOOR) / RISE


@pytest.mark.parametrize("others", [0.4, 0.5, 0.6])
def test_it_settles_at_what_is_left_and_stays_though_readings_are_never_quite_alike(others):
    dice, courtesy = random.Random(1), Courtesy()
    shares(courtesy, [others] * 60)
    seen = shares(courtesy, [others + dice.uniform(-0.012, 0.012) for _ in range(200)], begin=60.0)
    assert seen[0] == pytest.approx(wanted(others), abs=0.03) and set(seen) == {seen[0]}


def test_the_share_that_is_left_falls_evenly():
    assert [wanted(others) for others in (0.0, BUSY, (BUSY + FULL) / 2, FULL, 1.0)] == [1.0, 1.0, pytest.approx((1 + FLOOR) / 2), FLOOR, FLOOR]


def test_a_processor_that_is_too_hot_is_relieved_whoever_heats_it():
    assert shares(Courtesy(), [0.0] * 30, hot=True)[-1] == FLOOR


def test_a_machine_that_slept_makes_no_leap():
    """Nobody knows what was needed meanwhile."""
    courtesy = Courtesy()
    courtesy.heard(1.0, False, 0.0)
    assert courtesy.heard(1.0, False, 10_000.0) >= 1 - 2 * FALL
