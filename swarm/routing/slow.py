"""The room `routing`, its watch: which hop of a chain has become slow, and whether moving away from it pays. Pure: times of steps in, verdicts out.

Two sums of logarithms of how much slower a step was than it used to be (CUSUM, Page 1954), one for small lasting changes and one for large ones. Single slow
steps, and bursts of them, pass; tests and thresholds on single times do not see a lasting change in such noise (docs/routing.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from statistics import median

from swarm.core import PeerId
from swarm.routing.table import PeerView


@dataclass(frozen=True, slots=True)
class Detector:
    """S grows by min(x, clip) − allowance and never falls below 0; above `alarm` the change is believed."""

    allowance: float
    clip: float
    alarm: float


DETECTORS = (Detector(0.15, 0.7, 18.2), Detector(0.3, 1.5, 16.0))
"""How few false alarms they give, and how soon they see what lasts, is held by tests/routing/test_slow.py (docs/routing.md)."""

MOST = 1e6
"""Factor beyond which a peer is not said to be slower: what questions to a coordinator carry at most."""

WARM = 16
"""Steps from which a hop's usual time is taken before it is judged."""

REMEMBERED = 512
"""Steps over which it goes on to be taken, as long as nothing is suspected."""

RECENT = 8
"""Steps that say what a hop takes now."""

FEW = 4
"""Steps from which a hop's times are worth remembering when the answer is over, be it shorter than what the sums need."""

PLAIN = 2.5
"""Times what it announced, by the measure of the other hops, that a hop is then believed to be slower: by the median of a few steps, which single slow ones do
not touch and bursts of doubled ones do not reach."""

USUAL = 1.5
"""Times what it announced, by the measure of the other hops, that a hop may take without being suspected from the beginning."""

WORTH = 0.3
"""Share of the cost of a move that it must be expected to save. Low, because the chain goes on while newcomers are fed."""

HANDOVER = 0.5
"""Seconds that any move costs, whatever has to be computed again."""


class Watch:
    """The hops of one chain. `predicted` are their seconds per token, 0 for who has no prediction, such as a client's own ends; those are not judged."""

    def __init__(self, predicted: Sequence[float]) -> None:
        self._predicted = tuple(predicted)
        self._usual: list[deque[float]] = [deque(maxlen=REMEMBERED) for _ in predicted]
        self._recent: list[deque[float]] = [deque(maxlen=RECENT) for _ in predicted]
        self._sums = [[0.0] * len(DETECTORS) for _ in predicted]

    def add(self, seconds: Sequence[float]) -> int | None:
        """One token's time at every hop; the number of one that has become slow, whose sums then begin anew."""
        if len(seconds) != len(self._predicted):
            return None
        for recent, time in zip(self._recent, seconds, strict=True):
            recent.append(time)
        slow = [hop for hop, time in enumerate(seconds) if self._predicted[hop] > 0 and time > 0 and self._judge(hop, time)]
        return max(slow, key=self.slower, default=None)

    def now(self, hop: int) -> float:
        """Seconds that a token takes at a hop these days."""
        return median(self._recent[hop]) if self._recent[hop] else self._predicted[hop]

    def slower(self, hop: int) -> float:
        """By what factor a hop takes longer than predicted, compared with the others."""
        return self.now(hop) / self._predicted[hop] / self.others(hop) if self._predicted[hop] > 0 else 1.0

    def plainly(self, hop: int, *, known: bool = False) -> bool:
        """Whether it was so slow that a few steps tell. Of one that is `known` to be slower, and was predicted to be, anything is: it was half forgotten."""
        return len(self._recent[hop]) >= FEW and self.slower(hop) > (1.0 if known else PLAIN)

    def tried(self, hop: int) -> bool:
        """Whether it was seen at work."""
        return len(self._recent[hop]) >= FEW

    def others(self, hop: int) -> float:
        """By what factor all hops but one take longer than predicted: what to expect of one that nobody has tried."""
        ratios = [self.now(other) / predicted for other, predicted in enumerate(self._predicted) if other != hop and predicted > 0]
        return max(median(ratios), 1.0) if ratios else 1.0

    def _judge(self, hop: int, time: float) -> bool:
        usual, sums = self._usual[hop], self._sums[hop]
        if len(usual) < WARM:
            usual.append(time)
            return False
        x = log(time / min(median(usual), USUAL * self._predicted[hop] * self.others(hop)))
        for at, detector in enumerate(DETECTORS):
            sums[at] = max(0.0, sums[at] + min(x, detector.clip) - detector.allowance)
        if any(total > detector.alarm for total, detector in zip(sums, DETECTORS, strict=True)):
            sums[:] = [0.0] * len(sums)
            return True
        if all(total < detector.alarm / 2 for total, detector in zip(sums, DETECTORS, strict=True)):  # or a slow hop would become the usual one
            usual.append(time)
        return False


