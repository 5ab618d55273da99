"""A peer's pace, fitted to rounds: what it announces follows what it takes."""

from __future__ import annotations

import random

import pytest

from swarm.core import Span
from swarm.peer.pace import ALIKE, BOUND, ENOUGH, PROMPT, Fit, Pace

LAYERS = Span(3, 9)


def fitted(read: float, row: float, *, rounds: int = 600, noise: float = 0.1, seed: int = 0, sizes=(1, 1, 1, 2, 4, 256)) -> Pace:
    """Begins with read 0.010, row 0.0005."""
    dice, pace = random.Random(seed), Pace(0.0105, 0.0005 + 0.010 / PROMPT, 1.5, 20)
    for _ in range(rounds):
        rows = dice.choice(sizes)
        pace.add(LAYERS, rows, len(LAYERS) * (read + row * rows) * dice.uniform(1 - noise, 1 + noise))
    return pace


def test_it_begins_with_what_was_measured():
    pace = Pace(0.0105, 0.0005 + 0.010 / PROMPT, 1.5, 20)
    assert (pace.decode, pace.prefill) == (pytest.approx(0.0105), pytest.approx(0.0005 + 0.010 / PROMPT))


@pytest.mark.parametrize(("read", "row"), [(0.010, 0.0005), (0.040, 0.0020), (0.002, 0.0005), (0.010, 0.0001)])
def test_it_follows_a_machine_that_became_slower_or_faster(read, row):
    for seed in range(5):
        pace = fitted(read, row, seed=seed)
        assert pace.decode == pytest.approx(read + row, rel=0.15)
        assert pace.prefill == pytest.approx(row + read / PROMPT, rel=0.25)


@pytest.mark.parametrize("alike", [1, 256])
def test_rounds_that_are_all_alike_for_long_lead_nothing_astray(alike):
    """As in a long answer: it follows what it sees, keeps what it knew of the rest, and goes on following."""
    for seed in range(3):
        dice, pace = random.Random(seed), Pace(0.0105, 0.0005 + 0.010 / PROMPT, 1.5, 20)

        def go_on(read: float, row: float, rows: int, rounds: int, dice: random.Random = dice, pace: Pace = pace) -> None:
            for _ in range(rounds):
                pace.add(LAYERS, rows, len(LAYERS) * (read + row * rows) * dice.uniform(0.7, 1.3))

        go_on(0.010, 0.0005, alike, 10_000)
        assert pace.decode == pytest.approx(0.0105, rel=0.15) and pace.prefill == pytest.approx(0.0005 + 0.010 / PROMPT, rel=0.15)
        go_on(0.040, 0.0005, 1, 400)
        assert pace.decode == pytest.approx(0.0405, rel=0.15)
        go_on(0.040, 0.0020, 256, 400)
        assert pace.prefill == pytest.approx(0.0020 + 0.040 / PROMPT, rel=0.15)


def test_one_round_far_too_long_changes_little_and_nonsense_nothing():
    pace = fitted(0.010, 0.0005)
    before = pace.decode
    pace.add(LAYERS, 1, 500.0)
    assert pace.decode < 1.1 * before
    again = pace.decode
    for span, rows, seconds in ((Span(0, 1), 1, 1.0), (LAYERS, 0, 1.0), (LAYERS, 1, 0.0), (LAYERS, 1, float("nan"))):
        pace.add(span, rows, seconds)
    assert pace.decode == again


def test_the_head_counts_as_so_many_layers_when_it_draws():
    pace = Pace(0.01, 0.001, 2.0, 20)
    for _ in range(300):
        pace.add(Span(14, 20), 1, 0.01 * (5 + 2.0))
    assert pace.decode == pytest.approx(0.01, rel=0.05)


def test_it_never_announces_what_cannot_be():
    pace = Pace(0.01, 0.001, 1.0, 20)
    for _ in range(5000):
        pace.add(LAYERS, 1, 1e6)
    assert pace.decode <= 0.01 * BOUND and pace.prefill <= 0.001 * BOUND


def test_a_restart_goes_on_from_what_rounds_took_and_then_follows_the_machine_as_ever():
    fit = fitted(0.020, 0.0008).fit
    again = Pace(0.0105, 0.0005 + 0.010 / PROMPT, 1.5, 20, fit)
    assert (again.decode, again.prefill) == (pytest.approx(fit.decode), pytest.approx(fit.prefill)) and again.fit == fit
    for _ in range(400):
        again.add(LAYERS, 1, len(LAYERS) * 0.0105)
    assert again.decode == pytest.approx(0.0105, rel=0.15)


@pytest.mark.parametrize("times", [1.1 * ALIKE, 0.9 / ALIKE, 0.0, 1e9])
def test_a_machine_that_is_not_what_it_was_is_believed(times):
    fresh = Pace(0.0105, 0.0005 + 0.010 / PROMPT, 1.5, 20)
    pace = Pace(0.0105, 0.0005 + 0.010 / PROMPT, 1.5, 20, Fit(times * 0.010, times * 0.0005, 10_000))
    assert (pace.decode, pace.prefill, pace.fit) == (fresh.decode, fresh.prefill, None)


def test_a_few_rounds_are_not_worth_keeping():
    assert fitted(0.010, 0.0005, rounds=ENOUGH - 1).fit is None and fitted(0.010, 0.0005, rounds=ENOUGH).fit is not None
