"""Room: peer. The sessions that a hop room serves, by their hops, and when something was last computed for each. Pure: the clock is handed in.

Knows who is here and at work; not how much room they take, nor what is computed.
"""

from __future__ import annotations

from collections.abc import Callable

from swarm.core import HopKey, PeerId, SessionId
from swarm.machines.hop import HopSession


class Tenants:
    """In the order in which they came. A session is here as long as it has a hop here."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hops: dict[SessionId, dict[HopKey, HopSession]] = {}
        self._worked: dict[SessionId, float] = {}

    def __len__(self) -> int:
        return len(self._hops)

    def of(self, session: SessionId) -> dict[HopKey, HopSession]:
        """The hops of a session; none where it is not here."""
        return self._hops.get(session, {})

    def get(self, key: HopKey) -> HopSession | None:
        return self.of(key.session).get(key)

    def all(self) -> list[tuple[HopKey, HopSession]]:
        return [pair for hops in list(self._hops.values()) for pair in list(hops.items())]

    def add(self, key: HopKey, hop: HopSession) -> None:
        self._hops.setdefault(key.session, {})[key] = hop

    def remove(self, key: HopKey) -> HopSession | None:
        """The hop that was there, if any. A session without hops is not here any more."""
        hop = self.of(key.session).pop(key, None)
        if not self.of(key.session):
            self._hops.pop(key.session, None)
            self._worked.pop(key.session, None)
        return hop

    # --- whose they are -------------------------------------------------------------------------------------------------------------------------------------

    def client(self, session: SessionId) -> PeerId:
        return next(iter(self._hops[session].values())).order.client

    def sessions_of(self, client: PeerId) -> int:
        return sum(client == self.client(session) for session in self._hops)

    # --- who is at work -------------------------------------------------------------------------------------------------------------------------------------

    def works(self, session: SessionId) -> None:
        """Something is computed for it now."""
        self._worked[session] = self._clock()

    def working(self, within: float) -> int:
        """Sessions that something is computed for, or was in the last so many seconds: the others are conversations that wait for a next turn."""
        now = self._clock()
        return sum(any(hop.computes for hop in hops.values()) or now - self._worked[session] < within for session, hops in self._hops.items())

    def busy(self, within: float) -> int:
        """Layers of the hops of sessions that something was computed for in the last so many seconds."""
        now = self._clock()
        return sum(key.stop - key.start for session, hops in self._hops.items() if now - self._worked[session] < within for key in hops)

    def others(self, session: SessionId, within: float) -> int:
        """Sessions beside this one that something was computed for in the last so many seconds."""
        now = self._clock()
        return sum(now - worked < within for other, worked in self._worked.items() if other != session)

    def idle(self, client: PeerId, for_: float) -> list[SessionId]:
        """Sessions of others than this client that nothing has been computed for in so many seconds, the idlest first."""
        now = self._clock()
        return [
            session
            for session, hops in sorted(self._hops.items(), key=lambda entry: self._worked[entry[0]])
            if now - self._worked[session] >= for_ and not any(hop.computes or hop.order.client == client for hop in hops.values())
        ]
