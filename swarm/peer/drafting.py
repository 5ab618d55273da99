"""Guesses at the first hop: who makes them, how often they were right, and how far ahead of the ring they may go. Pure; the clock is handed in.

Knows tokens and times. What a guess means to a session, and what becomes of a wrong one, is the machine's (`machines/hop.py`). The formula is derived in
`docs/far.md`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Protocol

from swarm.core import Sampling
from swarm.machines.limits import STEP

SURE, DOUBTFUL = 0.995, 0.01
"""Bounds of an estimated acceptance: nothing is known better after so few tokens."""

WEIGHT, MEMORY = 4, 60
"""Guesses that a prior counts as, and after how many what came before is half forgotten."""

FAST, SLOW = 0.5, 0.05
"""How soon a shorter ring time is believed, and a longer one: a step that waits for others on its way says little of the way."""

SMOOTHING = 0.2

AT_ONCE = 8
"""Steps of guesses alone that are on their way at once at most: each is a pass over the weights of every hop and a message between any two, so guesses that
come one by one are gathered for an eighth of a trip."""

FARTHEST = 2**10
"""Positions ahead, at most, however long somebody lets the ring take."""

MOST_RINGS = 64
"""Whose times are kept for the sessions to come."""

Times = tuple[float, float, float, bool]
"""Of a ring: how long a trip takes, what its slowest part takes for a position and for a step, and whether that has been seen (`Tempo.seen`)."""

UNSEEN = 4 * STEP
"""Positions ahead, at most, of a ring of which it is not known yet what its lines carry: whatever is too much lies in the way of what is right."""

LEVELS = (32, 16, 8, 4, 2, 1)
"""Lengths of a match at which the acceptance is kept apart: two equal tokens of text say little, thirty-two nearly all. One is for what was being copied, with
another token in place of the last one."""

CHANGED = 4
"""Tokens that must have been copied rightly before one is taken for a change: elsewhere the text has come to its end."""

PRIORS = {32: 0.9, 16: 0.85, 8: 0.7, 4: 0.5, 2: 0.25, 1: 0.5}

INDEXED = (8, 4, 2)
"""Lengths that are looked up; longer ones are found by looking further back."""

INDEX_AT_ONCE = 4096
"""Tokens taken into the index in one go, about 2 ms: a long prompt is not to hold up other sessions."""

STALE, SPARED = 4, 1024
"""How many times larger the index may be than what it is of, and of so many tokens more: entries of what was cut stay until then."""


class Drafter(Protocol):
    """Whoever can say what may follow. Tokens are handed as two lists: what the hop holds, and what is to follow it now. The first `sure` of both are right."""

    def opened(self, sampling: Sampling) -> None:
        """The session begins, or goes on, and draws in this way."""
        return

    @abstractmethod
    def offers(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> str | None:
        """What kind of guess it has for the next position, None for none. Guesses of a kind are right equally often."""

    @abstractmethod
    def take(self, tokens: Sequence[int], fresh: Sequence[int], most: int) -> list[int]:
        """What it has offered, at most so many."""

    def ready(self, tokens: Sequence[int], fresh: Sequence[int]) -> int:
        """How many there are to be taken of what it has offered. Who has fewer than are wanted will soon have more."""
        return STEP

    def read(self, tokens: Sequence[int], sure: int) -> None:
        """The first `sure` of these tokens are right, and there is a moment to look at some of them before anything is asked."""
        return

    def missed(self, length: int) -> None:
        """A guess was wrong, or the session goes on from an earlier position: what holds now is `length` tokens."""
        return

    def closed(self) -> None:
        """The session is over."""
        return


class Lookup(Drafter):
    """Prompt lookup: what followed the last time that these tokens stood here (Saxena, "Prompt lookup decoding", 2023). Copies what it has itself just guessed
    too, as LZ77 does, so that a short period is followed as far as one likes."""

    def __init__(self) -> None:
        self._known: list[int] = []
        self._index: dict[int, int] = {}
        self._run: tuple[int, int, int] | None = None
        """Where the run of guesses goes on: the next position, the position it is copied from, and where the match began."""
        self._behind: tuple[int, int] | None = None
        """Where one was wrong: the position behind that, and the one it is copied from if that was but another token in the same text."""

    def offers(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> str | None:
        self._learn(tokens, fresh, sure)
        end = len(tokens) + len(fresh)
        if self._run is None or self._run[0] != end:
            self._run = self._found(end) if end == sure else None
        if self._run is None:
            return None
        _, _, began = self._run
        return f"lookup {next((level for level in LEVELS if level <= sure - began), LEVELS[-1])}"

    def take(self, tokens: Sequence[int], fresh: Sequence[int], most: int) -> list[int]:
        assert self._run is not None
        end, source, began = self._run
        out: list[int] = []
        held = len(tokens)
        for at in range(source, source + most):
            out.append(tokens[at] if at < held else fresh[at - held] if at < end else out[at - end])
        self._run = end + len(out), source + len(out), began
        return out

    def read(self, tokens: Sequence[int], sure: int) -> None:
        self._learn(tokens, (), sure)

    def missed(self, length: int) -> None:
        run, self._run, self._behind = self._run, None, None
        if run is not None and run[2] + CHANGED <= length < run[0]:
            self._behind = length + 1, run[1] - (run[0] - length) + 1
        del self._known[length:]
        if len(self._index) > STALE * len(INDEXED) * (length + SPARED):  # a client may let one history follow another
            self._index.clear()
            self._known.clear()

    def _learn(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> None:
        known, held, begin = self._known, len(tokens), len(self._known)
        end = min(sure, begin + INDEX_AT_ONCE)
        if end <= begin:
            return
        known += tokens[begin:end]
        known += fresh[max(begin - held, 0) : max(end - held, 0)]
        for length in INDEXED:  # a loop over tokens would take twice as long
            if (first := max(begin, length)) < end:
                before = zip(*(known[first - length + at : end - length + at] for at in range(length)), strict=True)
                self._index.update(zip(map(hash, before), range(first, end), strict=True))

    def _found(self, end: int) -> tuple[int, int, int] | None:
        """A text that is edited is copied on behind what was changed, unless more than two tokens say that it goes on elsewhere."""
        found = self._match(end)
        if self._behind is None or self._behind[0] != end or (found is not None and end - found[2] > INDEXED[-1]):
            return found
        return end, self._behind[1], end - 1

    def _match(self, end: int) -> tuple[int, int, int] | None:
        """The latest place with the longest of the indexed matches, if the index has come so far."""
        known = self._known
        if len(known) != end:
            return None
        for length in INDEXED:
            if end <= length:
                continue
            at = self._index.get(hash(tuple(known[end - length :])), end)
            if at < end and known[at - length : at] == known[end - length :]:  # an entry of a history that was cut points anywhere
                while length < min(at, LEVELS[0]) and known[at - length - 1] == known[end - length - 1]:
                    length += 1
                return end, at, end - length
        return None


class Told(Drafter):
    """Guesses that somebody else made, as the client with its draft model does: tokens from a position on."""

    def __init__(self, kind: str) -> None:
        self._kind, self._start, self._tokens = kind, 0, tuple[int, ...]()

    def tell(self, start: int, tokens: Iterable[int]) -> None:
        self._start, self._tokens = start, tuple(tokens)

    def offers(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> str | None:
        held, end = len(tokens), len(tokens) + len(fresh)
        if not self._start <= end < self._start + len(self._tokens):
            return None
        # what stands here since the guesses begin must be what they began with
        for at in range(self._start, end):
            if (tokens[at] if at < held else fresh[at - held]) != self._tokens[at - self._start]:
                return None
        return self._kind

    def take(self, tokens: Sequence[int], fresh: Sequence[int], most: int) -> list[int]:
        begin = len(tokens) + len(fresh) - self._start
        return list(self._tokens[begin : begin + most])

    def ready(self, tokens: Sequence[int], fresh: Sequence[int]) -> int:
        return self._start + len(self._tokens) - len(tokens) - len(fresh)


@dataclass(slots=True)
class _Burst:
    """Positions that left as one step: when, and the seconds that our own hop took for them."""

    start: int
    stop: int
    when: float
    own: float = 0.0
    told: bool = False
    """Whether the client fed it: a prompt, not a step."""
    timed: bool = True
    home: float = 0.0
    size: int = 0
    """When its first token was, and how many positions it had then."""


class Tempo:
    """How long a token takes round the ring, and how long its slowest hop takes for a position, or the way between two hops where that is slower: a line of
    few bytes a second, or a machine that has much else to do. Its time shows only in how far apart they come home that left together."""

    def __init__(self) -> None:
        self.ring = self.hop = self.step = self.line = 0.0
        self.seen = False
        """Whether steps that were on their way together have come home, so that `line` would be known."""
        self.last = 0.0
        """When the last step left."""
        self._rough = False
        """Whether they come from a prompt's trip alone, or from another ring."""
        self._flows = True
        """Whether tokens come home: what is started before that may wait for the chain to open, and is not timed."""
        self._bursts: deque[_Burst] = deque(maxlen=512)
        self._before: _Burst | None = None
        """What came home last, of all that is on its way."""

    def opened(self, known: Times | None, is_other: bool) -> None:
        """A chain opens; perhaps one of which is known what `found` said. What was found of another ring will do until a step went round this one."""
        self._flows, self.line, self._before = False, 0.0, None
        if known is not None:
            (self.ring, self.hop, self.step, self.seen), self._rough = known, False
        elif is_other:
            self._rough, self.seen = True, False

    @property
    def times(self) -> Times:
        hop = max(self.hop, self.line)
        return self.ring, hop, max(self.step, hop), self.seen

    @property
    def found(self) -> Times | None:
        return self.times if self.hop and not self._rough else None

    def left(self, start: int, stop: int, now: float, told: bool = False) -> None:
        """These positions leave as one step."""
        while self._bursts and self._bursts[-1].start >= start:
            self._bursts.pop()
        if self._bursts:  # its end may have been taken back
            self._bursts[-1].stop = min(self._bursts[-1].stop, start)
        self._bursts.append(_Burst(start, stop, now, told=told, timed=self._flows))
        self.last = now

    def took(self, start: int, seconds: float) -> None:
        """Our own hop has computed what starts there, a step or a part of one."""
        for burst in reversed(self._bursts):
            if burst.start <= start:
                burst.own += seconds if start < burst.stop else 0.0
                return

    def void(self) -> None:
        """Nothing that is on its way comes home: what comes next was not sent then."""
        self._bursts.clear()
        self._before = None

    def gathers(self, now: float) -> bool:
        """Whether another step of guesses alone would leave too soon."""
        return now - self.last < max(self.step, self.ring / AT_ONCE)

    def home(self, position: int, micros: Sequence[int], now: float) -> int:
        """The token of a position is home: of how many positions the step was that brought it, 0 for one that is not known."""
        while self._bursts and self._bursts[0].stop < position:
            self._bursts.popleft()
        if not self._bursts or not self._bursts[0].start < position:
            return 0
        self._flows = True
        burst = self._bursts[0]
        trip, count = now - burst.when, burst.stop - burst.start
        if burst.told:
            if not self.ring and micros:
                self._begin_with(trip, [*(spent / 1e6 for spent in micros), burst.own])
            return 0
        if not burst.timed:
            return count
        if self._rough and micros:
            self.ring, self.hop, self.step, self._rough = 0.0, 0.0, 0.0, False
        waited = self._follows(burst, count, now)
        if not self.ring or trip < self.ring or not waited:
            self.ring = trip if not self.ring else self.ring + (FAST if trip < self.ring else SLOW) * (trip - self.ring)
        if micros:
            whole = max(max(micros) / 1e6, burst.own)  # the last hop could say anything
            self.step = whole if not self.step else self.step + SMOOTHING * (whole - self.step)
            each = max(whole / count, 1e-6)
            self.hop = each if not self.hop else self.hop + SMOOTHING * (each - self.hop)
        return count

    def _follows(self, burst: _Burst, count: int, now: float) -> bool:
        """Of two that are on their way at once, the second comes home no sooner behind the first than the slowest part of the ring takes for it, and just so
        long behind it where they come further apart than they left: then it has waited for the first."""
        before = self._before
        if before is burst:
            return True
        self._before, burst.home, burst.size = burst, now, count
        if before is None or burst.when >= before.home or count != before.size:
            return False
        apart, each = now - before.home, (now - before.home) / count
        waited = apart > burst.when - before.when + self.step
        self.seen |= count > STEP // 2
        if count > STEP // 2 and (waited or each < self.line):
            self.line = each if not self.line else self.line + (FAST if each < self.line else SMOOTHING) * (each - self.line)
        return waited

    def _begin_with(self, trip: float, spent: Sequence[float]) -> None:
        """Before the first step: the ways of a prompt are those of a step, and no step of a hop takes longer than it did."""
        self.hop = self.step = max(*spent, 1e-6)
        self.ring, self._rough = max(trip - sum(spent), 0.0) + self.step, True


