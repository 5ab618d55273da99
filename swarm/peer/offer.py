"""Room: peer. What a process holds of a model, and so what it can agree to serve; and what a session with some hops here costs it. A pure value."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from swarm.core import Span


@dataclass(frozen=True, slots=True)
class Offer:
    """What this process holds, and so what it can agree to serve."""

    revision: str
    numerics: str
    components: int
    spans: tuple[Span, ...]
    max_length: int
    rewindable: bool = True
    journal: float = 0.0
    """A position of a journal, in positions of one layer's cache."""
    version: int = 0
    """Rises when the spans change (`Announcement.span_version`)."""
    vocab: int = 0
    """Token ids are below it; 0 where that is not known."""

    def weight(self, hops: Collection[Span]) -> float:
        """What a position of a session with these hops costs here, in layers' worth of cache: all but embed and head keep keys and values, and all but the last
        hop a journal. One journal is counted for each span held, so that no session outweighs the whole; of the rare hops that share a span, each keeps a
        journal of its own, so k of them may take up to k times the memory counted for it."""
        journals = sum(any(span.covers(hop) and hop.stop < self.components for hop in hops) for span in self.spans)
        return self._layers(hops) + self.journal * journals

    @property
    def whole_weight(self) -> float:
        """The most that a session can cost here: a hop may end before the head though the span does not."""
        return self._layers(self.spans) + self.journal * sum(span.start < self.components - 1 for span in self.spans)

    def _layers(self, spans: Iterable[Span]) -> int:
        return sum(max(min(span.stop, self.components - 1) - max(span.start, 1), 0) for span in spans)
