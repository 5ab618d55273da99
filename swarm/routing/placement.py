"""The room `routing`, where to help: which components a machine should serve, when it joins and later. Pure functions of announcements and sizes; they measure
nothing, and unload nothing.

Legend: N components, P spans that others hold, W windows that fit into this machine's memory, M components of the longest window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from swarm.core import Span, missing_spans, readable, whole
from swarm.errors import DoesNotFit
from swarm.routing.flow import BATCH, Supplies, allows, component_weights, hosts, max_flow, rate
from swarm.routing.table import FASTEST, PeerView

SCARCE = 0.2
"""A level below this share of the mean counts as this share, so that one almost uncovered layer does not decide alone (docs/routing.md)."""

FAIR_STEPS, FAIR_POWER = 30, 0.6
"""How often, and how far, peers shift their work from well supplied components to badly supplied ones (docs/routing.md)."""

FAIR_SHARE = 0.5
"""How much of a component's level is that fair one; the rest is what its hosts have if each spreads its rate evenly, so that many hosts count for something."""

ALIKE = 0.15
"""Places whose gain is within this share of the best are alike: distance decides between them."""

PLENTY = 7
"""Hosts of every component from which on throughput can spare that much; with about so many every rule reached its bound in the study (docs/routing.md)."""

BETTER = 1.25
"""What the worth of the swarm must grow by before it is worth reloading weights. With 1.1 ten peers moved as often as with Petals' rule, and gained no more."""

CLEARLY = 3.0
"""What the gain must grow by where the worth does not: several bottlenecks may be equally bad, and somebody must begin."""

CAUTION = 0.7
"""How much throughput a peer less that nobody may lose is worth: the power of (1 − indispensable / all) in the worth of a swarm (docs/routing.md)."""


def choose_spans(peers: Iterable[PeerView], components: int, component_bytes: Sequence[int], budget: int, speed: float, region: str = "") -> Span:
    """The window of components that a machine that joins should serve: of those that fit into `budget` bytes the one that helps most. `speed` is its own decode
    seconds per layer; what it can make of full batches is taken to be what others make of theirs.

    While nobody serves some components, the window that fills most of them, laid against an end of a hole so that what stays open stays in one piece.
    Otherwise the greatest gain (docs/routing.md); of places alike in that the one whose region serves it least. Ties fall to the lowest start. Raises
    DoesNotFit.

    Whoever is leaving is not counted; whoever is joining is, at its destination, so that two machines that start together do not choose the same place
    if the first announces before it loads.
    """
    ground = Ground.of(peers, components)
    places = Places(ground, windows(component_bytes, budget), ground.usual_batching / max(speed, FASTEST))
    return places.most_filling() if ground.holes else places.most_needed(region)


def better_place(peers: Iterable[PeerView], me: PeerView, components: int, component_bytes: Sequence[int], budget: int) -> Span | None:
    """Where a peer that serves `me.spans` should move; None if it should stay. `peers` may contain itself. Raises DoesNotFit.

    Where something is served by nobody it goes where it closes most. Otherwise it moves if that makes the swarm worth 1.25 times as much, where worth
    grows with throughput and with the share of peers that may leave without leaving a hole; or if it lessens neither and gains three times as much. Where there
    is no hole it never opens one, not even while it loads: whoever alone serves something stays.

    Moving takes two looks (docs/routing.md): announce the answer as `joining`, go on serving, and when that must have reached everybody ask `still_better`.
    """
    ground = Ground.of([view for view in peers if view.peer != me.peer], components)
    held = me.spans[0]
    spans = windows(component_bytes, budget)
    places = Places(ground, spans if held in spans else [*spans, held], rate(me))
    move = Move(places, places.spans.index(held))
    return next((places.spans[place] for place in move.candidates(me.region) if move.improves(place)), None)


def still_better(before: Iterable[PeerView], peers: Iterable[PeerView], me: PeerView, place: Span, components: int) -> bool:
    """Whether the move that `before` spoke for is still right. Of those who have announced a place since then, whoever has the smaller id goes first and is
    counted there; the others, who will count this peer at its destination, are counted nowhere: they may go or stay.
    """
    settled = {view.peer for view in before if view.state == "joining"}
    certain = [view for view in peers if view.peer != me.peer and (view.state != "joining" or view.peer in settled or view.peer < me.peer)]
    places = Places(Ground.of(certain, components), [place, me.spans[0]], rate(me))
    return Move(places, 1).improves(0)


