"""Room: model. How compiled layers prove themselves before sessions are given to them: in made up steps, computed both ways and then timed both ways. Knows a
span model and its compiled layers; not who is served meanwhile, for whom it stops after every step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING

import torch

from swarm.core import Span
from swarm.model.compiled import CompiledLayers
from swarm.model.products import FEW

if TYPE_CHECKING:
    from swarm.model.span import SpanModel

log = logging.getLogger(__name__)

COUNTS = (1, 3)
"""Tokens of the steps that are compared: one form of code for each."""

RACES, SLOWER = 3, 1.5
"""Steps of each kind that are timed before compiled layers are taken, and how much slower they must be to be left: they are expected to be faster, and it takes
more than the noise of peers that start together to believe the opposite."""

NEEDED = 2 * (FEW + RACES + 3)
"""Positions that a model must have for it."""


def prove(model: SpanModel, compiled: CompiledLayers, clock: Callable[[], float]) -> Iterator[None]:
    """Remove layers that do not agree with the eager ones, or all if they are much slower. Between two pieces of this everything is eager."""
    for span in model.spans:
        for count in COUNTS:
            with compiled.awake():
                step = Steps(model, span, count)
            yield
            with compiled.awake(), compiled.compares():
                step()
            yield
    compiled.judge()
    with compiled.awake():
        step, times = Steps(model, max(model.spans, key=len), 1), ([inf], [inf])
    for turn in range(2 * RACES):
        yield
        with compiled.awake(turn % 2 == 1):
            began = clock()
            step()
            times[turn % 2].append(clock() - began)
    eager, fast = map(min, times)
    if fast > SLOWER * eager:
        log.info("compiled layers take %.2f ms where eager ones take %.2f, so they stay eager", fast * 1e3, eager * 1e3)
        compiled.remove()


class Steps:
    """Steps of so many tokens, of made up input, after a prompt of a few."""

    def __init__(self, model: SpanModel, span: Span, tokens: int) -> None:
        self._model, self._span, self._tokens = model, span, tokens
        self._dice, self._cache = torch.Generator().manual_seed(tokens), model.new_cache(span.start, span.stop)
        self._cache.compiled = True
        self(FEW + 1)

    def __call__(self, n: int | None = None) -> None:
        from swarm.model.span import Row

        model, span, n = self._model, self._span, n or self._tokens
        ids = torch.randint(model.vocab, (n,), generator=self._dice).tolist()
        hidden_nH = torch.randn((n, model.hidden), generator=self._dice).to(model.dtype) if span.start else None
        model.run(span.start, span.stop, [Row(self._cache, self._cache.length, ids, hidden_nH)])
