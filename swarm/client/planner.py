"""Where a session's routes come from: planned, or repaired, from what the client knows of the swarm; patient while nobody serves what is missing.

Asks `swarm.routing` what would be best. Does not know what a session says to its hops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from swarm.client.advice import Advisers, Question
from swarm.client.earlier import Earlier
from swarm.client.trust import Trust
from swarm.core import ModelShape, PeerId, SessionId, Span, base_dtype, mixed
from swarm.errors import MissingLayers, PromptTooLong, Refused
from swarm.routing.atlas import Atlas
from swarm.routing.explain import explain
from swarm.routing.load import announced
from swarm.routing.peers import PeerTable
from swarm.routing.plan import or_mix, plan, repair
from swarm.routing.route import Request, Route
from swarm.routing.slow import Slowness
from swarm.wire import ITEM_SIZE

log = logging.getLogger(__name__)

LOOK_AGAIN = 0.5
"""Seconds between looks at the directory while nobody serves what is missing."""


class Surroundings(Protocol):
    """What planning needs of a client. `own` are the ends it keeps for itself, `rtts` the round trips it measured, in seconds; `patience` how many
    seconds to wait for missing layers; `slowness` is what it knows of peers that are slower than they
    announce; `earlier` are its other sessions, `trust` says whom it lets serve it; `advisers` are None for one that plans everything itself;
    `packed_bytes` are those of a compressed row, 0 where it wants none; `ahead` is how far the first hop may guess."""

    earlier: Earlier
    trust: Trust
    table: PeerTable
    slowness: Slowness
    advisers: Advisers | None
    patience: float
    own: tuple[Span, ...]
    ahead: int

    @property
    def rtts(self) -> Mapping[PeerId, float]: ...

    @property
    def peer(self) -> PeerId: ...

    @property
    def components(self) -> int: ...

    @property
    def shape(self) -> ModelShape | None: ...

    @property
    def packed_bytes(self) -> int: ...

    def clock(self) -> float: ...

    async def refresh(self) -> None: ...


class Planner:
    """Routes for one session, through peers of one revision and numerics class, which may be a mixed one."""

    def __init__(self, around: Surroundings, session: SessionId, revision: str, numerics: str) -> None:
        self._around, self._session, self._class = around, session, (revision, numerics)

    async def find(
        self,
        old: Route | None,
        length: int,
        goal: int,
        refusal: Refused | None = None,
        patience: float | None = None,
        *,
        begun: bool = False,
        avoid: frozenset[PeerId] = frozenset(),
        tentative: bool = False,
    ) -> Route:
        """A route for a session of `length` tokens that will grow to `goal`: `old` with its holes filled, or a new one; a coordinator's, or else our own.

        Peers that failed us lately come last, those to `avoid` not at all; `tentative` says that the session may stay on its `old` route. `patience` replaces
        the client's own. Raises `refusal`, or else MissingLayers, when patience runs out, or PromptTooLong at once where no peer will ever take that many
        positions, unless the answer has `begun`: somebody else may come.

        Where only room is missing, by what was announced some seconds ago, peers are asked all the same: they know, and say when to ask again.
        """
        around = self._around
        give_up, looks = around.clock() + (around.patience if patience is None else patience), 0
        if (advised := await self._advised(old, length, goal, begun, avoid, tentative)) is not None:
            return advised
        while True:
            for forgive in (False, True):
                try:
                    return self._plan(old, length, goal, around.table.shunned(around.clock(), forgive=forgive) | avoid)
                except MissingLayers as error:
                    missing = error
            if patience is None:
                with contextlib.suppress(MissingLayers):
                    return self._plan(old, length, goal, around.table.shunned(around.clock(), forgive=True) | avoid, crowded=True)
            now = around.clock()
            if looks and not begun:
                self._check_length(missing, goal)
            if now >= give_up and looks:  # never without having looked once
                raise refusal or self._with_hint(missing, length, goal)
            if looks == 1:
                log.warning("waiting up to %.0f s for somebody to serve layers %s", give_up - now, missing.layers)
            if looks:
                await asyncio.sleep(LOOK_AGAIN)
            await around.refresh()
            looks += 1

    def elsewhere(self, old: Route, length: int, goal: int, full: frozenset[PeerId], *, begun: bool = False) -> Route | None:
        """At once, and of our own: a route without peers that have no room, if anybody has. Raises PromptTooLong as `find` does."""
        with contextlib.suppress(MissingLayers):
            return self._plan(old, length, goal, self._around.table.shunned(self._around.clock()) | full)
        try:
            self._plan(None, length, goal, frozenset(), crowded=True)
        except MissingLayers as error:
            if not begun:
                self._check_length(error, goal)
        return None

    @staticmethod
    def _check_length(missing: MissingLayers, goal: int) -> None:
        """Raises PromptTooLong where that is why."""
        if missing.longest is not None:
            raise PromptTooLong(goal, missing.longest, f"no peer that serves layers {missing.layers} takes more than")

    def is_there(self, route: Route, goal: int) -> bool:
        """Whether everybody on it holds what they held when it was planned, takes sessions so long, and has not failed us lately."""
        views, shunned = self._atlas().views, self._around.table.shunned(self._around.clock())
        return all(
            hop.peer not in shunned
            and (view := views.get(hop.peer)) is not None
            and view.state == "online"
            and hop.version in (0, view.version)
            and view.longest >= goal
            for hop in route.hops
        )

    def reasons(self, route: Route, length: int, goal: int) -> Callable[[], Sequence[str]]:
        """Why a route is as it is, by what is announced now; who has just failed is no alternative. Asked for later, and perhaps by another thread, so it looks
        at a copy."""
        around = self._around
        failed = around.table.shunned(around.clock()) - {hop.peer for hop in route.hops}
        request, atlas = self._request(length, goal, failed), self._atlas().copy()
        request = replace(request, tokens_needed=0)  # the session's own share of the caches is taken already
        return lambda: explain(atlas, request, route, announced(atlas.views.values())).lines()

    async def _advised(self, old: Route | None, length: int, goal: int, begun: bool, avoid: frozenset[PeerId], tentative: bool) -> Route | None:
        """What a coordinator says, if there is one, and it can be believed."""
        around = self._around
        if around.advisers is None:
            return None
        request, atlas = self._request(length, goal, around.table.shunned(around.clock()) | avoid), self._atlas()
        lost = self._lost(old, request.exclude, atlas)
        if old is not None and lost:
            request = replace(request, exclude=request.exclude | lost)
        return await around.advisers.route(Question(self._session, self._class, request, old if lost else None, begun, tentative), atlas)

    def _plan(self, old: Route | None, length: int, goal: int, exclude: frozenset[PeerId], *, crowded: bool = False) -> Route:
        request, atlas = replace(self._request(length, goal, exclude), crowded=crowded), self._atlas()
        lost = self._lost(old, exclude, atlas)
        load = announced(atlas.views.values())
        return repair(atlas, request, old, lost, load) if old is not None and lost else plan(atlas, request, load)

    def _with_hint(self, missing: MissingLayers, length: int, goal: int) -> MissingLayers:
        """Says so where a chain that may be mixed would do."""
        around, (revision, numerics) = self._around, self._class
        try:
            plan(around.table.atlas((revision, mixed(numerics))), self._request(length, goal, around.table.shunned(around.clock(), forgive=True)))
        except MissingLayers:
            return around.trust.explained(missing)
        return or_mix(missing)

    def _atlas(self) -> Atlas:
        return self._around.table.atlas(self._class)

    def _request(self, length: int, goal: int, exclude: frozenset[PeerId]) -> Request:
        around = self._around
        scale = around.shape.scale(ITEM_SIZE.get(base_dtype(self._class[1]))) if around.shape else 1.0
        return Request(
            components=around.components,
            tokens_needed=goal,
            prompt=length,
            output=max(goal - length, 1),
            source=around.peer if around.own else None,
            source_rtts=around.rtts,
            exclude=exclude,
            slower=around.slowness.believed(around.clock(), around.table.views),
            own=around.own,
            shape=around.shape,
            scale=scale,
            numerics=self._class[1],
            row_bytes=round(around.shape.row_bytes * scale) if around.shape else 0,
            packed_bytes=around.packed_bytes,
            guesses=around.ahead > 0,
        )

    def _lost(self, old: Route | None, exclude: frozenset[PeerId], atlas: Atlas) -> frozenset[PeerId]:
        """Who of the old route is gone."""
        return frozenset(hop.peer for hop in old.hops if hop.peer in exclude or not self._is_there(hop.peer, atlas)) if old is not None else frozenset()

    def _is_there(self, peer: PeerId, atlas: Atlas) -> bool:
        return peer == self._around.peer or (peer in atlas.views and atlas.views[peer].state != "leaving")