def windows(component_bytes: Sequence[int], budget: int) -> list[Span]:
    """For every start the longest window that fits, by rising start. One that touches an end of the layers takes `embed` or `head` along, if a layer fits
    beside it at all; where none does, the end may stand alone. Raises DoesNotFit if there is room for not even one layer."""
    head = len(component_bytes) - 1
    layers = component_bytes[1:head]
    if not layers or min(layers) > budget:
        smallest = min(layers, default=0)
        raise DoesNotFit(
            f"not even one layer fits: the smallest takes {readable(smallest)} with its cache, and {readable(budget)} are left for it; close other "
            "programs, raise --max-memory or lower --cache-tokens, or choose a smaller or quantized model"
        )
    beside_embed = component_bytes[0] + component_bytes[1] <= budget
    beside_head = component_bytes[head] + component_bytes[head - 1] <= budget
    found = []
    longest = [_longest(component_bytes, start, budget) for start in range(head + 1)]
    for start, stop in enumerate(longest):
        if stop == head and beside_head:
            stop -= 1
        alone = stop - start == 1 and start in (0, head)
        without_embed = start == 1 and beside_embed
        if stop > start and not without_embed and not (alone and (beside_embed if start == 0 else beside_head)):
            found.append(Span(start, stop))
    # A model of one layer may fit with either end and not with both: then no window is tidy, and any will do.
    return found or [Span(start, stop) for start, stop in enumerate(longest) if stop > start]


def _longest(component_bytes: Sequence[int], start: int, budget: int) -> int:
    stop = start
    while stop < len(component_bytes) and component_bytes[stop] <= budget:
        budget -= component_bytes[stop]
        stop += 1
    return stop


