"""Room: client. What went wrong for a session since a token last came home: how often, for how long, and so when it is enough. Pure: times in, seconds out.

Does not know routes, nor how anything is mended; whoever does decides what is too much.
"""

from __future__ import annotations

from swarm.core import PeerId, SessionId
from swarm.routing.peers import SHUNNED

LEAST_WAIT = 0.05
"""Seconds before a peer without room is asked again, at least."""


class Setbacks:
    """Of one session. `silences` is how often its chain fell silent; `waits` how often, and `waited` for how long together, it has waited for room."""

    def __init__(self, session: SessionId) -> None:
        self._session = session
        self._trouble: dict[PeerId, tuple[float, float]] = {}
        """When a peer failed us first, and last."""
        self._full: set[PeerId] = set()
        """Who has said that there is no room since we waited last."""
        self.silences = self.waits = 0
        self.waited = 0.0

    def over(self) -> None:
        """A token came home: all is forgotten."""
        self._trouble.clear()
        self._full.clear()
        self.silences = self.waits = 0
        self.waited = 0.0

    def fell_silent(self) -> int:
        """How often it has by now."""
        self.silences += 1
        return self.silences

    def troubled(self, peer: PeerId, now: float) -> float:
        """For how many seconds a peer has failed us again and again. Once it is no longer shunned it was chosen on its merits, not for want of others."""
        first, last = self._trouble.get(peer, (now, now))
        if now > last + SHUNNED:
            first = now
        self._trouble[peer] = first, now
        return now - first

    def full(self, peer: PeerId) -> frozenset[PeerId]:
        """It has no room: who has none, as far as was said since we waited last."""
        self._full.add(peer)
        return frozenset(self._full)

    def wait(self, retry_after: float) -> float:
        """All that could be asked have been: for how many seconds to wait before they are asked again. Sessions that were refused together come back apart."""
        self._full.clear()
        spread = 0.75 + self._session[self.waits % len(self._session)] / 512
        wait = max(retry_after, LEAST_WAIT) * spread
        self.waits, self.waited = self.waits + 1, self.waited + wait
        return wait
