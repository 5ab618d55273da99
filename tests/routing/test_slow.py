"""The watch over hops: on traces as noisy as real ones it notices what lasts, and nothing else; and moving is advised when it pays."""

from __future__ import annotations

import random
from math import exp

import pytest

from swarm.routing.slow import AGAIN, FEW, MOST, STUBBORN, WARM, Slowness, Watch, pays
from swarm.routing.table import PeerView


def noisy(seed: int, steps: int, slow_from: int | None = None, factor: float = 1.0, base: float = 0.01):
    """A trace of steps: correlated noise of 15 %, a slow drift, one step in a hundred far too long, bursts of doubled ones; from one step on all slower."""
    dice, correlated, burst = random.Random(seed), 0.0, 0
    for step in range(steps):
        correlated = 0.7 * correlated + dice.gauss(0, 0.15 * (1 - 0.7**2) ** 0.5)
        burst = burst - 1 if burst else (dice.randint(5, 20) if dice.random() < 0.0005 else 0)
        time = base * exp(correlated) * (1 + 0.1 * (step / steps - 0.5)) * (2 if burst else 1)
        if dice.random() < 0.01:
            time *= dice.paretovariate(1.5) + 1
        yield time * (factor if slow_from is not None and step >= slow_from else 1)


def first_alarm(trace, others=(0.01,), predicted=0.01) -> tuple[int, int] | None:
    watch = Watch([predicted, *others])
    for step, time in enumerate(trace):
        if (hop := watch.add([time, *others])) is not None:
            return step, hop
    return None


@pytest.mark.parametrize(("factor", "within"), [(1.5, 160), (2.0, 80), (4.0, 40), (8.0, 40)])
def test_what_lasts_is_noticed_soon(factor, within):
    for seed in range(20):
        alarm = first_alarm(noisy(seed, 600, 200, factor))
        assert alarm is not None and alarm[1] == 0 and 200 <= alarm[0] < 200 + within, (seed, alarm)


def test_noise_alone_is_no_reason():
    alarms = sum(first_alarm(noisy(seed, 4000)) is not None for seed in range(20))
    assert alarms <= 2


def test_a_hop_that_announces_a_hundred_times_its_speed_is_found_out_at_once_and_by_how_much():
    watch = Watch([0.01, 0.0001, 0.01])
    for _ in range(WARM + 16):
        if (hop := watch.add([0.01, 0.01, 0.011])) is not None:
            break
    assert hop == 1 and watch.slower(1) == pytest.approx(100, rel=0.1)


def test_when_all_are_slower_than_they_announced_nobody_is_to_blame():
    watch = Watch([0.01, 0.01, 0.01])
    assert all(watch.add([0.03, 0.032, 0.031]) is None for _ in range(2000))
    assert watch.others(0) == pytest.approx(3.1, rel=0.1) and watch.slower(0) == pytest.approx(1, rel=0.1)


def test_own_ends_are_not_judged_and_other_chains_times_do_not_count():
    watch = Watch([0.0, 0.01, 0.0])
    assert all(watch.add([step * 0.01, 0.01, 1.0]) is None for step in range(500))
    assert watch.add([9.0]) is None and watch.slower(0) == 1.0


def test_a_slow_hop_does_not_become_the_usual_one():
    watch, alarms = Watch([0.01, 0.01]), 0
    for step in range(2000):
        alarms += watch.add([0.01 if step < 100 else 0.04, 0.01]) is not None
    assert alarms > 10


def test_moving_pays_if_it_saves_enough_of_what_is_left():
    assert pays(0.05, history=1000, done=10, left=500, prefill=0.001)
    assert not pays(0.05, history=1000, done=10, left=3, prefill=0.001)
    assert not pays(0.001, history=4000, done=10, left=500, prefill=0.01)
    assert not pays(-0.05, history=1, done=10, left=500, prefill=0.0)


