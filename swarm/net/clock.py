"""The swarm's time: this machine's clock, corrected by what others' clocks say. In the room `net`; pure, the machine's clock is handed in.

Records live 25 s by their owner's clock. Where that is an hour off, plain hivemind refuses its stores, or keeps for an hour what is long gone. So whoever joins
asks those through whom he enters what time it is (a ping tells), goes on asking, and speaks and judges in the swarm's time.

The median counts, so that one liar among three moves nobody. Who enters through liars alone has their time, and their swarm. Whoever began a swarm, and so
entered through nobody, is itself one of those whom it asks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

TRUSTED = 1.0
"""Seconds that clocks may be apart without anybody minding: well-kept ones then stay as they are, instead of following one another about."""


class SwarmClock:
    def __init__(self, machine: Callable[[], float] = time.time) -> None:
        self._machine = machine
        self.offset = 0.0

    def __call__(self) -> float:
        return self._machine() + self.offset

    def correct(self, ahead: Iterable[float]) -> None:
        """By how many seconds others are ahead of this machine's own clock."""
        others = list(ahead)
        if others:
            median = min(statistics.median_low(others), statistics.median_high(others), key=abs)  # of two in the middle, whom we need believe least
            self.offset = median if abs(median) > TRUSTED else 0.0
