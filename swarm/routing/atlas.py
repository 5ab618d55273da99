"""The room `routing`, its map: the peers of one class and the distances between them, as arrays that are kept current one announcement at a time.

Pure values; it does not know where announcements come from, how old they are, or what anybody asks for. What it answers depends on the announcements it holds
alone, never on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import inf, isnan, nan

import numpy as np

from swarm.core import PeerId
from swarm.routing.table import PeerView

DEFAULT_LATENCY = 0.020
"""One way, in seconds, between two peers when nobody has measured anything at all: a route inside one country. It only has to be above zero, so that fewer
hops win, and the same for all, so that it prefers nobody."""

NO_REGION = -1

MOST_REGIONS = 256
"""Regions told apart. Names are whatever strangers announce; more than the world has are taken for none."""

NOWHERE = 1024
"""Rows of peers that are mentioned and not there, beyond as many as are there, after which the map is drawn anew."""


Class = tuple[str, str]
"""Revision and numerics: peers of one class may share a chain."""


class Atlas:
    """One row for each peer that was put in or is mentioned by one that was. Row numbers mean nothing: whoever decides sorts by peer id first (`order`).

    Distances are one way, in seconds: half of a measured round trip, whichever side measured it, and the mean where both did. A pair that nobody measured gets
    the mean of all pairs measured between its two regions, or else `default`, the median of all: a minimiser seeks out what is underestimated, so guessing low
    for strangers would send every route through them (docs/routing.md). Same both ways, zero to oneself.
    """

    def __init__(self, views: Iterable[PeerView] = (), *, mixed: bool = False) -> None:
        """`mixed` is a map of a mixed class. Raises ValueError for peers of different classes, as `put` does."""
        self.views: dict[PeerId, PeerView] = {}
        self.mixed = mixed
        self._draw_anew()
        for view in views:
            self.put(view)

    def __len__(self) -> int:
        return len(self.views)

    def put(self, view: PeerView) -> None:
        """A peer that is new, or news of one that is there. Raises ValueError for one of another class."""
        other = next((other for other in self.views.values() if other.peer != view.peer), view)
        if other.kind != view.kind and not (self.mixed and other.mixed_kind == view.mixed_kind):
            raise ValueError("these peers differ in revision or numerics and cannot share a chain; choose_class first")
        known = self.views.get(view.peer)
        self.views[view.peer] = view
        row = self._row(view.peer)
        self._facts[row] = view.decode, view.prefill, view.head_weight, view.free_tokens, view.longest, view.upload, view.compresses
        self._online[row] = view.state == "online"
        if known is None or known.spans != view.spans:
            self._hold(row, view)
        if self._region[row] != (code := self._code(view.region)):
            self._region[row] = code
            self._forget("_between_regions")
        if known is None:
            self._forget("peers", "order", "remoteness")
        if known is None or known.rtts != view.rtts:
            self._measure(row, known.rtts if known is not None else {}, view.rtts)
        self._forget_the_gone()

    def copy(self) -> Atlas:
        return Atlas(self.views.values(), mixed=self.mixed)

    def drop(self, peer: PeerId) -> None:
        """A peer that is gone. What others measured of it stays theirs."""
        if (view := self.views.pop(peer, None)) is None:
            return
        row = self._rows[peer]
        self._online[row] = False
        self._region[row] = NO_REGION
        self._measure(row, view.rtts, {})
        self._forget("peers", "order", "remoteness")
        self._forget_the_gone()

    # --- who is there -----------------------------------------------------------------------------------------------------------------------------------------

    @cached_property
    def peers(self) -> list[PeerId]:
        """Sorted by identity before anything is decided: ties fall to the lowest number, and must not depend on the order of reading."""
        return sorted(self.views)

    @cached_property
    def order(self) -> np.ndarray:
        """The rows of `peers`."""
        return np.array([self._rows[peer] for peer in self.peers], int)

    def facts(self, name: str) -> np.ndarray:
        """One announced number of each of `peers`."""
        return self._facts[self.order, _COLUMNS[name]]

    @property
    def online(self) -> np.ndarray:
        return self._online[self.order]

    def holds(self, components: int) -> np.ndarray:
        """Peers × components: who holds what."""
        if components > self._holds.shape[1]:
            self._widen(components)
        return self._holds[self.order, :components]

    # --- how far apart ----------------------------------------------------------------------------------------------------------------------------------------

    @cached_property
    def default(self) -> float:
        _, _, seconds = self._pairs
        return float(np.median(seconds)) if len(seconds) else DEFAULT_LATENCY

    @cached_property
    def remoteness(self) -> np.ndarray:
        """How far each of `peers` is from those whose distance is known: the mean, or `default`."""
        low, high, seconds = self._pairs
        ends = np.concatenate([low, high])
        return _means(ends, np.concatenate([seconds, seconds]), len(self._rows), self.default)[self.order]

    @property
    def regions(self) -> np.ndarray:
        """A number for the region of each of `peers`."""
        return self._region[self.order]

    def between(self, one: PeerId | None, other: PeerId | None) -> float:
        if one == other:
            return 0.0
        pair = self._pair_numbers.get(_pair(self._rows.get(one, -1), self._rows.get(other, -1))) if one is not None and other is not None else None
        if pair is not None:
            return _mean(*map(float, self._trips[pair]))
        one_region, other_region = (int(self._region[self._rows[peer]]) if peer in self._rows else NO_REGION for peer in (one, other))
        return float(self._between_regions[one_region, other_region])

    def rows(self, peers: Iterable[PeerId]) -> np.ndarray:
        """Their rows, −1 for those of whom nothing is known."""
        return np.array([self._rows.get(peer, -1) for peer in peers], int)

    def matrix(self, row_P: np.ndarray) -> np.ndarray:
        """`between` for every pair of peers in these rows, which are distinct unless they are −1, as a square array."""
        place = np.full(len(self._rows) + 1, -1)
        place[row_P] = np.arange(len(row_P))
        place[-1] = -1
        low, high, seconds = self._pairs
        one, other = place[low], place[high]
        both = np.flatnonzero((one >= 0) & (other >= 0))
        one, other, seconds = one[both], other[both], seconds[both]
        region_P = np.where(row_P >= 0, self._region[row_P], NO_REGION)
        table = np.take(self._between_regions[:, region_P], region_P, axis=0)
        flat = table.reshape(-1)  # the same numbers, found with one index instead of two
        flat[one * len(row_P) + other] = flat[other * len(row_P) + one] = seconds
        np.fill_diagonal(table, 0.0)
        return table

    def distances(self, source: PeerId | None, measured: Mapping[PeerId, float], peers: Sequence[PeerId]) -> np.ndarray:
        """One way from a client to each of `peers`: by what it measured itself (round trips, in seconds), and what they measured of it."""
        seconds = np.full(len(peers), self.default)
        for at, peer in enumerate(peers):
            if peer in measured or peer == source or (peer in self.views and source in self.views[peer].rtts):
                seconds[at] = self.distance(source, measured, peer)
        return seconds

    def distance(self, source: PeerId | None, measured: Mapping[PeerId, float], peer: PeerId) -> float:
        if peer == source:
            return 0.0
        ours = measured[peer] / 2 if _sane(measured.get(peer)) else nan
        theirs = self.views[peer].rtts.get(source) if source is not None and peer in self.views else None
        mean = _mean(ours, theirs / 2 if theirs is not None and _sane(theirs) else nan)
        return self.default if isnan(mean) else mean

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    def _draw_anew(self) -> None:
        self._rows: dict[PeerId, int] = {}
        self._facts = np.zeros((16, len(_COLUMNS)))
        self._online = np.zeros(16, bool)
        self._regions: dict[str, int] = {"": 0}
        self._mentioned, self._news = 0, 0
        """How many rows of peers that are not there are no reason to draw anew, and what has been put or dropped since that was done."""
        self._region = np.full(16, NO_REGION)
        self._holds = np.zeros((16, 0), bool)
        self._pair_numbers: dict[tuple[int, int], int] = {}
        self._spare: list[int] = []
        self._ends = np.zeros((16, 2), int)
        self._trips = np.full((16, 2), nan)
        """Half a round trip as the peer of the lower row measured it, and as that of the higher one did."""
        self._forget("peers", "order", "default", "remoteness", "_pairs", "_between_regions")

    def _forget_the_gone(self) -> None:
        """Draw the map anew where most of its rows are of peers that are not there, or its regions have run out; not again before as much has come again, since
        whoever is there may mention any number of others."""
        self._news += 1
        crowded = len(self._rows) > 2 * len(self.views) + self._mentioned + NOWHERE
        if crowded or (len(self._regions) >= MOST_REGIONS and self._news > 2 * len(self.views) + NOWHERE):
            views, self.views = list(self.views.values()), {}
            self._draw_anew()
            self._mentioned = len(views) * NOWHERE  # none while it is being drawn
            for view in views:
                self.put(view)
            self._mentioned, self._news = 2 * max(len(self._rows) - len(self.views), 0), 0

    def _code(self, region: str) -> int:
        if region not in self._regions and len(self._regions) >= MOST_REGIONS:
            region = ""
        return self._regions.setdefault(region, len(self._regions))

    def _forget(self, *names: str) -> None:
        """What was worked out once and is not true any more."""
        for name in names:
            self.__dict__.pop(name, None)

    def _row(self, peer: PeerId) -> int:
        row = self._rows.setdefault(peer, len(self._rows))
        if row >= len(self._online):
            self._facts, self._holds, self._online = _doubled(self._facts), _doubled(self._holds), _doubled(self._online)
            self._region = _doubled(self._region, NO_REGION)
        return row

    def _hold(self, row: int, view: PeerView) -> None:
        if (end := max((span.stop for span in view.spans), default=0)) > self._holds.shape[1]:
            self._widen(end)
        self._holds[row] = False
        for span in view.spans:
            self._holds[row, span.start : span.stop] = True

    def _widen(self, components: int) -> None:
        self._holds = np.pad(self._holds, ((0, 0), (0, components - self._holds.shape[1])))

    def _measure(self, row: int, old: Mapping[PeerId, float], new: Mapping[PeerId, float]) -> None:
        self._forget("default", "remoteness", "_pairs", "_between_regions")
        for peer in old.keys() - new.keys():
            self._set_trip(row, peer, nan)
        for peer, rtt in new.items():
            self._set_trip(row, peer, rtt / 2 if _sane(rtt) else nan)

    def _set_trip(self, row: int, peer: PeerId, seconds: float) -> None:
        other = self._row(peer)
        if row == other:
            return
        ends = _pair(row, other)
        pair = self._pair_numbers.get(ends)
        if pair is None:
            if isnan(seconds):
                return
            pair = self._pair_numbers[ends] = self._spare.pop() if self._spare else len(self._pair_numbers)
            if pair >= len(self._ends):
                self._ends, self._trips = _doubled(self._ends), _doubled(self._trips, nan)
            self._ends[pair] = ends
        self._trips[pair, int(row > other)] = seconds
        if isnan(seconds) and isnan(self._trips[pair, int(row < other)]):  # neither side knows it any more
            self._spare.append(self._pair_numbers.pop(ends))

    @cached_property
    def _between_regions(self) -> np.ndarray:
        """Regions × regions, one way in seconds; the last row and column are those of peers whose region nobody knows."""
        count = len(self._regions) + 1
        low, high, seconds = self._pairs
        cell = np.concatenate([self._region[low] % count * count + self._region[high] % count, self._region[high] % count * count + self._region[low] % count])
        means = _means(cell, np.concatenate([seconds, seconds]), count * count, self.default).reshape(count, count)
        unknown = [self._regions[""], NO_REGION]
        means[unknown] = means[:, unknown] = self.default
        return means

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every measured pair once: its two rows and how far apart they are."""
        count = len(self._pair_numbers) + len(self._spare)
        ends, trips = self._ends[:count], self._trips[:count]
        known = ~np.isnan(trips)
        measured = known.any(axis=1)
        seconds = np.where(known, trips, 0.0)[measured].sum(axis=1) / known[measured].sum(axis=1)
        return ends[measured, 0], ends[measured, 1], seconds


def by_class(views: Iterable[PeerView]) -> dict[Class, Atlas]:
    """A map for each class of peers."""
    atlases: dict[Class, Atlas] = {}
    for view in views:
        atlases.setdefault(view.kind, Atlas()).put(view)
    return atlases


_COLUMNS = {"decode": 0, "prefill": 1, "head_weight": 2, "free_tokens": 3, "longest": 4, "upload": 5, "compresses": 6}


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _mean(one: float, other: float) -> float:
    if isnan(one) or isnan(other):
        return other if isnan(one) else one
    return (one + other) / 2


def _means(groups: np.ndarray, seconds: np.ndarray, count: int, default: float) -> np.ndarray:
    """The mean of every group. In whole nanoseconds, because sums of floats depend on their order, and so on who came first."""
    members = np.bincount(groups, minlength=count)
    sums = np.bincount(groups, np.rint(seconds * 1e9), minlength=count)
    return np.where(members > 0, sums / np.maximum(members, 1) / 1e9, default)


def _doubled(array: np.ndarray, fill: float = 0) -> np.ndarray:
    return np.concatenate([array, np.full_like(array, fill)])


def _sane(rtt: float | None) -> bool:
    return rtt is not None and 0 <= rtt < inf
