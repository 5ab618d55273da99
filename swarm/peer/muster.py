"""Keeping the sessions of one machine's ring in step. Pure: times are handed in, deadlines come out.

Peers on machines of their own do best when sessions go round in several groups, so that every hop is busy. Peers that share one machine do worst that way: its
cores read the weights once for each group instead of once for all. So the first hop of a ring that lies on a single machine waits, before it starts a batch,
for the sessions that are still on their way round and due back. They then travel as one from there on, and nobody waits again until somebody joins.

Nor do a prompt and somebody's tokens gain by being computed at once there: each only takes longer, and whoever decodes meets the same portion at every hop. So
they take turns: a step of all who decode goes round, then one portion of prompts, then a step. A token waits for one portion at most, and one
step of many is made for each, instead of many steps of few. When a portion is all the way round the last hop says; if nobody says so, it is given up for
gone when it is late.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

SLACK = 1.25
"""A session is due back within so many usual rounds; later ones are not waited for (the answer ended, a hop died)."""

LONGEST = 1.0
"""Seconds beyond which nobody is waited for, however long the rounds are."""

LATE = 2.0
"""A portion of prompts is waited for so many times longer than the other hops should take for it."""

SMOOTHING = 0.2


@dataclass(slots=True)
class _Portion:
    """On its way round: where it ends, for each of its sessions that it has not passed yet."""

    ends: dict[Hashable, int]
    positions: int
    began: float
    until: float


class Muster:
    def __init__(self) -> None:
        self._left: dict[Hashable, float] = {}
        self._before: dict[Hashable, float] = {}
        """When each session's last step left."""
        self._round = 0.0
        self._portion: _Portion | None = None
        self._is_prompts_turn = False

    # --- what happens ---------------------------------------------------------------------------------------------------------------------------------------

    def left(self, keys: Collection[Hashable], now: float) -> float | None:
        """A step of these sessions has been computed here and is on its way round. How long tokens are apart now, of which whoever comes back from a pause says
        nothing; None where these are the first."""
        gaps = [now - self._before[key] for key in keys if key in self._before]
        for key in keys:
            self._left[key] = self._before[key] = now
        self._is_prompts_turn = True
        return min(gaps, default=None)

    def back(self, key: Hashable, now: float) -> None:
        """Its next step has arrived."""
        if (since := self._left.pop(key, None)) is not None:
            taken = now - since
            self._round = taken if not self._round else self._round + SMOOTHING * (taken - self._round)

    def gone(self, key: Hashable) -> None:
        self._left.pop(key, None)
        self._before.pop(key, None)
        if self._portion is not None:
            self._portion.ends.pop(key, None)

    def portion(self, ends: Mapping[Hashable, int], positions: int, seconds: float, whole: float, now: float) -> None:
        """Some of these sessions' prompts, up to there, has taken so long here, should take so long in all, and is on its way."""
        if self._portion is not None and self._portion.ends:
            positions = 0
        self._portion = _Portion(dict(ends), positions, now - seconds, now + LATE * (whole - seconds))
        self._is_prompts_turn = False

    def passed(self, key: Hashable, length: int, now: float) -> tuple[int, float] | None:
        """Every hop has computed so many positions of this session. When that is all of the portion: of how many positions it was, 0 if others were on their
        way beside it, and how long it took."""
        portion = self._portion
        if portion is None or portion.ends.get(key, length + 1) > length:
            return None
        del portion.ends[key]
        return None if portion.ends else (portion.positions, now - portion.began)

    # --- who may start --------------------------------------------------------------------------------------------------------------------------------------

    def starts(self, steps: Collection[Hashable], prompts: Collection[Hashable], streams: bool, turns: bool, now: float) -> tuple[float, float]:
        """When these steps may start, and these prompts; `streams`: whether somebody decodes; `turns`: whether hops take cores from one another. A prompt that
        has the ring for itself need not take turns: nobody waits for it."""
        if not turns:
            return self.wait_until(steps, now), now
        out = set(self._portion.ends) if self._portion is not None else set()
        if not streams and not steps and len(out.union(prompts)) <= 1:
            return now, now
        empty = self._portion.until if out and self._portion is not None else now
        home = self.wait_until(steps, now)
        start = max(empty, home, now)
        if start > now or not (steps and prompts):
            return start, start
        return (now + LONGEST, now) if self._is_prompts_turn else (now, now + LONGEST)

    def wait_until(self, ready: Collection[Hashable], now: float) -> float:
        """When the batch of `ready` sessions may start: now if nobody else is due back, else the latest time worth waiting until."""
        allowed = min(SLACK * self._round, LONGEST)
        due = [since + allowed for key, since in self._left.items() if key not in ready]
        for key in [key for key, since in self._left.items() if since + LONGEST * 2 < now]:
            del self._left[key]
        return max((time for time in due if time > now), default=now)
