"""How soon whoever was refused for want of room had best ask again. Pure: times in, seconds out.

Nobody queues here: whoever comes when a session ends has its room. So it should not take long until somebody comes, however many wait, and those who wait
should not do more than ask. With a quarter of the time that it takes until all of them have had their turn between two questions of one, about four ask for
each session that ends.
"""

from __future__ import annotations

from swarm.core import SessionId

SHARE = 0.25
"""Of the time until everybody has had a turn, between two questions of one."""

LEAST, MOST = 0.05, 5.0
"""Seconds."""

FORGOTTEN = 2 * MOST
"""Seconds after which who has not asked again waits no more."""

MOST_WAITING = 4096
"""Who is remembered. Whoever else there is asks as seldom as these."""

USUAL = 0.5
"""Seconds between the ends of two sessions, as long as nobody knows."""

SMOOTHING = 0.2


class Crowd:
    def __init__(self) -> None:
        self._waiting: dict[SessionId, float] = {}
        self._gap = USUAL
        self._ended: float | None = None

    def refused(self, session: SessionId, now: float) -> None:
        """It wants room, and there is none."""
        self._waiting.pop(session, None)
        if len(self._waiting) < MOST_WAITING:
            self._waiting[session] = now

    def admitted(self, session: SessionId) -> None:
        self._waiting.pop(session, None)

    def ended(self, now: float) -> None:
        """A session is over. How often that happens counts while somebody waits for it."""
        if not self._waiting:
            self._ended = None
            return
        if self._ended is not None:
            self._gap += SMOOTHING * (now - self._ended - self._gap)
        self._ended = now

    def retry_after(self, now: float) -> float:
        """Seconds; 0 where nobody waits."""
        self._waiting = {session: asked for session, asked in self._waiting.items() if asked > now - FORGOTTEN}
        if not self._waiting:
            return 0.0
        return min(max(SHARE * len(self._waiting) * self._gap, LEAST), MOST)
