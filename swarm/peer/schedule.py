"""Which jobs run next: decode steps of every session first, then at most one chunk's worth of prompts. Pure; knows counts and keys, no tensors; times are
handed in.

A job is grouped with others that enter and leave the model at the same components, because only those can share a row of tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

T = TypeVar("T")

DECODE = 8
"""A job of at most so many positions counts as decoding: a single token, or one with a few drafted ones."""

PACKED = 512
"""Positions packed into one row at most: beyond it a row only adds waiting."""

MOST = 512
"""Positions of prompts in one round at most: one chunk of a long one, or several short ones."""

LEAST = 2 * DECODE
"""Positions of prompts in one round at least, so that prompts come to their end whatever else is done."""

RECENT = 1.0
"""Seconds after a decode step for which another is expected."""

GRACE = 2.5
"""How many decode steps the prompts of one round may take where streams decode, as soon as it is known how long both take: a token waits about so long at every
hop, and so takes some 3.5 times as long as if there were no prompts."""

RING_GRACE = 2.0
"""How many usual steps a portion of prompts may take all the way round a ring on one machine, where a step waits for one portion: less than GRACE, since small
portions take longer for each position than those by which it was reckoned."""

SHARED = 88
"""Positions of prompts in one round at most, where streams decode, of rings on one machine: there they take turns with steps (muster.py), so that a token waits
for all of a portion's way round."""

BEGIN = 256
"""The same where nobody decodes yet, since the first token that comes home waits for what is left of its portion."""

STEPS = 64
"""Steps of a ring on one machine of which the usual one is known: where every step has long been followed by a prompt's portion, that is what it takes."""

SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """The oldest job of one hop, as far as it has not run. `arrived` is a rising number: who came first."""

    what: T
    entry: int
    exit: int
    count: int
    arrived: int

    @property
    def decodes(self) -> bool:
        return self.count <= DECODE


class Chunks:
    """How many positions of prompts go into one round. Where streams decode, few enough that a token which arrives meanwhile is not late by much: a prompt's
    many positions would make it wait for ten steps and more."""

    def __init__(self) -> None:
        self._step = self._each = self._all_round = 0.0
        self._said = False
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._decoded = -RECENT

    def ran(self, decodes: bool, positions: int, seconds: float, now: float) -> None:
        """A group has run."""
        if decodes:
            self._step += SMOOTHING * (seconds - self._step) if self._step else seconds
            self._decoded = now
        else:
            each = seconds / positions
            self._each += SMOOTHING * (each - self._each) if self._each else each

    def stepped(self, gap: float) -> None:
        """A step of a ring on one machine has come so long after the one before."""
        self._steps.append(gap)

    def goes_round(self, positions: int, seconds: float) -> float:
        """A portion goes round such a ring, which should take so long by how much of the model is here. How long it should take by what is known."""
        if not self._said:
            self._all_round = seconds / positions
        return max(seconds, self._all_round * positions)

    def went_round(self, positions: int, seconds: float) -> None:
        """It took so long. Of none nothing is learned."""
        if not positions:
            return
        each = seconds / positions
        self._all_round += SMOOTHING * (each - self._all_round) if self._said else each - self._all_round
        self._said = True

    def decodes(self, now: float) -> bool:
        """Whether streams decode here."""
        return now - self._decoded <= RECENT

    def size(self, now: float, shared: bool = False) -> int:
        """`shared`: of a ring whose hops share their cores."""
        if not self.decodes(now) or not self._each:
            return BEGIN if shared else MOST
        if shared:
            known = self._steps and self._all_round
            return min(max(int(RING_GRACE * median(self._steps) / self._all_round), LEAST), SHARED) if known else SHARED
        return min(max(int(GRACE * self._step / self._each), LEAST), MOST)


def portion(count: int, chunk: int) -> int:
    """How many of a job's `count` positions to run where `chunk` are allowed: all of them rather than leave a few, which would pass for decoding."""
    return count if count <= chunk + DECODE else chunk


def schedule(waiting: Sequence[Waiting[T]], chunk: int = MOST) -> list[list[T]]:
    """One round: groups to run one after the other, each a row of packed sessions. Older jobs first; every decode step is in, and one group of prompts, of
    which the oldest may be longer than `chunk`: then a `portion` of it is meant."""
    ordered = sorted(waiting, key=lambda job: job.arrived)
    groups: list[list[T]] = []
    rows: dict[tuple[int, int], list[T]] = {}
    sizes: dict[tuple[int, int], int] = {}
    for job in ordered:
        if not job.decodes:
            continue
        way = (job.entry, job.exit)
        if way not in rows or sizes[way] + job.count > PACKED:
            rows[way], sizes[way] = [], 0
            groups.append(rows[way])
        rows[way].append(job.what)
        sizes[way] += job.count
    if prompts := _prompts([job for job in ordered if not job.decodes], chunk):
        groups.append(prompts)
    return groups


def _prompts(ordered: Sequence[Waiting[T]], chunk: int) -> list[T]:
    """The oldest prompt's job, and those that fit beside it."""
    group: list[T] = []
    size = 0
    for job in ordered:
        if group and ((job.entry, job.exit) != (ordered[0].entry, ordered[0].exit) or size + job.count > chunk):
            continue
        group.append(job.what)
        size += job.count
    return group
