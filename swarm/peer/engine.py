"""The engine of a peer: schedule, run, send. One compute thread does all tensor work; the event loop stays free for the network.

Knows the span model, caches and the sampler. Does not know what a chain is: it gets jobs with a key and gives results back under that key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from swarm.core import Sampling, Span
from swarm.machines.effects import Compute, Draw
from swarm.peer.hops import HopKey
from swarm.peer.muster import Muster, on_one_machine
from swarm.peer.schedule import DECODE, Waiting, schedule
from swarm.wire import Blob, Order

if TYPE_CHECKING:
    from swarm.model.cache import KVCache
    from swarm.model.span import SpanModel

log = logging.getLogger(__name__)

T = TypeVar("T")


class Results(Protocol):
    def finished(self, key: HopKey, serial: int, rows: Blob | None, draws: Sequence[Draw], micros: int) -> None: ...

    def failed(self, key: HopKey, detail: str) -> None: ...


@dataclass(slots=True)
class _Slot:
    """One hop in the engine: its cache, and its jobs and cuts in order. A cut is the length to cut to."""

    sampling: Sampling
    cache: KVCache
    queue: deque[Compute | int] = field(default_factory=deque)
    arrived: int = 0
    musters: bool = False
    """Whether this is the first hop of a ring on one machine, whose sessions are kept in step."""


@dataclass(frozen=True, slots=True)
class _Done:
    key: HopKey
    slot: _Slot
    serial: int
    rows: Blob | None = None
    draws: tuple[Draw, ...] = ()
    micros: int = 0
    decoded: bool = False
    error: str = ""


class Engine:
    """Implements `hops.HopEngine`. `run()` is its one task; give it a parent."""

    def __init__(self, model: SpanModel | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self.results: Results | None = None
        self.timed: Callable[[Span, int, float], None] = lambda span, rows, seconds: None
        self.steps = 0
        self.tokens = 0
        self._clock = clock
        self._slots: dict[HopKey, _Slot] = {}
        self._arrivals = 0
        self._patience: float | None = None
        self._wake = asyncio.Event()
        self._muster = Muster()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swarm-compute")

    @property
    def model(self) -> SpanModel:
        if self._model is None:
            raise RuntimeError("no model is loaded")
        return self._model

    # --- HopEngine --------------------------------------------------------------------------------------------------------------------------------------------

    def open(self, key: HopKey, order: Order) -> None:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot(order.sampling, self.model.new_cache(key.start, key.stop, order.limit))
        slot.sampling = order.sampling
        slot.cache.limit = order.limit
        slot.musters = key.start == 0 and on_one_machine(order.route)
        self._muster.gone(key)

    def submit(self, key: HopKey, job: Compute) -> None:
        slot = self._slots[key]
        if not any(isinstance(entry, Compute) for entry in slot.queue):
            self._arrivals += 1
            slot.arrived = self._arrivals
        slot.queue.append(job)
        self._muster.back(key, self._clock())
        self._wake.set()

    def truncate(self, key: HopKey, length: int) -> None:
        queue = self._slots[key].queue
        while queue and isinstance(queue[-1], Compute) and queue[-1].start >= length:
            queue.pop()
        queue.append(length)

    def free(self, key: HopKey) -> None:
        if (slot := self._slots.pop(key, None)) is not None:
            slot.queue.clear()
            self._muster.gone(key)
            self._wake.set()

    def load(self, model: SpanModel) -> None:
        self._model = model

    async def unload(self) -> None:
        """The compute thread takes one thing after the other, so this comes after the round that runs."""

        def drop() -> None:
            from swarm.model.memory import give_back

            if self._model is not None:
                device, self._model = str(self._model.device), None
                give_back(device)

        await asyncio.get_running_loop().run_in_executor(self._thread, drop)

    async def alone(self, act: Callable[[Any], T]) -> T | None:
        """`act` with the model, on the compute thread, between two rounds; None where there is none."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None if self._model is None else act(self._model))

    # --- the loop ---------------------------------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._woken()
                while round_ := schedule(self._waiting()):
                    for keys in round_:
                        batch = self._take(keys)
                        done = await loop.run_in_executor(self._thread, self._execute, batch)
                        self._tell_time(batch, done)
                        self._report(done)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _woken(self) -> None:
        """Until something arrives, or those that wait for company have waited long enough."""
        try:
            async with asyncio.timeout(self._patience):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _waiting(self) -> list[Waiting[HopKey]]:
        """The oldest job of every hop, but for sessions of one machine's ring whose company is still due."""
        waiting = []
        for key, slot in self._slots.items():
            job = next((entry for entry in slot.queue if isinstance(entry, Compute)), None)
            if job is not None:
                waiting.append(Waiting(key, key.start, key.stop, len(job.tokens), slot.arrived))
        steps = {job.what for job in waiting if job.decodes and self._slots[job.what].musters}
        now = self._clock()
        until = self._muster.wait_until(steps, now) if steps else now
        self._patience = until - now if until > now else None
        return [job for job in waiting if job.what not in steps] if until > now else waiting

    def _take(self, keys: Sequence[HopKey]) -> list[tuple[HopKey, _Slot, list[int], Compute]]:
        """Pop each hop's oldest job, and the cuts before it. A hop that went, or whose job was voided, while another group ran is skipped; its cuts stay."""
        batch = []
        for key in keys:
            slot = self._slots.get(key)
            if slot is None or not any(isinstance(entry, Compute) for entry in slot.queue):
                continue
            cuts: list[int] = []
            while not isinstance(entry := slot.queue.popleft(), Compute):
                cuts.append(entry)
            batch.append((key, slot, cuts, entry))
            self._arrivals += 1
            slot.arrived = self._arrivals
        return batch

    def _tell_time(self, batch: Sequence[tuple[HopKey, _Slot, list[int], Compute]], done: Sequence[_Done]) -> None:
        """Of a round in which every row went well: others took a part of its time for nothing."""
        if batch and len(done) == len(batch) and not any(result.error for result in done):
            key = batch[0][0]
            self.timed(Span(key.start, key.stop), sum(len(job.tokens) for *_, job in batch), done[0].micros / 1e6)

    def _report(self, done: Sequence[_Done]) -> None:
        for result in done:
            if self._slots.get(result.key) is not result.slot or self.results is None:
                continue  # the hop went while its job ran, and perhaps began anew under the same key
            if result.error:
                self.results.failed(result.key, result.error)
                continue
            if result.decoded and result.slot.musters:
                self._muster.left(result.key, self._clock())
            try:
                self.results.finished(result.key, result.serial, result.rows, result.draws, result.micros)
            except Exception as error:  # a bug met by one session must not end the engine of all
                log.exception("a result could not be handed on")
                self.results.failed(result.key, repr(error))

    # --- on the compute thread --------------------------------------------------------------------------------------------------------------------------------

    def _execute(self, batch: Sequence[tuple[HopKey, _Slot, list[int], Compute]]) -> list[_Done]:
        """Run one group. A row that cannot be run fails alone: the others get another try without it."""
        began = self._clock()
        ready = []
        done: list[_Done] = []
        for key, slot, cuts, job in batch:
            try:
                for length in cuts:
                    slot.cache.truncate(length)
                ready.append((key, slot, job, self._row(slot, job)))
            except Exception as error:  # whatever a stranger's rows provoke stays this session's trouble
                log.debug("a row could not be prepared", exc_info=True)
                done.append(_Done(key, slot, job.serial, error=repr(error)))
        if not ready:
            return done
        try:
            done += self._run(ready, began)
        except Exception as error:
            if len(ready) == 1:
                log.debug("a row could not be run", exc_info=True)
                return [*done, _Done(ready[0][0], ready[0][1], ready[0][2].serial, error=repr(error))]
            for key, slot, job, _ in ready:
                slot.cache.truncate(job.start)
                done += self._execute([(key, slot, [], job)])
        return done

    def _row(self, slot: _Slot, job: Compute):
        from swarm.model.blobs import from_blob
        from swarm.model.span import Row

        hidden = None if job.hidden is None else from_blob(job.hidden, self.model.device, self.model.dtype, width=self.model.hidden)
        return Row(slot.cache, job.start, job.tokens, hidden, job.draw)

    def _run(self, ready, began: float) -> list[_Done]:
        from swarm.model.blobs import to_blob

        start, stop = ready[0][0].start, ready[0][0].stop
        outputs = self.model.run(start, stop, [row for *_, row in ready])
        is_head = stop == self.model.head + 1
        draws = self._draw(ready, outputs) if is_head else [()] * len(ready)
        blobs = [None] * len(ready) if is_head else [to_blob(output) for output in outputs]
        self.steps += 1
        self.tokens += sum(len(job.tokens) for _, _, job, _ in ready)
        micros = round((self._clock() - began) * 1e6)
        return [
            _Done(key, slot, job.serial, blob, tuple(drawn), micros, len(job.tokens) <= DECODE)
            for (key, slot, job, _), blob, drawn in zip(ready, blobs, draws, strict=True)
        ]

    def _draw(self, ready, outputs) -> list[list[Draw]]:
        """Draw every token that was asked for, all sessions in one go."""
        import torch

        from swarm.model.sampling import DrawRequest, draw

        requests, owners = [], []
        for at, (_, slot, job, _) in enumerate(ready):
            for offset in job.draw:
                history = (*job.history, *job.tokens[: offset + 1]) if slot.sampling.repetition_penalty != 1 else ()
                requests.append(DrawRequest(slot.sampling, job.start + offset + 1, history))
                owners.append(at)
        drawn: list[list[Draw]] = [[] for _ in ready]
        if requests:
            logits_KV = torch.cat([output for output, (_, _, job, _) in zip(outputs, ready, strict=True) if job.draw])
            for owner, request, token in zip(owners, requests, draw(logits_KV, requests), strict=True):
                drawn[owner].append(Draw(request.position, token.token, token.logprobs))
        return drawn
