"""The resource monitor of a peer: reads the machine's meters and lets the peer live by them. It takes no sessions for which there is no memory any more, and a
polite one makes way for its owner's other programs.

Decides nothing, which is `headroom.py` and `courtesy.py`. Does not know how meters are read, nor what is announced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from swarm.core import readable
from swarm.peer.coordinator import Think
from swarm.peer.courtesy import Courtesy
from swarm.peer.headroom import Headroom
from swarm.peer.holding import Holding, ServingEngine
from swarm.peer.hops import HopRoom
from swarm.ports import Meters, Readings

log = logging.getLogger(__name__)

READ_EVERY = 1.0
"""Seconds between two readings, of some milliseconds each."""

NEWS = 1.25
"""By what factor the share must have changed since it was announced to be announced before its time: planning errs by as much anyway."""

NEWS_EVERY = 3.0
"""Seconds between two announcements of such news, at least."""


class Monitor:
    """Run it beside the peer."""

    def __init__(self, meters: Meters, room: HopRoom, engine: ServingEngine, *, polite: bool, clock: Callable[[], float], think: Think) -> None:
        self.readings: Readings | None = None
        self._meters, self._room, self._engine, self._clock, self._think = meters, room, engine, clock, think
        self._courtesy = Courtesy() if polite else None
        self._headroom = Headroom(0.0)
        self._told, self._told_at = self.news, clock()

    @property
    def share(self) -> float:
        """Of its time, in which the peer computes."""
        return 1.0 if self._courtesy is None else round(self._courtesy.share, 2)

    @property
    def is_short(self) -> bool:
        """Whether some of the cache that was promised cannot be had for now."""
        return self._room.ledger.most < self._room.ledger.tokens

    @property
    def news(self) -> tuple[float, bool]:
        """What others should hear of soon."""
        return self.share, self.is_short

    def take(self, holding: Holding) -> None:
        """Something else is held from now on."""
        self._headroom = Headroom(holding.position_bytes)

    def announced(self) -> None:
        self._told, self._told_at = self.news, self._clock()

    async def run(self, renew: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled. `renew` announces the peer anew."""
        while True:
            self._live_by(await self._think(self._meters.read))
            if self._is_news() and self._clock() - self._told_at >= NEWS_EVERY:
                await renew()
            await asyncio.sleep(READ_EVERY)

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    def _live_by(self, readings: Readings) -> None:
        now, ledger, was_short = self._clock(), self._room.ledger, self.is_short
        self.readings = readings
        if self._courtesy is not None:
            self._courtesy.heard(readings.others, readings.hot, now)
            self._engine.share = self.share
        most = self._headroom.most(readings.free, readings.own, readings.host_free, ledger.held + ledger.laid, now)
        self._room.hold_to(ledger.tokens if most is None else min(most, ledger.tokens))
        if self.is_short != was_short:
            self._say_memory(readings)

    def _say_memory(self, readings: Readings) -> None:
        ledger = self._room.ledger
        if self.is_short:
            free = readable(min(readings.free, readings.host_free))
            log.warning("other programs have taken memory (%s are free): sessions get %d of %d positions until it is back", free, ledger.most, ledger.tokens)
        else:
            log.info("memory is back: new sessions may take the whole cache again")

    def _is_news(self) -> bool:
        share, short = self._told
        return max(share, self.share) >= NEWS * min(share, self.share) or short != self.is_short or (share != self.share == 1.0)
