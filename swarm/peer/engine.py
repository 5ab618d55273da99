"""The engine of a peer: schedule, run, send. One compute thread does all tensor work; the event loop stays free for the network.

Knows what waits and when it runs; how, on that thread, is `rounds.py`. Does not know what a chain is: it gets jobs with a key and gives results back under
that key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from swarm.core import HopKey, Span, on_one_machine
from swarm.machines.effects import Compute, Draw
from swarm.peer.fair import Turns
from swarm.peer.muster import Muster
from swarm.peer.rounds import Rounds
from swarm.peer.schedule import DECODE, Chunks, Waiting, portion, schedule
from swarm.peer.slots import Copy, Done, Part, Slot
from swarm.wire import LOOP, Blob, Order

if TYPE_CHECKING:
    from swarm.model.span import SpanModel

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK = 0.25
"""Seconds between two looks at our share in a pause that is longer."""

WORTH_GIVING_BACK = 8 * 2**20
"""Bytes of caches freed after which the allocator is asked to return what it keeps, which takes some milliseconds. Otherwise it keeps nearly all of it."""


class Results(Protocol):
    def finished(self, key: HopKey, serial: int, rows: Blob | None, draws: Sequence[Draw], micros: int) -> None: ...

    def failed(self, key: HopKey, detail: str) -> None: ...


class Engine:
    """Implements `hops.HopEngine`. `run()` is its one task; give it a parent."""

    def __init__(self, model: SpanModel | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self.results: Results | None = None
        self.timed: Callable[[Span, int, float], None] = lambda span, rows, seconds: None
        self.share = 1.0
        self._clock = clock
        self._slots: dict[HopKey, Slot] = {}
        self._copies: list[Copy] = []
        self._freed = 0
        """Bytes of caches that have gone since memory was last given back."""
        self._arrivals = 0
        self._patience: float | None = None
        self._wake = asyncio.Event()
        self._muster = Muster()
        self._chunks = Chunks()
        self._turns = Turns()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swarm-compute")
        self._rounds = Rounds(lambda: self.model, lambda: self._clock())
        """What happens on it."""

    @property
    def model(self) -> SpanModel:
        if self._model is None:
            raise RuntimeError("no model is loaded")
        return self._model

    @property
    def steps(self) -> int:
        """How often the model was run."""
        return self._rounds.steps

    @property
    def tokens(self) -> int:
        """Over how many positions in all."""
        return self._rounds.tokens

    # --- HopEngine --------------------------------------------------------------------------------------------------------------------------------------------

    def open(self, key: HopKey, order: Order) -> None:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = Slot(order.sampling, self.model.new_cache(key.start, key.stop, order.limit))
        slot.sampling, slot.client = order.sampling, order.client
        slot.cache.limit = order.limit
        slot.reply = order.reply
        here = on_one_machine(order.route) and order.reply == LOOP
        slot.shared = here and self.model.fills_cores
        slot.musters = here and key.start == 0
        slot.share = (key.stop - key.start) / order.route[-1].stop
        self._muster.gone(key)

    def submit(self, key: HopKey, job: Compute) -> None:
        slot = self._slots[key]
        if slot.next_job() is None:
            self._arrivals += 1
            slot.arrived = self._arrivals
        slot.queue.append(job)
        self._muster.back(key, self._clock())
        self._wake.set()

    def passed(self, key: HopKey, length: int) -> None:
        if (took := self._muster.passed(key, length, self._clock())) is not None:
            self._chunks.went_round(*took)
            self._wake.set()

    def truncate(self, key: HopKey, length: int) -> None:
        slot = self._slots[key]
        while slot.queue and isinstance(slot.queue[-1], Compute) and slot.queue[-1].start >= length:
            slot.queue.pop()
        slot.ran = [result for result in slot.ran if result.part.job.start < length]
        slot.queue.append(length)
        for copy in self._copies:
            copy.urgent |= copy.other is slot.cache and length < copy.length
        self._wake.set()

    def begin_as(self, key: HopKey, other: HopKey, length: int) -> None:
        self._copies.append(Copy(self._slots[key].cache, self._slots[other].cache, length))

    def take_over(self, key: HopKey, other: HopKey, length: int) -> None:
        slot, theirs = self._slots[key], self._slots.pop(other)
        theirs.cache.limit = slot.cache.limit
        slot.cache, slot.queue = theirs.cache, theirs.queue
        self.truncate(key, length)

    def rest(self, key: HopKey) -> None:
        self._slots[key].ran.clear()
        self._muster.gone(key)
        self._wake.set()

    def free(self, key: HopKey) -> None:
        if (slot := self._slots.pop(key, None)) is not None:
            slot.queue.clear()
            self._freed += slot.cache.nbytes
            self._copies = [copy for copy in self._copies if copy.cache is not slot.cache]
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
                while round_ := schedule(waiting := self._waiting(), chunk := self._chunk(waiting)):
                    for keys in round_:
                        batch = self._take(keys, chunk)
                        done = await loop.run_in_executor(self._thread, self._rounds.run, tuple(self._copies), batch)
                        self._copies = [copy for copy in self._copies if not copy.done]
                        self._tell_time(batch, done)
                        self._report(done)
                        await self._pause(done[0].micros / 1e6 if done else 0.0)
                await self._tidy()
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _tidy(self) -> None:
        """While nobody waits: cut what no job follows, and give memory back to the machine."""
        copies, cuts = tuple(self._copies), []
        unready = {id(copy.cache) for copy in copies}
        for slot in self._slots.values():
            if slot.queue and slot.next_job() is None and id(slot.cache) not in unready:
                cuts.append((slot.cache, min(cut for cut in slot.queue if isinstance(cut, int))))
                slot.queue.clear()
        freed, self._freed = self._freed, 0 if self._freed >= WORTH_GIVING_BACK else self._freed
        if copies or cuts or freed >= WORTH_GIVING_BACK:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._rounds.clean, copies, cuts, freed >= WORTH_GIVING_BACK)
            self._copies = [copy for copy in self._copies if not copy.done]
            if copies:  # whoever waited for one, or another piece
                self._wake.set()

    async def _pause(self, seconds: float) -> None:
        """After a round of so many, for as long as our share asks for. It may be another before the pause is over."""
        began = self._clock()
        while self.share < 1 and (rest := began + seconds * (1 / self.share - 1) - self._clock()) > 0:  # noqa: ASYNC110  a pause, not a wait for anything
            await asyncio.sleep(min(rest, LOOK))

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
        unready = {id(copy.cache) for copy in self._copies}
        for key, slot in self._slots.items():
            if (job := slot.next_job()) is not None and id(slot.cache) not in unready:
                waiting.append(Waiting(key, key.start, key.stop, len(job.tokens) - slot.done(job), slot.arrived))
        now = self._clock()
        mustered = [job for job in waiting if self._slots[job.what].musters]
        steps = {job.what for job in mustered if job.decodes}
        prompts = {job.what for job in mustered if not job.decodes}
        streams, turns = self._chunks.decodes(now), any(self._slots[job.what].shared for job in mustered)
        until, until_prompts = self._muster.starts(steps, prompts, streams, turns, now) if mustered else (now, now)
        self._patience = min((time - now for time in (until, until_prompts) if time > now), default=None)
        held = (steps if until > now else set()) | (prompts if until_prompts > now else set())
        return self._turns.fairly([job for job in waiting if job.what not in held], lambda key: self._slots[key].client)

    def _chunk(self, waiting: Sequence[Waiting[HopKey]]) -> int:
        """How many positions of these prompts run at once."""
        return self._chunks.size(self._clock(), shared=any(self._slots[job.what].shared for job in waiting if not job.decodes))

    def _take(self, keys: Sequence[HopKey], chunk: int) -> list[Part]:
        """Of each hop's oldest job what is to run now, and the cuts before it. A hop that went, or whose job was voided, while another group ran is skipped;
        its cuts stay."""
        batch = []
        for key in keys:
            slot = self._slots.get(key)
            if slot is None or (job := slot.next_job()) is None:
                continue
            cuts: list[int] = []
            while isinstance(cut := slot.queue[0], int):
                cuts.append(cut)
                slot.queue.popleft()
            begin = slot.done(job)
            part = Part(key, slot, job, begin, begin + portion(len(job.tokens) - begin, chunk), tuple(cuts))
            if part.is_last:
                slot.queue.popleft()
                self._arrivals += 1
                slot.arrived = self._arrivals
            if len(job.tokens) - begin > DECODE:
                self._turns.ran(slot.client, part.count)
            batch.append(part)
        return batch

    def _tell_time(self, batch: Sequence[Part], done: Sequence[Done]) -> None:
        """Of a round in which every row went well: others took a part of its time for nothing."""
        if batch and len(done) == len(batch) and not any(result.error for result in done):
            key, count, seconds = batch[0].key, sum(part.count for part in batch), done[0].micros / 1e6
            self.timed(Span(key.start, key.stop), count, seconds)
            decodes, now = len(batch[0].job.tokens) <= DECODE, self._clock()
            self._chunks.ran(decodes, count, seconds, now)
            self._tell_muster([part for part in batch if part.slot.musters], decodes, seconds, now)

    def _tell_muster(self, batch: Sequence[Part], decodes: bool, seconds: float, now: float) -> None:
        """What of a round goes round a ring on one machine."""
        if not batch:
            return
        if not decodes:
            positions, slot = sum(part.count for part in batch), batch[0].slot
            whole = self._chunks.goes_round(positions, seconds / slot.share)
            self._muster.portion({part.key: part.start + part.count for part in batch}, positions, seconds, whole, now)
        elif (gap := self._muster.left([part.key for part in batch], now)) is not None:
            self._chunks.stepped(gap)

    def _report(self, done: Sequence[Done]) -> None:
        for result in done:
            part, slot = result.part, result.part.slot
            if self._slots.get(part.key) is not slot or self.results is None:
                continue  # the hop went while its job ran, and perhaps began anew under the same key
            if result.error:
                slot.ran.clear()
                if slot.queue and slot.queue[0] is part.job:
                    slot.queue.popleft()
                self.results.failed(part.key, result.error)
                continue
            if not part.is_last:
                if slot.next_job() is not part.job:  # it was voided meanwhile
                    continue
                if not slot.musters:
                    slot.ran.append(result)
                    continue
                slot.queue[0] = part.rest
            whole, slot.ran = [*slot.ran_of(part.job), result], []
            try:
                self._finished(part, whole)
            except Exception as error:  # a bug met by one session must not end the engine of all
                log.exception("a result could not be handed on")
                self.results.failed(part.key, repr(error))

    def _finished(self, part: Part, whole: Sequence[Done]) -> None:
        assert self.results is not None
        draws = tuple(draw for result in whole for draw in result.draws)
        micros = round(sum(result.micros for result in whole) / self.share)  # the rest that it costs is a part of what it took: clients see who is slow
        self.results.finished(part.key, part.job.serial, joined([result.rows for result in whole]), draws, micros)


def joined(parts: Sequence[Blob | None]) -> Blob | None:
    """The rows of some parts of a job as one."""
    rows = [part for part in parts if part is not None]
    if len(rows) <= 1:
        return rows[0] if rows else None
    return Blob(rows[0].dtype, rows[0].width, memoryview(b"".join(part.data for part in rows)))
