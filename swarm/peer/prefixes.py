"""Hops of sessions that have ended, kept for the next session of the same client: a prompt often begins as an earlier one did, or goes on from its answer.

Pure: knows which hops there are and since when; not how much room they take, which the ledger counts, nor who computes.
"""

from __future__ import annotations

from swarm.core import HopKey, SessionId
from swarm.machines.hop import HopSession
from swarm.wire import Order

KEPT = 300.0
"""Seconds that a hop is kept for: a pause for thought, and reading a long answer."""

MOST = 256
"""Hops kept, however small: each holds its tokens and its order."""

MOST_EACH = 64
"""Of one client."""


class Prefixes:
    """Hops at rest, the oldest first."""

    def __init__(self) -> None:
        self._hops: dict[HopKey, tuple[HopSession, float]] = {}

    def __len__(self) -> int:
        return len(self._hops)

    def keep(self, key: HopKey, hop: HopSession, now: float) -> list[HopKey]:
        """Those that have to go for it."""
        self._hops[key] = hop, now + KEPT
        theirs = [other for other, (kept, _) in self._hops.items() if kept.order.client == hop.order.client]
        return [*self._hops][: max(len(self._hops) - MOST, 0)] or theirs[: max(len(theirs) - MOST_EACH, 0)]

    def drop(self, key: HopKey) -> HopSession | None:
        hop, _ = self._hops.pop(key, (None, 0.0))
        return hop

    def get(self, key: HopKey) -> HopSession | None:
        return self._hops.get(key, (None, 0.0))[0]

    def renew(self, key: HopKey, now: float) -> None:
        """Somebody has made use of it, and may again."""
        if (hop := self.drop(key)) is not None:
            self._hops[key] = hop, now + KEPT

    def of(self, session: SessionId) -> list[tuple[HopKey, HopSession]]:
        return [(key, hop) for key, (hop, _) in self._hops.items() if key.session == session]

    def old(self, now: float) -> list[HopKey]:
        return [key for key, (_, until) in self._hops.items() if now >= until]

    def all(self) -> list[HopKey]:
        return list(self._hops)


def serves(hop: HopSession | None, order: Order) -> bool:
    """Whether the session of an order may begin with what the hop holds. Never across clients: who was answered faster would know what another has asked. Nor
    where it was computed from rows of other bits than those the order asks for."""
    if hop is None or order.prefix is None:
        return False
    return (hop.order.client, hop.order.compressed) == (order.client, order.compressed) and hop.holds(order.prefix)
