"""Room: core. How people are told of sizes and peers, and how they may give us texts."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.core.ids import PeerId
from swarm.errors import UsageError


def readable(size: float) -> str:
    """An amount of memory as people are told it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 0.1):.1f} MB" if size > 0 else "0 MB"


def short_id(peer: PeerId) -> str:
    """A peer id as people are shown it: enough to find it among others, and to see that it is one."""
    return f"{peer[:8]}…{peer[-6:]}"


MOST_NAME = 64
"""Characters of what a peer calls itself, and of where it says it is."""


def printable(text: str, most: int | None = None) -> str:
    """What a stranger says of itself, as it may be shown: one line of at most `most` characters, without any that move a terminal's cursor, change its title or
    turn the direction of writing."""
    return "".join(letter for letter in text if letter.isprintable())[:most]


def harmless(text: str) -> str:
    """Text that may hold strangers' words, in several lines: what moves a terminal's cursor or turns the direction of writing stands there spelled out."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def texts(given: Iterable[str] | str, what: str) -> tuple[str, ...]:
    """One text or several, as a caller may give them. `what` they are opens the sentence of the UsageError about anything else."""
    several = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    for one in several:
        if not isinstance(one, str):
            raise UsageError(f"{what}, and cannot be {given!r:.80}")
    return several
