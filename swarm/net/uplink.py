"""How much of the uplink we may use: a token bucket (RFC 2697's, with one colour) shared by all links of a node. Pure: the time is handed in."""

from __future__ import annotations

BURST = 1.0
"""Seconds of the rate that may leave at once after a pause: a token's frame never waits on an idle line."""


class Uplink:
    """`rate` in bytes per second; None is no limit."""

    def __init__(self, rate: float | None = None) -> None:
        self._rate = rate
        self._level = (rate or 0.0) * BURST
        self._at: float | None = None

    def spend(self, size: int, now: float) -> float:
        """Take `size` bytes, which leave now, and answer how many seconds to wait before the next."""
        if self._rate is None:
            return 0.0
        if self._at is not None:
            self._level = min(self._rate * BURST, self._level + (now - self._at) * self._rate)
        self._at = now
        self._level -= size
        return max(-self._level / self._rate, 0.0)
