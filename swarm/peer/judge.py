"""A coordinator's judgement of accusations: that a peer said so it knows by the signature; that it is wrong it believes when others, whom it chose itself, have
made the same work again. Then it plans without that peer for a while. Nobody else is told, so nobody has to believe it.

Does not know which network it is on, nor tensors.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable

from swarm.core import Hop, PeerId, Span
from swarm.errands import Errands, Likeness, Redone
from swarm.errors import ProtocolError
from swarm.machines.audits import Audits
from swarm.machines.evidence import Verify, charge
from swarm.machines.marks import MOST_SHOWN_BYTES
from swarm.machines.probe import USUAL_ROOM, Work
from swarm.peer.voice import Voice
from swarm.ports import Links
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView
from swarm.wire import Accuse, Message, Statement, compressed

log = logging.getLogger(__name__)

CASES = 2
"""Accusations looked into at once. Each holds some megabytes and has others compute; whoever has more of them can wait for the next."""

REST = 60.0
"""Seconds between two accusations by one peer."""

WITNESSES, MOST_WITNESSES = 2, 8
"""Peers that must make something else of it than the accused, and one more for each time that it was acquitted: else a few liars, who are free to accuse again
and again, need only wait until the lot names them alone. Where fewer could make it again, all of those, but two at least. We ourselves are enough.
(Nobody rests for having been accused: a cheat would have itself accused of good work then, and never be tried for the rest.)"""

FAILURES = 3
"""Peers of whom no answer comes, or none that tells, before a case is dropped at the next: each is waited for a minute."""

REMEMBERED = 1024
"""Accusers, and accused."""


class Judge:
    def __init__(
        self,
        links: Links,
        model: str,
        components: int,
        table: PeerTable,
        sign: Callable[[bytes], bytes],
        verify: Verify,
        likeness: Likeness,
        clock: Callable[[], float],
        wall: Callable[[], float],
        dice: random.Random,
    ) -> None:
        self.audits = Audits()
        self.table = table
        self.errands = Errands(Voice(links, sign, wall), dice, likeness)
        self._links, self._model, self._components = links, model, components
        self.verify, self._clock, self._dice = verify, clock, dice
        self._heard: dict[PeerId, float] = {}
        self._acquitted = Counter[PeerId]()
        self._cases = 0

    def takes(self, sender: PeerId, message: Message) -> bool:
        """Whether an accusation is to be looked into: `look_into` it then."""
        if not isinstance(message, Accuse) or message.config_hash != self._model or self._cases >= CASES:
            return False
        if any(blob is not None and blob.data.nbytes > MOST_SHOWN_BYTES for blob in (message.rows, message.hidden)):  # more than anybody was shown
            return False
        now = self._clock()
        self._heard = {peer: when for peer, when in self._heard.items() if now - when < REST}
        if sender in self._heard or len(self._heard) >= REMEMBERED:
            return False
        self._heard[sender] = now
        return True

    async def look_into(self, accuser: PeerId, accusation: Accuse) -> None:
        self._cases += 1
        try:
            statement = charge(accusation, self.verify)
            if await self._is_wrong(accuser, accusation, statement):
                self.convict(statement.peer)
        except ProtocolError as error:
            log.info("an accusation by %s is passed over: %s", accuser, error)
        finally:
            self._cases -= 1

    def convict(self, peer: PeerId) -> None:
        """Others make something else of the same work than it does."""
        self.table.ban(peer, self.audits.caught(peer, self._clock()))
        log.warning("%s computes something else than others do; planning without it for a while", peer)

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    async def _is_wrong(self, accuser: PeerId, accusation: Accuse, statement: Statement) -> bool:
        against = failed = 0
        special = compressed(accusation.hidden, accusation.rows)
        witnesses = [view for view in self._witnesses(accuser, statement) if view.compresses or not special]
        for view in witnesses:
            redone = await self._again(view, accusation, statement)
            alike = None if redone is None else await redone.made_alike(accusation.rows, statement.start)
            if alike is None:
                failed += 1
            elif alike:
                self._acquit(statement.peer)
                return False
            elif view.peer == self._links.peer:
                return True
            else:
                against += 1
            if against >= min(WITNESSES + self._acquitted[statement.peer], MOST_WITNESSES, max(len(witnesses) - failed, WITNESSES)):
                return True
            if failed > FAILURES:
                return False
        return False

    def _acquit(self, peer: PeerId) -> None:
        if peer not in self._acquitted and len(self._acquitted) >= REMEMBERED:
            del self._acquitted[min(sorted(self._acquitted), key=lambda other: self._acquitted[other])]
        self._acquitted[peer] = min(self._acquitted[peer] + 1, MOST_WITNESSES)

    def _witnesses(self, accuser: PeerId, statement: Statement) -> list[PeerView]:
        """Who could make it again; we first, if we can, and the others by lot: the accuser has no say in it."""
        views, me = self.table.views, self._links.peer
        accused, span = views.get(statement.peer), Span(statement.first, statement.behind)
        if accused is None or accused.revision != statement.revision:
            return []
        out = self.table.shunned(self._clock()) | {accuser, statement.peer}
        able = [view for peer, view in sorted(views.items()) if view.kind == accused.kind and view.state == "online" and view.holds(span) and peer not in out]
        self._dice.shuffle(able)
        return sorted(able, key=lambda view: view.peer != me)

    async def _again(self, view: PeerView, accusation: Accuse, statement: Statement) -> Redone | None:
        """None if it does not come to an end."""
        hop = Hop(view.peer, statement.first, statement.behind, view.addrs, view.version)
        room = self._dice.randint(*USUAL_ROOM)
        told, compress = (accusation.tokens, accusation.hidden), compressed(accusation.rows)
        return await self.errands.redo(view, Work(hop, statement.revision, statement.numerics, self._components, *told, room=room, compress=compress))
