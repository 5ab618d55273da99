"""The room `gateway`, its speedometer: tokens a second over the last minutes. Pure: times are handed in."""

from __future__ import annotations

from collections import deque

STEP = 2.0
"""Seconds of one bar: short enough to see a repair, long enough for slow models not to look like a comb."""

BARS = 90
"""Three minutes."""


class Rate:
    def __init__(self) -> None:
        self.total = 0
        self._bars: deque[tuple[int, int]] = deque(maxlen=BARS)
        """Number of a bar, counted from the beginning of time, and its tokens."""

    def add(self, now: float, tokens: int) -> None:
        self.total += tokens
        bar = int(now / STEP)
        if self._bars and self._bars[-1][0] == bar:
            self._bars[-1] = bar, self._bars[-1][1] + tokens
        else:
            self._bars.append((bar, tokens))

    def recent(self, now: float) -> list[float]:
        """Tokens a second of each bar that is over, the newest last."""
        counts, last = dict(self._bars), int(now / STEP)
        return [counts.get(bar, 0) / STEP for bar in range(last - BARS, last)]
