"""Room: client. Ways without a hop that leaves or has become slow: sought beside the answer that goes on, and their newcomers fed before they are needed.

Knows which way is being sought, which one is being prepared and until when. Opens nothing: it says which route to open, and the chain does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from swarm.client.planner import Planner, Surroundings
from swarm.client.watching import Watching
from swarm.errors import MissingLayers
from swarm.machines.client import ClientSession
from swarm.machines.effects import Prepared
from swarm.routing.route import Leg, Route

log = logging.getLogger(__name__)

FEEDING = 20.0
"""Seconds, beyond four times what is predicted, in which newcomers must be fed; some hop of theirs hangs if they are not."""

SETTLED = 60.0
"""Seconds between two moves away from slow peers, so that an answer does not wander."""


class Around(Surroundings, Protocol):
    def wall(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Better:
    """A way without a hop of the route `old`, which is "leaving" or "slow": being sought, and with a `route` found."""

    reason: str
    hop: int
    old: Route
    route: Route

    @property
    def must(self) -> bool:
        """Whether staying is no choice."""
        return self.reason == "leaving"

    @property
    def newcomers(self) -> list[Leg]:
        return [leg for leg in self.route.legs if leg.hop not in self.old.hops]


class BetterRoutes:
    """Of one session. `prepare` has the newcomers of a route fed, and says whether that can be; `found` is told of a way that was sought, later."""

    def __init__(
        self,
        around: Around,
        machine: ClientSession,
        planner: Planner,
        watching: Watching,
        prepare: Callable[[Route], bool],
        found: Callable[[Better], None],
    ) -> None:
        self._around, self._machine, self._planner, self._watching = around, machine, planner, watching
        self._prepare, self._found = prepare, found
        self._seeking: asyncio.Task[None] | None = None
        self._next: Better | None = None
        """Whose newcomers are being fed while the chain goes on."""
        self._fed_by = 0.0
        """When they are given up, if they are not fed by then."""
        self._settled = 0.0

    @property
    def next(self) -> Route | None:
        """Where the chain is about to go."""
        return None if self._next is None else self._next.route

    def opened(self) -> None:
        """The chain goes some way: nothing is prepared any more."""
        self._next = None

    # --- sought ----------------------------------------------------------------------------------------------------------------------------------------------

    def seek(self, reason: str, hop: int, route: Route | None) -> None:
        """Look for a route without the peer of a hop, beside the answer that goes on; what is `found` comes as an event."""
        if route is None:
            return
        if self._seeking is not None and not self._seeking.done():
            if reason != "leaving":
                return
            self._seeking.cancel()
        self._seeking = asyncio.create_task(self._sought(Better(reason, hop, route, route)), name="seek")

    def notice_slow(self, hop: int, route: Route | None) -> None:
        """Look for somebody faster, unless the answer has just moved or is about to."""
        if self._around.clock() >= self._settled and self._next is None:
            self.seek("slow", hop, route)

    async def seek_no_more(self) -> None:
        if self._seeking is not None:
            self._seeking.cancel()
            await asyncio.wait({self._seeking})

    async def _sought(self, better: Better) -> None:
        avoid, length, goal = frozenset({better.old.hops[better.hop].peer}), len(self._machine.history), self._machine.goal
        try:
            found = await self._planner.find(better.old, length, goal, patience=0, begun=True, avoid=avoid, tentative=not better.must)
        except MissingLayers:
            log.info("hop %d is %s and nobody can take its place yet; staying with it", better.hop, better.reason)
        else:
            self._found(replace(better, route=found))

    def _seek_again(self, better: Better, route: Route | None) -> None:
        """What was found is of no use; who leaves says so only once."""
        leaving = better.old.hops[better.hop].peer
        number = next((at for at, hop in enumerate(route.hops) if hop.peer == leaving), None) if route is not None else None
        if better.must and number is not None:
            self.seek(better.reason, number, route)

    # --- prepared --------------------------------------------------------------------------------------------------------------------------------------------

    def leave(self, better: Better, route: Route | None, done: int) -> Route | None:
        """Away from a peer that leaves in any case, from a slow one if it pays, in an answer of `done` tokens so far. The route to open now: none where its
        newcomers are fed first, so that there is no pause. Where that cannot be and it must be, they are fed then."""
        if better.old is not route:  # rebuilt meanwhile
            self._seek_again(better, route)
        elif better.must or (self._next is None and self._pays(better, done)):
            if not better.must:
                log.info("hop %d has become slow; feeding another peer to move there", better.hop)
                self._settled = self._around.clock() + SETTLED
            self._next = better
            self._fed_by = self._around.clock() + FEEDING + 4 * len(self._machine.history) * sum(leg.prefill for leg in better.newcomers)
            if not self._prepare(better.route):
                self._next = None
                return better.route if better.must else None
        return None

    def prepared(self, effect: Prepared) -> Route | None:
        """Newcomers are fed, or never will be: the route to open now, if any."""
        better, self._next = self._next, None
        if better is None:  # too late
            return None
        if effect.reason:
            log.info("those who were to take over could not be fed: %s", effect.reason)
        return better.route if better.must or not effect.reason else None

    def give_up_late(self, route: Route | None) -> None:
        """Some newcomer hangs, if they are not fed by now. Whoever is to be left still is: with others."""
        better, now = self._next, self._around.clock()
        if better is None or now <= self._fed_by:
            return
        log.info("those who were to take over are not fed in time; passing them over")
        self._next, self._settled = None, now
        for peer in {hop.peer for hop in better.route.hops} - {hop.peer for hop in better.old.hops}:  # whoever serves us beside that does not hang
            self._around.table.shun(peer, now, self._around.wall())
        self._seek_again(better, route)

    def _pays(self, better: Better, done: int) -> bool:
        length, goal = len(self._machine.history), self._machine.goal
        return self._watching.pays(better.hop, better.old, better.route, better.newcomers, length, done, goal - length)
