"""The hop room: every hop of every session that this process serves, whoever it serves them for.

Checks each OPEN against what is really held, hands each frame to its machine, and carries out what the machine answers. A serving peer has one; so has a client
that keeps its own ends. Synchronous: it runs inside the event loop, never waits, and does not know which network or engine it stands between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import msgspec

from swarm.core import CLIENT, Hop, HopKey, PeerId, SessionId, Span, check_cover, may_serve
from swarm.errors import ProtocolError
from swarm.machines.effects import Compute, Draw, Effect, Forget, Rest, Send, Truncate
from swarm.machines.hop import HopLimits, HopSession
from swarm.machines.ledger import CacheLedger
from swarm.machines.marks import marks
from swarm.peer.crowd import Crowd
from swarm.peer.drafting import Drafter, Guesser, Lookup, Rings, Told
from swarm.peer.prefixes import Prefixes, serves
from swarm.ports import Links
from swarm.wire import (
    REPLIES,
    ROUTE_LIFETIME,
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


MOST_SESSIONS, MOST_EACH = 1024, 256
"""Sessions at once, and of one client: each holds its order, whatever little it reserves."""


MOSTLY = 0.75
"""Of what a hop at rest has computed: who begins with at least so much of it gets it instead of a copy."""


SPARE = 1 / 8
"""How much of the cache a client with sessions here leaves to others when it begins another: whoever comes next finds room for a first one."""


AT_WORK = 1.0
"""Seconds since something was computed for another session, up to which guesses make way for it."""
IDLE = 60.0
"""Seconds without anything computed after which a session makes room for others that have none: longer than most pauses between two turns."""

TERM_FORGOTTEN = 60.0
"""Seconds after which a term that nobody claims any more is over. Announcements live for 25."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What this process holds, and so what it can agree to serve."""

    revision: str
    numerics: str
    components: int
    spans: tuple[Span, ...]
    max_length: int
    rewindable: bool = True
    journal: float = 0.0
    """A position of a journal, in positions of one layer's cache."""
    version: int = 0
    """Rises when the spans change (`Announcement.span_version`)."""
    vocab: int = 0
    """Token ids are below it; 0 where that is not known."""

    def weight(self, hops: Collection[Span]) -> float:
        """What a position of a session with these hops costs here, in layers' worth of cache: all but embed and head keep keys and values, and all but the last
        hop a journal. One journal is counted for each span held, so that no session outweighs the whole; of the rare hops that share a span, each keeps a
        journal of its own, so k of them may take up to k times the memory counted for it."""
        journals = sum(any(span.covers(hop) and hop.stop < self.components for hop in hops) for span in self.spans)
        return self._layers(hops) + self.journal * journals

    @property
    def whole_weight(self) -> float:
        """The most that a session can cost here: a hop may end before the head though the span does not."""
        return self._layers(self.spans) + self.journal * sum(span.start < self.components - 1 for span in self.spans)

    def _layers(self, spans: Iterable[Span]) -> int:
        return sum(max(min(span.stop, self.components - 1) - max(span.start, 1), 0) for span in spans)


