"""Room: model. How compiled layers prove themselves before sessions are given to them: in made up steps, computed both ways and then timed both ways. Knows a
span model and its compiled layers; not who is served meanwhile, for whom it stops after every step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING

import torch

from swarm.core import Span
from swarm.model.compiled import CompiledLayers
from swarm.model.products import FEW

if TYPE_CHECKING:
    from swarm.model.cache import KVCache
    from swarm.model.gpu.captured import Captured
    from swarm.model.span import Row, SpanModel

log = logging.getLogger(__name__)

COUNTS = (1, 3)
"""Tokens of the steps that are compared: one form of code for each."""

RACES, SLOWER = 3, 1.5
"""Steps of each kind that are timed before compiled layers are taken, and how much slower they must be to be left: they are expected to be faster, and it takes
more than the noise of peers that start together to believe the opposite."""

AGAIN = 16
"""So many times, at most, as long as they seem slower: of thirty peers that started three at a time, four believed it after three steps, and were
slower for good."""

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
    for span in model.spans_with_layers:
        yield from _prove_together(model, compiled, span)
    times: tuple[list[float], list[float]] = [inf], [inf]
    for _ in range(AGAIN):
        with compiled.awake():
            step = Steps(model, max(model.spans, key=len), 1)
        for turn in range(2 * RACES):
            yield
            with compiled.awake(turn % 2 == 1):
                began = clock()
                step()
                times[turn % 2].append(clock() - began)
        eager, fast = map(min, times)
        if fast <= SLOWER * eager:
            return
    log.info("compiled layers take %.2f ms where eager ones take %.2f, so they stay eager", fast * 1e3, eager * 1e3)
    compiled.remove()


def _prove_together(model: SpanModel, compiled: CompiledLayers, span: Span) -> Iterator[None]:
    """Let layers run in one go only if that gives what they give one by one: not where a family changes between two of them what one of them gave."""
    wanted: list[torch.Tensor] = []
    found: list[torch.Tensor] = []
    for together, results in ((False, wanted), (True, found)):
        yield
        with compiled.awake():
            step = Steps(model, span, 1)
        for _ in range(2):  # of which the first shows who follows whom
            yield
            with compiled.awake(), compiled.running(together):
                results[:] = step()
    if not all(map(torch.equal, wanted, found)):
        log.info("something happens between layers of this model, so they run one by one")
        compiled.together = False


FAR = {torch.float32: 1e-3, torch.bfloat16: 2**-4, torch.float16: 2**-6}
"""How far what a graph gives may be from what the same layers give without it, in shares of the largest: products of other numbers of tokens round otherwise,
while a wrong address is never near."""


def prove_captured(model: SpanModel, captured: Captured) -> Generator[None, None, bool]:
    """Record steps of every size, a piece at a time, and say whether all of them give what they should."""
    for span in model.spans_with_layers:
        for size in captured.sizes:
            yield
            rows = Steps(model, span, min(size, FEW), sessions=-(-size // FEW)).rows(all_wanted=True)
            wanted = torch.cat(model.run(span.start, span.stop, rows))
            for row in rows:
                row.cache.truncate(row.start)
                row.cache.reserve(row.start + len(row.tokens), model.layers_of(span))
            made = captured.step(span.start, span.stop, *_columns(model, rows))
            if made.shape != wanted.shape or not bool((made - wanted).float().abs().max() <= FAR[model.dtype] * wanted.float().abs().max()):
                log.warning("steps of %d tokens are not right when recorded as a graph, so none are", size)
                return False
    return True


def _columns(model: SpanModel, rows: Sequence[Row]) -> tuple[list[KVCache], list[int], list[Sequence[int]], list[torch.Tensor]]:
    """As `Captured.step` takes them."""
    hidden = [row.hidden.to(model.device) for row in rows if row.hidden is not None]
    return [row.cache for row in rows], [row.start for row in rows], [row.tokens for row in rows], hidden


class Steps:
    """Steps of so many tokens for each of some sessions, of made up input, after a prompt of a few."""

    def __init__(self, model: SpanModel, span: Span, tokens: int, sessions: int = 1) -> None:
        self._model, self._span, self._tokens = model, span, tokens
        self._dice, self._caches = torch.Generator().manual_seed(tokens), [model.new_cache(span.start, span.stop) for _ in range(sessions)]
        for cache in self._caches:
            cache.compiled, cache.captured = True, None
        self(FEW + 1)

    def __call__(self, n: int | None = None) -> list[torch.Tensor]:
        made = self._model.run(self._span.start, self._span.stop, self.rows(n))
        self._model.synchronize()
        return made

    def rows(self, n: int | None = None, all_wanted: bool = False) -> list[Row]:
        return [self._row(cache, n or self._tokens, all_wanted) for cache in self._caches]

    def _row(self, cache: KVCache, n: int, all_wanted: bool) -> Row:
        from swarm.model.span import Row

        ids = torch.randint(self._model.vocab, (n,), generator=self._dice).tolist()
        hidden_nH = torch.randn((n, self._model.hidden), generator=self._dice).to(self._model.dtype) if self._span.start else None
        return Row(cache, cache.length, ids, hidden_nH, range(n) if all_wanted else None)