def ahead(ring: float, hop: float, step: float, acceptance: float, others: int, seen: float = inf) -> int:
    """How many positions may be guessed beyond the last sure one: as many as pay, and no more than the ring has room for. Where others share it, no more than
    this session's share of its steps, each guess being taken for a step of its own. `seen` is of how many guesses the acceptance is known."""
    if not 0 < hop <= step < ring:
        return 0
    room = min((ring / step / (1 + others) if others else ring / hop) - 1, FARTHEST)
    if seen == inf:
        return max(int(min(room, log(ring / hop) / -log(acceptance))), 0)
    count, chance = 0, acceptance
    while count + 1 <= room and chance * ring >= hop:
        count += 1
        chance *= (acceptance * seen + count) / (seen + count)
    return count


@dataclass(slots=True)
class _Score:
    """How often guesses of a kind are right."""

    acceptance: float
    count: int = WEIGHT

    def add(self, right: bool) -> None:
        self.count = min(self.count + 1, MEMORY)
        self.acceptance += (right - self.acceptance) / self.count


class Rings:
    """What sessions at a peer have found of their rings, for those that come after."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Times] = {}

    def known(self, ring: Hashable) -> Times | None:
        return self._found.get(ring)

    def found(self, ring: Hashable, times: Times) -> None:
        self._found.pop(ring, None)
        self._found[ring] = times
        if len(self._found) > MOST_RINGS:
            del self._found[next(iter(self._found))]


class Guesser:
    """Implements `machines.looping.Guesser` with some drafters, of which the one counts that is right most often. `others` says how many other sessions are at
    work here, `most` how far ahead the client wants guesses at all."""

    def __init__(
        self, drafters: Sequence[Drafter], clock: Callable[[], float], others: Callable[[], int], most: int = FARTHEST, rings: Rings | None = None
    ) -> None:
        self.most = most
        self.right = self.wrong = 0
        self._drafters, self._clock, self._others = list(drafters), clock, others
        self._tempo = Tempo()
        self._rings = rings or Rings()
        self._ring: Hashable = None
        self._scores: dict[str, _Score] = {}
        self._kinds: dict[int, str] = {}

    def acceptance(self, kind: str) -> float:
        return min(max(self._score(kind).acceptance, DOUBTFUL), SURE)

    def propose(self, tokens: Sequence[int], fresh: Sequence[int], sure: int, most: int) -> list[int]:
        end = len(tokens) + len(fresh)
        most = min(most, self.most - (end - sure))
        tempo, others = self._tempo, self._others()
        ring, hop, step, seen = tempo.times
        most = most if seen else min(most, UNSEEN - (end - sure))
        if most <= 0 or ahead(ring, hop, step, SURE, others) <= end - sure:  # nobody is even asked: a model would begin to compute
            return []
        offers = [(self.acceptance(kind), kind, drafter) for drafter in self._drafters if (kind := drafter.offers(tokens, fresh, sure)) is not None]
        if not offers:
            return []
        acceptance, kind, drafter = max(offers, key=lambda offer: offer[0])
        room = min(ahead(ring, hop, step, acceptance, others, self._score(kind).count) - (end - sure), most)
        if room <= 0:
            return []
        if not fresh and drafter.ready(tokens, fresh) < min(room, STEP) and tempo.gathers(self._clock()):
            return []
        guesses = drafter.take(tokens, fresh, room)
        self._kinds.update(dict.fromkeys(range(end, end + len(guesses)), kind))
        return guesses

    def opened(self, sampling: Sampling, most: int, ring: Hashable = None) -> None:
        """The first hop follows an order, over this ring."""
        self._tempo.opened(self._rings.known(ring), ring != self._ring)
        self.most, self._ring = most, ring
        for drafter in self._drafters:
            drafter.opened(sampling)

    def closed(self) -> None:
        for drafter in self._drafters:
            drafter.closed()

    def left(self, start: int, stop: int, *, told: bool = False) -> None:
        self._tempo.left(start, stop, self._clock(), told)

    def took(self, start: int, micros: int) -> None:
        self._tempo.took(start, micros / 1e6)

    def read(self, tokens: Sequence[int], sure: int) -> None:
        if self.most:
            for drafter in self._drafters:
                drafter.read(tokens, sure)

    def judged(self, position: int, right: bool) -> None:
        if (kind := self._kinds.pop(position, None)) is None:
            return
        self._score(kind).add(right)
        self.right, self.wrong = self.right + right, self.wrong + (not right)

    def home(self, position: int, micros: Sequence[int]) -> int:
        count = self._tempo.home(position, micros, self._clock())
        if (times := self._tempo.found) is not None:
            self._rings.found(self._ring, times)
        return count

    def missed(self, length: int) -> None:
        self._tempo.void()
        self._kinds = {position: kind for position, kind in self._kinds.items() if position < length}
        for drafter in self._drafters:
            drafter.missed(length)

    def _score(self, kind: str) -> _Score:
        score = self._scores.get(kind)
        if score is None:
            level = kind.partition(" ")[2]
            score = self._scores[kind] = _Score(PRIORS[int(level)] if level else 0.6)
        return score
