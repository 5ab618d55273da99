"""Guard: how much one peer may ask of us. In the room `net`; pure, the time is handed in.

Attack: 10,000 records under one key from one machine, so that honest ones find no room and no reader gets them in time; or searches without an end, each of
which makes us send a megabyte. Each peer has a bucket for calls and one for records (RFC 2697's, with one colour). Who has emptied his is answered that
there is nothing: an honest one, who never does, is not taken for dead by anybody.
"""

from __future__ import annotations

from collections import OrderedDict

CALLS, CALLS_PER_SECOND = 200.0, 50.0
"""Calls of one peer. A large one counts as several: one for each CALL_BYTES that it brings or takes. A reader of a large swarm makes some ten a second."""

CALL_BYTES = 2**16

RECORDS, RECORDS_PER_SECOND = 128.0, 8.0
"""Records one peer may bring, its own and others': its own is one in eight seconds. One peer never has more than some 330 alive here."""

MAX_PEERS = 2048
"""Peers whose buckets are remembered; who has not called for the longest time is forgotten first."""


class Quotas:
    def __init__(self, burst: float, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._buckets: OrderedDict[object, tuple[float, float]] = OrderedDict()
        """Peer → what was left, and when."""

    def take(self, peer: object, amount: float, now: float) -> bool:
        """Whether the peer has some left; if so, `amount` is taken, which may leave it owing."""
        left, then = self._buckets.pop(peer, (self._burst, now))
        left = min(self._burst, left + max(now - then, 0.0) * self._rate)
        allowed = left > 0
        self._buckets[peer] = (left - amount if allowed else left, now)
        if len(self._buckets) > MAX_PEERS:
            self._buckets.popitem(last=False)
        return allowed
