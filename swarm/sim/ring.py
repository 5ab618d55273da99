"""The room `sim`, one ring far apart: real peers in a row, all ways equally long, and a small model, only pretended, at the first of them or at clients.

What it guesses is right as often as it is told, at places that hang on nothing but the history, and takes it so long a token. All else that guesses, judges and
takes back is real, so what an answer takes here is what the cadence of guesses makes of a distance.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from swarm.client.aio import Client
from swarm.compose import Connection, OpenedModel
from swarm.core import PeerId, Sampling, Span
from swarm.peer.drafter import DraftModel
from swarm.peer.drafting import Drafter
from swarm.sim import toy
from swarm.sim.clock import VirtualLoop
from swarm.sim.directory import Directory
from swarm.sim.swarm import Guest, Scene, Stage
from swarm.wire import Step, decode

READY = 40.0
"""Seconds for everybody to know everybody."""

EACH = 2
"""Components of a hop."""

NEAR = 0.0005
"""Seconds one way between a client and a peer."""


@dataclass(frozen=True)
class Far:
    """Seconds, but for the counts and the share."""

    hops: int = 3
    way: float = 0.05
    """From any peer to any other."""
    step: float = 0.004
    """For a hop to run one position; eight take it a third more."""
    line: float = 0.0
    """For a peer to send what it made of a position."""
    right: float = 0.0
    """How often the small model is; 0 for none."""
    each: float = 0.002
    """For a token of the small model."""
    at_client: bool = False
    """Whether it is clients, who are near, that have the small model."""
    says: Callable[[int], int] | None = None
    """Which token stands at a position; None for what the model says, which never repeats itself."""
    spares: tuple[int, ...] = ()
    """Hops that another peer can take."""

    @property
    def components(self) -> int:
        return EACH * self.hops


@dataclass(frozen=True)
class Timed:
    """An answer, and when its tokens came."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    times: tuple[float, ...]

    @property
    def gap(self) -> float:
        """Seconds for a token after the first."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


class SmallModel(DraftModel):
    """One thread of work on virtual time. Caches are lists: what the model is at after every token."""

    def __init__(self, loop: VirtualLoop, far: Far) -> None:
        super().__init__(None, "small", most=10**6, clock=loop.time)  # type: ignore[arg-type]  # what asks for the model is below
        self._loop, self._far = loop, far
        self._free = 0.0

    @property
    def max_length(self) -> int:
        return toy.shape(1).max_length

    def new_cache(self) -> Any:
        return [toy.beginning(self._far.components)]

    def submit(self, cache: Any, cut: int, feed: Sequence[int], history: Sequence[int], sampling: Sampling | None) -> asyncio.Future[int | None]:
        del cache[cut + 1 :]
        for token in feed:
            cache.append(toy.fed(cache[-1], token))
        token, self.tokens = guess_after(cache[-1], self._far.right), self.tokens + 1
        begin = max(self._loop.now, self._free)
        self._free = begin + self._far.each * (1 + toy.ROW * (len(feed) - 1))
        done: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.call_at(self._free, done.set_result, None if sampling is None else token)
        return done


def guess_after(states: Sequence[bytes], right: float) -> int:
    """The token that follows, or in so many cases another."""
    said = toy.said(states)
    return said if random.Random(states[-1]).random() < right else (said + 1) % toy.VOCAB


def said_rightly(far: Far, *answers: Timed) -> float:
    """The acceptance: how often the small model says what was drawn, all before that being known to it."""
    right = 0
    for answer in answers:
        states = toy.beginning(far.components)
        for token in answer.prompt:
            states = toy.fed(states, token)
        for token in answer.tokens:
            right += guess_after(states, far.right) == token
            states = toy.fed(states, token)
    return right / sum(len(answer.tokens) for answer in answers)


def bound(far: Far, ring: float, acceptance: float) -> float:
    """Tokens a second that there are to be had where a trip takes so long (`docs/far.md`)."""
    run = 1 / (1 - min(acceptance, 0.999))
    return run / (ring + max(far.step, far.each) * run)


class Ring(Stage):
    """A stage with these peers, and clients that ask what they are told to."""

    def __init__(self, far: Far, seed: int = 0) -> None:
        layer = far.step / (EACH * (1 + toy.ROW))
        super().__init__(seed, Scene(peers=0, clients=0, layers=far.components - 2, layer=(layer, layer), loss=0.0, jitter=0.0, skew=0.0, cache_tokens=100_000))
        self.far = far
        self._small = SmallModel(self.loop, far)
        if far.line:
            self.network.takes = self._sending

    def passes(self) -> list[int]:
        """How often each hop has run."""
        return [server.engine.steps for server in self.servers.values() if server.engine is not None]

    def ask(
        self, prompts: Sequence[Sequence[int]], count: int, *, guesses: bool = True, together: bool = False, watched: Callable[[int], None] = lambda at: None
    ) -> list[Timed]:
        """Answers of so many tokens to these prompts, each asked by a client of its own: one after the other, or all `together`. `watched` is told of every
        token, by its number."""
        answers: list[Timed] = []

        async def script(stage: Stage) -> None:
            for at in (*range(self.far.hops), *self.far.spares):
                self.join(Span(EACH * at, EACH * (at + 1)))
            await asyncio.sleep(READY)
            asked = [self._asked(f"guest{at:03}", prompt, count, guesses, watched) for at, prompt in enumerate(prompts)]
            answers.extend(await asyncio.gather(*asked) if together else [await one for one in asked])

        verdict = self.run(script)
        if verdict.broken:
            raise AssertionError("\n".join(verdict.broken))
        return answers

    async def _asked(self, name: PeerId, prompt: Sequence[int], count: int, guesses: bool, watched: Callable[[int], None]) -> Timed:
        guest = self.guests[name] = self._arrive(Guest, name)
        opened = OpenedModel(None, self.shape, None, toy.Text(), (toy.EOS,))  # type: ignore[arg-type]
        directory = Directory(self.table, guest.links)
        connection = Connection(guest.links, directory, (), lambda data: toy.signed(name, data), toy.verify, self.loop.create_future())
        client = await Client.over(opened, connection, random.Random(name), None, directory.wall)
        client.ahead = client.ahead if guesses else 0
        client.draft = self._small.line if guesses and self.far.at_client else None
        tokens, times = list[int](), list[float]()
        try:
            async with await client.ready_session() as session:
                async for token in session.stream_tokens(prompt, max_new_tokens=count, ignore_eos=True):
                    tokens.append(token)
                    times.append(self.loop.now)
                    watched(len(tokens))
        finally:
            await client.close()
        return Timed(tuple(prompt), tuple(tokens), tuple(times))

    def _sending(self, data: bytes) -> float:
        message = decode(memoryview(data)) if data else None
        return self.far.line * len(message.tokens) if isinstance(message, Step) and message.hidden is not None else 0.0

    def engine(self, layer: float) -> toy.Engine:
        engine = super().engine(layer)
        engine.says = self.far.says
        return engine

    def _latency(self, one: PeerId, other: PeerId) -> float:
        return NEAR if "guest" in one + other else self.far.way

    def _drafters(self, ready: Callable[[], None]) -> Sequence[Drafter]:
        return (self._small.line(ready),) if self.far.right and not self.far.at_client else ()
