"""What a hop keeps of its outputs, and what another session may begin with of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.machines import journal as room
from swarm.machines.journal import Journal
from swarm.wire import Blob


def filled(count: int, budget: int) -> Journal:
    """Row i holds the number i."""
    journal = Journal(budget)
    for number in range(count):
        journal.append(Blob("float32", 1, memoryview(number.to_bytes(4, "little"))))
    return journal


def numbers(journal: Journal) -> list[int]:
    if journal.start == journal.stop:
        return []
    data = bytes(journal.rows(journal.start, journal.stop).data)
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


@given(st.integers(0, 30), st.integers(1, 20), st.integers(1, 30), st.integers(0, 5))
def test_a_prefix_holds_the_rows_below_its_length_and_goes_on_from_there(count, kept, length, more):
    """Or none, where the oldest are gone beyond it; whatever is appended comes after."""
    journal = filled(count, 4 * kept)
    before = numbers(journal)
    twin = journal.prefix(min(length, count))
    assert twin.stop == min(length, count) and numbers(twin) == [number for number in before if number < twin.stop]
    for number in range(twin.stop, twin.stop + more):
        twin.append(Blob("float32", 1, memoryview(number.to_bytes(4, "little"))))
    assert numbers(twin) == list(range(twin.start, twin.stop)) and numbers(journal) == before


def test_a_large_prefix_is_not_copied(monkeypatch):
    monkeypatch.setattr(room, "COPIED", 4 * 9)
    journal = filled(20, 10**6)
    assert numbers(journal.prefix(9)) == list(range(9))
    twin = journal.prefix(10)
    assert (twin.start, twin.stop) == (10, 10)
    with pytest.raises(IndexError):
        twin.rows(0, 10)
