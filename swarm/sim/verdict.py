"""The room `sim`, its judge: what was asked and what came, who could have served at the time, and so which promises were broken. Pure values and no time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.core import PeerId, Span, missing_spans, whole
from swarm.errors import MissingLayers, PeerLost, Refused, SwarmError
from swarm.sim import toy

SETTLED = 15.0
"""Seconds after which somebody who came, woke or became reachable must have been found: a record is renewed every 8 s, and takes a second to get about."""

HONEST = (MissingLayers, PeerLost, Refused)
"""How a turn may end that could not go on."""


@dataclass
class Turn:
    """One answer: what was asked after which history, and what came. `error` is why it broke off, `ended` None if its guest did not live to see the end."""

    guest: PeerId
    began: float
    history: list[int]
    asked: int
    tokens: list[int] = field(default_factory=list)
    ended: float | None = None
    error: SwarmError | None = None
    reroutes: int = 0
    longest_gap: float = 0.0
    planner: PeerId = ""
    """The coordinator that planned its last route, if one did."""


@dataclass(frozen=True)
class Sight:
    """Who was of use from a moment on, and since when; who could reach whom, and what had parted them until when."""

    time: float
    servers: tuple[tuple[PeerId, Span, float], ...]
    side: frozenset[PeerId] | None
    last_side: frozenset[PeerId]
    healed: float

    def covers(self, guest: PeerId, components: int, at: float) -> bool:
        """Whether at a time a guest could long have known of somebody for every component."""
        side, settled = self.side, at - SETTLED
        if side is None and self.healed > settled:
            side = self.last_side
        spans = (span for peer, span, since in self.servers if since <= settled and (side is None or (peer in side) == (guest in side)))
        return not missing_spans(spans, whole(components))


@dataclass(frozen=True)
class Verdict:
    """What became of a run. `broken` are the promises that were not kept."""

    seed: int
    turns: list[Turn]
    broken: list[str]
    trace: str
    """A digest of everything that happened, in order."""
    seconds: float
    steps: int

    @property
    def finished(self) -> int:
        return sum(turn.ended is not None and turn.error is None for turn in self.turns)

    @property
    def excused(self) -> int:
        """Turns that broke off with an honest error, there being nobody for some layers."""
        return sum(turn.error is not None for turn in self.turns)

    @property
    def reroutes(self) -> int:
        return sum(turn.reroutes for turn in self.turns)

    @property
    def longest_gap(self) -> float:
        return max((turn.longest_gap for turn in self.turns if turn.error is None), default=0.0)


def faults_of(turns: Sequence[Turn], sights: Sequence[Sight], components: int) -> list[str]:
    """What is wrong with the turns of a run, in words. `sights` are in the order of their times."""
    found = []
    for turn in turns:
        if (fault := _fault(turn, sights, components)) is not None:
            found.append(f"{turn.guest} at {turn.began:.3f}: {fault}")
    return found


def _fault(turn: Turn, sights: Sequence[Sight], components: int) -> str | None:
    said = toy.answer(turn.history, turn.asked, components)
    if turn.tokens != said[: len(turn.tokens)]:
        return f"wrong tokens after {_common(turn.tokens, said)} of {len(said)}"
    if turn.ended is None:
        return None
    if turn.error is None:
        return None if len(turn.tokens) == len(said) else f"ended after {len(turn.tokens)} of {len(said)} tokens"
    why = f"{type(turn.error).__name__}: {turn.error}"
    if not isinstance(turn.error, HONEST):
        return why
    if list(turn.error.partial) != turn.tokens:
        return f"{why}, which speaks of {len(turn.error.partial)} tokens; it were {len(turn.tokens)}"
    if _covered(turn.guest, turn.began, turn.ended, sights, components):
        return f"somebody served every layer, and yet {why}"
    return None


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs), min(len(one), len(other)))


def _covered(guest: PeerId, began: float, ended: float, sights: Sequence[Sight], components: int) -> bool:
    """Whether all the time there was somebody, reachable and long known, for every component."""
    ends = [*(sight.time for sight in sights[1:]), math.inf]
    seen = [sight for sight, end in zip(sights, ends, strict=True) if end > began and sight.time < ended]
    return all(sight.covers(guest, components, max(sight.time, began)) for sight in seen)
