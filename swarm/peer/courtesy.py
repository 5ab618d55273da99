"""How a polite peer makes way for its owner's other programs. Pure: what they use is handed in, with the time; out comes the share of its time in which the
peer computes.

What others use does not fall because we make way, it rises to what they need; so the share settles, and need not be searched for. It moves slowly either way: a
program that starts takes a second of everything, and routes are planned by what was announced.
"""

from __future__ import annotations

BUSY, FULL = 0.25, 0.75
"""Shares of all processors that other programs use: below the one the peer gives way to nobody, from the other on as far as it ever does."""

FLOOR = 0.25
"""The least share: whoever waits for tokens still gets some, at the pace of a machine that is four times as slow."""

PATIENCE = 3.0
"""Seconds that others must be busy for, or no longer, before the share begins to move: what opens a page needs the machine for less."""

FALL, RISE = 0.15, 0.05
"""Of the whole, how far the share moves in a second: all the way down in five, and back in fifteen, since a job often consists of several."""

APART = 2.0
"""Seconds that count between two readings at most: after a machine has slept nobody knows what was needed meanwhile."""

STEP = 0.02
"""Differences below this are none, or what others use would be announced with all its noise."""


class Courtesy:
    def __init__(self) -> None:
        self.share = 1.0
        self._way = 0
        """Whether others have lately wanted less of the machine than they have (1), more (−1), or just that."""
        self._since = self._heard = 0.0

    def heard(self, others: float, hot: bool, now: float) -> float:
        """Others use so much of the processors, or these are as hot as they should ever be. Answers with the share from now on."""
        goal = FLOOR if hot else wanted(others)
        way = (goal > self.share + STEP) - (goal < self.share - STEP) if goal < 1 else int(self.share < 1)
        if way != self._way:
            self._way, self._since = way, now
        elif way and now - self._since >= PATIENCE:
            seconds = min(now - max(self._heard, self._since), APART)
            self.share = max(self.share - FALL * seconds, goal) if way < 0 else min(self.share + RISE * seconds, goal)
        self._heard = now
        return self.share


def wanted(others: float) -> float:
    """The share that is left to us where others use so much."""
    pressed = min(max((others - BUSY) / (FULL - BUSY), 0.0), 1.0)
    return 1.0 - pressed * (1.0 - FLOOR)
