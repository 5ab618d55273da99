"""Room: peer. A coordinator's own audits: every now and then it has two peers that hold the same layers do the same work, and compares. So a cheat is found
that no client audits, and newcomers are looked at before many have met them.

What they see is a session of a client with ends (and layers) of its own, whom nobody knows: where there are guises, not the coordinator. Work begins as tokens
and goes through the whole model, one stretch after the other, so that what each is given is what such layers are given; whether it is right is of no
importance, since both are given the same. The coordinator computes nothing. Knows neither the network nor tensors: guises are handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from swarm.core import Hop, PeerId
from swarm.errands import Errands, Redone
from swarm.errors import SwarmError, contained
from swarm.machines.probe import USUAL_ROOM, Work, hide
from swarm.peer.heads import Heads
from swarm.peer.judge import Judge
from swarm.peer.roster import Roster
from swarm.peer.voice import Voice
from swarm.ports import Guise
from swarm.routing.table import PeerView
from swarm.wire import Blob, Message

log = logging.getLogger(__name__)

SOON, SELDOM = 60.0, 600.0
"""Seconds between two inspections, half as many to half as many again: while there are newcomers, and where all are proven. One costs each stretch of the model
two prompts of some dozen tokens, and an answer."""

SHORTEST, LONGEST = 16, 48
"""Tokens of a made-up prompt."""

TRIES = 3
"""Peers asked in a row where somebody does not do a piece of work."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What goes in before component `at`, of peers of one class."""

    kind: tuple[str, str]
    at: int
    tokens: tuple[int, ...]
    rows: Blob | None
    room: int


class Inspector:
    def __init__(
        self,
        judge: Judge,
        components: int,
        vocab: int,
        clock: Callable[[], float],
        wall: Callable[[], float],
        dice: random.Random,
        guise: Callable[[], AbstractAsyncContextManager[Guise]] | None = None,
    ) -> None:
        """Without `guise` work is ordered under our own name."""
        self.walks = 0
        """Inspections begun."""
        self._judge, self._components, self._vocab = judge, components, vocab
        self._clock, self._wall, self._dice, self._guise = clock, wall, dice, guise
        self._roster = Roster(judge.table, judge.audits, components, clock, dice)
        self._heads = Heads(judge, self._roster, components, judge.verify, dice)

    async def run(self, leads: Callable[[], bool]) -> None:
        """Inspect, while we coordinate, until cancelled."""
        while True:
            await asyncio.sleep(self._dice.uniform(0.5, 1.5) * self._pause())
            if leads() and (kind := self._choose_class()) is not None:
                with contained(log, "an inspection"):
                    try:
                        async with self._errands() as errands:
                            await self.walk(errands, kind)
                        if self._heads.comparable(kind):
                            async with self._errands() as errands:  # by another name: whoever was met on the way would know the first
                                await self._heads.inspect(errands, kind, self._prompt())
                    except SwarmError as error:
                        log.info("an inspection came to nothing: %s", error)

    async def walk(self, errands: Errands, kind: tuple[str, str]) -> None:
        """Once through the model, as far as somebody goes on."""
        self.walks += 1
        here: Stretch | None = await self._embedded(errands, Stretch(kind, 0, self._prompt(), None, self._dice.randint(*USUAL_ROOM)))
        while here is not None and here.at < self._components - 1:
            here = await self._compare(errands, here)

    def _prompt(self) -> tuple[int, ...]:
        """Low ids are the frequent tokens of most vocabularies, so ids whose logarithm is even are about as frequent as in text."""
        return tuple(int(self._vocab ** self._dice.random()) % self._vocab for _ in range(self._dice.randint(SHORTEST, LONGEST)))

    # --- whom -----------------------------------------------------------------------------------------------------------------------------------------------

    def _pause(self) -> float:
        compared = self._roster.comparable()
        return SELDOM if compared and not any(map(self._judge.audits.is_new, set().union(*compared.values()))) else SOON

    def _choose_class(self) -> tuple[str, str] | None:
        """One in which somebody can be compared with somebody else."""
        kinds = sorted(self._roster.comparable())
        return self._dice.choice(kinds) if kinds else None

    def _reach(self, view: PeerView, at: int) -> int:
        """Up to where it goes on from there; a head makes no rows."""
        return min(self._roster.span(view, at).stop, self._components - 1)

    # --- what they make of it ---------------------------------------------------------------------------------------------------------------------------------

    async def _embedded(self, errands: Errands, start: Stretch) -> Stretch | None:
        """Rows to begin with, by anybody."""
        able = self._roster.holders(start.kind, 0)
        for view in self._dice.sample(able, min(TRIES, len(able))):
            if (redone := await self._make(errands, view, start, 1)) is not None:
                return self._next(start, 1, redone)
        return None

    async def _compare(self, errands: Errands, here: Stretch) -> Stretch | None:
        """Have two make the same of it, one of them by how seldom it was looked at. Where only one does, that is what goes on."""
        audits, able = self._judge.audits, self._roster.holders(here.kind, here.at)
        if not able:
            return None
        suspect = self._roster.suspect(able)
        others = self._roster.best_known([view for view in able if view.peer != suspect.peer])
        stop = min(self._reach(suspect, here.at), max((self._reach(view, here.at) for view in others), default=self._components))
        others = [view for view in others if self._reach(view, here.at) >= stop]
        made: list[Redone] = []
        for view in (suspect, *others)[: TRIES + 1]:
            if (redone := await self._make(errands, view, here, stop)) is None:
                continue
            made.append(redone)
            if await self._verdict(made):
                return self._next(here, stop, redone)
        if len(made) > 1:  # they contradict each other, and nobody says who is right
            for redone in made:
                audits.unsure(redone.view.peer)
            return None
        return self._next(here, stop, made[0]) if made else None

    async def _verdict(self, made: Sequence[Redone]) -> bool:
        """Whether the last one agrees with somebody before it: then they have passed, and whoever made something else of it is convicted."""
        *others, last = made
        alike = [await last.made_alike(other.rows) if other.rows is not None else False for other in others]
        if True not in alike:
            return False
        self._judge.audits.passed(last.view.peer)
        for other, agrees in zip(others, alike, strict=True):
            if agrees:
                self._judge.audits.passed(other.view.peer)
            elif agrees is False:
                self._judge.convict(other.view.peer)
        return True

    async def _make(self, errands: Errands, view: PeerView, here: Stretch, stop: int) -> Redone | None:
        hop = Hop(view.peer, here.at, stop, view.addrs, view.version)
        redone = await errands.redo(view, Work(hop, *here.kind, self._components, here.tokens, here.rows, room=here.room))
        return redone if redone is not None and redone.rows is not None and len(redone.rows) == len(here.tokens) else None

    def _next(self, here: Stretch, at: int, made: Redone) -> Stretch:
        """Beyond the first component token ids are as own ends veil them."""
        return Stretch(here.kind, at, hide(here.tokens, self._dice.getrandbits), made.rows, here.room)

    @contextlib.asynccontextmanager
    async def _errands(self) -> AsyncIterator[Errands]:
        if self._guise is None:
            yield self._judge.errands
            return
        async with self._guise() as guise:
            errands = Errands(Voice(guise.links, guise.sign, self._wall), self._dice, self._judge.errands.likeness)

            def receive(sender: PeerId, message: Message) -> None:
                errands.receive(sender, message)

            guise.links.subscribe(receive, errands.lost)
            yield errands
