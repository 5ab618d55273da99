"""Room: cli. An answer on standard output while it comes, and a log on standard error that keeps out of its lines. Knows streams; nothing of sessions."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any


class Answer:
    """What is shown of an answer. In a `with`, it ends with a line break, however it ends."""

    def __init__(self) -> None:
        self._last = ""

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_a_line:
            self.write("\n")

    def write(self, piece: str) -> None:
        """Show a piece at once."""
        self._last = piece or self._last
        print(piece, end="", flush=True)

    def make_way(self) -> None:
        """Somebody is about to write a line to standard error: where that is seen in the same place, it begins on a line of its own."""
        if self._in_a_line and same_place(sys.stdout, sys.stderr):
            print(file=sys.stderr, flush=True)
            self._last = "\n"

    @property
    def _in_a_line(self) -> bool:
        return bool(self._last) and not self._last.endswith("\n")


class Beside(logging.StreamHandler):
    """The log beside an answer. Standard error is looked up each time: while a progress bar is shown, it is one that writes above the bar."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        self._answer.make_way()
        super().emit(record)


def same_place(one: Any, other: Any) -> bool:
    """Whether what is written to either is seen among what is written to the other: terminals both, or the same file or pipe."""
    try:
        return (one.isatty() and other.isatty()) or os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except (OSError, ValueError):  # a stream without a file below it
        return False
