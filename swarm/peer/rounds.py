"""Room: peer. What a round does, on the compute thread: pieces of copies, cuts, and one run of the model for all of its rows; and what came of each.

Knows the model, caches and the sampler. Does not know who waits for what: it gets parts of jobs, and a part that cannot be run fails alone.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.machines.effects import Draw
from swarm.peer.slots import Copy, Done, Part
from swarm.wire import HIDDEN, LOOP

if TYPE_CHECKING:
    from swarm.model.cache import KVCache
    from swarm.model.span import SpanModel

log = logging.getLogger(__name__)

COPIED = 16 * 2**20
"""Bytes of prefixes copied between two rounds, which takes some 10 ms."""


class Rounds:
    """Called on the compute thread alone, one thing after the other. `steps` and `tokens` are how often the model was run, and over how many positions."""

    def __init__(self, model: Callable[[], SpanModel], clock: Callable[[], float]) -> None:
        self._model, self._clock = model, clock
        self.steps = 0
        self.tokens = 0

    def run(self, copies: Sequence[Copy], batch: Sequence[Part]) -> list[Done]:
        """A piece of these copies, and one group of rows over the same components."""
        self._copy(copies)
        return self._execute(batch)

    def clean(self, copies: Sequence[Copy], cuts: Sequence[tuple[KVCache, int]], gives_back: bool) -> None:
        """While nobody waits: a piece of these copies, cuts that no job follows, and memory back to the machine."""
        from swarm.model.memory import trim

        self._copy(copies)
        for cache, length in cuts:
            with contextlib.suppress(ValueError):  # what could not be copied, or failed half-way, is shorter already
                cache.truncate(length)
        if gives_back:
            trim()

    @staticmethod
    def _copy(copies: Sequence[Copy]) -> None:
        """A piece of them, so that nobody else waits long."""
        left = COPIED
        for copy in sorted(copies, key=lambda copy: not copy.urgent):
            while not copy.done and (left > 0 or copy.urgent):
                left -= copy.step()

    def _execute(self, batch: Sequence[Part]) -> list[Done]:
        """Run one group. A row that cannot be run fails alone: the others get another try without it."""
        began = self._clock()
        ready = []
        done: list[Done] = []
        for part in batch:
            try:
                for length in part.cuts:
                    part.slot.cache.truncate(length)
                ready.append((part, self._row(part)))
            except Exception as error:  # whatever a stranger's rows provoke stays this session's trouble
                log.debug("a row could not be prepared", exc_info=True)
                done.append(Done(part, error=repr(error)))
        if not ready:
            return done
        try:
            done += self._run(ready, began)
        except Exception as error:
            if len(ready) == 1:
                log.debug("a row could not be run", exc_info=True)
                return [*done, Done(ready[0][0], error=repr(error))]
            for part, _ in ready:
                part.slot.cache.truncate(part.start)
                done += self._execute([replace(part, cuts=())])
        return done

    def _row(self, part: Part):
        from swarm.model.blobs import from_blob
        from swarm.model.span import Row

        model, job, here = self._model(), part.job, slice(part.begin, part.end)
        hidden = None if job.hidden is None else from_blob(job.hidden[here], model.device, model.dtype, width=model.hidden)
        return Row(part.slot.cache, part.start, job.tokens[here], hidden, part.draw, raw=part.slot.reply == HIDDEN)

    def _run(self, ready, began: float) -> list[Done]:
        from swarm.model.blobs import to_blob

        model, start, stop = self._model(), ready[0][0].key.start, ready[0][0].key.stop
        outputs = model.run(start, stop, [row for _, row in ready])
        is_head = stop == model.head + 1
        draws = self._draw(ready, outputs) if is_head else [()] * len(ready)
        wanted = [not is_head or (part.slot.reply != LOOP and bool(part.draw)) for part, _ in ready]
        blobs = [to_blob(output, compress=part.job.compress) if wants else None for (part, _), output, wants in zip(ready, outputs, wanted, strict=True)]
        self.steps += 1
        self.tokens += sum(part.count for part, _ in ready)
        micros = round((self._clock() - began) * 1e6)
        return [Done(part, blob, tuple(drawn), micros) for (part, _), blob, drawn in zip(ready, blobs, draws, strict=True)]

    def _draw(self, ready, outputs) -> list[list[Draw]]:
        """Draw every token that was asked for, all sessions in one go."""
        import torch

        from swarm.model.sampling import DrawRequest, draw

        requests, owners = [], []
        draws = [part.draw if part.slot.reply == LOOP else () for part, _ in ready]
        for at, (part, _) in enumerate(ready):
            sampling, job = part.slot.sampling, part.job
            for offset in draws[at]:
                history = (*job.history, *job.tokens[: part.begin + offset + 1]) if sampling.repetition_penalty != 1 else ()
                requests.append(DrawRequest(sampling, part.start + offset + 1, history))
                owners.append(at)
        drawn: list[list[Draw]] = [[] for _ in ready]
        if requests:
            logits_KV = torch.cat([output for output, drawing in zip(outputs, draws, strict=True) if drawing])
            for owner, request, token in zip(owners, requests, draw(logits_KV, requests), strict=True):
                drawn[owner].append(Draw(request.position, token.token, token.logprobs))
        return drawn
