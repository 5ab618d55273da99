"""What changes between two routes of one session. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core import Hop


def newcomers(old: Sequence[Hop], new: Sequence[Hop]) -> tuple[int, int] | None:
    """The first and the last number of the hops of a new route that the old one does without, if they stand side by side behind a hop that stays (or at the
    beginning): then they can be fed while the old route goes on. None otherwise, or if there are none."""
    known = {(hop.peer, hop.span) for hop in old}
    numbers = [number for number, hop in enumerate(new) if (hop.peer, hop.span) not in known]
    if not numbers or numbers[-1] - numbers[0] >= len(numbers):
        return None
    return numbers[0], numbers[-1]


def dismissed(old: Sequence[Hop], new: Sequence[Hop], first: int) -> int | None:
    """The last of the hops from number `first` on, one after the other, that the new route does without; None if it keeps number `first` already."""
    kept = {(hop.peer, hop.span) for hop in new}
    last = None
    for number in range(first, len(old)):
        if (old[number].peer, old[number].span) in kept:
            break
        last = number
    return last
