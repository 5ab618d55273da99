"""Room: host. Small files in which figures outlive us. Knows files; not what the figures are.

A note that is damaged, or was written about something else, is none: it is said in the log, and the next one takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

log = logging.getLogger(__name__)

FORMAT = 1
"""Rises when figures of the same name come to mean something else."""

MOST = 2**14
"""Bytes of a note: what is longer was not written here."""

Text = Annotated[str, Meta(max_length=2**10)]
Figure = Annotated[float, Meta(ge=0, le=1e15)]


class Note(msgspec.Struct, frozen=True):
    """What a file holds, as JSON, so that whoever wonders can read it."""

    format: int
    about: Annotated[tuple[Text, ...], Meta(max_length=32)]
    figures: Annotated[dict[Text, Figure], Meta(max_length=32)]


class FileNotes:
    """Implements `ports.Notes`: one file for each thing that something is noted about."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, about: Sequence[str]) -> Path:
        return self._folder / f"{sha256(chr(0).join(about).encode()).hexdigest()[:32]}.json"

    def read(self, about: Sequence[str]) -> Mapping[str, float]:
        path = self.path(about)
        try:
            note = _read(path)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.warning("what was measured before cannot be read (%s: %s), so it is measured anew", path, error)
            return {}
        if note.format != FORMAT or note.about != tuple(about):
            log.info("what %s holds is of another version or about something else, so it is measured anew", path)
            return {}
        return note.figures

    def of_kind(self, kind: str) -> dict[tuple[str, ...], Mapping[str, float]]:
        """All that is noted about things whose first text is this. What cannot be read is left out."""
        found: dict[tuple[str, ...], Mapping[str, float]] = {}
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError, RecursionError):
                note = _read(path)
                if note.format == FORMAT and note.about[:1] == (kind,) and path == self.path(note.about):
                    found[note.about] = note.figures
        return found

    def write(self, about: Sequence[str], figures: Mapping[str, float]) -> None:
        path = self.path(about)
        beside = path.with_name(f"{path.stem}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(msgspec.json.encode(Note(FORMAT, tuple(about), dict(figures))))
            beside.replace(path)  # as a whole, whatever happens meanwhile
        except OSError as error:
            log.debug("cannot write down what was measured in %s: %s", path, error)
            with contextlib.suppress(OSError):
                beside.unlink()


def _read(path: Path) -> Note:
    with path.open("rb") as file:
        data = file.read(MOST + 1)
    return msgspec.json.decode(data if len(data) <= MOST else b"", type=Note)
