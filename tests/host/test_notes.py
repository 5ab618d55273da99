"""Notes outlive us, and one that is damaged or about something else is none."""

from __future__ import annotations

import logging
import os

import pytest

from swarm.host.notes import MOST, FileNotes

ABOUT = ("speed", "c0ffee", "4 threads")
FIGURES = {"read": 0.25, "rounds": 100}


@pytest.fixture
def notes(tmp_path):
    return FileNotes(tmp_path / "cache" / "measured")


def test_what_is_written_is_read_by_the_next_and_about_nothing_else(notes):
    assert notes.read(ABOUT) == {}
    notes.write(ABOUT, {"read": 1.0})
    notes.write(ABOUT, FIGURES)
    assert FileNotes(notes._folder).read(list(ABOUT)) == FIGURES
    assert notes.read(("speed", "c0ffee", "8 threads")) == notes.read(("speed", "c0ffee4", " threads")) == {}
    assert [path.suffix for path in notes._folder.iterdir()] == [".json"]


DAMAGED = [
    b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 10**4, b" " * (MOST + 10),
    b'{"format":1,"about":["speed","c0ffee","4 threads"],"figures":{"read":-1}}',
    b'{"format":1,"about":["speed","c0ffee","4 threads"],"figures":{"read":1e999}}',
    b'{"format":1,"about":["speed","c0ffee","4 threads"],"figures":{"read":NaN}}',
    b'{"format":1,"about":["speed","c0ffee","4 threads"],"figures":{"read":"fast"}}',
    b'{"format":1,"about":["speed","c0ffee","4 threads"]}',
]  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_note_is_none_says_so_and_is_replaced(notes, caplog, data):
    notes.write(ABOUT, FIGURES)
    notes.path(ABOUT).write_bytes(data)
    assert notes.read(ABOUT) == {} and "measured anew" in caplog.text
    notes.write(ABOUT, FIGURES)
    assert notes.read(ABOUT) == FIGURES


@pytest.mark.parametrize("change", [(b'"format":1', b'"format":2'), (b"4 threads", b"2 threads")])
def test_a_note_of_another_version_or_about_something_else_is_none(notes, caplog, change):
    caplog.set_level(logging.INFO)
    notes.write(ABOUT, FIGURES)
    path = notes.path(ABOUT)
    path.write_bytes(path.read_bytes().replace(*change))
    assert notes.read(ABOUT) == {} and "measured anew" in caplog.text


def test_where_nothing_can_be_written_or_read_nothing_fails(tmp_path):
    (tmp_path / "file").write_text("no folder")
    notes = FileNotes(tmp_path / "file")
    notes.write(ABOUT, FIGURES)
    assert notes.read(ABOUT) == {}
    notes = FileNotes(tmp_path)
    notes.path(ABOUT).mkdir()
    notes.write(ABOUT, FIGURES)
    assert notes.read(ABOUT) == {} and [path.name for path in tmp_path.iterdir() if path.name.endswith(f".{os.getpid()}")] == []
