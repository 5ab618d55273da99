"""Room: peer. Which orders a hop room obeys: an OPEN is held against what the process has, against whose it is, and against the room that is left. Pure.

Knows the sessions that are here and what they have reserved. Does not know what comes of an objection, nor what hops do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from swarm.core import HopKey, PeerId, SessionId, Span, check_cover, may_serve
from swarm.machines.ledger import CacheLedger
from swarm.peer.offer import Offer
from swarm.peer.prefixes import Prefixes
from swarm.peer.tenants import Tenants
from swarm.wire import REPLIES, ROUTE_LIFETIME, Open, Order

MOST_SESSIONS, MOST_EACH = 1024, 256
"""Sessions at once, and of one client: each holds its order, whatever little it reserves."""

SPARE = 1 / 8
"""How much of the cache a client with sessions here leaves to others when it begins another: whoever comes next finds room for a first one."""

IDLE = 60.0
"""Seconds without anything computed after which a session makes room for others that have none: longer than most pauses between two turns."""

TERM_FORGOTTEN = 60.0
"""Seconds after which a term that nobody claims any more is over. Announcements live for 25."""

Objection = tuple[str, str]
"""Reason (as in `wire.Broken`) and detail."""


class Admission:
    """`only` is the one client served, None for anybody. By `wall` orders grow old, never without it."""

    def __init__(
        self,
        me: PeerId,
        tenants: Tenants,
        prefixes: Prefixes,
        *,
        clock: Callable[[], float],
        verify: Callable[[PeerId, bytes, bytes], bool],
        only: PeerId | None,
        wall: Callable[[], float] | None,
    ) -> None:
        self._me, self._tenants, self._prefixes = me, tenants, prefixes
        self._clock, self._verify, self._only, self._wall = clock, verify, only, wall
        self.term = 0
        """The highest that somebody coordinates under, as far as we have heard."""
        self._term_since = self._term_heard = 0.0

    def heard(self, term: int) -> None:
        """Somebody coordinates under this term: routes of lower ones may be begun for as long as routes live. Where all candidates began anew it falls, once
        nothing has been heard of the higher one for longer than claims live."""
        now = self._clock()
        if term > self.term or (term < self.term and now - self._term_heard > TERM_FORGOTTEN):
            self.term, self._term_since = term, now
        if term == self.term:
            self._term_heard = now

    def objection(self, sender: PeerId, message: Open, order: Order, offer: Offer, ledger: CacheLedger, *, leaving: bool) -> Objection | None:
        """Why this OPEN cannot be obeyed, or None."""
        return self._unfit(sender, message, order, offer) or self._unwelcome(message, order, offer, leaving) or self._crowded(message, order, offer, ledger)

    # --- the order itself -----------------------------------------------------------------------------------------------------------------------------------

    def _unfit(self, sender: PeerId, message: Open, order: Order, offer: Offer) -> Objection | None:
        """It is not for us, or not for what we have, or not of those who could order it."""
        if (order.session, order.chain) != (message.session, message.chain) or message.to >= len(order.route):
            return "refused", "the order is not the one it is said to be"
        ours = order.route[message.to]
        if ours.peer != self._me or sender != order.sender(message.to):
            return "refused", "this order is not for this peer"
        if self._only is not None and order.client != self._only:
            return "refused", "these ends serve their own client alone"
        if order.revision != offer.revision or not may_serve(offer.numerics, order.numerics):
            return "refused", "the peer serves another revision of the model"
        try:
            check_cover(order.route, offer.components)
        except ValueError:
            return "refused", "the route does not cover the model"
        is_new = key_of(message, order) not in self._tenants.of(order.session)
        if ours.version not in (0, offer.version) and is_new:
            return "moved", "the peer serves other layers now"
        if not any(span.covers(ours.span) for span in offer.spans):
            return "refused", "the peer does not hold these layers"
        if 0 < order.term < self.term and self._clock() - self._term_since > ROUTE_LIFETIME and is_new:
            return "stale", "another peer coordinates since"
        if self._wall is not None and 0 < order.expires < self._wall() and is_new:
            return "refused", "the order is too old, or a clock is wrong"
        if order.reply not in REPLIES:
            return "refused", f"the peer does not know the reply kind {order.reply!r}"
        if not self._verify(order.client, message.order, message.signature):
            return "refused", "the order's signature is not its client's"
        return None

    def _unwelcome(self, message: Open, order: Order, offer: Offer, leaving: bool) -> Objection | None:
        """It is no order for this session, or for this peer now."""
        hops = self._tenants.of(order.session)
        if any(hop.order.client != order.client for hop in (*hops.values(), *(rests for _, rests in self._prefixes.of(order.session)))):
            return "refused", "the session belongs to another client"
        if leaving and key_of(message, order) not in hops:
            return "leaving", "the peer is leaving"
        if order.limit > offer.max_length:
            return "refused", f"the peer takes at most {offer.max_length} positions"
        return None

    # --- room -----------------------------------------------------------------------------------------------------------------------------------------------

    def _crowded(self, message: Open, order: Order, offer: Offer, ledger: CacheLedger) -> Objection | None:
        hops = self._tenants.of(order.session)
        if not hops and self.is_full:
            return "overloaded", "the peer has as many sessions as it takes"
        theirs = 0 if hops else self._tenants.sessions_of(order.client)
        if theirs >= MOST_EACH:
            return "overloaded", f"the peer has {MOST_EACH} sessions of this client, as many as it takes"
        if not ledger.can_reserve(order.session, *self.claim(message, order, offer)):
            return "overloaded", f"the peer has cache for {max(ledger.free_tokens, 0)} more positions"
        if not self.has_room(message, order, offer, ledger):
            return "overloaded", f"the peer keeps the last {ledger.free_tokens} positions of its cache for other clients"
        return None

    @property
    def is_full(self) -> bool:
        """Whether there are as many sessions as are taken, whatever little they reserve."""
        return len(self._tenants) >= MOST_SESSIONS

    def has_room(self, message: Open, order: Order, offer: Offer, ledger: CacheLedger, without: Collection[SessionId] = ()) -> bool:
        """Whether its claim fits, what is left to others counted in; `without` are sessions that would go first."""
        return ledger.can_reserve(order.session, *self.claim(message, order, offer), spare=self._spare(order), without=without)

    def claim(self, message: Open, order: Order, offer: Offer) -> tuple[int, float]:
        """What the session needs here once the hop follows the order: positions and their weight. Hops that have not heard of the order yet keep what they
        have until then."""
        key, gone = key_of(message, order), self.retired(message, order)
        hops = self._tenants.of(order.session)
        reserved = {other: hop.reserved for other, hop in hops.items() if other not in gone}
        reserved[key] = hops[key].reserves(order) if key in hops else order.limit
        return max(reserved.values()), weight_of(reserved, offer)

    def retired(self, message: Open, order: Order) -> list[HopKey]:
        """Hops of the session here that the order does without: none as long as it is only prepared, and another chain goes on."""
        if message.upto < len(order.route):
            return []
        kept = {HopKey(order.session, hop.start, hop.stop) for hop in order.route if hop.peer == self._me}
        return [key for key in self._tenants.of(order.session) if key not in kept]

    def idle(self, order: Order) -> list[SessionId]:
        """Sessions of others that have been idle for long, the idlest first: they come back by being computed again; who only keeps its lease alive, to hold
        what it has reserved, does not keep others out."""
        return self._tenants.idle(order.client, IDLE)

    def _spare(self, order: Order) -> float:
        """How much of the cache an order leaves to clients that have none of it."""
        is_another = self._tenants.sessions_of(order.client) > 0 and not self._tenants.of(order.session)
        return SPARE if is_another and self._only is None else 0.0


def key_of(message: Open, order: Order) -> HopKey:
    hop = order.route[message.to]
    return HopKey(order.session, hop.start, hop.stop)


def weight_of(keys: Iterable[HopKey], offer: Offer) -> float:
    """What a position of a session with these hops costs here (`Offer.weight`)."""
    return offer.weight([Span(key.start, key.stop) for key in keys])
