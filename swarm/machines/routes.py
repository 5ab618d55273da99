"""What changes between two routes of one session. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core import Hop


def dismissed(old: Sequence[Hop], new: Sequence[Hop], first: int) -> int | None:
    """The last of the hops from number `first` on, one after the other, that the new route does without; None if it keeps number `first` already."""
    kept = {(hop.peer, hop.span) for hop in new}
    last = None
    for number in range(first, len(old)):
        if (old[number].peer, old[number].span) in kept:
            break
        last = number
    return last
