"""Room: peer. Inspections of heads, which make no rows that could be compared, but draw tokens. An answer is asked for as any client asks, of a chain of peers
that ends with the suspect; so it sees nothing else than clients' orders while it draws. Then it and the hop before it account for what passed between them, and
other heads draw from the same.

Knows neither the network nor tensors, nor when it is time for it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens, from position `begins` on drawn by the head that starts at component `at`, who was given `hidden`, if not tokens."""

    kind: Kind
    at: int
    begins: int
    tokens: tuple[int, ...]
    hidden: Blob | None


class Heads:
    def __init__(self, judge: Judge, roster: Roster, components: int, verify: Verify, dice: random.Random) -> None:
        self._judge, self._roster, self._components, self._verify, self._dice = judge, roster, components, verify, dice

    def comparable(self, kind: Kind) -> bool:
        """Whether there are two of a class."""
        return len(self._roster.holders(kind, self._components - 1)) > 1

    async def inspect(self, errands: Errands, kind: Kind, prompt: tuple[int, ...]) -> None:
        """One of those of a class, by what it makes of a prompt."""
        head, roster = self._components - 1, self._roster
        able = roster.holders(kind, head)
        if len(able) < 2:
            return
        suspect = roster.suspect(able)
        others = roster.best_known([view for view in able if view.peer != suspect.peer])
        start = max(roster.span(suspect, head).start, min(roster.span(view, head).start for view in others))
        chain = self._chain(kind, start, suspect)
        if chain and (answer := await self._answer(errands, kind, prompt, chain)) is not None:
            await self._compare(errands, suspect, [view for view in others if roster.span(view, head).start <= start], answer)

    def _chain(self, kind: Kind, start: int, suspect: PeerView) -> list[tuple[PeerView, Hop]]:
        """The suspect as a head from a component on, behind peers by lot. Empty if nobody holds some of what comes before."""
        chain: list[tuple[PeerView, Hop]] = []
        at = 0
        while at < start:
            able = self._roster.holders(kind, at)
            if not able:
                return []
            view = self._dice.choice(able)
            reach = min(self._roster.span(view, at).stop, start)
            chain.append((view, Hop(view.peer, at, reach, view.addrs, view.version)))
            at = reach
        return [*chain, (suspect, Hop(suspect.peer, start, self._components, suspect.addrs, suspect.version))]

    async def _answer(self, errands: Errands, kind: Kind, prompt: tuple[int, ...], chain: Sequence[tuple[PeerView, Hop]]) -> Answer | None:
        """What a chain says. None where it does not account for that."""
        route = [hop for _, hop in chain]
        room = min(self._dice.randint(SHORTEST, LONGEST) - 1, *(view.spare(len(prompt)) for view, _ in chain))
        work = Work(route[0], *kind, self._components, prompt, room=room, behind=tuple(route[1:]), wants=room + 1)
        async with errands.redoing(chain[0][0], work) as asked:
            if asked is None:
                return None
            tokens = prompt + tuple(one.tokens[0] for one in asked.probe.drawn)
            stop, last = len(tokens) - 1, len(route) - 1
            head = await self._say(errands, asked, route, last, stop, stop)
            before = await self._say(errands, asked, route, last - 1, 0, stop) if last else None
        if head is None or (last and before is None):
            return None
        hidden = None if before is None else before[0].rows
        if head[1].received != received(tokens[:stop], hidden):
            self._at_odds(route[-2:])
            return None
        if head[1].drawn != token_marks(tokens[len(prompt) :]):  # tokens come home through the first hop
            self._at_odds((route[0], route[-1]))
            return None
        return Answer(kind, route[-1].start, len(prompt), tokens, hidden)

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

    async def _compare(self, errands: Errands, suspect: PeerView, others: Sequence[PeerView], answer: Answer) -> None:
        """Whoever is contradicted by two is convicted."""
        against: list[PeerView] = []
        sampling, told = Sampling(logprobs=MOST_LOGPROBS), answer.tokens[:-1]
        for view in others[:TRIES]:
            hop = Hop(view.peer, answer.at, self._components, view.addrs, view.version)
            room = self._dice.randint(*USUAL_ROOM)
            work = Work(hop, *answer.kind, self._components, told, answer.hidden, sampling, emit_from=answer.begins, room=room)
            redone = await errands.redo(view, work)
            alike = None if redone is None else await redone.drew_alike(answer.tokens)
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
