"""Keeping the sessions of one machine's ring in step. Pure: times are handed in, deadlines come out.

Peers on machines of their own do best when sessions go round in several groups, so that every hop is busy. Peers that share one machine do worst that way: its
cores read the weights once for each group instead of once for all. So the first hop of a ring that lies on a single machine waits, before it starts a batch,
for the sessions that are still on their way round and due back. They then travel as one from there on, and nobody waits again until somebody joins.

Prompts are the other way round. Hops on machines of their own work at several chunks of a prompt at once; those of one machine take its cores from one another,
and a token that goes round meanwhile waits at each of them. So where streams decode, the first hop lets another chunk go only when the last one can have left
the ring.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable

SLACK = 1.25
"""A session is due back within so many usual rounds; later ones are not waited for (the answer ended, a hop died)."""

LONGEST = 1.0
"""Seconds beyond which nobody is waited for, however long the rounds are."""

SMOOTHING = 0.2


class Muster:
    def __init__(self) -> None:
        self._left: dict[Hashable, float] = {}
        self._round = 0.0
        self._rests_until = 0.0
        self._on_its_way: Hashable = None

    def left(self, key: Hashable, now: float) -> None:
        """A session's step has been computed here and is on its way round."""
        self._left[key] = now

    def back(self, key: Hashable, now: float) -> None:
        """Its next step has arrived."""
        if (since := self._left.pop(key, None)) is not None:
            taken = now - since
            self._round = taken if not self._round else self._round + SMOOTHING * (taken - self._round)

    def gone(self, key: Hashable) -> None:
        self._left.pop(key, None)

    def chunk(self, key: Hashable, seconds: float, share: float, now: float) -> None:
        """A chunk of a session's prompt has taken so long here, where so much of the model is (0 to 1), and is on its way."""
        self._on_its_way, self._rests_until = key, now + seconds * (1 / share - 1)

    def decodes(self, key: Hashable) -> None:
        """A session's token has come home: of its prompt nothing is on its way any more."""
        if key == self._on_its_way:
            self._rests_until = 0.0

    def prompts_wait_until(self, now: float) -> float:
        """When another may start."""
        return max(self._rests_until, now)

    def wait_until(self, ready: Collection[Hashable], now: float) -> float:
        """When the batch of `ready` sessions may start: now if nobody else is due back, else the latest time worth waiting until."""
        allowed = min(SLACK * self._round, LONGEST)
        due = [since + allowed for key, since in self._left.items() if key not in ready]
        for key in [key for key, since in self._left.items() if since + LONGEST * 2 < now]:
            del self._left[key]
        return max((time for time in due if time > now), default=now)
