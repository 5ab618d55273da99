"""The room `sim`, one machine: peers that hold a model together and share its cores, and clients that come as they please.

Engines are real ones, with all they decide: what runs next, how much of a prompt, who waits for whom. Only what they run is pretended: digests in place of
tensors, which take the cores as long as was measured. Who computes beside others gets its share of the cores, and all together a little less than one alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from swarm.client.aio import Client
from swarm.client.earlier import Earlier
from swarm.compose import Connection, OpenedModel
from swarm.core import PeerId, Span
from swarm.machines.effects import Draw
from swarm.peer.engine import Engine
from swarm.peer.schedule import DECODE
from swarm.peer.slots import Copy, Done, Part
from swarm.sim import toy
from swarm.sim.clock import VirtualLoop
from swarm.sim.directory import Directory
from swarm.sim.swarm import Guest, Scene, Stage
from swarm.wire import Blob

READY = 40.0
"""Seconds for everybody to know everybody."""

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


class Crowd(Engine):
    """With what a stage asks of engines."""

    boast, hangs = 1.0, False

    @property
    def speed(self) -> Any:
        return self.model

    async def _woken(self) -> None:
        """Messages that leave together are handed on together (`swarm/net/frames.py`); on the stage they arrive one by one."""
        await super()._woken()
        await asyncio.sleep(TOGETHER)


@dataclass(frozen=True)
class Asked:
    """A session that comes so many seconds after the first may, and the times at which its tokens were there."""

    after: float
    prompt: tuple[int, ...]
    tokens: list[int]
    times: list[float]

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self.times)]


@dataclass(frozen=True)
class Seen:
    asked: list[Asked]
    began: float

    @property
    def seconds(self) -> float:
        """Until the last token."""
        return max(one.times[-1] for one in self.asked) - self.began - min(one.after for one in self.asked)

    @property
    def step(self) -> float:
        """The median gap."""
        return median(gap for one in self.asked for gap in one.gaps)

    @property
    def longest(self) -> float:
        return max(gap for one in self.asked for gap in one.gaps)


class Crowded(Stage):
    """A stage with these peers, and one client whose sessions ask what they are told to."""

    def __init__(self, host: Host, seed: int = 0) -> None:
        layer = host.step / host.components
        layers = host.components - 2
        super().__init__(seed, Scene(peers=0, clients=0, layers=layers, layer=(layer, layer), loss=0.0, jitter=0.0, skew=0.0, cache_tokens=100_000))
        self.host = host
        self._cores = Cores(self.loop, host.together)

    def _begin(self) -> VirtualLoop:
        return Loop()  # type: ignore[abstract]

    def ask(self, *waves: Sequence[tuple[float, Sequence[int]]], count: int) -> list[Seen]:
        """Answers of so many tokens to these prompts, each after so many seconds; one wave of them when the one before has ended."""
        seen: list[Seen] = []

        async def script(stage: Stage) -> None:
            for at in range(self.host.hops):
                self.join(Span(EACH * at, EACH * (at + 1)))
            await asyncio.sleep(READY)
            client = await self._client("guest")
            try:
                for wave in waves:
                    seen.append(Seen([Asked(after, tuple(prompt), [], []) for after, prompt in wave], self.loop.now))
                    await asyncio.gather(*(self._asked(client, one, count) for one in seen[-1].asked))
            finally:
                await client.close()

        verdict = self.run(script)
        if verdict.broken:
            raise AssertionError("\n".join(verdict.broken))
        if wrong := [one for wave in seen for one in wave.asked if one.tokens != self._answer(one.prompt, count)]:
            raise AssertionError(f"{len(wrong)} answers are not the model's")
        return seen

    def _answer(self, prompt: Sequence[int], count: int) -> list[int]:
        states = toy.beginning(self.host.components)
        for token in prompt:
            states = toy.fed(states, token)
        said: list[int] = []
        for _ in range(count):
            said.append(toy.said(states))
            states = toy.fed(states, said[-1])
        return said

    async def _client(self, name: PeerId) -> Client:
        guest = self.guests[name] = self._arrive(Guest, name)
        opened = OpenedModel(None, self.shape, None, toy.Text(), (toy.EOS,))  # type: ignore[arg-type]
        directory = Directory(self.table, guest.links)
        connection = Connection(guest.links, directory, (), lambda data: toy.signed(name, data), toy.verify, self.loop.create_future())
        client = await Client.over(opened, connection, random.Random(name), None, directory.wall)
        client.ahead, client.earlier = 0, Earlier(reuse=False)
        return client

    async def _asked(self, client: Client, one: Asked, count: int) -> None:
        await asyncio.sleep(one.after)
        async with await client.ready_session() as session:
            async for token in session.stream_tokens(one.prompt, max_new_tokens=count, ignore_eos=True):
                one.tokens.append(token)
                one.times.append(self.loop.now)

    def engine(self, layer: float) -> Any:
        engine = Crowd(Model(not self.host.apart), clock=self.loop.time)  # type: ignore[arg-type]
        cores = Cores(self.loop, 1.0) if self.host.apart else self._cores
        engine._thread, engine._rounds = Worker(cores, self.host, self.loop.time), Rounds(self.host.components)  # type: ignore[assignment]
        return engine

    def _latency(self, one: PeerId, other: PeerId) -> float:
        return self.host.way

    def _address(self, peer: PeerId) -> str:
        return f"/ip4/10.0.0.1/tcp/{1 + list(self.servers).index(peer)}"
