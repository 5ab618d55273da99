"""Reserving memory: what is given back is what was taken, to the last position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.machines.ledger import CacheLedger


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 400), st.integers(0, 4), st.booleans()), max_size=40),
    st.sampled_from([0.0, 1 / 3, 1.0, 4.7]),
)
def test_never_more_than_there_is_and_all_of_it_back(moves, journal):
    ledger = CacheLedger(1000, 4 + journal)
    held: dict[int, float] = {}
    for key, tokens, layers, release in moves:
        weight = layers + journal
        if release:
            ledger.release(key)
            held.pop(key, None)
        elif ledger.can_reserve(key, tokens, weight):
            ledger.reserve(key, tokens, weight)
            held[key] = tokens * weight
        else:
            with pytest.raises(ValueError):
                ledger.reserve(key, tokens, weight)
            assert sum(size for other, size in held.items() if other != key) + tokens * weight > 1000 * (4 + journal)
        assert sum(held.values()) <= 1000 * (4 + journal) + 1e-3
        free = ledger.free_tokens
        assert ledger.can_reserve("new", free, 4 + journal) and not ledger.can_reserve("new", free + 1, 4 + journal)
    for key in held:
        ledger.release(key)
    assert ledger.free_tokens == 1000


def test_what_needs_no_cache_is_never_refused():
    ledger = CacheLedger(10, 0.0)
    ledger.reserve("a", 10**9, 0.0)
    assert ledger.free_tokens == 10 and ledger.can_reserve("b", 10**9, 0.0)


def test_what_is_laid_by_is_in_nobodys_way_and_goes_when_its_room_is_wanted():
    ledger = CacheLedger(100, 1.0)
    assert ledger.lay_by("old", 30, 1) == [] and ledger.lay_by("new", 30, 1) == []
    assert ledger.free_tokens == 100 and ledger.can_reserve("a", 100, 1)
    assert ledger.reserve("a", 40, 1) == []
    ledger.renew("old")
    assert ledger.reserve("b", 20, 1) == ["new"], "the one that nobody has asked for since"
    assert ledger.lay_by("large", 50, 1) == ["old", "large"], "and what has no room is not kept"
    ledger.release("a")
    assert ledger.lay_by("c", 80, 1) == [] and ledger.reserve("b", 21, 1) == ["c"]
    ledger.lay_by("d", 10, 1)
    ledger.release("d")
    assert ledger.reserve("b", 100, 1) == []


def test_what_is_held_back_for_now_hinders_nobody_who_has_it_already():
    ledger = CacheLedger(100, 2.0)
    ledger.reserve("a", 60, 2.0)
    ledger.most = 50
    assert (ledger.tokens, ledger.free_tokens, ledger.held) == (100, 0, 60)
    assert not ledger.can_reserve("b", 1, 0.1) and not ledger.can_reserve("a", 61, 2.0)
    assert ledger.can_reserve("a", 60, 2.0) and ledger.can_reserve("a", 60, 1.0)
    ledger.release("a")
    ledger.reserve("a", 60, 2.0)  # as who was told that it can
    ledger.most = 80
    assert ledger.free_tokens == 20 and ledger.can_reserve("b", 20, 2.0) and not ledger.can_reserve("b", 21, 2.0)
    ledger.most = 1000
    assert ledger.free_tokens == 40


def test_what_is_laid_by_goes_first_when_memory_is_short():
    ledger = CacheLedger(100, 2.0)
    ledger.reserve("a", 30, 2.0)
    ledger.lay_by("old", 20, 2.0)
    ledger.lay_by("new", 20, 2.0)
    assert ledger.laid == 40 and ledger.hold_to(60) == ["old"]
    assert ledger.hold_to(10) == ["new"] and (ledger.held, ledger.laid, ledger.free_tokens) == (30, 0, 0)
    assert ledger.hold_to(100) == [] and ledger.free_tokens == 70
