"""Room: cli. Puts a load on a swarm and notes when each token comes. Knows the client and a clock; not what the figures are for."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from swarm.cli.trials import Load, Request
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.client.aio import Client

LATEST = 2.0
"""Times the length of a measurement that answers of an open loop may take beyond its end; then they have failed."""


class Driver:
    """Prompts are drawn from `seed`, each another one: nothing is computed before that another needs."""

    def __init__(self, client: Client, seed: int = 0) -> None:
        self._client, self._random = client, random.Random(seed)
        self._began = 0.0

    async def measure(self, load: Load, seconds: float) -> list[Request]:
        """Under this load for so long; and one answer before, which does not count."""
        await self._ask(load)
        self._began = self._client.clock()
        return await (self._open(load, seconds) if load.rate else self._closed(load, seconds))

    async def _closed(self, load: Load, seconds: float) -> list[Request]:
        """Who has got an answer asks for the next one. Those that run when the time is over are cut short; that is no failure."""
        found: list[Request] = []

        async def stream() -> None:
            while self._now() < seconds:
                request = await self._ask(load, until=seconds)
                found.append(request)
                if not request.complete:
                    await asyncio.sleep(min(0.1, max(seconds - self._now(), 0.0)))  # not as fast as it can fail

        async with asyncio.TaskGroup() as tasks:
            for _ in range(load.streams):
                tasks.create_task(stream())
        return found

    async def _open(self, load: Load, seconds: float) -> list[Request]:
        """New answers come as strangers do: independently of one another."""
        asked: list[asyncio.Task[Request]] = []
        while (wait := self._random.expovariate(load.rate)) + self._now() < seconds:
            await asyncio.sleep(wait)
            asked.append(asyncio.create_task(self._ask(load, until=None, give_up=seconds * (1 + LATEST))))
        return list(await asyncio.gather(*asked))

    async def _ask(self, load: Load, until: float | None = None, give_up: float | None = None) -> Request:
        asked, came, complete = self._now(), list[float](), True
        prompt = [self._random.randrange(self._client.vocab) for _ in range(load.prompt)]
        try:
            async with asyncio.timeout(None if give_up is None else max(give_up - self._now(), 0.0)), self._session() as session:
                async with contextlib.aclosing(session.stream_tokens(prompt, max_new_tokens=load.tokens, ignore_eos=True)) as tokens:
                    async for _ in tokens:
                        came.append(self._now())
                        if until is not None and came[-1] >= until:
                            break
        except (SwarmError, TimeoutError):
            complete = False
        return Request(asked, tuple(came), complete, complete and len(came) < load.tokens)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator:
        async with await self._client.ready_session() as session:
            yield session

    def _now(self) -> float:
        return self._client.clock() - self._began
