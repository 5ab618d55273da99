"""The table at the end: promise, attack, figure to reach, figure seen."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_FIGURES: list[tuple[int, str, str, str]] = []


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="package", autouse=True)
def as_their_owners_start_them() -> Iterator[None]:
    """What is measured here is what processes take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swarm.local.subprocess", subprocess)
        yield


@pytest.fixture
def figure() -> Callable[[int, str, str, str], None]:
    """Note what was seen of a promise, before it is asserted."""

    def note(promise: int, attack: str, goal: str, seen: str) -> None:
        _FIGURES.append((promise, attack, goal, seen))

    return note


def pytest_terminal_summary(terminalreporter):
    if not _FIGURES:
        return
    rows = [("promise", "attack", "figure to reach", "figure seen"), *((str(row[0]), *row[1:]) for row in sorted(_FIGURES))]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    terminalreporter.section("attacks")
    for row in rows:
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
