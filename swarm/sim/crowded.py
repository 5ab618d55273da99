"""The room `sim`, one machine: peers that hold a model together and share its cores, and clients that come as they please.

Engines are real ones, with all they decide: what runs next, how much of a prompt, who waits for whom. Only what they run is pretended (`cores.py`), and takes
as long as was measured.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from swarm.client.aio import Client
from swarm.client.earlier import Earlier
from swarm.compose import Connection, OpenedModel
from swarm.core import PeerId, Span
from swarm.sim import toy
from swarm.sim.clock import VirtualLoop
from swarm.sim.cores import EACH, Cores, Host, Loop, Model, PretendedEngine, Rounds, Worker
from swarm.sim.directory import Directory
from swarm.sim.swarm import Guest, Scene, Stage

READY = 40.0
"""Seconds for everybody to know everybody."""


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
        engine = PretendedEngine(Model(not self.host.apart), clock=self.loop.time)  # type: ignore[arg-type]
        cores = Cores(self.loop, 1.0) if self.host.apart else self._cores
        engine._thread, engine._rounds = Worker(cores, self.host, self.loop.time), Rounds(self.host.components)  # type: ignore[assignment]
        return engine

    def _latency(self, one: PeerId, other: PeerId) -> float:
        return self.host.way

    def _address(self, peer: PeerId) -> str:
        return f"/ip4/10.0.0.1/tcp/{1 + list(self.servers).index(peer)}"
