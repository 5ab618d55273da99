"""Room: peer. Inspections of heads, which make no rows that could be compared, but draw tokens. An answer is asked for as any client asks, of a chain of peers
that ends with the suspect; so it sees nothing else than clients' orders while it draws. Then it and the hop before it account for what passed between them, and
other heads draw from the same.

Knows neither the network nor tensors, nor when it is time for it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from swarm.core import Hop, Sampling
from swarm.errands import Errands, Redone
from swarm.errors import ProtocolError
from swarm.machines.evidence import Verify, received, stated
from swarm.machines.marks import token_marks
from swarm.machines.probe import USUAL_ROOM, Work
from swarm.peer.judge import Judge
from swarm.peer.roster import Kind, Roster
from swarm.routing.table import PeerView
from swarm.wire import Blob, Shown, Statement

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 8, 32
"""Tokens of an answer that is asked for."""

TRIES = 3
"""Heads that draw the same again, at most."""

MOST_LOGPROBS = 20
"""They say how likely they found the likeliest: a near tie is nobody's fault."""


class Heads:
    def __init__(self, judge: Judge, roster: Roster, components: int, verify: Verify, dice: random.Random) -> None:
        self._judge, self._roster, self._components, self._verify, self._dice = judge, roster, components, verify, dice

    async def inspect(self, errands: Errands, kind: Kind, tokens: tuple[int, ...]) -> None:
        """One of those of a class, if there is another one, by what it makes of a prompt."""
        head, roster = self._components - 1, self._roster
        able = roster.holders(kind, head)
        if len(able) < 2:
            return
        suspect = roster.suspect(able)
        others = roster.best_known([view for view in able if view.peer != suspect.peer])
        start = max(roster.span(suspect, head).start, min(roster.span(view, head).start for view in others))
        before = self._chain(kind, start)
        if before is None:
            return
        route = (*before, (suspect, Hop(suspect.peer, start, self._components, suspect.addrs, suspect.version)))
        answer = await self._answer(errands, kind, tokens, [view for view, _ in route], [hop for _, hop in route])
        if answer is None:
            return
        history, hidden = answer
        await self._compare(errands, kind, suspect, [view for view in others if roster.span(view, head).start <= start], start, len(tokens), history, hidden)

    def _chain(self, kind: Kind, stop: int) -> list[tuple[PeerView, Hop]] | None:
        """Peers by lot that hold what comes before a component. None if nobody holds some of it."""
        chain: list[tuple[PeerView, Hop]] = []
        at = 0
        while at < stop:
            able = self._roster.holders(kind, at)
            if not able:
                return None
            view = self._dice.choice(able)
            reach = min(self._roster.span(view, at).stop, stop)
            chain.append((view, Hop(view.peer, at, reach, view.addrs, view.version)))
            at = reach
        return chain

    async def _answer(
        self, errands: Errands, kind: Kind, tokens: tuple[int, ...], views: Sequence[PeerView], route: Sequence[Hop]
    ) -> tuple[tuple[int, ...], Blob | None] | None:
        """The tokens that a chain makes of these, behind these; and what its head drew them from, if not tokens. None where it does not account for that."""
        room = min(self._dice.randint(SHORTEST, LONGEST), *(view.spare(len(tokens)) for view in views))
        work = Work(route[0], *kind, self._components, tokens, room=room, behind=tuple(route[1:]))
        async with errands.redoing(views[0], work) as asked:
            if asked is None:
                return None
            history = tokens + tuple(one.tokens[0] for one in asked.probe.drawn)
            stop, last = len(history) - 1, len(route) - 1
            head = await self._say(errands, asked, route, last, stop, stop)
            before = await self._say(errands, asked, route, last - 1, 0, stop) if last else None
        if head is None or (last and before is None):
            return None
        hidden = None if before is None else before[0].rows
        if head[1].received != received(history[:stop], hidden):
            self._at_odds(route[-2:])
            return None
        if head[1].drawn != token_marks(history[len(tokens) :]):  # tokens come home through the first hop
            self._at_odds((route[0], route[-1]))
            return None
        return history, hidden

    def _at_odds(self, hops: Sequence[Hop]) -> None:
        """They do not say the same, and nobody can tell which of them lies."""
        for hop in hops:
            self._judge.audits.unsure(hop.peer)

    async def _say(self, errands: Errands, asked: Redone, route: Sequence[Hop], number: int, start: int, stop: int) -> tuple[Shown, Statement] | None:
        """What a hop accounts for. None if it does not: then it is looked at as a newcomer is."""
        hop = route[number]
        shown = await errands.show(asked, hop, number, start, stop)
        try:
            if shown is None:
                raise ProtocolError("it does not answer")
            said = stated(shown, hop.peer, self._verify)
            if (said.session, said.first, said.behind, said.start, said.stop) != (asked.probe.session, hop.start, hop.stop, start, stop):
                raise ProtocolError("it speaks of something else")
        except ProtocolError as error:
            log.info("%s does not account for its part in an answer: %s", hop.peer, error)
            self._judge.audits.unsure(hop.peer)
            return None
        return shown, said

    async def _compare(
        self, errands: Errands, kind: Kind, suspect: PeerView, others: Sequence[PeerView], start: int, drawn: int, history: tuple[int, ...], hidden: Blob | None
    ) -> None:
        """Whoever is contradicted by two is convicted."""
        against: list[PeerView] = []
        told = history[:-1]
        for view in others[:TRIES]:
            hop = Hop(view.peer, start, self._components, view.addrs, view.version)
            sampling, room = Sampling(logprobs=MOST_LOGPROBS), self._dice.randint(*USUAL_ROOM)
            redone = await errands.redo(view, Work(hop, *kind, self._components, told, hidden, sampling, emit_from=drawn, room=room))
            alike = None if redone is None else await redone.drew_alike(history)
            if alike:
                for peer in (suspect.peer, view.peer):
                    self._judge.audits.passed(peer)
                for other in against:
                    self._judge.convict(other.peer)
                return
            against += [view] if alike is False else []
            if len(against) == 2:
                self._judge.convict(suspect.peer)
                return
        for other in [suspect, *against] if against else []:
            self._judge.audits.unsure(other.peer)