@dataclass(frozen=True)
class Ground:
    """What others serve."""

    peers: tuple[PeerView, ...]
    weight_N: np.ndarray
    supplies: Supplies

    @classmethod
    def of(cls, peers: Iterable[PeerView], components: int) -> Ground:
        """In the order of their ids, because sums of floats depend on order."""
        counted = tuple(sorted((view for view in peers if view.state != "leaving"), key=lambda view: view.peer))
        weight_N = component_weights(counted, components)
        return cls(counted, weight_N, Supplies.of(counted, weight_N))

    @cached_property
    def hosts_N(self) -> np.ndarray:
        return hosts(self.supplies, len(self.weight_N))

    @cached_property
    def serving_N(self) -> np.ndarray:
        """Hosts that serve already."""
        return hosts(Supplies.of([view for view in self.peers if view.state == "online"], self.weight_N), len(self.weight_N))

    @cached_property
    def holes(self) -> tuple[Span, ...]:
        return missing_spans((span for view in self.peers for span in view.spans), whole(len(self.weight_N)))

    @cached_property
    def usual_batching(self) -> float:
        """How many layers for tokens of full batches a peer computes in the time that one layer takes for one token."""
        return float(np.median([rate(view) * max(view.decode, FASTEST) for view in self.peers])) if self.peers else BATCH

    @cached_property
    def level_N(self) -> np.ndarray:
        """How well each component is supplied, layers/s per layer's worth; 0 where nobody is."""
        return FAIR_SHARE * self.fair_N + (1 - FAIR_SHARE) * self.even_N

    @cached_property
    def even_N(self) -> np.ndarray:
        """Levels if every peer spreads its rate evenly over what it holds."""
        return self._levels(self.weight_N)

    @cached_property
    def fair_N(self) -> np.ndarray:
        """Levels if peers shift their work to what is badly supplied until levels are as equal as they can be.

        A peer's rate at c is its share g_c / Σ g over what it holds, with one g for all: if every peer multiplies its shares by level_c ** −0.6 and scales them
        back to its rate, all do the same to g.
        """
        g_N, level_N = self.weight_N, self.even_N
        for _ in range(FAIR_STEPS):
            g_N = g_N * np.power(level_N / max(level_N.mean(), FASTEST), -FAIR_POWER, out=np.ones_like(g_N), where=level_N > 0)
            level_N = self._levels(g_N)
        return level_N

    def _levels(self, g_N: np.ndarray) -> np.ndarray:
        return g_N / self.weight_N * ((self.supplies.rate_P / (self._holds_PN @ g_N)) @ self._holds_PN)

    @cached_property
    def sole_P(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last component of what each peer holds alone, of those who do: a window over both relieves it."""
        alone_PN = (self._holds_PN > 0) & (self.hosts_N == 1)
        if len(alone_PN):
            alone_PN = np.logical_or.reduceat(alone_PN, np.unique(self.supplies.owner_P, return_index=True)[1])
        alone_PN = alone_PN[alone_PN.any(axis=1)]
        return alone_PN.argmax(axis=1), len(self.weight_N) - 1 - alone_PN[:, ::-1].argmax(axis=1)

    def regional_N(self, region: str) -> np.ndarray:
        """What peers of one region supply to each component, spread evenly."""
        near = Supplies.of([view for view in self.peers if view.region == region], self.weight_N)
        supply_N = np.zeros(len(self.weight_N))
        for start, stop, layers_per_s in zip(near.start_P, near.stop_P, near.rate_P, strict=True):
            supply_N[start:stop] += layers_per_s / self.weight_N[start:stop].sum()
        return supply_N

    @cached_property
    def _holds_PN(self) -> np.ndarray:
        """1 where a span has a component, else 0; as floats, for products."""
        at_N = np.arange(len(self.weight_N))
        return ((self.supplies.start_P[:, None] <= at_N) & (at_N < self.supplies.stop_P[:, None])).astype(float)


@dataclass(frozen=True)
class Places:
    """Windows in which a machine of this rate (layers/s) could stand on that ground, and what each would be worth."""

    ground: Ground
    spans: Sequence[Span]
    rate: float

    def most_filling(self) -> Span:
        def merit(place: int) -> tuple[bool, bool, int, float, int]:
            window = self.spans[place]
            touched = [hole for hole in self.ground.holes if window.start < hole.stop and hole.start < window.stop]
            tidy = all(window.start <= hole.start or hole.stop <= window.stop for hole in touched)
            return bool(touched), tidy, -int(self.missing_W[place]), float(self.gain_W[place]), -window.start

        return self.spans[max(range(len(self.spans)), key=merit)]

    def most_needed(self, region: str) -> Span:
        return self.spans[self.preferred(np.arange(len(self.spans)), region)]

    def preferred(self, places_W: np.ndarray, region: str) -> int:
        """Of these places the one of the greatest gain; of those alike the one that its region serves least, then one that abuts on a neighbour there."""
        gain_W = self.gain_W[places_W]
        alike = places_W[gain_W >= gain_W.max() * (1 - (ALIKE if self.ground.hosts_N.min() >= PLENTY else 0.0))]
        near_N = self.ground.regional_N(region)
        neighbours = [span for view in self.ground.peers if view.region == region for span in view.spans]
        begins, ends = {span.start for span in neighbours}, {span.stop for span in neighbours}
        some = 0.1 * (self.ground.supplies.rate_P.sum() + self.rate) / self.ground.weight_N.sum()

        def merit(place: int) -> tuple[float, int, int]:
            span = self.spans[place]
            need = float(np.mean(1 / (near_N[span.start : span.stop] + some)))
            return float(f"{need:.9g}"), (span.start in ends) + (span.stop in begins), -span.start

        return max(map(int, alike), key=merit)

    @cached_property
    def missing_W(self) -> np.ndarray:
        """How many components would still be served by nobody."""
        missing = np.append(0, (self.ground.hosts_N == 0).cumsum())
        return missing[-1] - (missing[self._stop_W] - missing[self._start_W])

    @cached_property
    def indispensable_W(self) -> np.ndarray:
        """How many peers there would be, this one too, that cannot leave without leaving a hole."""
        first_P, last_P = self.ground.sole_P
        needed_W = ((first_P < self._start_W[:, None]) | (last_P >= self._stop_W[:, None])).sum(axis=1)
        return needed_W + (self.missing_W < (self.ground.hosts_N == 0).sum())

    def flow(self, place: int) -> float:
        return max_flow(self.ground.supplies.plus(self.spans[place], self.rate), self.ground.weight_N)

    def allows(self, place: int, flow: float) -> bool:
        return allows(self.ground.supplies.plus(self.spans[place], self.rate), self.ground.weight_N, flow)

    @cached_property
    def gain_W(self) -> np.ndarray:
        """What each window adds to Σ weight × −level⁻³, if its levels are raised as water rises. Rounded, so that equal windows tie in spite of float sums."""
        at_WM = self._start_W[:, None] + np.arange((self._stop_W - self._start_W).max())
        inside_WM = at_WM < self._stop_W[:, None]
        at_WM = np.minimum(at_WM, len(self.ground.weight_N) - 1)
        weight_WM = np.where(inside_WM, self.ground.weight_N[at_WM], 0.0)
        level_WM = np.where(inside_WM, self.ground.level_N[at_WM], np.inf)
        raised_WM = np.maximum(level_WM, _water(level_WM, weight_WM, self.rate)[:, None])
        least = SCARCE * (self.ground.supplies.rate_P.sum() + self.rate) / self.ground.weight_N.sum()
        gain_W = (weight_WM * (np.maximum(level_WM, least) ** -3.0 - np.maximum(raised_WM, least) ** -3.0)).sum(axis=1)
        return np.array([float(f"{gain:.9g}") for gain in gain_W])

    @cached_property
    def _start_W(self) -> np.ndarray:
        return np.array([span.start for span in self.spans])

    @cached_property
    def _stop_W(self) -> np.ndarray:
        return np.array([span.stop for span in self.spans])


def _water(level_WM: np.ndarray, weight_WM: np.ndarray, amount: float) -> np.ndarray:
    """How high `amount` stands when poured over each row of levels, inf where there is no ground; float (W,)."""
    order_WM = np.argsort(level_WM, axis=1, kind="stable")
    level_WM, weight_WM = np.take_along_axis(level_WM, order_WM, axis=1), np.take_along_axis(weight_WM, order_WM, axis=1)
    under_WM = np.where(weight_WM > 0, level_WM, 0.0) * weight_WM
    width_WM, filled_WM = weight_WM.cumsum(axis=1), under_WM.cumsum(axis=1)
    wet_WM = level_WM * width_WM - filled_WM <= amount
    last_W = wet_WM.sum(axis=1) - 1
    row_W = np.arange(len(level_WM))
    return (amount + filled_WM[row_W, last_W]) / width_WM[row_W, last_W]


@dataclass(frozen=True)
class Move:
    """From one place to others."""

    places: Places
    held: int

    def candidates(self, region: str) -> list[int]:
        """Where it might go, what should be tried first in front."""
        places = self.places
        everywhere = np.arange(len(places.spans))
        if places.missing_W[self.held]:
            return [int(np.lexsort((everywhere, -places.gain_W, places.indispensable_W, places.missing_W))[0])]
        whole_W = everywhere[places.missing_W == 0]
        safest = int(whole_W[np.lexsort((-places.gain_W[whole_W], places.indispensable_W[whole_W]))[0]])
        return [places.preferred(whole_W, region), safest]

    def improves(self, place: int) -> bool:
        places = self.places
        if place == self.held or places.missing_W[self.held]:
            return bool(places.missing_W[place] < places.missing_W[self.held])
        if places.missing_W[place] or not self._can_be_spared:
            return False
        return self._worth_more(place) or (
            bool(places.indispensable_W[place] <= places.indispensable_W[self.held] and places.gain_W[place] >= CLEARLY * places.gain_W[self.held])
            and places.allows(place, self._flow)
        )

    @cached_property
    def _can_be_spared(self) -> bool:
        """While it loads: who still loads itself does not stand in for it, and going only one layer further takes as long as going far."""
        held = self.places.spans[self.held]
        return bool((self.places.ground.serving_N[held.start : held.stop] > 0).all())

    def _worth_more(self, place: int) -> bool:
        """Without the flow there: whether it would be enough is quicker to see."""
        return self.places.allows(place, BETTER * self._flow * self._safety(self.held) / self._safety(place))

    def _safety(self, place: int) -> float:
        """One peer that can be spared is counted more than there are, lest a swarm without any is worth nothing, and any change a gain."""
        return float((1 - self.places.indispensable_W[place] / (len(self.places.ground.peers) + 2)) ** CAUTION)

    @cached_property
    def _flow(self) -> float:
        return self.places.flow(self.held)
