"""The room `gateway`, its lookout: the newest picture of the swarm, taken when somebody asks for it and now and then when nobody does.

Shared by everybody who looks, so that a hundred open pages cost one reading of the directory. Knows nothing of how it is shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from swarm.client.overview import Overview
from swarm.errors import SwarmError

log = logging.getLogger(__name__)

FRESH = 1.5
"""Seconds for which a picture is shown again before another is taken."""

UNASKED = 10.0
"""Seconds between two pictures that nobody asked for: the history must not have holes only because no page was open."""


class Lookout:
    """`look` takes a picture, `saw` hears of each."""

    def __init__(self, look: Callable[[], Awaitable[Overview]], clock: Callable[[], float], saw: Callable[[Overview], None] = lambda seen: None) -> None:
        self._look, self._clock, self._saw = look, clock, saw
        self._looking: asyncio.Task[Overview] | None = None
        self._taken = float("-inf")
        self.latest: Overview | None = None

    async def now(self) -> Overview:
        """A picture that is no older than FRESH."""
        if self.latest is not None and self._clock() - self._taken < FRESH:
            return self.latest
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._take(), name="look")
        return await asyncio.shield(self._looking)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self.now()
                except SwarmError as error:
                    log.info("could not look at the swarm: %s", error)
                await asyncio.sleep(UNASKED)
        finally:
            if self._looking is not None:
                self._looking.cancel()
                await asyncio.wait({self._looking})

    async def _take(self) -> Overview:
        seen = await self._look()
        self.latest, self._taken = seen, self._clock()
        self._saw(seen)
        return seen
