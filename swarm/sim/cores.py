"""The room `sim`, one machine's cores: what real engines run on there in place of threads and tensors. Knows parts of jobs, not sessions, nor who asked.

Who computes beside others gets its share of the cores, and all together a little less than one alone. What comes out are digests, as ever on the stage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarm.machines.effects import Draw
from swarm.peer.engine import Engine
from swarm.peer.schedule import DECODE
from swarm.peer.slots import Copy, Done, Part
from swarm.sim import toy
from swarm.sim.clock import VirtualLoop
from swarm.wire import Blob

EACH = 2
"""Components of a hop."""

TOGETHER = 0.0001
"""Seconds within which messages arrive that were sent at once."""


@dataclass(frozen=True)
class Host:
    """Seconds that the whole model takes alone on these cores, but for the counts; as measured of 362 M parameters in bfloat16 on two cores."""

    hops: int = 3
    least: float = 0.030
    """For a step of decoding, which reads the weights, however few decode;"""
    step: float = 0.011
    row: float = 0.003
    """for one of many, and for each row of it."""
    chunk: float = 0.03
    token: float = 0.0026
    """For some of a prompt, and for each position."""
    way: float = 0.003
    """For a message from a peer to the next."""
    together: float = 0.94
    """Of what the cores do for one process they do for two, and so on."""
    apart: bool = False
    """Whether every peer has so many cores for itself."""

    @property
    def components(self) -> int:
        return EACH * self.hops

    def seconds(self, batch: Sequence[Part]) -> float:
        """For one hop to run these."""
        count = sum(part.count for part in batch)
        decodes = all(len(part.job.tokens) <= DECODE for part in batch)
        return (max(self.least, self.step + self.row * count) if decodes else self.chunk + self.token * count) / self.hops


class Cores:
    """Work that takes so many seconds alone, and longer beside other work."""

    def __init__(self, loop: VirtualLoop, together: float) -> None:
        self._loop, self._together = loop, together
        self._left: dict[asyncio.Future[None], float] = {}
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def work(self, seconds: float) -> None:
        self._advance()
        done: asyncio.Future[None] = self._loop.create_future()
        self._left[done] = seconds
        self._plan()
        await done

    @property
    def _rate(self) -> float:
        return self._together ** (len(self._left) - 1) / len(self._left)

    def _advance(self) -> None:
        if self._left:
            gone = (self._loop.now - self._since) * self._rate
            self._left = {done: left - gone for done, left in self._left.items()}
        self._since = self._loop.now

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._left:
            self._timer = self._loop.call_later(max(min(self._left.values()), 0.0) / self._rate, self._over)

    def _over(self) -> None:
        self._advance()
        for done in [done for done, left in self._left.items() if left < 1e-9]:
            del self._left[done]
            done.set_result(None)
        self._plan()


class Cache:
    """For each component its state after every position."""

    nbytes = 0

    def __init__(self, start: int, stop: int, limit: int | None = None) -> None:
        self.limit = limit
        self.states: list[list[bytes]] = [[] for _ in range(start, stop)]

    def truncate(self, length: int) -> None:
        for states in self.states:
            del states[length:]

    def begin_as(self, other: Cache, length: int) -> Iterator[int]:
        self.states = [states[:length] for states in other.states]
        return iter(())


class Model:
    def __init__(self, fills_cores: bool) -> None:
        self.fills_cores = fills_cores

    def new_cache(self, start: int, stop: int, limit: int | None = None) -> Cache:
        return Cache(start, stop, limit)


class Loop(VirtualLoop):
    """With the one thing that an engine asks of threads."""

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        return self.create_task(executor.run(function, *args))


class Worker:
    """In place of an engine's thread."""

    def __init__(self, cores: Cores, host: Host, clock: Callable[[], float]) -> None:
        self._cores, self._host, self._clock = cores, host, clock

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if function.__name__ != "run":
            return function(*args)
        began = self._clock()
        await self._cores.work(self._host.seconds(args[1]))
        done = function(*args)
        return [replace(each, micros=round((self._clock() - began) * 1e6)) for each in done]

    def shutdown(self, **_: Any) -> None: ...


class Rounds:
    """In place of `swarm.peer.rounds`: what a round makes."""

    def __init__(self, components: int) -> None:
        self._components = components
        self.steps = self.tokens = 0

    def run(self, copies: Sequence[Copy], batch: Sequence[Part]) -> list[Done]:
        self.clean(copies, (), False)
        self.steps += 1
        self.tokens += sum(part.count for part in batch)
        return [self._part(part) for part in batch]

    def clean(self, copies: Sequence[Copy], cuts: Sequence[tuple[Any, int]], gives_back: bool) -> None:
        for copy in copies:
            while not copy.done:
                copy.step()
        for cache, length in cuts:
            cache.truncate(length)

    def _part(self, part: Part) -> Done:
        cache: Any = part.slot.cache
        for length in part.cuts:
            cache.truncate(length)
        if {len(states) for states in cache.states} != {part.start}:
            return Done(part, error="it does not append")
        hidden = None if part.job.hidden is None else part.job.hidden[part.begin : part.end]
        rows = toy.run(cache.states, part.key.start, part.job.tokens[part.begin : part.end], hidden)
        if part.key.stop == self._components:
            return Done(part, None, tuple(Draw(part.start + at + 1, toy.drawn(rows[at])) for at in part.draw))
        return Done(part, Blob(*toy.LONG, memoryview(b"".join(rows))))


class PretendedEngine(Engine):
    """With what a stage asks of engines."""

    boast, hangs = 1.0, False

    @property
    def speed(self) -> Any:
        return self.model

    async def _woken(self) -> None:
        """Messages that leave together are handed on together (`swarm/net/frames.py`); on the stage they arrive one by one."""
        await super()._woken()
        await asyncio.sleep(TOGETHER)
