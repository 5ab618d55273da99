"""The room `routing`, where to help: which components a machine that joins should serve. A pure function of announcements and sizes; it measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from swarm.core import Span, missing_spans, whole
from swarm.errors import DoesNotFit
from swarm.routing.candidates import EMBED_WEIGHT
from swarm.routing.table import PeerView

FASTEST = 1e-6
"""Seconds per layer below which an announced speed is not believed; it also keeps a zero from being divided by."""

SCARCE = 0.03
"""Coverage below this share of the mean counts as this share, so that one almost uncovered layer does not decide alone (docs/routing.md)."""


def choose_spans(peers: Iterable[PeerView], components: int, component_bytes: Sequence[int], budget: int, speed: float) -> Span:
    """The window of components that this machine should serve: the least covered one that fits into `budget` bytes. `speed` is its own decode seconds per
    layer.

    While nobody serves some components, the window that fills most of them, laid against an end of a hole so that what stays open stays in one piece.
    Otherwise the greatest gain (docs/routing.md): the utility of a component falls with the cube of its coverage, so the thinnest
    places count most, and coverage is announced tokens/s summed over the peers that hold it. Ties fall to the lowest start. Raises DoesNotFit.

    Peers are summed in the order of their ids, because sums of floats depend on order. Whoever is leaving is not counted; whoever is joining is, so that
    two machines that start together do not choose the same place if the first announces before it loads.
    """
    coverage = _coverage(sorted((view for view in peers if view.state != "leaving"), key=lambda view: view.peer), components)
    holes = missing_spans((Span(c, c + 1) for c, tokens in enumerate(coverage) if tokens > 0), whole(components))
    return max(windows(component_bytes, budget), key=lambda window: _merit(window, coverage, holes, speed))


def windows(component_bytes: Sequence[int], budget: int) -> list[Span]:
    """For every start the longest window that fits, by rising start. One that touches an end of the layers takes `embed` or `head` along, if a layer fits
    beside it at all; where none does, the end may stand alone. Raises DoesNotFit if there is room for not even one layer."""
    head = len(component_bytes) - 1
    layers = component_bytes[1:head]
    if not layers or min(layers) > budget:
        smallest = min(layers, default=0)
        raise DoesNotFit(
            f"not even one layer fits: the smallest takes {_mib(smallest)} with its cache, and {_mib(budget)} are left for it; close other programs, lower "
            "--cache-tokens, or choose a smaller or quantized model"
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


def _coverage(peers: Sequence[PeerView], components: int) -> list[float]:
    """Announced tokens/s for every component: a peer that runs all it holds for each token makes one token in decode × what it holds."""
    coverage = [0.0] * components
    for view in peers:
        held = [component for span in view.spans for component in range(span.start, min(span.stop, components))]
        weight = sum(_weight(component, components, view.head_weight) for component in held)
        for component in held:
            coverage[component] += 1 / (max(view.decode, FASTEST) * weight)
    return coverage


def _merit(window: Span, coverage: Sequence[float], holes: Sequence[Span], speed: float) -> tuple[bool, bool, int, float, int]:
    touched = [hole for hole in holes if window.start < hole.stop and hole.start < window.stop]
    filled = sum(min(window.stop, hole.stop) - max(window.start, hole.start) for hole in touched)
    tidy = all(window.start <= hole.start or hole.stop <= window.stop for hole in touched)
    return bool(touched), tidy, filled, _gain(window, coverage, speed), -window.start


def _gain(window: Span, coverage: Sequence[float], speed: float) -> float:
    """Utility −h⁻³ of every component's coverage h with this machine, less that without. Rounded, so that equal windows tie in spite of float sums."""
    weights = [_weight(component, len(coverage), 1.0) for component in range(window.start, window.stop)]
    own = 1 / (max(speed, FASTEST) * sum(weights))
    least = SCARCE * (sum(coverage) / len(coverage) + own)
    gain = sum(
        weight * (max(coverage[component], least) ** -3 - (max(coverage[component], least) + own) ** -3)
        for weight, component in zip(weights, range(window.start, window.stop), strict=True)
    )
    return float(f"{gain:.9g}")


def _weight(component: int, components: int, head_weight: float) -> float:
    return EMBED_WEIGHT if component == 0 else head_weight if component == components - 1 else 1.0


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
