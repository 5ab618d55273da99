"""`--layers auto` after the first choice: when this peer looks whether it would help more elsewhere, and how it gets there without anybody losing by it.

Decides nothing about places, which is `swarm.routing.placement`, and loads nothing, which is its `Loader`. Does not know sessions, nor the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from typing import Protocol

from swarm.core import Span, missing_spans, whole
from swarm.errors import DoesNotFit, RemoteError, SwarmError, contained
from swarm.peer.coordinator import Think
from swarm.peer.holding import Loader
from swarm.routing.placement import better_place, still_better
from swarm.routing.table import PeerView

log = logging.getLogger(__name__)

LOOK_EVERY = 240.0
"""Seconds between two looks at most; half of that on average. At random, so that peers do not all see the same gap at once (docs/routing.md)."""

HASTE = 15.0
"""The same while something is served by nobody."""

CALLED_EVERY = 30.0
"""Seconds between two looks that others can make us take: anybody may say that we are needed."""

NEWS = 10.0
"""Seconds after which what we announced has reached everybody who looks: a store and a search, each with its deadline."""

DRAIN = 30.0
"""Seconds for running answers to move elsewhere. If some cannot, nobody has room for them, and we are needed where we are."""


class Resident(Protocol):
    """What moving needs of its peer."""

    def view(self) -> PeerView:
        """What it announces, at the place where it serves."""

    async def neighbours(self) -> list[PeerView]:
        """Who shares chains with it, read now. Raises RemoteError."""

    async def aim(self, place: Span) -> None:
        """Announce that it is about to serve `place`: no new session begins here, those that run go on. Raises RemoteError."""

    async def stay(self) -> None:
        """Say that it serves what it holds, and take sessions again. Where nobody hears it now, its next announcement says so."""

    async def empty(self, patience: float) -> bool:
        """Have every session move elsewhere. True if none is left that runs."""

    async def settle(self, place: Span, loader: Loader) -> None:
        """Unload, and load `place`. Raises SwarmError, and then it holds nothing."""


class Mover:
    """Run it beside the peer. `components` of the model; `think` runs what takes milliseconds where it holds up nobody."""

    def __init__(self, home: Resident, loader: Loader, components: int, *, clock: Callable[[], float], think: Think, dice: random.Random) -> None:
        self._home, self._loader, self._components = home, loader, components
        self._clock, self._think, self._random = clock, think, dice
        self._next, self._hurries, self._looked = 0.0, False, -CALLED_EVERY
        self._wake = asyncio.Event()
        self._contented = False

    async def run(self) -> None:
        """Look now and then, until cancelled, or until a place could not be loaded. Raises what `Resident.settle` does if then the old one cannot be either."""
        while not self._contented:
            await self._pause()
            await self.look()

    def heard(self, peers: Iterable[PeerView]) -> None:
        """News of who serves what: where something is served by nobody, the next look comes soon."""
        if not self._hurries and missing_spans((span for view in peers if view.state != "leaving" for span in view.spans), whole(self._components)):
            self._hurries = True
            self._look_by(self._clock() + self._random.uniform(0, HASTE))

    def called(self) -> None:
        """The coordinator thinks that it is time to look: now, unless we have just looked."""
        self._look_by(max(self._clock(), self._looked + CALLED_EVERY))

    async def look(self) -> bool:
        """One look, and the move if there is one to make: fetch, announce, look again, hand sessions over, look once more, reload. True if it moved.

        Until the very last step nothing is unloaded and everything can be taken back.
        """
        me = self._home.view()
        place: Span | None = None
        before: list[PeerView] = []
        with contained(log, "looking for a better place"):
            try:
                place, before = await self._found(me)
            except RemoteError as error:
                log.info("could not look for a better place: %s", error)
        if place is None:
            return False
        log.debug("components [%d, %d) are needed more than [%d, %d)", place.start, place.stop, me.spans[0].start, me.spans[0].stop)
        if goes := await self._cleared(before, me, place):
            await self._settle(place, me.spans[0])
        else:
            log.debug("staying at components [%d, %d)", me.spans[0].start, me.spans[0].stop)
        await self._home.stay()
        return goes

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    async def _pause(self) -> None:
        self._next, self._hurries = self._clock() + self._random.uniform(0, LOOK_EVERY), False
        while (rest := self._next - self._clock()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._wake.wait()
        self._looked = self._clock()

    def _look_by(self, time: float) -> None:
        if time < self._next:
            self._next = time
            self._wake.set()

    async def _found(self, me: PeerView) -> tuple[Span | None, list[PeerView]]:
        """Where to go, its files at hand, if anywhere; and the others by whom that was seen."""
        place = await self._wanted(await self._home.neighbours(), me)
        if place is None or not await self._fetched(place):
            return None, []
        before = await self._home.neighbours()  # fetching may have taken long
        return place if place == await self._wanted(before, me) else None, before

    async def _wanted(self, peers: list[PeerView], me: PeerView) -> Span | None:
        try:
            return await self._think(better_place, peers, me, self._components, self._loader.costs, self._loader.budget(me.spans[0]))
        except DoesNotFit as error:
            log.info("other programs have taken the memory to move in: %s", error)
            return None

    async def _cleared(self, before: list[PeerView], me: PeerView, place: Span) -> bool:
        """Announce it, and see whether everything is still for it once others have heard, and again once all sessions are gone."""
        with contained(log, "looking once more whether a place is better"):
            try:
                await self._home.aim(place)
                return await self._right(before, me, place, NEWS) and await self._home.empty(DRAIN) and await self._right(before, me, place, 0.0)
            except RemoteError as error:
                log.info("could not hear of others: %s", error)
        return False

    async def _right(self, before: list[PeerView], me: PeerView, place: Span, news: float) -> bool:
        """Whether it still is, once all that was announced meanwhile has arrived."""
        await asyncio.sleep(news)
        return await self._think(still_better, before, await self._home.neighbours(), me, place, self._components)

    async def _fetched(self, place: Span) -> bool:
        try:
            await self._loader.fetch(place)
        except SwarmError as error:
            log.info("cannot fetch the layers that are needed most: %s", error)
            return False
        return True

    async def _settle(self, place: Span, old: Span) -> None:
        """Where the new place cannot be loaded, the old one is again, and we go nowhere any more."""
        try:
            await self._home.settle(place, self._loader)
        except (SwarmError, OSError, RuntimeError, MemoryError) as error:  # torch and the file system have no errors of their own for this
            log.error("cannot load components [%d, %d): %s; going back, and staying there from now on", place.start, place.stop, error)
            self._contented = True
            await self._home.settle(old, self._loader)
