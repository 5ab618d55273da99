"""Whether what somebody made can be what others make of the same. Sums that are taken in another order come out a little otherwise, and how far that is carried
depends on the model: so whoever says that something is wrong must show how far it is carried there, by doing the work once more with what goes in rounded
otherwise. Nobody is asked that of himself.

Pure: knows distances, tokens and log-probabilities; not rows, nor who made them.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.core import Sampling, base_dtype
from swarm.wire import Drawn

CARRIED = 2.0
"""Times what comes of a rounding of what goes in, that honest work may be apart: it is rounded again and again on its way. (Measured, 3 and 6 layers of random
models of a range of 0.02, 0.1 and 0.2 in bfloat16, packed or alone, on one thread or two, eager or compiled: at most 0.94.)"""

MOST = 3.0
"""Times the usual that something may be apart, whatever is said to come of a rounding: beyond that nobody is believed to have computed rightly, nor, where
rounding explains it, wrongly. (Measured, of the same models: honest work is at most 1.74 of the usual apart, a copy in four bits from 3.7 on where rounding
explains more than the usual.)"""


def can_be(found: float, carried: float) -> bool | None:
    """Whether two results that are `found` apart can be of the same work, where `carried` is what a rounding makes; both in parts of what is usually allowed.
    None where that cannot be told."""
    if found <= 1:
        return True
    if not carried < float("inf"):  # who makes nonsense shows nothing
        return None
    if found > CARRIED * carried:
        return False
    return True if found <= MOST else None


TIE, NEAR = 1e-3, 0.1
"""By how much the natural log-probabilities of two tokens may usually differ that float32, and a rounded dtype, may take for one another."""


def by_lot(sampling: Sampling) -> bool:
    """Whether nobody can tell by the log-probabilities that two tokens were a near tie."""
    return bool(sampling.temperature) or sampling.repetition_penalty != 1


def drawn_alike(tokens: Sequence[int], sampling: Sampling, numerics: str, drawn: Sequence[Drawn], moved: Sequence[Drawn] = ()) -> bool | None:
    """Whether another head drew the tokens that stand there, up to the first on which they differ. There it must be a near tie: that is seen where nothing is
    drawn by lot and the other head says how likely it found both (and how likely when what went in was `moved`); elsewhere a rounded dtype leaves it open, and
    float32 unless it happens again (`Audits.drew_otherwise`). A tie leaves open what stands behind it, too: that was not drawn again, and could be anything."""
    exact = base_dtype(numerics) == "float32"
    usual = TIE if exact else NEAR
    for one in drawn:
        told = tokens[one.start] if one.start < len(tokens) else None
        if told is None or told == one.tokens[0]:
            continue
        if by_lot(sampling) or not one.logprobs:
            return False if exact else None
        top = dict(one.logprobs[0].top)
        tie = can_be((one.logprobs[0].drawn - top[told]) / usual if told in top else float("inf"), _carried(drawn, moved) / usual)
        return None if tie and one.start < len(tokens) - 1 else tie
    return True if drawn else None


def _carried(drawn: Sequence[Drawn], moved: Sequence[Drawn]) -> float:
    """The most by which what a head says of a token changed."""
    found = 0.0
    for one, other in zip(drawn, moved, strict=False):
        if one.logprobs and other.logprobs and one.start == other.start:
            before, after = dict(one.logprobs[0].top), dict(other.logprobs[0].top)
            found = max([found, *(abs(before[token] - after[token]) for token in before.keys() & after.keys())])
    return found
