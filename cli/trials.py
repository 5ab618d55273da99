"""Room: cli. What swarm-bench measures, and what it concludes: set-ups and loads in, the best set-up out. Pure: knows no clock, no swarm and no file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from swarm.core import even_split

AS_GOOD = 0.97
"""Of the most tokens/s, how many make a set-up as good as the best: of those the simplest is taken. Two runs of one set-up differ by about as much."""

SATURATED = 0.95
"""Of a set-up's most tokens/s, how many must be reached for a load to be enough."""

SHARDINGS = ("even", "copies")


@dataclass(frozen=True, slots=True)
class Setup:
    """Peers on this machine. `layers` are each one's, `threads` those each computes on; no layers for a swarm that runs already."""

    sharding: str
    layers: tuple[str, ...]
    threads: int = 0
    dtype: str = ""

    @property
    def name(self) -> str:
        if not self.layers:
            return "the running swarm"
        peers = len(self.layers)
        how = "1 peer" if peers == 1 else f"{peers} peers, {'each all layers' if self.sharding == 'copies' else 'layers shared out'}"
        return f"{how}, {self.threads} thread{'' if self.threads == 1 else 's'} each{f', {self.dtype}' if self.dtype else ''}"


@dataclass(frozen=True, slots=True)
class Load:
    """`streams` answers at all times (a closed loop), or `rate` new ones a second however long they take (an open one)."""

    prompt: int
    tokens: int
    streams: int = 0
    rate: float = 0.0

    @property
    def name(self) -> str:
        return f"{f'{self.rate:g} new answers/s' if self.rate else f'{self.streams} at once'}, prompts of {self.prompt}"


@dataclass(frozen=True, slots=True)
class Request:
    """One answer: when it was asked for, when each token came, in seconds since the measurement began, and whether nothing went wrong with it. One that was
    `cut` would have had more tokens, but the measurement was over."""

    asked: float
    tokens: tuple[float, ...]
    complete: bool = True
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one measurement; `answers` are those that came to their end. Times in milliseconds: to the first token, and between two tokens, at the percentiles
    named by PERCENTILES."""

    setup: Setup
    load: Load
    tokens_per_second: float
    answers: int
    failed: int
    first: Mapping[str, float]
    between: Mapping[str, float]


PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`files` are settings of swarm-serve, one for each peer that was measured; `why` is a sentence. A swarm that ran already has none: what its
    peers make together was measured, and nothing of how one more would be best set up."""

    setup: Setup
    load: Load
    tokens_per_second: float
    why: str
    files: tuple[Mapping[str, str | int], ...]


def setups(layers: int, peers: Sequence[int], shardings: Sequence[str], threads: Sequence[int], dtypes: Sequence[str]) -> list[Setup]:
    """Every set-up once: one peer is shared out as it is copied, and nobody holds less than a layer."""
    found = []
    for count, sharding, each, dtype in itertools.product(sorted(set(peers)), shardings, sorted(set(threads)), dtypes or ("",)):
        if count > layers or (count == 1 and sharding != shardings[0]):
            continue
        spans = (f"0:{layers}",) * count if sharding == "copies" else even_split(layers, count)
        found.append(Setup("even" if count == 1 else sharding, spans, each, dtype))
    return found


def first_loads(streams: Sequence[int], prompts: Sequence[int], tokens: int) -> list[Load]:
    """What every set-up is measured under: its most tokens/s are sought with the shortest prompts."""
    return [Load(min(prompts), tokens, streams=each) for each in sorted(set(streams))]


def further_loads(best: Load, rates: Sequence[float], prompts: Sequence[int]) -> list[Load]:
    """What only the best set-up is measured under: longer prompts, and answers that are asked for whether or not earlier ones have ended."""
    longer = [Load(prompt, best.tokens, streams=best.streams) for prompt in sorted(set(prompts)) if prompt != best.prompt]
    return [*longer, *(Load(best.prompt, best.tokens, rate=rate) for rate in sorted(set(rates)))]


def open_rates(best: Figures) -> list[float]:
    """New answers a second that are a half, four fifths and all of what was made of them in a closed loop: up to where it must break down."""
    made = best.tokens_per_second / best.load.tokens
    return [float(f"{made * share:.2g}") for share in (0.5, 0.8, 1.0) if made > 0]


def figures_of(setup: Setup, load: Load, requests: Sequence[Request], seconds: float) -> Figures:
    """`seconds` is how long was measured; what came later does not count among the tokens of a second."""
    gaps = [1000 * (later - earlier) for request in requests for earlier, later in itertools.pairwise(request.tokens)]
    firsts = [1000 * (request.tokens[0] - request.asked) for request in requests if request.tokens]
    made = sum(when <= seconds for request in requests for when in request.tokens)
    failed = sum(not request.complete for request in requests)
    ended = sum(request.complete and not request.cut for request in requests)
    return Figures(setup, load, made / seconds, ended, failed, percentiles(firsts), percentiles(gaps))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """By nearest rank. Nothing of nothing."""
    ordered = sorted(values)
    return {name: ordered[max(math.ceil(share * len(ordered)) - 1, 0)] for name, share in PERCENTILES.items()} if ordered else {}


def best_of(measured: Iterable[Figures]) -> Figures | None:
    """Of closed loops in which nothing failed: the set-up that makes the most, of those alike the one with the fewest peers and threads; under the least
    load that saturates it. None where everything failed."""
    closed = [each for each in measured if each.load.streams and not each.failed and each.tokens_per_second > 0]
    if not closed:
        return None
    most = {setup: max(each.tokens_per_second for each in closed if each.setup == setup) for setup in dict.fromkeys(each.setup for each in closed)}
    alike = [setup for setup, made in most.items() if made >= AS_GOOD * max(most.values())]
    chosen = min(alike, key=lambda setup: (len(setup.layers), len(setup.layers) * setup.threads, -most[setup]))
    enough = [each for each in closed if each.setup == chosen and each.tokens_per_second >= SATURATED * most[chosen]]
    return min(enough, key=lambda each: each.load.streams)


def recommended(measured: Sequence[Figures], model: str) -> Recommendation | None:
    best = best_of(measured)
    if best is None:
        return None
    why = f"{best.setup.name} made {best.tokens_per_second:.1f} tokens/s with {best.load.streams} answers at once, {_against(best, measured)}"
    if not best.setup.layers:
        why += "; how a peer is best set up was not measured, so no settings are written: measure this machine alone, without --initial-peers"
    return Recommendation(best.setup, best.load, best.tokens_per_second, why, tuple(_files(best.setup, model)))


def _against(best: Figures, measured: Sequence[Figures]) -> str:
    others = [each for each in measured if each.setup != best.setup and each.load.streams and not each.failed]
    if not others:
        return "and nothing else was tried"
    second = max(others, key=lambda each: each.tokens_per_second)
    return f"the best other set-up ({second.setup.name}) {second.tokens_per_second:.1f}"


def _files(setup: Setup, model: str) -> Iterator[dict[str, str | int]]:
    """What the peers were measured with and nothing else: their caches, too, were as large as swarm-serve makes them unasked."""
    for layers in setup.layers:
        dtype, _, rounded = setup.dtype.partition("-")
        found: dict[str, str | int] = {"model": model, "layers": layers, "threads": setup.threads}
        if setup.dtype:
            found["dtype"] = dtype
        if rounded:
            found["quantize"] = rounded
        yield found
