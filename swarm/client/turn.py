"""Room: client. One turn on its way: a task that sees it through, and what came of it so far for a reader who may be slow.

Knows a chain that can be followed, and a deadline. Not what was asked, nor what becomes of tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from swarm.client.chain import Chain
from swarm.errors import OR_RESUME, MissingLayers, PeerLost, Refused, SwarmError, TimedOut
from swarm.machines.effects import Deliver

log = logging.getLogger(__name__)

OVERDUE = f"the time allowed for this answer is over; allow more time{OR_RESUME}"


class Turn:
    """Begins at once. Its tokens so far are those of the history from `began` on, which errors carry along. Close it."""

    def __init__(self, chain: Chain, began: int, deadline: float | None) -> None:
        self._chain, self._began, self._deadline = chain, began, deadline
        self._came: asyncio.Queue[Deliver | SwarmError] = asyncio.Queue()
        self._driver = asyncio.create_task(self._drive(), name="turn")

    async def get(self) -> Deliver | SwarmError:
        """What comes next; an error is the last."""
        return await self._came.get()

    def abort(self, error: SwarmError) -> None:
        """Whoever waits for a token hears of it."""
        self._came.put_nowait(error)

    def stop(self) -> None:
        """See it through no further."""
        self._driver.cancel()

    async def close(self) -> None:
        self.stop()
        await asyncio.wait({self._driver})

    async def _drive(self) -> None:
        """See a turn through, whether or not its reader is waiting: a repair must not wait for somebody who reads slowly."""
        try:
            async with asyncio.timeout_at(self._deadline):
                async with contextlib.aclosing(self._chain.follow()) as tokens:
                    async for effect in tokens:
                        self._came.put_nowait(effect)
        except TimeoutError:
            self._break_off(TimedOut(OVERDUE, tuple(self._chain.history[self._began :])))
        except SwarmError as error:
            if isinstance(error, (MissingLayers, PeerLost, Refused, TimedOut)):
                error.partial = tuple(self._chain.history[self._began :])
            self._break_off(error)
        except Exception as error:
            log.exception("a turn failed in a way nobody foresaw")
            self._break_off(SwarmError(f"this is a bug: {error!r}"))

    def _break_off(self, error: SwarmError) -> None:
        """End the turn with an error, after the tokens that came home while a way out was sought: they are in the history, so the reader must see them."""
        for effect in self._chain.came_home():
            self._came.put_nowait(effect)
        self._came.put_nowait(error)
