"""The client's end of a session: it holds the truth. Token history, chain number, credit, and what of the past the hops may keep.

Knows nothing of the network, of text or of where routes come from: when a chain breaks it asks for a new one (`Reroute`) and goes on when it gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from swarm.core import Hop, PeerId, Sampling, SessionId, digest_of, printable
from swarm.machines.effects import Deliver, Effect, Prepared, Reroute, Send
from swarm.machines.limits import CREDIT
from swarm.machines.routes import dismissed, newcomers
from swarm.wire import LOOP, MOST_AHEAD, Broken, Close, Drawn, Grant, Guess, Have, Keep, Open, Order, Prefix, Prepare, Ready, Rows, SessionMessage, Step, encode

FEED = 2048
"""Token ids sent to the first hop in one frame: about 8 KB."""

NEVER = 2**53
"""No position is ever drawn that is this far: newcomers that hold the head draw nothing."""

AHEAD = 64
"""Positions that a newcomer may lack and count as fed: what it takes to change over to it is one more chunk."""

GUESSED = MOST_AHEAD
"""Positions that the first hop may start on guesses alone: more than it ever thinks worth while."""

PAST = 32
"""Pairs (chain, start) an OPEN carries. Older ones are merged into one that keeps less, so a long conversation does not grow its OPEN."""


@dataclass(slots=True)
class _Preparation:
    """Newcomers opened under a chain number of their own, up to hop `upto`. `fed` is the one that would be first: it has `sent` positions from us."""

    chain: int
    upto: int
    fed: PeerId | None
    sent: int = 0
    told: bool = False


def _common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many of the first `most` tokens are the same in both, which are known not to be all."""
    least = 0
    while most - least > 1:
        middle = (least + most) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle
    return least


