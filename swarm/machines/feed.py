"""How far whoever follows a hop has been fed: a cursor, and what it may run ahead of. Knows lengths alone: not who follows, nor what is sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Feed:
    """Positions below `sent` are forwarded, those below `acked` known to be computed there: `acked` ≤ `sent`."""

    ready: bool = False
    """Whether it has said where to begin. Before that nothing is sent."""
    sent: int = 0
    acked: int = 0

    def begins_at(self, length: int) -> None:
        """It holds positions below `length` and wants all from there on, whatever it was sent before."""
        self.ready, self.sent, self.acked = True, length, length

    def has(self, length: int) -> None:
        """It has computed so many, of those it was sent."""
        self.acked = max(self.acked, min(length, self.sent))

    def lacks(self, computed: int, chunk: int, window: int) -> tuple[int, int] | None:
        """Which positions to send next, of those that are computed; None for none now."""
        end = min(computed, self.sent + chunk, self.acked + window)
        return (self.sent, end) if self.ready and self.sent < end else None

    def is_fed(self, computed: int, slack: int) -> bool:
        """Whether it holds all but so few positions."""
        return self.ready and self.acked + slack >= computed

    def truncate(self, length: int) -> None:
        """Positions from `length` on are void."""
        self.sent, self.acked = min(self.sent, length), min(self.acked, length)
