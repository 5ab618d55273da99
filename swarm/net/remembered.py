"""Peers of a swarm that were there last time, in a small file: the way in when every initial peer is gone. In the room `net`; knows files and addresses only.

One file for each set of initial peers, so that swarms do not mix. What is in it was said by others and is read like anything that a person types: what
is no address is passed over. Whoever is dialled must own the peer id that stands in the address, so an old one leads to nobody rather than to somebody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from swarm.errors import MalformedAddress
from swarm.net.addresses import Entrance, entrance

MOST = 32
"""Peers remembered. Any one of them is enough."""

MOST_BYTES = 2**16

MOST_FILES = 64
"""Swarms remembered. A swarm that begins on this machine, for a test or a demonstration, is another each time."""


class Remembered:
    def __init__(self, folder: Path, initial_peers: Sequence[str]) -> None:
        about = hashlib.sha256("\n".join(sorted(initial_peers)).encode()).hexdigest()[:16]
        self._path = folder / about

    def read(self) -> list[Entrance]:
        try:
            with self._path.open("rb") as file:
                lines = file.read(MOST_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return []
        found = []
        for line in lines[:MOST]:
            with contextlib.suppress(MalformedAddress):
                found.append(entrance(line))
        return found

    def write(self, places: Iterable[Entrance]) -> None:
        """The most useful first. Nothing is written where nobody is known: what was known before may still help. A full disk is nobody's business here."""
        lines = [place.text for place, _ in zip(places, range(MOST), strict=False)]
        if not lines:
            return
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write("\n".join(lines) + "\n")
                os.replace(temporary, self._path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            self._forget_old()

    def _forget_old(self) -> None:
        files = sorted(self._path.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in files[MOST_FILES:]:
            old.unlink(missing_ok=True)