class ClientSession:
    """One session as its owner sees it. `credit`: tokens the ring may run ahead of what the client has acknowledged (round trip × speed, with room). `reach`
    says what of a goal the hops' keys depend on: a turn that changes it begins from nothing, at every hop alike. `expires` says until when an order of now is
    good, `ahead` how far hops may guess (`wire.Order`). `compresses` says whether rows from one hop to the next had best be compressed, None where they cannot
    be. What was said first holds as long as the session does: rows that are sent again, to whomever, are the same. Tokens are below `vocab`, where that is not
    0."""

    def __init__(
        self,
        session: SessionId,
        me: PeerId,
        revision: str,
        numerics: str,
        *,
        credit: int = CREDIT,
        reach: Callable[[int], int] = lambda goal: 1,
        expires: Callable[[], float] = lambda: 0.0,
        ahead: int = GUESSED,
        compresses: Callable[[Hop, Hop], bool | None] = lambda one, other: False,
        vocab: int = 0,
    ) -> None:
        self.session = session
        self.me = me
        self.history: list[int] = []
        self.chain = 0
        self.route: tuple[Hop, ...] = ()
        self.goal = 0
        self.running = False
        self._revision, self._numerics, self._credit = revision, numerics, credit
        self._ahead, self._vocab = ahead, vocab
        self._compresses, self._compressed = compresses, dict[int, bool]()
        self._sampling = Sampling()
        self._valid = 0
        self._reach_of, self._reach, self._expires = reach, 1, expires
        self._prefix: Prefix | None = None
        self._starts: list[tuple[int, int]] = []
        self._highest = 0
        self._preparation: _Preparation | None = None
        self._until = self._chunk = 0
        self._opened = False
        self._begun = False
        self._reply = LOOP
        self._read = 0
        """The position of which a turn that reads gets a row next."""

    # --- what the caller does -------------------------------------------------------------------------------------------------------------------------------

    def begin(self, prompt: Sequence[int], sampling: Sampling, max_new_tokens: int) -> None:
        """Add a turn. Nothing is sent until `open`."""
        self._reply = LOOP
        self._begin(prompt, sampling, len(self.history) + len(prompt) + max_new_tokens)

    def begin_reading(self, tokens: Sequence[int], first: int, goal: int, reply: str) -> None:
        """Add a turn in which nothing is drawn: what `reply` names is wanted of every position from `first` on, tokens of earlier turns included. `goal`
        positions are reserved."""
        length = len(self.history) + len(tokens)
        if not 0 <= first < length <= goal:
            raise ValueError(f"positions from {first} on of {length} cannot be read within {goal}")
        self._reply, self._read = reply, first
        self._begin(tokens, Sampling(), goal)

    def _begin(self, prompt: Sequence[int], sampling: Sampling, goal: int) -> None:
        if not prompt and not self.history:
            raise ValueError("a session begins with at least one token")
        if not self.history:
            self._prefix = None
        self.history.extend(prompt)
        self._sampling = sampling
        self.goal = goal
        if (reach := self._reach_of(self.goal)) != self._reach:
            self._reach, self._valid = reach, 0
        self.running = self._begun = True

    def begin_as(self, other: ClientSession, length: int) -> None:
        """After the first `begin`: hops that hold the first positions of another session need not compute them again. `shares` says how many they may be."""
        if not 0 < length <= self.shares(other):
            raise ValueError(f"the sessions do not share their first {length} positions")
        self._prefix = Prefix(other.session, length, digest_of(self.history[:length]))
        self._compressed = dict(other._compressed)
        self._valid = length

    @property
    def sampling(self) -> Sampling:
        """Of this turn, or the last one."""
        return self._sampling

    @property
    def is_clean(self) -> bool:
        """Whether every position was computed once, under one chain."""
        return self._highest == 1 and self._prefix is None

    @property
    def kept(self) -> int:
        """Positions that the last order let hops keep."""
        return self._starts[-1][1] if self._starts else 0

    def distrust(self) -> None:
        """What the hops hold is worth nothing: with the next chain they compute everything again, from the tokens."""
        self._valid, self._prefix = 0, None

    def shares(self, other: ClientSession) -> int:
        """Positions that both begin with and every hop of the other one has computed, or will have; the last one here is always fed."""
        if self._reach != other._reach or (self._revision, self._numerics) != (other._revision, other._numerics):
            return 0
        most = min(other._valid, len(self.history) - 1)
        return most if self.history[:most] == other.history[:most] else _common(self.history, other.history, most)

    @property
    def reads(self) -> bool:
        """Whether the turn draws nothing."""
        return self._reply != LOOP

    @property
    def stretches(self) -> bool:
        """Whether keys depend on how long the session may become: a later turn may have them all computed anew."""
        return self._reach_of(1) != self._reach_of(2**30)

    def open(self, route: Sequence[Hop], term: int = 0, chunk: int = 0) -> list[Effect]:
        """Take a route, new or the same: raise the chain and say what of the past still holds. The shell signs it. The last token is always fed
        again, so that the head draws. `term` and `chunk` as in `wire.Order`."""
        dismissed = self._dismiss(route) + self._drop_preparation(route)
        self.route = tuple(route)
        self.chain = self._highest = self._highest + 1
        self._starts = self._starts_with(self.chain)
        self._valid = len(self.history)
        self._opened = self._begun = False
        self._chunk = chunk
        self._until = self._credit_end()
        emit_from = len(self.history) if self._reply == LOOP else self._read + 1
        order = self._order(self.chain, self.route, self._starts, emit_from, self._until, term)
        return [self._to_first(Open(self.session, self.chain, 0, order)), *dismissed]

    def prepare(self, route: Sequence[Hop]) -> list[Effect]:
        """Have the newcomers of another route fed while this chain goes on (`Prepared` says when they are); `open` it then. Nothing where that cannot be done:
        newcomers that do not stand side by side, or no chain that runs. Tokens of the chain must have come home, so that every hop has opened it."""
        if not self.running or not self._opened or (found := newcomers(self.route, route)) is None:
            return []
        first, upto = found
        farewell = self._drop_preparation(route)
        self._highest += 1
        fed = route[0].peer if first == 0 else None
        self._preparation = _Preparation(self._highest, upto, fed)
        order = self._order(self._highest, route, self._starts_with(self._highest), NEVER, 0, 0)
        if fed is not None:
            return [*farewell, Send(fed, Open(self.session, self._highest, 0, order, b"", upto))]
        return [*farewell, self._to_first(Prepare(self.session, self.chain, 0, order, b"", first, upto))]

    def cut(self, length: int) -> list[Effect]:
        """End the turn at `length` tokens, dropping what overshot, and halt the ring."""
        del self.history[length:]
        self._valid = min(self._valid, length)
        self.running = False
        return [self._to_first(Grant(self.session, self.chain, 0, 0))] if self.route else []

    def guess(self, tokens: Sequence[int]) -> list[Effect]:
        """Tell the first hop what may follow the history."""
        return [self._to_first(Guess(self.session, self.chain, 0, len(self.history), tuple(tokens)))] if self.running and self._opened and tokens else []

    def keep(self) -> list[Effect]:
        return [self._to_first(Keep(self.session, self.chain, 0))] if self._opened else []

    def close(self, *, rests: bool = False) -> list[Effect]:
        """The end, at every hop. Those of a session that `rests` keep what they hold for a while, for others to `begin_as` it."""
        self.running = False
        return [self._to_first(Close(self.session, self.chain, 0, rests=rests))] if self.route else []

    # --- what the network says ------------------------------------------------------------------------------------------------------------------------------

    def have(self, sender: PeerId, message: Have) -> list[Effect]:
        """The first hop holds so much; when it asks, feed it the rest of the history. So does a newcomer that would be first."""
        if (preparation := self._preparation) is not None and (sender, message.chain) == (preparation.fed, preparation.chain):
            return self._feed(preparation, sender, message)
        if not self.route or sender != self.route[0].peer or message.chain != self.chain or not message.resend:
            return []
        self._opened = True
        return self._steps(sender, self.chain, message.draft, message.length)

    def ready(self, sender: PeerId, message: Ready) -> list[Effect]:
        if not self.route or sender != self.route[0].peer or message.chain != self.chain or not self._prepares(message.prepared):
            return []
        return self._prepared(message.reason)

    def drawn(self, sender: PeerId, message: Drawn) -> list[Effect]:
        """Tokens from the ring. Exactly those that continue the history count; until a turn is opened, what arrives is the last one's overshoot."""
        if not self.running or self._begun or self._reply != LOOP or sender != self.route[0].peer or message.chain != self.chain:
            return []
        if 0 < self._vocab <= max(message.tokens, default=0):  # a first hop passes no such thing on: it says that the last one failed
            self._opened = False
            return [Reroute(0, sender, "failed", "it says a token that the model does not have")]
        effects: list[Effect] = []
        for at, token in enumerate(message.tokens):
            if message.start + at != len(self.history) or not self.running:
                continue
            # Where the new token stands a hop may still hold a wrong guess, and the next OPEN may overtake the step that takes it back.
            self._valid = len(self.history)
            self.history.append(token)
            finish = message.finish if at == len(message.tokens) - 1 else None
            if len(self.history) >= self.goal:
                finish = finish or "length"
            logprobs = message.logprobs[at] if at < len(message.logprobs) else None
            self.running = finish is None
            effects.append(Deliver(message.start + at, token, logprobs, finish, message.micros))
        return effects + self._grant()

    def rows(self, sender: PeerId, message: Rows) -> list[Effect]:
        """What a turn reads comes home. Exactly those rows that come next count."""
        if not self.running or self._begun or self._reply == LOOP or sender != self.route[0].peer or message.chain != self.chain:
            return []
        position, end = self._read, min(message.start + len(message.rows), len(self.history))
        if not message.start <= position < end:
            return []
        self._read, self.running = end, end < len(self.history)
        rows = message.rows[position - message.start : end - message.start]
        return [Deliver(position, self.history[position], None, None if self.running else "length", message.micros, rows)]

    def broken(self, sender: PeerId, message: Broken) -> list[Effect]:
        if self._prepares(message.chain, sender):
            return self._prepared(message.reason)
        if not self.route or sender != self.route[0].peer or message.chain != self.chain or not 0 <= message.hop < len(self.route):
            return []
        self._opened &= message.reason == "leaving"  # who leaves still answers
        return [Reroute(message.hop, self.route[message.hop].peer, printable(message.reason), printable(message.detail))]

    def lost(self, peer: PeerId) -> list[Effect]:
        effects = self._prepared("lost") if self._preparation is not None and peer == self._preparation.fed else []
        if not self.route or peer != self.route[0].peer:
            return effects
        self._opened = False
        return [*effects, Reroute(0, peer, "lost", "")]

    # --- inside ---------------------------------------------------------------------------------------------------------------------------------------------

    def _starts_with(self, chain: int) -> list[tuple[int, int]]:
        """What of the past holds for a hop that opens under this number, for every chain it may have followed last. What is read is computed anew."""
        start = min(self._valid, len(self.history) - 1 if self._reply == LOOP else self._read)
        starts = [*((older, kept) for older, kept in self._starts if kept < start), (chain, start)]
        if len(starts) > PAST:
            (_, least), (later, _), *rest = starts
            starts = [(later, least), *rest]
        return starts

    def _order(self, chain: int, route: Sequence[Hop], starts: Sequence[tuple[int, int]], emit_from: int, until: int, term: int) -> bytes:
        return encode(
            Order(
                session=self.session,
                chain=chain,
                client=self.me,
                revision=self._revision,
                numerics=self._numerics,
                starts=tuple(starts),
                emit_from=emit_from,
                until=until,
                limit=self.goal,
                sampling=self._sampling,
                route=tuple(route),
                term=term,
                expires=self._expires(),
                reply=self._reply,
                chunk=self._chunk,
                prefix=self._prefix,
                ahead=self._ahead,
                compressed=tuple(other.start for one, other in pairwise(route) if self._is_compressed(one, other)),
            )
        )

    def _is_compressed(self, one: Hop, other: Hop) -> bool:
        if (pays := self._compresses(one, other)) is None:
            return False
        return self._compressed.setdefault(other.start, pays)

    def _steps(self, peer: PeerId, chain: int, draft: int, start: int) -> list[Effect]:
        return [Send(peer, Step(self.session, chain, 0, draft, at, tuple(self.history[at : at + FEED]))) for at in range(start, len(self.history), FEED)]

    def _prepares(self, chain: int, sender: PeerId | None = None) -> bool:
        return self._preparation is not None and (self._preparation.chain, self._preparation.fed) == (chain, sender)

    def _feed(self, preparation: _Preparation, newcomer: PeerId, message: Have) -> list[Effect]:
        """A newcomer that would be first gets the tokens from us, and again what has come home meanwhile, until it has nearly all there are."""
        effects: list[Effect] = []
        if message.resend or message.length + AHEAD >= preparation.sent:
            start = message.length if message.resend else preparation.sent
            effects = self._steps(newcomer, message.chain, message.draft, start)
            preparation.sent = len(self.history)
        if message.length + AHEAD >= len(self.history):
            effects += self._prepared("")
        return effects

    def _prepared(self, reason: str) -> list[Effect]:
        """Once for each preparation. One that came to nothing is over; the other waits for `open`."""
        preparation = self._preparation
        if preparation is None or preparation.told:
            return []
        preparation.told = True
        if reason:
            self._preparation = None
        return [Prepared(reason)]

    def _drop_preparation(self, route: Sequence[Hop]) -> list[Effect]:
        """A newcomer that was to be first, and is not, hears it from us; all others from whoever feeds them."""
        preparation, self._preparation = self._preparation, None
        if preparation is None or preparation.fed is None or route[0].peer == preparation.fed:
            return []
        return [Send(preparation.fed, Close(self.session, preparation.chain, 0, preparation.upto))]

    def _dismiss(self, route: Sequence[Hop]) -> list[Effect]:
        """A first hop that is no longer needed hears it from us; every other one from its predecessor."""
        if (last := dismissed(self.route, route, 0)) is None:
            return []
        return [Send(self.route[0].peer, Close(self.session, self.chain, 0, last))]

    def _credit_end(self) -> int:
        """Positions below it may be started; the last token wanted is drawn from position goal − 2. A turn that reads starts none."""
        return len(self.history) if self._reply != LOOP else min(len(self.history) + self._credit, self.goal - 1)

    def _grant(self) -> list[Effect]:
        """More credit once half of it is used up."""
        end = self._credit_end()
        if not self.running or end <= self._until or self._until - len(self.history) > self._credit // 2:
            return []
        self._until = end
        return [self._to_first(Grant(self.session, self.chain, 0, end))]

    def _to_first(self, message: SessionMessage) -> Effect:
        return Send(self.route[0].peer, message)
