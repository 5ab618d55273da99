"""The hop room: every hop of every session that this process serves, whoever it serves them for.

Checks each OPEN against what is really held, hands each frame to its machine, and carries out what the machine answers. A serving peer has one; so has a client
that keeps its own ends. Synchronous: it runs inside the event loop, never waits, and does not know which network or engine it stands between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import msgspec

from swarm.core import CLIENT, Hop, HopKey, PeerId, SessionId, Span
from swarm.errors import ProtocolError
from swarm.machines.effects import Compute, Draw, Effect, Forget, Passed, Rest, Send, Truncate
from swarm.machines.hop import HopSession
from swarm.machines.ledger import CacheLedger
from swarm.machines.limits import HopLimits
from swarm.machines.marks import marks
from swarm.peer.admission import Admission, key_of, weight_of
from swarm.peer.crowd import Crowd
from swarm.peer.drafting import Drafter, Guesser, Lookup, Rings, Told
from swarm.peer.offer import Offer
from swarm.peer.prefixes import Prefixes, serves
from swarm.peer.tenants import Tenants
from swarm.ports import Links
from swarm.wire import (
    Blob,
    Broken,
    Close,
    Drawn,
    Facts,
    Grant,
    Guess,
    Have,
    Keep,
    Message,
    Open,
    Order,
    Prepare,
    Ready,
    Rows,
    SessionMessage,
    Show,
    Shown,
    Statement,
    Step,
    decode_order,
    encode,
)

log = logging.getLogger(__name__)

MOSTLY = 0.75
"""Of what a hop at rest has computed: who begins with at least so much of it gets it instead of a copy."""

AT_WORK = 1.0
"""Seconds since something was computed for another session, up to which guesses make way for it."""


class HopEngine(Protocol):
    """Where jobs are computed. Results come back through `HopRoom.finished` and `HopRoom.failed`."""

    def open(self, key: HopKey, order: Order) -> None:
        """A hop begins, or follows a new order."""

    def submit(self, key: HopKey, job: Compute) -> None: ...

    def truncate(self, key: HopKey, length: int) -> None: ...

    def passed(self, key: HopKey, length: int) -> None:
        """Of a first hop: all others have computed its positions below `length` too."""

    def begin_as(self, key: HopKey, other: HopKey, length: int) -> None:
        """The hop, which has computed nothing yet, holds what another one over the same components holds below `length`."""

    def take_over(self, key: HopKey, other: HopKey, length: int) -> None:
        """The same, of one that rests and is free then."""

    def rest(self, key: HopKey) -> None:
        """Nothing will be computed for the hop any more. It keeps what it holds."""

    def free(self, key: HopKey) -> None: ...


class HopRoom:
    def __init__(
        self,
        links: Links,
        engine: HopEngine,
        offer: Offer,
        ledger: CacheLedger,
        *,
        clock: Callable[[], float],
        verify: Callable[[PeerId, bytes, bytes], bool],
        limits: HopLimits = HopLimits(),
        veil: Callable[[SessionId, int, int], int] | None = None,
        only: PeerId | None = None,
        wall: Callable[[], float] | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        drafters: Callable[[Callable[[], None]], Sequence[Drafter]] = lambda ready: (),
    ) -> None:
        """`veil` hides token ids from the hops between a client's own ends; `only` is the one client served, None for anybody. By `wall` orders grow old, never
        without it. With `sign` it stands by what it made, before the client it was made for. `drafters` makes those that guess for a first hop, beside the
        lookup in the session's own tokens; they call what they are given when they know more."""
        self.offer = offer
        self.ledger = ledger
        self.leaving = False
        self._links, self._engine, self._clock, self._limits = links, engine, clock, limits
        self._veil, self._sign = veil, sign
        self._drafters, self._guessers, self._told = drafters, dict[HopKey, Guesser](), dict[HopKey, Told]()
        self._rings = Rings()
        self._tenants, self._prefixes, self._crowd = Tenants(clock), Prefixes(), Crowd()
        self._admission = Admission(links.peer, self._tenants, self._prefixes, clock=clock, verify=verify, only=only, wall=wall)

    @property
    def sessions(self) -> int:
        return len(self._tenants)

    def working(self, within: float) -> int:
        """Sessions at work, now or in the last so many seconds (`Tenants.working`)."""
        return self._tenants.working(within)

    def busy(self, within: float) -> int:
        """Layers of those sessions' hops (`Tenants.busy`)."""
        return self._tenants.busy(within)

    def facts(self) -> Facts:
        """What is told to whoever ordered something that cannot be done."""
        spans = tuple((span.start, span.stop) for span in self.offer.spans)
        return Facts(spans, self.offer.version, max(self.ledger.free_tokens, 0), self._admission.term, self._crowd.retry_after(self._clock()))

    def heard(self, term: int) -> None:
        """Somebody coordinates under this term."""
        self._admission.heard(term)

    # --- from the network -------------------------------------------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: Message) -> None:
        """A message for a hop of ours. Anything else is none of this room's business."""
        if not isinstance(message, SessionMessage) or message.to < 0:
            return
        if isinstance(message, Open):
            self._open(sender, message)
            return
        if isinstance(message, Show):
            self._links.send(sender, self._shown(sender, message))
            return
        found = self._find(message)
        if found is None:
            self._unknown(sender, message)
            return
        key, hop = found
        now = self._clock()
        if isinstance(message, Step):
            effects = hop.step(sender, message, now)
        elif isinstance(message, Drawn):
            effects = hop.drawn(sender, message, now)
        elif isinstance(message, Rows):
            effects = hop.rows(sender, message, now)
        elif isinstance(message, Have):
            effects = hop.have(sender, message)
        elif isinstance(message, Grant):
            effects = hop.grant(sender, message, now)
        elif isinstance(message, Guess):
            effects = self._tell(sender, message, key, hop)
        elif isinstance(message, Keep):
            effects = hop.keep(sender, message, now)
        elif isinstance(message, Broken):
            effects = hop.broken(sender, message)
        elif isinstance(message, Ready):
            effects = hop.ready(sender, message)
        elif isinstance(message, Prepare):
            effects = self._prepare(sender, message, hop)
        elif isinstance(message, Close):
            effects = hop.close(sender, message)
        else:
            return
        self._do(key, effects)

    def lost(self, peer: PeerId) -> None:
        for key, hop in self._all():
            self._do(key, hop.lost(peer))

    # --- from the engine --------------------------------------------------------------------------------------------------------------------------------------

    def finished(self, key: HopKey, serial: int, rows: Blob | None, draws: Sequence[Draw], micros: int) -> None:
        if (hop := self._tenants.get(key)) is not None:
            self._tenants.works(key.session)
            self._do(key, hop.finished(serial, rows, draws, micros))

    def failed(self, key: HopKey, detail: str) -> None:
        """The engine cannot go on with this hop. The client hears that it failed, not why: the detail stays in our log."""
        log.warning("a hop over components [%d, %d) failed: %s", key.start, key.stop, detail)
        if (hop := self._tenants.get(key)) is not None:
            self._do(key, [*hop.failed("failed", "the peer's engine failed"), Forget(detail)])

    # --- from the owner ---------------------------------------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Forget sessions whose lease ran out, and what has rested long enough. Call it about once a second."""
        now = self._clock()
        for key, hop in self._all():
            self._do(key, hop.tick(now))
        self._drop(self._prefixes.old(now))

    def leave(self) -> None:
        """Take no more orders, and tell every session's client to find somebody else while we still answer."""
        self.leaving = True
        self._drop(self._prefixes.all())
        for key, hop in self._all():
            self._do(key, hop.failed("leaving", "the peer is leaving"))

    def vacate(self, place: Span, version: int) -> None:
        """Forget every session: what is held from now on is `place`, once it is loaded, and whoever orders what was here hears that it moved."""
        self.leaving = True
        self._drop(self._prefixes.all())
        for key, hop in self._all():
            self._do(key, [*hop.failed("unknown", "the peer serves other layers now"), Forget("moved")])
        self.offer = replace(self.offer, spans=(place,), version=version)

    def hold_to(self, most: int) -> None:
        """Take sessions only as far as there is memory for so many positions."""
        self._drop(self.ledger.hold_to(most))

    def settle(self, offer: Offer, ledger: CacheLedger) -> None:
        """What was to come is here. Orders are taken again once we are no longer `leaving`."""
        self.offer, self.ledger = offer, ledger

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    def _open(self, sender: PeerId, message: Open) -> None:
        try:
            order = decode_order(message.order)
            reason = self._objection(sender, message, order)
        except ProtocolError as error:
            reason = "refused", "the order cannot be read"
            log.info("%s", error)
        if reason is not None and reason[0] == "overloaded" and self._make_room(message, order):
            reason = self._objection(sender, message, order)
        if reason is not None:
            kind, detail = reason
            log.info("refused a session: %s (%s)", kind, detail)
            if kind == "overloaded":
                self._crowd.refused(message.session, self._clock())
            self._links.send(sender, Broken(message.session, message.chain, message.to - 1, message.to, kind, detail, self.facts()))
            return
        key = key_of(message, order)
        hops = self._tenants.of(order.session)
        if any(order.chain < hop.epoch.chain for hop in hops.values()):
            return
        for old in self._admission.retired(message, order):
            self._do(old, hops[old].retire(order))
        self._drop([key])  # a late order for a session that has ended here
        self._renew_prefix(key, order)
        self._drop(self.ledger.reserve(order.session, *self._admission.claim(message, order, self.offer)))
        hop = self._tenants.get(key)
        is_new = hop is None
        if hop is None:
            veil = None if self._veil is None else partial(self._veil, order.session)
            guesser = self._guesser(key) if key.start == 0 and self.offer.rewindable else None
            hop = HopSession(order.session, self._limits, rewindable=self.offer.rewindable, veil=veil, guesser=guesser, vocab=self.offer.vocab)
            self._tenants.add(key, hop)
        self._tenants.works(key.session)
        self._crowd.admitted(order.session)
        self._learn(order.route)
        self._engine.open(key, order)
        if key in self._guessers:
            self._guessers[key].opened(order.sampling, order.ahead, tuple((each.peer, each.start, each.stop) for each in order.route))
        if is_new:
            self._begin_as(key, hop, order)
        self._do(key, hop.open(message, order, self._clock()))

    def _guesser(self, key: HopKey) -> Guesser:
        """Caches that cannot be cut have none: every wrong guess would cost them all they hold."""
        told = self._told[key] = Told("client")
        drafters = (Lookup(), told, *self._drafters(partial(self._guessed, key)))
        guesser = self._guessers[key] = Guesser(drafters, self._clock, partial(self._tenants.others, key.session, AT_WORK), rings=self._rings)
        return guesser

    def _guessed(self, key: HopKey) -> None:
        """A drafter of this hop knows more."""
        if (hop := self._tenants.get(key)) is not None:
            self._do(key, hop.more())

    def _tell(self, sender: PeerId, message: Guess, key: HopKey, hop: HopSession) -> list[Effect]:
        """The client guesses, too."""
        if key not in self._told or sender != hop.order.client:
            return []
        self._told[key].tell(message.start, message.tokens)
        return hop.more()

    def _begin_as(self, key: HopKey, hop: HopSession, order: Order) -> None:
        """Where the session's prefix has been computed here, begin with that. Tokens that a client's own ends hide are not the same in two sessions."""
        if order.prefix is None or not self.offer.rewindable or self._veil is not None:
            return
        if order.prefix.session == order.session or order.prefix.length >= order.limit:  # it would hold what it has not reserved
            return
        earlier = key._replace(session=order.prefix.session)
        rests, length = self._prefixes.get(earlier), order.prefix.length
        other = self._tenants.get(earlier) or rests
        if other is None or not serves(other, order):
            return
        if other is rests and length >= MOSTLY * other.computed and other.size <= order.limit:  # it goes on from there: nothing needs to be copied
            hop.begin_as(other, length, instead=True)
            self._engine.take_over(key, earlier, length)
            self._prefixes.drop(earlier)
            self.ledger.release(earlier)
        else:
            hop.begin_as(other, length)
            self._engine.begin_as(key, earlier, length)

    def _renew_prefix(self, key: HopKey, order: Order) -> None:
        """Before room is made: the prefix that is asked for goes last."""
        if order.prefix is None:
            return
        earlier = key._replace(session=order.prefix.session)
        hop = self._prefixes.get(earlier)
        if serves(hop, order):
            self._prefixes.renew(earlier, self._clock())
            self.ledger.renew(earlier)

    def _objection(self, sender: PeerId, message: Open, order: Order) -> tuple[str, str] | None:
        """Why this OPEN cannot be obeyed, as (reason, detail), or None."""
        return self._admission.objection(sender, message, order, self.offer, self.ledger, leaving=self.leaving)

    def _make_room(self, message: Open, order: Order) -> bool:
        """Sessions of others that have been idle for long make room for one that has work to do, if together they can."""
        admission, idle = self._admission, self._admission.idle(order)
        if not idle or not admission.has_room(message, order, self.offer, self.ledger, without=idle):
            return False
        needed = admission.is_full
        for session in idle:
            if not needed and admission.has_room(message, order, self.offer, self.ledger):
                break
            needed = False
            for other, hop in list(self._tenants.of(session).items()):
                self._do(other, [*hop.failed("unknown", "the peer needed the room of sessions that rest"), Forget("idle, and others have work to do")])
        return True

    def _prepare(self, sender: PeerId, message: Prepare, hop: HopSession) -> list[Effect]:
        try:
            order = decode_order(message.order)
        except ProtocolError as error:
            log.info("%s", error)
            return []
        self._learn(order.route)
        return hop.prepare(sender, message, order, self._clock())

    def _learn(self, route: Iterable[Hop]) -> None:
        for hop in route:
            if hop.addrs and hop.peer != self._links.peer:
                self._links.learn(hop.peer, hop.addrs)

    def _find(self, message: SessionMessage) -> tuple[HopKey, HopSession] | None:
        for key, hop in self._tenants.of(message.session).items():
            if (hop.epoch.chain == message.chain and hop.index == message.to) or hop.feeds(message.chain, message.to):
                return key, hop
        if isinstance(message, Close):
            for key, hop in self._prefixes.of(message.session):
                if (hop.epoch.chain, hop.index) == (message.chain, message.to):
                    return key, hop
        return None

    def _shown(self, sender: PeerId, message: Show) -> Shown:
        """What a client may see of its own session."""
        nothing, key = Shown(message.session, message.chain, CLIENT, message.to), HopKey(message.session, message.first, message.behind)
        hop = self._tenants.get(key) or self._prefixes.get(key)
        if hop is None or self._sign is None or sender != hop.order.client:
            return nothing
        if (made := hop.show(message.start, message.stop)) is None:
            return nothing
        received, rows, drawn = made
        about = (self._links.peer, sender, message.session, message.chain, hop.order.revision, hop.order.numerics, key.start, key.stop)
        statement = encode(Statement(*about, message.start, message.stop, received, b"" if rows is None else marks(rows), drawn))
        return msgspec.structs.replace(nothing, statement=statement, signature=self._sign(statement), rows=rows)

    def _unknown(self, sender: PeerId, message: SessionMessage) -> None:
        """Say so to whoever feeds us, unless the frame is merely late."""
        late = any(hop.epoch.chain > message.chain and not hop.is_newcomer for hop in self._tenants.of(message.session).values())
        if not late and isinstance(message, (Step, Grant, Keep)):
            self._links.send(sender, Broken(message.session, message.chain, message.to - 1, message.to, "unknown", "the peer does not know this session"))

    def _all(self) -> list[tuple[HopKey, HopSession]]:
        return self._tenants.all()

    def _do(self, key: HopKey, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._links.send(effect.peer, effect.message)
            elif isinstance(effect, Compute):
                self._engine.submit(key, effect)
                self._tenants.works(key.session)
            elif isinstance(effect, Truncate):
                self._engine.truncate(key, effect.length)
            elif isinstance(effect, Passed):
                self._engine.passed(key, effect.length)
            elif isinstance(effect, Rest):
                self._rest(key)
            elif isinstance(effect, Forget):
                self._forget(key)

    def _forget(self, key: HopKey) -> None:
        if self._leaves(key) is not None:
            self._engine.free(key)
        self._drop([key])

    def _rest(self, key: HopKey) -> None:
        """The hop is over, and kept for the client's next session."""
        hop = self._leaves(key)
        if hop is None or self.leaving or not hop.computed:
            if hop is not None:
                self._engine.free(key)
            return
        self._engine.rest(key)
        self._drop(self._prefixes.keep(key, hop, self._clock()))
        self._drop(self.ledger.lay_by(key, hop.size, weight_of([key], self.offer)))

    def _drop(self, keys: Iterable[Hashable]) -> None:
        """Keep these no longer, if they were kept."""
        for key in keys:
            if isinstance(key, HopKey) and self._prefixes.drop(key) is not None:
                self._engine.free(key)
                self.ledger.release(key)

    def _leaves(self, key: HopKey) -> HopSession | None:
        """A hop is no part of its session any more, which then needs less, or is over."""
        hop, hops = self._tenants.remove(key), self._tenants.of(key.session)
        self._told.pop(key, None)
        if (guesser := self._guessers.pop(key, None)) is not None:
            guesser.closed()
        if hops:
            self._drop(self.ledger.reserve(key.session, max(other.reserved for other in hops.values()), weight_of(hops, self.offer)))
        else:
            self.ledger.release(key.session)
            if hop is not None:
                self._crowd.ended(self._clock())
        return hop
