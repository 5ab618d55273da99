"""What was measured survives a restart: a part of a real model, loaded twice."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pytest

from swarm.cli.part import MEASURED, REMEASURED, held, open_checkpoint
from swarm.cli.screen import PlainScreen
from swarm.cli.wish import Wish
from swarm.compose import open_notes
from swarm.core import Span
from swarm.host import meters
from swarm.model import measure
from swarm.model.measure import Speed
from swarm.peer.pace import ENOUGH, Pace

SPANS = (Span(0, 4),)


@pytest.fixture
def load(model, monkeypatch, tmp_path, capsys):
    """Loads some layers as at a start, and says how fast the peer announces to be at first, for how long it was measured, and under what it will be noted.
    Measuring always finds the same."""
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("swarm.model.span.native_code", lambda folder: None)  # which would be compiled into that folder first
    budgets: list[float] = []

    def measured(model, budget):
        budgets.append(budget)
        return Speed(0.010, 0.002, 1.5)

    monkeypatch.setattr(measure, "measure_speed", measured)

    def load(spans=SPANS, **changes):
        wish = replace(Wish(model, "0:3", None, "cpu", 50, None, None, "", ""), **changes)
        holding = held(wish, open_checkpoint(wish), spans, PlainScreen(io.StringIO()))
        return Pace(holding.decode, holding.prefill, holding.head_weight, 8, holding.known), budgets[-1], holding

    return load


def note(holding) -> None:
    open_notes().write(holding.speed_of, {"read": 0.016, "row": 0.0010, "rounds": ENOUGH})


def test_a_restart_begins_with_what_rounds_took_and_measures_shortly(load):
    pace, budget, holding = load()
    assert (pace.decode, budget, holding.known) == (pytest.approx(0.010), MEASURED, None)
    note(holding)
    pace, budget, holding = load()
    assert (pace.decode, pace.prefill, budget) == (pytest.approx(0.017), pytest.approx(0.0010 + 0.016 / 64), REMEASURED)
    assert holding.position_bytes > 0


@pytest.mark.parametrize("damage", [b"", b"no note", b'{"format":1,"about":[],"figures":{}}'])
def test_a_note_that_is_damaged_changes_nothing(load, damage, caplog):
    caplog.set_level(logging.INFO)
    *_, holding = load()
    note(holding)
    open_notes().path(holding.speed_of).write_bytes(damage)
    pace, budget, again = load()
    assert (pace.decode, budget, again.known) == (pytest.approx(0.010), MEASURED, None) and "measured anew" in caplog.text


def test_what_a_note_lacks_is_no_fit(load):
    *_, holding = load()
    open_notes().write(holding.speed_of, {"read": 0.016})
    assert load()[2].known is None


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"eager": True}, {"spans": (Span(1, 4),)}, {"quantize": "int8"}])
def test_what_was_measured_of_something_else_does_not_count(load, changes):
    *_, holding = load()
    note(holding)
    assert load(**changes)[1:2] == (MEASURED,)


@pytest.mark.parametrize("owner, name, other", [(measure, "threads", lambda: 77), (meters, "processor", lambda device: "another")])
def test_other_threads_and_another_processor_are_something_else(load, monkeypatch, owner, name, other):
    *_, holding = load()
    note(holding)
    monkeypatch.setattr(owner, name, other)
    assert load()[1] == MEASURED


def test_the_folder_is_that_of_hashes(monkeypatch, tmp_path):
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path))
    assert open_notes().path(("a",)).parent == tmp_path / "measured"
