"""What a peer holds of a model, as a value that is exchanged for another when the peer moves; the engine that runs it, and who can load something else.

Seams only: nothing here knows how weights are read, nor when a move is worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from swarm.core import Span
from swarm.peer.engine import Results
from swarm.peer.hops import HopEngine
from swarm.peer.offer import Offer
from swarm.peer.pace import Fit


@dataclass(frozen=True, slots=True)
class Holding:
    """A loaded part of a model: what the engine runs, what others may ask of it, how fast it was measured to be (costs as in `wire.Announcement`), and how many
    positions its cache holds."""

    model: Any
    offer: Offer
    decode: float
    prefill: float
    head_weight: float
    cache_tokens: int
    position_bytes: float = 0.0
    """What a position of a session that runs all of it takes; 0 where that is not known."""
    speed_of: tuple[str, ...] = ()
    """All that its speed depends on: what is computed, and by what."""
    known: Fit | None = None
    """What rounds of the same took before the last restart."""


class ServingEngine(HopEngine, Protocol):
    """What a peer needs of its engine besides: a model to run or none, counts of what was computed, where results go, who hears how long a round took (its
    components, all its rows, seconds), the share of its time in which it computes at most, and one task for its life."""

    @property
    def steps(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    share: float
    results: Results | None
    timed: Callable[[Span, int, float], None]

    def load(self, model: Any) -> None:
        """Run this from now on. No hop is open."""

    async def unload(self) -> None:
        """Let go of the model, so that its memory is free. No hop is open; a round that still runs comes to its end first."""

    async def run(self) -> None: ...


class Loader(Protocol):
    """Who can put another part of the model into this machine's memory."""

    @property
    def costs(self) -> Sequence[int]:
        """Bytes of each component, with its share of a usual conversation's cache."""

    def budget(self, held: Span) -> int:
        """Bytes there would be for components, were `held` not loaded."""

    async def fetch(self, span: Span) -> None:
        """Bring the files of `span` to this machine. Raises SwarmError."""

    async def load(self, span: Span) -> Holding:
        """Raises SwarmError."""