class HopEngine(Protocol):
    """Where jobs are computed. Results come back through `HopRoom.finished` and `HopRoom.failed`."""

    def open(self, key: HopKey, order: Order) -> None:
        """A hop begins, or follows a new order."""

    def submit(self, key: HopKey, job: Compute) -> None: ...

    def truncate(self, key: HopKey, length: int) -> None: ...

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
        self._links, self._engine, self._clock, self._verify, self._limits = links, engine, clock, verify, limits
        self._veil, self._only, self._wall, self._sign = veil, only, wall, sign
        self._hops: dict[SessionId, dict[HopKey, HopSession]] = {}
        self._drafters, self._guessers, self._told = drafters, dict[HopKey, Guesser](), dict[HopKey, Told]()
        self._rings = Rings()
        self._prefixes, self._crowd = Prefixes(), Crowd()
        self._worked: dict[SessionId, float] = {}
        self._term, self._term_since, self._term_heard = 0, 0.0, 0.0

    @property
    def sessions(self) -> int:
        return len(self._hops)

    def working(self, within: float) -> int:
        """Sessions that something is computed for, or was in the last so many seconds: the others are conversations that wait for a next turn."""
        now = self._clock()
        return sum(any(hop.computes for hop in hops.values()) or now - self._worked[session] < within for session, hops in self._hops.items())

    def busy(self, within: float) -> int:
        """Layers of the hops of sessions that something was computed for in the last so many seconds."""
        now = self._clock()
        return sum(key.stop - key.start for session, hops in self._hops.items() if now - self._worked[session] < within for key in hops)

    def facts(self) -> Facts:
        """What is told to whoever ordered something that cannot be done."""
        spans = tuple((span.start, span.stop) for span in self.offer.spans)
        return Facts(spans, self.offer.version, max(self.ledger.free_tokens, 0), self._term, self._crowd.retry_after(self._clock()))

    def heard(self, term: int) -> None:
        """Somebody coordinates under this term: routes of lower ones may be begun for as long as routes live. Where all candidates began anew it falls, once
        nothing has been heard of the higher one for longer than claims live."""
        now = self._clock()
        if term > self._term or (term < self._term and now - self._term_heard > TERM_FORGOTTEN):
            self._term, self._term_since = term, now
        if term == self._term:
            self._term_heard = now

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
        if (hop := self._hops.get(key.session, {}).get(key)) is not None:
            self._worked[key.session] = self._clock()
            self._do(key, hop.finished(serial, rows, draws, micros))

    def failed(self, key: HopKey, detail: str) -> None:
        """The engine cannot go on with this hop. The client hears that it failed, not why: the detail stays in our log."""
        log.warning("a hop over components [%d, %d) failed: %s", key.start, key.stop, detail)
        if (hop := self._hops.get(key.session, {}).get(key)) is not None:
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
        key = self._key(message, order)
        hops = self._hops.get(order.session, {})
        if any(order.chain < hop.epoch.chain for hop in hops.values()):
            return
        for old in self._retired(message, order):
            self._do(old, hops[old].retire(order))
        self._drop([key])  # a late order for a session that has ended here
        self._renew_prefix(key, order)
        self._drop(self.ledger.reserve(order.session, *self._claim(message, order, key)))
        hops = self._hops.setdefault(order.session, {})  # whoever was retired last took the empty one along
        hop = hops.get(key)
        is_new = hop is None
        if hop is None:
            veil = None if self._veil is None else partial(self._veil, order.session)
            guesser = self._guesser(key) if key.start == 0 and self.offer.rewindable else None
            hop = hops[key] = HopSession(order.session, self._limits, rewindable=self.offer.rewindable, veil=veil, guesser=guesser, vocab=self.offer.vocab)
        self._worked[key.session] = self._clock()
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
        guesser = self._guessers[key] = Guesser(drafters, self._clock, partial(self._others, key.session), rings=self._rings)
        return guesser

    def _guessed(self, key: HopKey) -> None:
        """A drafter of this hop knows more."""
        if (hop := self._hops.get(key.session, {}).get(key)) is not None:
            self._do(key, hop.more())

    def _tell(self, sender: PeerId, message: Guess, key: HopKey, hop: HopSession) -> list[Effect]:
        """The client guesses, too."""
        if key not in self._told or sender != hop.order.client:
            return []
        self._told[key].tell(message.start, message.tokens)
        return hop.more()

    def _others(self, session: SessionId) -> int:
        """Sessions beside this one that something is computed for."""
        now = self._clock()
        return sum(now - worked < AT_WORK for other, worked in self._worked.items() if other != session)

    def _begin_as(self, key: HopKey, hop: HopSession, order: Order) -> None:
        """Where the session's prefix has been computed here, begin with that. Tokens that a client's own ends hide are not the same in two sessions."""
        if order.prefix is None or not self.offer.rewindable or self._veil is not None:
            return
        if order.prefix.session == order.session or order.prefix.length >= order.limit:  # it would hold what it has not reserved
            return
        earlier = key._replace(session=order.prefix.session)
        rests, length = self._prefixes.get(earlier), order.prefix.length
        other = self._hops.get(earlier.session, {}).get(earlier) or rests
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
        if (order.session, order.chain) != (message.session, message.chain) or message.to >= len(order.route):
            return "refused", "the order is not the one it is said to be"
        ours = order.route[message.to]
        if ours.peer != self._links.peer or sender != order.sender(message.to):
            return "refused", "this order is not for this peer"
        if self._only is not None and order.client != self._only:
            return "refused", "these ends serve their own client alone"
        if order.revision != self.offer.revision or not may_serve(self.offer.numerics, order.numerics):
            return "refused", "the peer serves another revision of the model"
        try:
            check_cover(order.route, self.offer.components)
        except ValueError:
            return "refused", "the route does not cover the model"
        hops = self._hops.get(order.session, {})
        key = self._key(message, order)
        if ours.version not in (0, self.offer.version) and key not in hops:
            return "moved", "the peer serves other layers now"
        if not any(span.covers(ours.span) for span in self.offer.spans):
            return "refused", "the peer does not hold these layers"
        if 0 < order.term < self._term and self._clock() - self._term_since > ROUTE_LIFETIME and key not in hops:
            return "stale", "another peer coordinates since"
        if self._wall is not None and 0 < order.expires < self._wall() and key not in hops:
            return "refused", "the order is too old, or a clock is wrong"
        if order.reply not in REPLIES:
            return "refused", f"the peer does not know the reply kind {order.reply!r}"
        if not self._verify(order.client, message.order, message.signature):
            return "refused", "the order's signature is not its client's"
        if any(hop.order.client != order.client for hop in (*hops.values(), *(rests for _, rests in self._prefixes.of(order.session)))):
            return "refused", "the session belongs to another client"
        if self.leaving and key not in hops:
            return "leaving", "the peer is leaving"
        if order.limit > self.offer.max_length:
            return "refused", f"the peer takes at most {self.offer.max_length} positions"
        if not hops and len(self._hops) >= MOST_SESSIONS:
            return "overloaded", "the peer has as many sessions as it takes"
        theirs = 0 if hops else sum(order.client == self._client(session) for session in self._hops)
        if theirs >= MOST_EACH:
            return "overloaded", f"the peer has {MOST_EACH} sessions of this client, as many as it takes"
        claim = self._claim(message, order, key)
        if not self.ledger.can_reserve(order.session, *claim):
            return "overloaded", f"the peer has cache for {max(self.ledger.free_tokens, 0)} more positions"
        if not self.ledger.can_reserve(order.session, *claim, spare=self._spare(order)):
            return "overloaded", f"the peer keeps the last {self.ledger.free_tokens} positions of its cache for other clients"
        return None

    def _make_room(self, message: Open, order: Order) -> bool:
        """Sessions of others that have been idle for long make room for one that has work to do, the idlest first, if together they can. They come back by
        being computed again; who only keeps its lease alive, to hold what it has reserved, does not keep others out."""
        now, key = self._clock(), self._key(message, order)
        idle = [
            session
            for session, hops in sorted(self._hops.items(), key=lambda entry: self._worked[entry[0]])
            if now - self._worked[session] >= IDLE and not any(hop.computes or hop.order.client == order.client for hop in hops.values())
        ]
        claim, spare = self._claim(message, order, key), self._spare(order)
        if not idle or not self.ledger.can_reserve(order.session, *claim, spare=spare, without=idle):
            return False
        needed = len(self._hops) >= MOST_SESSIONS
        for session in idle:
            if not needed and self.ledger.can_reserve(order.session, *claim, spare=spare):
                break
            needed = False
            for other, hop in list(self._hops[session].items()):
                self._do(other, [*hop.failed("unknown", "the peer needed the room of sessions that rest"), Forget("idle, and others have work to do")])
        return True

    def _spare(self, order: Order) -> float:
        """How much of the cache an order leaves to clients that have none of it."""
        mine = any(order.client == self._client(session) for session in self._hops)
        return SPARE if mine and order.session not in self._hops and self._only is None else 0.0

    def _client(self, session: SessionId) -> PeerId:
        return next(iter(self._hops[session].values())).order.client

    @staticmethod
    def _key(message: Open, order: Order) -> HopKey:
        hop = order.route[message.to]
        return HopKey(order.session, hop.start, hop.stop)

    def _prepare(self, sender: PeerId, message: Prepare, hop: HopSession) -> list[Effect]:
        try:
            order = decode_order(message.order)
        except ProtocolError as error:
            log.info("%s", error)
            return []
        self._learn(order.route)
        return hop.prepare(sender, message, order, self._clock())

    def _claim(self, message: Open, order: Order, key: HopKey) -> tuple[int, float]:
        """What the session needs here once the hop follows the order: positions and their weight. Hops that have not heard of the order yet keep what they
        have until then."""
        gone = self._retired(message, order)
        hops = self._hops.get(order.session, {})
        reserved = {other: hop.reserved for other, hop in hops.items() if other not in gone}
        reserved[key] = hops[key].reserves(order) if key in hops else order.limit
        return max(reserved.values()), self._weight(reserved)

    def _weight(self, keys: Iterable[HopKey]) -> float:
        return self.offer.weight([Span(key.start, key.stop) for key in keys])

    def _retired(self, message: Open, order: Order) -> list[HopKey]:
        """Hops of the session here that the order does without: none as long as it is only prepared, and another chain goes on."""
        if message.upto < len(order.route):
            return []
        kept = {HopKey(order.session, hop.start, hop.stop) for hop in order.route if hop.peer == self._links.peer}
        return [key for key in self._hops.get(order.session, {}) if key not in kept]

    def _learn(self, route: Iterable[Hop]) -> None:
        for hop in route:
            if hop.addrs and hop.peer != self._links.peer:
                self._links.learn(hop.peer, hop.addrs)

    def _find(self, message: SessionMessage) -> tuple[HopKey, HopSession] | None:
        for key, hop in self._hops.get(message.session, {}).items():
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
        hop = self._hops.get(key.session, {}).get(key) or self._prefixes.get(key)
        if hop is None or self._sign is None or sender != hop.order.client:
            return nothing
        if (made := hop.show(message.start, message.stop)) is None:
            return nothing
        received, rows = made
        about = (self._links.peer, sender, message.session, message.chain, hop.order.revision, hop.order.numerics, key.start, key.stop)
        statement = encode(Statement(*about, message.start, message.stop, received, b"" if rows is None else marks(rows)))
        return msgspec.structs.replace(nothing, statement=statement, signature=self._sign(statement), rows=rows)

    def _unknown(self, sender: PeerId, message: SessionMessage) -> None:
        """Say so to whoever feeds us, unless the frame is merely late."""
        late = any(hop.epoch.chain > message.chain and not hop.is_newcomer for hop in self._hops.get(message.session, {}).values())
        if not late and isinstance(message, (Step, Grant, Keep)):
            self._links.send(sender, Broken(message.session, message.chain, message.to - 1, message.to, "unknown", "the peer does not know this session"))

    def _all(self) -> list[tuple[HopKey, HopSession]]:
        return [pair for hops in list(self._hops.values()) for pair in list(hops.items())]

    def _do(self, key: HopKey, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._links.send(effect.peer, effect.message)
            elif isinstance(effect, Compute):
                self._engine.submit(key, effect)
                self._worked[key.session] = self._clock()
            elif isinstance(effect, Truncate):
                self._engine.truncate(key, effect.length)
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
        self._drop(self.ledger.lay_by(key, hop.size, self._weight([key])))

    def _drop(self, keys: Iterable[Hashable]) -> None:
        """Keep these no longer, if they were kept."""
        for key in keys:
            if isinstance(key, HopKey) and self._prefixes.drop(key) is not None:
                self._engine.free(key)
                self.ledger.release(key)

    def _leaves(self, key: HopKey) -> HopSession | None:
        """A hop is no part of its session any more, which then needs less, or is over."""
        hops = self._hops.get(key.session, {})
        hop = hops.pop(key, None)
        self._told.pop(key, None)
        if (guesser := self._guessers.pop(key, None)) is not None:
            guesser.closed()
        if hops:
            self._drop(self.ledger.reserve(key.session, max(other.reserved for other in hops.values()), self._weight(hops)))
        else:
            self.ledger.release(key.session)
            self._hops.pop(key.session, None)
            self._worked.pop(key.session, None)
            if hop is not None:
                self._crowd.ended(self._clock())
        return hop
