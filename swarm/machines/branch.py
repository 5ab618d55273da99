"""Newcomers of another route, fed by one hop beside its successor, so that the session can change over to them without a pause.

Knows how far they are and what they lack; not the hop's outputs, nor who else hears of it. Lengths as in `hop.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.core import PeerId
from swarm.machines.feed import Feed
from swarm.machines.routes import dismissed
from swarm.wire import Close, Have, Open, Order, Prepare


@dataclass(slots=True)
class Branch:
    """Hops `first` to `upto` of the route of `order`, opened under its chain number while an older chain goes on."""

    order: Order
    first: int
    upto: int
    draft: int = 0
    feed: Feed = field(default_factory=Feed)
    told: bool = False
    """Whether the client has heard that they hold nearly everything."""

    @property
    def peer(self) -> PeerId:
        """The first of them, who feeds the next."""
        return self.order.route[self.first].peer

    def opening(self, message: Prepare) -> Open:
        return Open(self.order.session, self.order.chain, self.first, message.order, message.signature, self.upto)

    def addressed(self, chain: int, to: int) -> bool:
        """Whether the newcomers address whoever feeds them so."""
        return (self.order.chain, self.first - 1) == (chain, to)

    def have(self, sender: PeerId, message: Have) -> None:
        """The first newcomer says how far it is, and perhaps where it must be sent from."""
        if sender != self.peer or message.draft > self.draft or (message.resend and message.draft < self.draft):
            return
        if message.resend:
            self.feed.begins_at(message.length)
        else:
            self.feed.has(message.length)

    def truncate(self, length: int) -> None:
        """What was sent from `length` on is void; a higher draft says so to the newcomers."""
        if length < self.feed.sent:
            self.feed.truncate(length)
            self.draft += 1

    def farewell(self, order: Order | None) -> Close | None:
        """To the newcomers that the next order does without, so that they need not wait for their leases to run out."""
        last = self.upto if order is None else dismissed(self.order.route, order.route, self.first)
        return None if last is None else Close(self.order.session, self.order.chain, self.first, min(last, self.upto))
