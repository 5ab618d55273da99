"""How many positions the machine still has memory for. Pure: memory figures and times are handed in.

The cache was promised when the peer started, by what was free then; a position takes memory only when it is used. If other programs have grown meanwhile, what
was promised may not be there any more, and to take it all the same would have somebody killed. So no more is promised anew than there is. What is promised
already stays: of what the running sessions were promised, what they do not hold yet is kept for them.
"""

from __future__ import annotations

from collections import deque

LEFT = 256 * 2**20
"""Bytes that no new session may count on: what runs, ours and others', needs some more now and then. Half of what is left when the cache is promised."""

BACK = 15.0
"""Seconds for which memory must have been there before it counts again: what a program gives back it often takes again."""


class Headroom:
    def __init__(self, position_bytes: float) -> None:
        """`position_bytes`: what a position of a session that runs all that is held takes; 0 where nobody knows, and then nothing is held back."""
        self._position = position_bytes
        self._base: int | None = None
        """Bytes of this process when nothing was reserved last. What its allocator still kept then may be used again, but nobody knows for what; so it does
        not count as cache."""
        self._seen: deque[tuple[float, int]] = deque()

    def most(self, free: int, own: int, host_free: int, reserved: float, now: float) -> int | None:
        """How many positions may be reserved in all, `reserved` being those that are, or are laid by; None where any number may. `free` and `own`
        are as in `ports.Readings`."""
        if not self._position:
            return None
        if self._base is None or not reserved:
            self._base = own
        allocated = min(max(own - self._base, 0), reserved * self._position)
        there = free - LEFT + allocated if host_free >= LEFT else 0
        self._seen.append((now, max(int(there / self._position), 0)))
        while self._seen[0][0] < now - BACK:
            self._seen.popleft()
        return min(most for _, most in self._seen)
