"""When bytes arrive that leave now: one direction of a way between two processes. Pure; times and dice are handed in, and it knows no socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

PACKET = 1460
"""Bytes of a TCP segment: what is lost at once."""

BUFFER = 64 * 2**10
"""Bytes that wait at a slow line's entrance before whoever sends is held up, as a router's queue and a socket's buffer do: with more, a token would wait behind
what its own sender has long forgotten."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Seconds `one_way`, up to `jitter` seconds more, `rate` bytes per second, and `loss`, the share of packets that are lost. TCP sends a lost one again,
    which is seen as a stall: it and all behind it come one round trip later."""

    one_way: float = 0.0
    jitter: float = 0.0
    rate: float = inf
    loss: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.one_way < inf and 0 <= self.jitter < inf and self.rate > 0 and 0 <= self.loss < 1):
            raise ValueError(f"{self} is no distance: seconds are not negative, a rate is above 0, and loss below 1")


class Line:
    """Bytes come out in the order in which they went in, whatever the jitter."""

    def __init__(self, distance: Distance, dice: Callable[[], float]) -> None:
        self.distance, self._dice = distance, dice
        self._free = self._last = 0.0

    def send(self, size: int, now: float) -> float:
        """When so many bytes, which leave now, have arrived."""
        way = self.distance
        self._free = max(self._free, now) + size / way.rate
        arrives = self._free + way.one_way + (way.jitter * self._dice() if way.jitter else 0.0)
        if way.loss and self._dice() > (1 - way.loss) ** -(-size // PACKET):
            arrives += 2 * way.one_way + way.jitter
        self._last = max(self._last, arrives)
        return self._last

    def crowded(self, now: float) -> float:
        """In how many seconds there is room again for more; 0 where there is some now."""
        return max(self._free - now - BUFFER / self.distance.rate, 0.0)
