"""What one hop holds of a session, by position: the tokens, marks of what came in, outputs for whoever follows, and which jobs the engine owes an answer.

Knows the first two of a hop's four lengths (`hop.py`). Knows nothing of neighbours, chains or drafts: whoever is to hear of a cut is told by the hop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from swarm.core import digest_of, longest_after_cut, slab_size
from swarm.machines.journal import Journal
from swarm.machines.marks import marks
from swarm.wire import MARK, Blob, Prefix


@dataclass(frozen=True, slots=True)
class Job:
    """Positions [start, start + count), with the engine. `micros` is what earlier hops spent on them."""

    serial: int
    start: int
    count: int
    micros: tuple[int, ...]


class Positions:
    """`tokens` are all that were accepted; the first `computed` of them are answered, and the jobs that are not follow one another from there. A cache that is
    not `rewindable` (recurrent state) cannot be cut but to nothing."""

    def __init__(self, journal_bytes: int, rewindable: bool = True) -> None:
        self.tokens: list[int] = []
        self.computed = 0
        self.journal = Journal(journal_bytes)
        """The outputs, up to `computed`; at the head there are none."""
        self.marks = bytearray()
        """Of the rows received, by position; none at the first hop, which has the tokens."""
        self._rewindable = rewindable
        self._jobs: deque[Job] = deque()
        self._serial = 0
        self._longest = 0

    @property
    def accepted(self) -> int:
        return len(self.tokens)

    @property
    def owed(self) -> bool:
        """Whether the engine owes an answer."""
        return bool(self._jobs)

    @property
    def size(self) -> int:
        """Positions that the cache takes room for now, if its session's limit allows that."""
        return slab_size(self._longest)

    def size_after_cut(self, length: int) -> int:
        return slab_size(longest_after_cut(self._longest, length))

    def keeps(self, length: int) -> int:
        """How many stay of those below `length`, at rest."""
        return min(length if self._rewindable else 0, self.accepted)

    def holds(self, prefix: Prefix) -> bool:
        return self.computed >= prefix.length and digest_of(self.tokens[: prefix.length]) == prefix.digest

    def begin_as(self, other: Positions, length: int, *, instead: bool) -> None:
        """Hold what another hop over the same components holds below `length`; `instead` of that one, which is over."""
        self.tokens, self.computed, self._longest = other.tokens[:length], length, length
        self.marks = other.marks[: MARK * length]
        if instead:
            self.journal, self._longest = other.journal, longest_after_cut(other._longest, length)
            self.journal.truncate(length)
        else:
            self.journal = other.journal.prefix(length)

    def append(self, tokens: Sequence[int], rows: Blob | None, micros: tuple[int, ...]) -> int:
        """Another job, and its serial number."""
        start = self.accepted
        self.tokens.extend(tokens)
        self._longest = max(self._longest, self.accepted)
        self._serial += 1
        self._jobs.append(Job(self._serial, start, len(tokens), micros))
        self.marks += marks(rows) if rows is not None else b""
        return self._serial

    def finished(self, serial: int, count: int | None = None) -> Job | None:
        """The oldest job, if this is its answer, or what was of it where that is for its first `count` positions alone; None for the answer of a job that was
        voided."""
        if not self._jobs or serial != self._jobs[0].serial:
            return None
        job = self._jobs.popleft()
        if count is not None and count < job.count:
            self._jobs.appendleft(replace(job, start=job.start + count, count=job.count - count))
            job = replace(job, count=count)
        self.computed += job.count
        return job

    def cut(self, length: int) -> int | None:
        """Keep positions below `length`: how many these are, None if nothing is lost. Jobs that reach beyond are void; those below go on."""
        if length >= self.accepted:
            return None
        keep = min([length, *(job.start for job in self._jobs if job.start + job.count > length)]) if self._rewindable else 0
        while self._jobs and self._jobs[-1].start >= keep:
            self._jobs.pop()
        del self.tokens[keep:], self.marks[MARK * keep :]
        self._longest = longest_after_cut(self._longest, keep)
        self.computed = min(self.computed, keep)
        self.journal.truncate(self.computed)
        return keep
