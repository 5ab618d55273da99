"""The room `routing`: what a planner sees of a swarm. Pure values; it does not know where the announcements came from, how old they are, or what time it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from swarm.core import PeerId, Span, merge_spans
from swarm.errors import ProtocolError
from swarm.wire import Announcement

DEFAULT_LATENCY = 0.020
"""One way, in seconds, between two peers when nobody has measured anything at all: a route inside one country. It only has to be above zero, so that fewer
hops win, and the same for all, so that it prefers nobody."""

NO_RTTS: Mapping[PeerId, float] = {}


@dataclass(frozen=True, slots=True)
class PeerView:
    """One announcement, reduced to what planning needs. `decode` is seconds per layer and step, `prefill` seconds per layer and prompt token, `head_weight`
    the head's share in layers' worth, `cache_tokens` the positions its whole cache holds, `free_tokens` those it can still reserve,
    `rtts` round trips in seconds to peers it measured."""

    peer: PeerId
    addrs: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    decode: float = 0.01
    prefill: float = 0.001
    head_weight: float = 1.0
    cache_tokens: int = 2**20
    free_tokens: int = 2**20
    max_length: int = 2**20
    state: str = "online"
    rtts: Mapping[PeerId, float] = field(default_factory=dict)
    revision: str = ""
    numerics: str = ""

    @classmethod
    def of(cls, record: Announcement) -> PeerView:
        """Raises ProtocolError for spans that the model does not have; ranges of single fields were checked when the record was decoded."""
        try:
            spans = merge_spans(Span(start, stop) for start, stop in record.spans)
        except ValueError as error:
            raise ProtocolError(f"{record.peer} announces nonsense: {error}") from error
        if spans[-1].stop > record.components:
            raise ProtocolError(f"{record.peer} announces component {spans[-1].stop - 1} of a model of {record.components}")
        return cls(
            record.peer, record.addrs, spans, record.decode, record.prefill, record.head_weight, record.cache_tokens, record.free_tokens,
            record.max_length, record.state, record.rtts, record.revision, record.numerics,
        )  # fmt: skip

    @property
    def longest(self) -> int:
        """The longest session it could ever take, in positions."""
        return min(self.max_length, self.cache_tokens)

    def holds(self, span: Span) -> bool:
        return any(own.covers(span) for own in merge_spans(self.spans))


class Latencies:
    """Seconds one way between any two peers, and between the client (its peer id, or None for one that has none) and a peer.

    Half of a measured round trip, whichever side measured it, and the mean where both did. A pair that nobody measured gets `default`, the median of all
    that were: a minimiser seeks out what is underestimated, so guessing low for strangers would send every route through them (docs/routing.md).
    Same both ways, zero to oneself.
    """

    def __init__(self, peers: Iterable[PeerView], source: PeerId | None = None, source_rtts: Mapping[PeerId, float] = NO_RTTS) -> None:
        self._rtts: dict[PeerId | None, Mapping[PeerId, float]] = {view.peer: view.rtts for view in peers}
        self._rtts[source] = {**self._rtts.get(source, NO_RTTS), **source_rtts}
        self._index: dict[PeerId | None, int] = {}
        self._low, self._high, self._seconds = self._measured()
        self.default = float(np.median(self._seconds)) if len(self._seconds) else DEFAULT_LATENCY

    def between(self, one: PeerId | None, other: PeerId | None) -> float:
        if one == other:
            return 0.0
        known = [self._rtts[a][b] for a, b in ((one, other), (other, one)) if b is not None and _sane(self._rtts.get(a, NO_RTTS).get(b))]
        return sum(known) / (2 * len(known)) if known else self.default

    def matrix(self, peers: Sequence[PeerId | None]) -> np.ndarray:
        """`between` for every pair of `peers`, which are distinct, as a square array."""
        place = np.full(len(self._index), -1)
        for at, peer in enumerate(peers):
            if peer in self._index:
                place[self._index[peer]] = at
        low, high = place[self._low], place[self._high]
        both = (low >= 0) & (high >= 0)
        table = np.full((len(peers), len(peers)), self.default)
        table[low[both], high[both]] = table[high[both], low[both]] = self._seconds[both]
        np.fill_diagonal(table, 0.0)
        return table

    def _measured(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every measured pair once: its two indices and the mean of its half round trips."""
        index = self._index
        low, high, seconds = [], [], []
        for one, rtts in self._rtts.items():
            here = index.setdefault(one, len(index))
            for other, rtt in rtts.items():
                there = index.setdefault(other, len(index))
                if here != there and _sane(rtt):
                    low.append(min(here, there))
                    high.append(max(here, there))
                    seconds.append(rtt / 2)
        key, pair, times = np.unique(np.array(low, int) * len(index) + np.array(high, int), return_inverse=True, return_counts=True)
        return key // len(index), key % len(index), np.bincount(pair, seconds, len(key)) / times


def _sane(rtt: float | None) -> bool:
    return rtt is not None and 0 <= rtt < inf
