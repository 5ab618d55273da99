"""Room: model. How fast this machine runs the layers it holds. Knows the span model and a clock; nothing of routes, which are planned from these figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from swarm.model.cache import KVCache
from swarm.model.span import DTYPES, Row, SpanModel

PROMPT = 64
"""Tokens of the prompt that is timed: enough that multiplying outweighs reading the weights, short enough for a slow machine."""

MAX_LAYERS = 8
"""Layers timed at most: like layers take like time, and eight outweigh what a call costs by itself."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds per layer for one decode step (`decode`), seconds per layer and prompt token (`prefill`), and the head's cost for one step in layers' worth
    (`head_weight`, 1.0 where the head is not held)."""

    decode: float
    prefill: float
    head_weight: float = 1.0


def threads() -> int:
    """On which the CPU computes."""
    return torch.get_num_threads()


def measure_speed(model: SpanModel, budget: float = 2.0, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Time a few steps, for about `budget` seconds where layers are not so slow that warming up alone takes longer.

    A peer without layers reports what it does hold as if it were one layer.
    """
    inner, head = _layers(model), _component(model, model.head)
    if inner is None:
        step = _step(model, *(head or (0, 1)), budget, clock)
        return Speed(decode=step, prefill=step)
    start, stop = inner
    decode = _step(model, start, stop, budget / 3, clock) / (stop - start)
    prefill = _prompt(model, start, stop, budget / 3, clock) / (stop - start)
    if head is None:
        return Speed(decode, prefill)
    return Speed(decode, prefill, head_weight=_step(model, *head, budget / 3, clock) / decode)


def _layers(model: SpanModel) -> tuple[int, int] | None:
    """A stretch of layers alone, the longest there is, cut to MAX_LAYERS where layers are alike: not where devices differ, or some layers are streamed."""
    stretches = [(max(span.start, 1), min(span.stop, model.head)) for span in model.spans]
    start, stop = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
    return (start, stop if model.layout.is_spread else min(stop, start + MAX_LAYERS)) if start < stop else None


def _component(model: SpanModel, component: int) -> tuple[int, int] | None:
    return (component, component + 1) if any(component in span for span in model.spans) else None


def _step(model: SpanModel, start: int, stop: int, budget: float, clock: Callable[[], float]) -> float:
    """Seconds of one decode step through components [start, stop)."""
    cache = model.new_cache(start, stop)
    _run(model, start, stop, cache, 16)
    return _median(lambda: _run(model, start, stop, cache, 1), budget, clock, at_most=min(64, model.max_length - 18))


def _prompt(model: SpanModel, start: int, stop: int, budget: float, clock: Callable[[], float]) -> float:
    """Seconds per token of a prompt through components [start, stop)."""
    n = min(PROMPT, model.max_length)

    def fresh() -> None:
        cache = model.new_cache(start, stop)
        _run(model, start, stop, cache, n)

    return _median(fresh, budget, clock, at_most=16) / n


def _run(model: SpanModel, start: int, stop: int, cache: KVCache, n: int) -> None:
    hidden_nH = torch.full((n, model.hidden), 0.5, dtype=model.dtype) if start else None
    model.run(start, stop, [Row(cache, cache.length, [0] * n, hidden_nH)])
    model.synchronize()


def _median(act: Callable[[], None], budget: float, clock: Callable[[], float], at_most: int) -> float:
    """Median seconds of `act`, after one that warms caches up and maps pages in. At least once, at most `at_most` times, until the budget is spent."""
    act()
    times: list[float] = []
    end = clock() + budget
    while len(times) < max(1, at_most) and (not times or clock() < end):
        begin = clock()
        act()
        times.append(clock() - begin)
    return median(times)


READ = 64 * 2**20
"""Bytes of the matrices that are read to see how fast this machine reads: more than any cache holds, in a second's work."""


def read_rate(dtype: str, budget: float = 0.5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes of weights that a decode step reads a second, about: products of a few large matrices, for about `budget` seconds, without any model."""
    width = 2048
    rows = READ // (width * torch.empty(0, dtype=DTYPES[dtype]).element_size())
    matrix_VH, vector_H = torch.zeros(rows, width, dtype=DTYPES[dtype]), torch.zeros(width, dtype=DTYPES[dtype])
    taken: list[float] = []
    until = clock() + budget
    while len(taken) < 3 or clock() < until:
        began = clock()
        matrix_VH @ vector_H
        taken.append(clock() - began)
    return matrix_VH.nbytes / median(taken[1:])
