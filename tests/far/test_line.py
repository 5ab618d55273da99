"""When bytes arrive, by virtual time."""

from __future__ import annotations

import random
from math import inf

import pytest

from swarm.far.line import BUFFER, PACKET, Distance, Line


def line(**distance: float) -> Line:
    return Line(Distance(**distance), random.Random(1).random)


def test_a_way_takes_its_time_and_nothing_else():
    it = line(one_way=0.05)
    assert it.send(10, 1.0) == 1.05 and it.send(10**6, 1.0) == 1.05 and it.send(1, 2.0) == 2.05
    assert it.crowded(2.0) == 0


def test_a_slow_line_lets_one_byte_after_the_other_pass_and_holds_senders_up():
    it = line(one_way=0.05, rate=BUFFER)
    assert it.send(BUFFER // 2, 0.0) == 0.55 and it.crowded(0.0) == 0
    assert it.send(BUFFER, 0.0) == 1.55 and it.crowded(0.0) == pytest.approx(0.5)
    assert it.crowded(0.5) == 0 and it.send(0, 9.0) == 9.05


def test_jitter_changes_times_but_not_the_order():
    it = line(one_way=0.05, jitter=0.02)
    times = [it.send(1, at / 1000) for at in range(200)]
    assert times == sorted(times) and len(set(times)) > 10
    assert all(at / 1000 + 0.05 <= time <= at / 1000 + 0.07 for at, time in enumerate(times))


def test_what_is_lost_comes_a_round_trip_later_and_so_does_what_is_behind_it():
    it = line(one_way=0.05, loss=0.05)
    lags = [it.send(PACKET, at / 10) - at / 10 for at in range(1000)]
    late = [lag for lag in lags if lag > 0.051]
    assert 0.03 < len(late) / len(lags) < 0.07 and all(lag == pytest.approx(0.15) for lag in late)
    first = next(at for at, lag in enumerate(lags) if lag > 0.051)
    again = line(one_way=0.05, loss=0.05)
    for at in range(first):
        again.send(PACKET, at / 10)
    stalled = again.send(PACKET, first / 10)
    assert again.send(1, first / 10) == stalled, "it has overtaken what was lost"


def test_many_packets_are_lost_more_often_than_one():
    few, many = line(one_way=1.0, loss=0.01), line(one_way=1.0, loss=0.01)
    assert sum(few.send(1, 10.0 * at) > 10 * at + 1 for at in range(300)) < sum(many.send(50 * PACKET, 10.0 * at) > 10 * at + 1 for at in range(300))


@pytest.mark.parametrize("wrong", [{"one_way": -1}, {"one_way": inf}, {"jitter": -1}, {"rate": 0}, {"loss": 1}, {"loss": float("nan")}])
def test_what_is_no_distance_cannot_be_built(wrong):
    with pytest.raises(ValueError, match="no distance"):
        Distance(**wrong)
