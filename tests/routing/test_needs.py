"""Whom a coordinator calls: somebody who would help more elsewhere, one at a time, and nobody again and again."""

from __future__ import annotations

from dataclasses import replace

from swarm.core import Span
from swarm.routing import needs as needs_module
from swarm.routing.needs import EVERY, REASONS, TRIED, Needs
from swarm.routing.table import PeerView

HERE, THERE = Span(0, 3), Span(3, 6)
LOPSIDED = [PeerView("a", spans=(HERE,)), PeerView("b", spans=(HERE,)), PeerView("c", spans=(HERE,)), PeerView("d", spans=(THERE,))]


def test_it_calls_who_would_help_more_elsewhere_and_another_if_that_one_stays():
    needs = Needs(6)
    assert [needs.call(LOPSIDED, now) for now in (0.0, 10.0, 20.0)] == [("a", THERE), ("b", THERE), ("c", THERE)]
    assert needs.call(LOPSIDED, 30.0) is None and needs.call(LOPSIDED, REASONS) == ("a", THERE)


def test_nobody_is_called_where_all_is_well_or_somebody_is_on_its_way():
    assert Needs(6).call([*LOPSIDED[:1], *LOPSIDED[3:]], 0.0) is None
    for away in ("joining", "leaving"):
        assert (Needs(6).call([*LOPSIDED[:3], replace(LOPSIDED[3], state=away)], 0.0) is None) == (away == "joining")


def test_of_many_a_few_are_thought_about_at_a_time(monkeypatch):
    """Or a call among a thousand peers would take seconds."""
    thought, real = [], needs_module.better_place
    monkeypatch.setattr(needs_module, "better_place", lambda views, view, *rest: thought.append(view.peer) or real(views, view, *rest))
    needs, many = Needs(6), [PeerView(f"p{at:02}", spans=(Span(0, 6),)) for at in range(3 * TRIED)]
    for round_ in range(6):
        assert needs.call(many, EVERY * round_) is None
    names = [view.peer for view in many]
    assert thought == names + names


def test_it_is_due_now_and_then():
    needs = Needs(6)
    assert [needs.due(now) for now in (1.0, EVERY, EVERY + 1, 2 * EVERY - 0.1, 2 * EVERY)] == [False, True, False, False, True]
