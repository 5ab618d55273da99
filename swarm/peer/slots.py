"""Room: peer. What waits in the engine, by hop, and the pieces that it is run in: values that the event loop and the compute thread hand to one another.

Knows jobs, caches and the order of both. Decides nothing: when something runs is the engine's (`engine.py`), how it runs `rounds.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from swarm.core import HopKey, PeerId, Sampling
from swarm.machines.effects import Compute, Draw
from swarm.wire import LOOP

if TYPE_CHECKING:
    from swarm.model.cache import KVCache

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Slot:
    """One hop in the engine: its cache, and its jobs and cuts in order. A cut is the length to cut to. `ran` is what came so far of a long job, which runs in
    portions: the first of the queue, or one whose last portion runs now."""

    sampling: Sampling
    cache: KVCache
    queue: deque[Compute | int] = field(default_factory=deque)
    ran: list[Done] = field(default_factory=list)
    arrived: int = 0
    musters: bool = False
    """Whether this is the first hop of a ring on one machine, whose sessions are kept in step."""
    shared: bool = False
    """Whether it is any hop of a ring whose hops take the same cores from one another: that is so where one alone keeps them busy."""
    share: float = 1.0
    """How much of the model it runs."""
    reply: str = LOOP
    """What its head gives: drawn tokens, or as the order has it."""
    client: PeerId = ""

    def next_job(self) -> Compute | None:
        return next((entry for entry in self.queue if isinstance(entry, Compute)), None)

    def ran_of(self, job: Compute) -> list[Done]:
        return [result for result in self.ran if result.part.job is job]

    def done(self, job: Compute) -> int:
        """Positions of it that have run."""
        return sum(result.part.count for result in self.ran_of(job))


@dataclass(eq=False, slots=True)
class Copy:
    """A cache that is to begin as another one, in so many positions. It is `urgent` once some of these are to be cut from the other."""

    cache: KVCache
    other: KVCache
    length: int
    urgent: bool = False
    done: bool = False
    _steps: Iterator[int] | None = None

    def step(self) -> int:
        """A piece of it: how many bytes."""
        try:
            self._steps = self._steps or self.cache.begin_as(self.other, self.length)
            return next(self._steps)
        except StopIteration:
            self.done = True
        except Exception:  # whatever there is too little of: the hop's first row does not append then, and fails
            log.warning("a session's prefix could not be copied", exc_info=True)
            self.done = True
        return 0


@dataclass(frozen=True, slots=True)
class Part:
    """Positions [begin, end) of a job, counted from its start, and the cuts before it."""

    key: HopKey
    slot: Slot
    job: Compute
    begin: int
    end: int
    cuts: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return self.end - self.begin

    @property
    def is_last(self) -> bool:
        return self.end == len(self.job.tokens)

    @property
    def start(self) -> int:
        return self.job.start + self.begin

    @property
    def rest(self) -> Compute:
        """What of the job is behind this part, which has been handed on."""
        job, rows = self.job, None if self.job.hidden is None else self.job.hidden[self.end :]
        draw = tuple(offset - self.end for offset in job.draw if offset >= self.end)
        return replace(job, start=job.start + self.end, tokens=job.tokens[self.end :], hidden=rows, draw=draw)

    @property
    def draw(self) -> tuple[int, ...]:
        """Which of its positions to draw after, counted from its own start."""
        return tuple(offset - self.begin for offset in self.job.draw if self.begin <= offset < self.end)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a part: outputs (None behind the head), and tokens drawn."""

    part: Part
    rows: Any = None
    draws: tuple[Draw, ...] = ()
    micros: int = 0
    error: str = ""