def pays(gain: float, history: int, done: int, left: int, prefill: float) -> bool:
    """Whether a move that saves `gain` seconds a token is worth while, for a session of so many tokens of which `done` are this answer's, that may get `left`
    more; newcomers compute the history again at `prefill` seconds a token.

    How much is left is expected as answers' lengths usually are, which have heavy tails: the longer it is already the more is to come."""
    expected = min(left, max(50.0, 0.9 * done + 120))
    return gain * expected > WORTH * (HANDOVER + prefill * history)


NOTED = 1.1
"""Factor up to which nobody is called slower."""

AGAIN = 5.0
"""Seconds within which what is found of a peer counts as found once."""

FORGOTTEN = 8.0
"""Half-lives after which nothing is left: of a factor of twenty-five, less than 1.1."""

NEWCOMER, COMPARED = 4.0, 4
"""Times as fast as the usual peer that one counts at most of which nothing is known but what it says, where so many can be compared. It is chosen all the same
where speed decides, and then known."""

PROVED = 4096
"""Peers remembered that were seen at work."""

STUBBORN = 5
"""How often the time doubles for which a peer is remembered."""


@dataclass(frozen=True, slots=True)
class _Seen:
    seconds: float
    """For a layer's step."""
    when: float
    times: int

    @property
    def half(self) -> float:
        return Slowness.HALF * 2.0 ** min(self.times, STUBBORN)


class Slowness:
    """Who was slower than it announces, and by how much, as one client measured it.

    What it takes too long is forgotten by half every HALF seconds, so that a peer which recovers gets its traffic back slowly. (The time, not its logarithm: a
    hundredfold one would be tenfold by then, and tempting within seconds.) Whoever is found out again, as one is that goes on announcing what it never does, is
    remembered for twice as long. What is remembered is what a peer takes: as soon as it says so itself, there is nothing to hold against it."""

    HALF = 120.0

    def __init__(self) -> None:
        self._seen: dict[PeerId, _Seen] = {}
        self._proved: dict[PeerId, None] = {}
        """The oldest first."""

    def prove(self, peer: PeerId) -> None:
        """It was seen at work: from now on it is as fast as it says, or as it is found to be."""
        self._proved.pop(peer, None)
        self._proved[peer] = None
        if len(self._proved) > PROVED:
            del self._proved[next(iter(self._proved))]

    def note(self, peer: PeerId, seconds: float, announced: float, now: float) -> None:
        """What it takes for a layer's step, and what it announces at the moment. Raises ValueError for times that are none."""
        if not 0 < seconds < inf or not announced > 0:
            raise ValueError(f"no peer takes {seconds} s where it announces {announced}")
        old = self._seen.pop(peer, None)
        if seconds > NOTED * announced:
            times = 0 if old is None else old.times + (now - old.when >= AGAIN)
            self._seen[peer] = _Seen(min(seconds, MOST * announced), now, times)

    def factors(self, now: float, views: Mapping[PeerId, PeerView]) -> dict[PeerId, float]:
        """By how much those who are still remembered are slower than they announce now, by peer."""
        self._seen = {peer: seen for peer, seen in self._seen.items() if now - seen.when < FORGOTTEN * seen.half}
        factors = {peer: self._factor(self._seen[peer], views[peer].decode, now) for peer in sorted(self._seen.keys() & views.keys())}
        return {peer: factor for peer, factor in factors.items() if factor > NOTED}

    def believed(self, now: float, views: Mapping[PeerId, PeerView]) -> dict[PeerId, float]:
        """As `factors`, and what newcomers announce is capped: who boasts a hundredfold gains no more by that than who boasts a little."""
        factors = self.factors(now, views)
        if len(views) < COMPARED:
            return factors
        fastest = median(view.decode for view in views.values()) / NEWCOMER
        for peer, view in views.items():
            if peer not in self._proved and (cap := min(fastest / view.decode, MOST)) > max(factors.get(peer, 1.0), NOTED):
                factors[peer] = cap
        return factors

    @staticmethod
    def _factor(seen: _Seen, announced: float, now: float) -> float:
        factor = min(max(seen.seconds / announced, 1.0), MOST)
        return 1 + (factor - 1) * 0.5 ** ((now - seen.when) / seen.half)