def test_a_few_steps_tell_of_one_that_is_plainly_slower():
    watch = Watch([0.01, 0.0001, 0.01])
    for step in range(FEW):
        assert not watch.plainly(1), step
        watch.add([0.01, 0.01, 0.011])
    assert [watch.plainly(hop) for hop in range(3)] == [False, True, False]


def test_of_one_that_is_known_to_be_slower_less_is_enough():
    watch = Watch([0.01, 0.01, 0.01])
    for _ in range(FEW):
        watch.add([0.01, 0.0101, 0.01])
    assert watch.plainly(1, known=True) and not watch.plainly(1) and not watch.plainly(0, known=True)


def views(**announced: float) -> dict[str, PeerView]:
    return {peer: PeerView(peer, decode=decode) for peer, decode in announced.items()}


def test_slowness_is_forgotten_by_half_and_then_altogether():
    slowness, others = Slowness(), views(p=0.01, q=0.01)
    slowness.note("p", 0.04, 0.01, 0.0)
    assert slowness.factors(0.0, others) == {"p": pytest.approx(4)} and slowness.factors(Slowness.HALF, others) == {"p": pytest.approx(2.5)}
    assert slowness.factors(20 * Slowness.HALF, others) == {} and slowness.factors(0.0, others) == {}
    slowness.note("liar", 1e30, 0.01, 0.0)
    assert slowness.factors(0.0, views(liar=0.01))["liar"] == pytest.approx(MOST) and slowness.factors(0.0, views(p=0.01)) == {}
    for seconds in (float("nan"), 0.0, float("inf")):
        with pytest.raises(ValueError, match="takes"):
            slowness.note("p", seconds, 0.01, 0.0)


def test_who_is_found_out_again_is_remembered_for_longer_each_time_and_not_without_end():
    slowness, liar, now = Slowness(), views(liar=0.0001), 0.0
    for times in range(STUBBORN + 3):
        for moment in (0.0, AGAIN / 4, AGAIN / 2):  # once: it is the same answer
            slowness.note("liar", 0.01, 0.0001, now + moment)
        half = Slowness.HALF * 2.0 ** min(times, STUBBORN)
        now += AGAIN / 2 + half
        assert slowness.factors(now, liar) == {"liar": pytest.approx(50.5)}


def test_what_a_peer_says_itself_is_not_held_against_it_twice():
    slowness = Slowness()
    slowness.note("p", 0.04, 0.01, 0.0)
    assert slowness.factors(0.0, views(p=0.02)) == {"p": pytest.approx(2)} and slowness.factors(0.0, views(p=0.04)) == {}
    slowness.note("p", 0.04, 0.04, 1.0)
    assert slowness.factors(1.0, views(p=0.01)) == {}, "it had said so"


def test_newcomers_are_not_believed_to_be_much_faster_than_the_usual_peer_until_they_are_seen_at_work():
    slowness, peers = Slowness(), views(a=0.02, b=0.02, c=0.02, d=0.01, liar=0.0001, gpu=0.001)
    assert slowness.factors(0.0, peers) == {}
    assert slowness.believed(0.0, peers) == {"liar": pytest.approx(0.015 / 4 / 0.0001), "gpu": pytest.approx(0.015 / 4 / 0.001)}
    slowness.prove("gpu")
    slowness.prove("liar")
    assert slowness.believed(0.0, peers) == {}
    slowness.note("liar", 0.02, 0.0001, 0.0)
    assert slowness.believed(0.0, peers) == {"liar": pytest.approx(200)}
    assert Slowness().believed(0.0, views(liar=0.0001, a=0.02)) == {}, "with so few nobody is usual"
    for number in range(5000):
        slowness.prove(f"sybil {number}")
    assert len(slowness._proved) <= 4096


def test_a_hop_counts_as_seen_after_a_few_tokens():
    watch = Watch([0.01, 0.01])
    for _ in range(3):
        watch.add([0.01, 0.01])
    assert not watch.tried(0)
    watch.add([0.01, 0.01])
    assert watch.tried(0) and watch.tried(1)
