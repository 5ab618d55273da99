"""One hop of one session: the rule that tells an ordinary step, a resend, a replay, a late frame and a rolled-back draft apart by one comparison.

Knows its neighbours in the chain, which positions it holds, and what its successor has. Knows nothing of sockets, tensors, clocks or which peer it lives on
besides itself: every event is a method that returns what should happen next.

A hop's positions come in four lengths, each at most the one before:

    accepted    appended in order and handed to the engine
    computed    answered by the engine, outputs in the journal
    sent        forwarded to the successor
    acked       known to be computed by the successor
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from swarm.core import CLIENT, Epoch, Hop, PeerId, SessionId, digest_of, longest_after_cut, slab_size
from swarm.machines.branch import Branch
from swarm.machines.effects import Compute, Draw, Effect, Forget, Rest, Send, Truncate
from swarm.machines.journal import Journal
from swarm.machines.marks import MOST_SHOWN_BYTES, marks, token_marks
from swarm.machines.routes import dismissed
from swarm.wire import (
    COMPRESSED,
    LOGITS,
    LOOP,
    MARK,
    Blob,
    Broken,
    Close,
    Drawn,
    Grant,
    Have,
    Keep,
    Open,
    Order,
    Prefix,
    Prepare,
    Ready,
    Rows,
    SessionMessage,
    Step,
)

SHOWN = 16
"""How often a hop shows its client what it made, in one chain: a small frame asks for a large one."""

STEP = 8
"""Positions of a step of the ring at most: more, and a peer's engine would take it for a prompt. What is guessed further ahead follows in steps of its own."""

LEAST_CHUNK = 32
"""Positions of a chunk at least, whatever an order says: each is a message, and a pass over the weights."""


@dataclass(frozen=True, slots=True)
class HopLimits:
    chunk: int = 256
    """Positions computed or sent at once at most: what a prompt is cut into, so that all hops work at the same time. An order may ask for less."""
    window: int = 1024
    """Positions a hop sends beyond what its successor has acknowledged."""
    ack_every: int = 32
    """Steps of an answer are acknowledged this seldom; acknowledgements only move the window."""
    journal_bytes: int = 256 * 2**20
    resends: int = 256
    """How often a successor may ask to be sent something again in one chain; a small frame that asks makes large ones. Once, after the OPEN, is usual, however
    many guesses are taken back: the head has computed what a higher draft continues, so every hop has. More is for journals that did not reach back."""
    lease: float = 30.0
    """Seconds of silence after which a hop forgets a session. The client renews every 10 s, so three renewals must be lost."""


@dataclass(frozen=True, slots=True)
class _Pending:
    serial: int
    start: int
    count: int
    micros: tuple[int, ...]


Veil = Callable[[int, int], int]


class Guesser(Protocol):
    """Who guesses for a first hop, and learns from what becomes of that."""

    def propose(self, tokens: Sequence[int], fresh: Sequence[int], sure: int, most: int) -> Sequence[int]:
        """What may follow these tokens and then those, of which together the first `sure` are right: at most so many."""

    def left(self, start: int, stop: int, *, told: bool = False) -> None:
        """These positions are started, as one step; `told`: the client has fed them."""

    def took(self, start: int, micros: int) -> None:
        """What starts there took us so long: of whatever others say of a step, that much at least is so."""

    def judged(self, position: int, right: bool) -> None:
        """The token that stands at a position has been drawn, or another one."""

    def home(self, position: int, micros: Sequence[int]) -> int:
        """The token of a position is here: of how many positions the step was that brought it, 0 where nobody knows."""

    def missed(self, length: int) -> None:
        """Only so many positions hold: what was guessed beyond is void."""


class HopSession:
    """See the module. `rewindable` is False for caches that cannot be cut (recurrent state): those answer "send from 0". `veil` hides token ids from the hops
    between a client's own ends: it changes an id at a position, and changes it back. A first hop with a `guesser` starts more than it has been told. Ids are
    below `vocab`, where that is not 0."""

    def __init__(
        self,
        session: SessionId,
        limits: HopLimits = HopLimits(),
        *,
        rewindable: bool = True,
        veil: Veil | None = None,
        guesser: Guesser | None = None,
        vocab: int = 0,
    ) -> None:
        self.session = session
        self.limits = limits
        self.epoch = Epoch(-1, 0)
        self.tokens: list[int] = []
        self.computed = 0
        self.sent = 0
        self.acked = 0
        self.lease_ends = float("inf")
        self.reserved = 0
        """Positions that its cache has room for, or may come to have."""
        self._longest = 0
        self._rewindable = rewindable
        self._order: Order | None = None
        self._opened: Open | None = None
        self._veil = veil
        self._vocab = vocab
        self._journal = Journal(limits.journal_bytes)
        self._pending: deque[_Pending] = deque()
        self._serial = 0
        self._last: tuple[int, int, tuple[int, ...]] = (0, 0, ())
        self._next_ready = False
        self._resent = 0
        self._asked = False
        self._until = 0
        self._held: tuple[int, int] | None = None
        """Position and token, drawn, that wait for credit. There is one at most: nobody can draw behind a position that is not started."""
        self._halted = self._deserted = False
        self._drawn: tuple[int, int] | None = None
        self._astray = False
        self._branch: Branch | None = None
        self._marks, self._shown = bytearray(), 0
        """Of the rows received, by position; none at the first hop, which has the tokens."""
        self._guesser = guesser
        self._flows = False
        """Whether all that the client knows is here: what it has yet to feed is not to be guessed."""
        self._sure = 0
        """Tokens below it are right, those from there on guesses. At the first hop: what the client gave and what came home, which no head can change any more;
        each step tells it to those behind. At the others: what steps have told, at most what is true by now. Newcomers are fed up to it."""

    # --- who is who ---------------------------------------------------------------------------------------------------------------------------------------

    @property
    def order(self) -> Order:
        """The OPEN this hop follows."""
        if self._order is None:
            raise RuntimeError("a hop without an OPEN has no neighbours")
        return self._order

    @property
    def index(self) -> int:
        return self._opened.to if self._opened is not None else CLIENT

    @property
    def route(self) -> tuple[Hop, ...]:
        return self.order.route

    @property
    def accepted(self) -> int:
        return len(self.tokens)

    @property
    def computes(self) -> bool:
        """Whether the engine owes it an answer."""
        return bool(self._pending)

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == len(self.route) - 1

    @property
    def is_newcomer(self) -> bool:
        """Whether it was opened for a chain that is not there yet."""
        return self._opened is not None and self._opened.upto < len(self.route)

    def reserves(self, order: Order) -> int:
        """Positions to be reserved once it follows this order: a lower limit does not shrink what has grown under an earlier one."""
        return max(order.limit, min(slab_size(longest_after_cut(self._longest, self._kept(order))), self.reserved))

    def _kept(self, order: Order) -> int:
        """How many of its positions an order lets it keep."""
        if order.chain <= self.epoch.chain:
            return self.accepted
        if self._order is not None and self._compresses(order) != self._compresses(self._order):  # a journal is of one kind of rows
            return 0
        keep = min((start for chain, start in order.starts if chain > self.epoch.chain), default=0)
        return min(keep if self._rewindable else 0, self.accepted)

    def _compresses(self, order: Order) -> bool:
        """Whether its outputs are to be compressed."""
        return self.route[self.index].stop in order.compressed

    @property
    def size(self) -> int:
        """Positions that its cache takes room for now."""
        return min(slab_size(self._longest), self.reserved)

    def holds(self, prefix: Prefix) -> bool:
        return self.computed >= prefix.length and digest_of(self.tokens[: prefix.length]) == prefix.digest

    def begin_as(self, other: HopSession, length: int, *, instead: bool = False) -> None:
        """Before the first OPEN: hold what another hop over the same components holds below `length`; `instead` of that one, which is over."""
        self.tokens, self.computed, self._longest = other.tokens[:length], length, length
        self._marks = other._marks[: MARK * length]
        if instead:
            self._journal, self._longest = other._journal, longest_after_cut(other._longest, length)
            self._journal.truncate(length)
        else:
            self._journal = other._journal.prefix(length)

    def feeds(self, chain: int, to: int) -> bool:
        """Whether frames of newcomers that this hop feeds are addressed so."""
        return self._branch is not None and self._branch.addressed(chain, to)

    @property
    def _prev(self) -> tuple[PeerId, int]:
        return self.order.sender(self.index), self.index - 1

    @property
    def _next(self) -> tuple[PeerId, int]:
        return self.route[self.index + 1].peer, self.index + 1

    # --- events -------------------------------------------------------------------------------------------------------------------------------------------

    def open(self, message: Open, order: Order, now: float) -> list[Effect]:
        """A checked OPEN from our predecessor, and the order in it. A lower chain is dropped; the same one is answered again; a higher one is obeyed."""
        if order.chain < self.epoch.chain:
            return []
        self._renew(now)
        if order.chain == self.epoch.chain:
            return [self._have(resend=True)]
        keep = self._kept(order)
        farewell = self._dismiss(order) + self._dismiss_branch(order)
        self.reserved = self.reserves(order)
        self._opened, self._order = message, order
        self.epoch = Epoch(order.chain, 0)
        self._next_ready, self._asked, self._until, self._held, self._halted = False, False, order.until, None, False
        self._resent = self._shown = 0
        self._deserted = False
        effects: list[Effect] = self._truncate(keep)
        self._drawn, self._astray = None, False
        self._flows, self._sure = False, self.accepted
        if self._guesser is not None:
            self._guesser.missed(self.accepted)
        effects.append(self._have(resend=True))
        if not self.is_last and self.index != message.upto:
            effects.append(self._to_next(_readdressed(message, self.index + 1)))
        return effects + farewell

    def step(self, sender: PeerId, message: Step, now: float) -> list[Effect]:
        """Tokens, and off the first hop activations, from our predecessor."""
        epoch = Epoch(message.chain, message.draft)
        if sender != self._prev[0] or message.chain != self.epoch.chain or message.draft < self.epoch.draft:
            return []
        if message.start + len(message.tokens) > self.order.limit:
            return []
        if not message.tokens or (message.hidden is None) != self.is_first or (message.hidden is not None and len(message.hidden) != len(message.tokens)):
            return []
        if message.hidden is not None and message.hidden.dtype == COMPRESSED and self.route[self.index].start not in self.order.compressed:
            return []
        self._renew(now)
        effects: list[Effect] = []
        if epoch > self.epoch:
            self.epoch, self._asked = epoch, False
            effects += self._truncate(message.start)
        elif self._astray:  # nothing is drawn of it: at the head, guesses behind a wrong one need not even be computed
            return []
        if not self.is_first:
            self._sure = max(self._sure, message.sure)
        if message.start > self.accepted:
            return effects + self._ask()
        known = self.accepted - message.start
        if known >= len(message.tokens):  # a predecessor that had to compute again sends what we have: unless told so, it fills its window and waits for ever
            return [*effects, self._have()]
        self._asked = False
        hidden = message.hidden[known:] if message.hidden is not None else None
        tokens = self._veiled(self.accepted, message.tokens[known:]) if self.is_last else message.tokens[known:]
        effects += self._append(tokens, hidden, message.micros)
        if self.is_first:
            if self._guesser is not None:
                self._guesser.left(self.accepted - len(tokens), self.accepted, told=True)
            self._sure = self.accepted
            self._flows = self.order.reply == LOOP and self.accepted >= self.order.emit_from
        return effects + self._take_held()

    def finished(self, serial: int, rows: Blob | None, draws: Sequence[Draw], micros: int) -> list[Effect]:
        """The engine finished a job: its output rows, or at the head the drawn tokens. The result of a voided job is dropped."""
        if not self._pending or serial != self._pending[0].serial:
            return []
        job = self._pending.popleft()
        before, self.computed = self.computed // self.limits.ack_every, self.computed + job.count
        effects: list[Effect] = []
        if job.count > STEP or self.computed // self.limits.ack_every > before:
            effects.append(self._have())
        spent = (*job.micros, micros)
        if self._guesser is not None and self.is_first:
            self._guesser.took(job.start, micros)
        if self.is_last:
            return effects + (self._emit(draws, spent) if rows is None else [self._tell(rows, spent)])
        if rows is not None:
            self._journal.append(rows)
        self._last = (job.start, self.computed, spent)
        return effects + self._forward()

    def have(self, sender: PeerId, message: Have) -> list[Effect]:
        """Our successor says how far it is, and perhaps where we must send from. What it acknowledged before guesses were taken back still moves the window."""
        if self._branch is not None and self.feeds(message.chain, message.to):
            self._branch.have(sender, message)
            return self._feed(self._branch)
        if self.is_last or sender != self._next[0] or message.chain != self.epoch.chain or message.draft > self.epoch.draft:
            return []
        if message.resend and message.draft < self.epoch.draft:
            return []
        if not message.resend:
            self.acked = max(self.acked, min(message.length, self.sent))
            return self._forward()
        self._resent += 1
        if self._resent > self.limits.resends:
            return [self._report(self.index + 1, "failed", "it asks for the same again and again")] if self._resent == self.limits.resends + 1 else []
        self._next_ready = True
        self.acked = self.sent = message.length
        return self._forward()

    def drawn(self, sender: PeerId, message: Drawn, now: float) -> list[Effect]:
        """At the first hop: the head's tokens come home, go on to the client, and start the next step if the client's credit allows."""
        if not self.is_first or sender != self.route[-1].peer or (message.chain, message.draft) != self.epoch:
            return []
        if message.start + len(message.tokens) > self._drawable(message):  # nobody can have drawn that yet, nor can we answer for it
            return []
        if 0 < self._vocab <= max(message.tokens, default=0):  # our own engine would fail on it, and we for the head
            return [self._report(len(self.route) - 1, "failed", "it drew a token that the model does not have")]
        self._renew(now)
        self._flows = True
        effects: list[Effect] = [Send(self.order.client, self._told(message))]
        for position, token in enumerate(message.tokens, message.start):
            if position < self._sure:  # the client has it, or gave it: a head that now says otherwise would have us hold other tokens than that knows of
                continue
            if position < self.accepted:
                self._judge(position, right := self.tokens[position] == token)
                if not right:
                    effects += self.retract(position)
            if position == self.accepted:
                self._held = position, token
            if position == self._sure:
                self._sure += 1
        if message.finish is not None:
            self._halted = True
        return effects + self._take_held()

    def rows(self, sender: PeerId, message: Rows, now: float) -> list[Effect]:
        """At the first hop: what the head made of some positions goes on to the client."""
        if not self.is_first or sender != self.route[-1].peer or message.chain != self.epoch.chain:
            return []
        self._renew(now)
        return [Send(self.order.client, _readdressed(message, CLIENT))]

    def grant(self, sender: PeerId, message: Grant, now: float) -> list[Effect]:
        if not self.is_first or sender != self.order.client or message.chain != self.epoch.chain:
            return []
        self._renew(now)
        self._until, self._deserted = message.until, False
        return self._take_held()

    def keep(self, sender: PeerId, message: Keep, now: float) -> list[Effect]:
        if sender != self._prev[0] or message.chain != self.epoch.chain:
            return []
        self._renew(now)
        return [] if self.is_last else [self._to_next(_readdressed(message, self.index + 1))]

    def close(self, sender: PeerId, message: Close) -> list[Effect]:
        if sender != self._prev[0] or message.chain != self.epoch.chain:
            return []
        onward: list[Effect] = [] if self.is_last or self.index >= message.last else [self._to_next(_readdressed(message, self.index + 1))]
        return [*onward, *self._dismiss_branch(None), *([*self._truncate(self.computed), Rest()] if message.rests else [Forget("closed")])]

    def retire(self, order: Order) -> list[Effect]:
        """An order that does without this hop came to another hop of this peer. A farewell on its way to us finds nobody, so ours goes out now."""
        return [*self._dismiss(order), *self._dismiss_branch(order), Forget("replaced")]

    def broken(self, sender: PeerId, message: Broken) -> list[Effect]:
        """Bad news of hops further down; it travels to the client. Of the first one too: the last may lose it, to whom tokens go home."""
        if self._branch is not None and self.feeds(message.chain, message.to) and sender == self._branch.peer:
            return self._give_up(self._branch, message.reason)
        if self.is_last or sender != self._next[0] or message.chain != self.epoch.chain:
            return []
        if message.hop <= self.index and (message.hop, message.reason) != (0, "lost"):
            return []
        return [self._to_prev(_readdressed(message, self.index - 1))]

    def lost(self, peer: PeerId) -> list[Effect]:
        """The link to a peer is gone. A lost predecessor is noticed by whoever precedes it, so only a lost successor is ours to report; the head's is the
        first hop, which the client notices if it is dead, but not if only the way to it is. Without its client the ring halts until that is heard of again."""
        if self.is_first and peer == self.order.client:
            self._deserted = True
        effects = self._give_up(self._branch, "lost") if self._branch is not None and peer == self._branch.peer else []
        if self.is_last:
            return [*effects, *([self._report(0, "lost", "")] if peer == self.route[0].peer and not self.is_first else [])]
        if peer != self._next[0]:
            return effects
        self._next_ready = False
        return [*effects, self._report(self.index + 1, "lost", "")]

    def failed(self, reason: str, detail: str) -> list[Effect]:
        """This hop itself cannot go on (engine error, leaving)."""
        return [self._report(self.index, reason, detail)]

    def tick(self, now: float) -> list[Effect]:
        return [Forget("lease ran out")] if now >= self.lease_ends else []

    def show(self, start: int, stop: int) -> tuple[bytes, Blob | None] | None:
        """The marks of what was received for positions [0, stop), and what was made of [start, stop): none at the head. None where it is not here, is too
        much at once, or was shown often enough."""
        makes = start < stop and not self.is_last
        if not start <= stop <= self.computed or self._shown == SHOWN:
            return None
        if makes and (start < self._journal.start or (stop - start) * self._journal.row_bytes > MOST_SHOWN_BYTES):
            return None
        self._shown += 1
        received = token_marks(self.tokens[:stop]) if self.is_first else bytes(self._marks[: MARK * stop])
        return received, self._journal.rows(start, stop) if makes else None

    # --- newcomers: fed while the chain goes on -------------------------------------------------------------------------------------------------------------

    def prepare(self, sender: PeerId, message: Prepare, order: Order, now: float) -> list[Effect]:
        """The client wants newcomers fed by the hop that would precede them: this one, or one further down."""
        if sender != self._prev[0] or message.chain != self.epoch.chain or not 0 < message.first <= message.upto < len(order.route):
            return []
        self._renew(now)
        ours, theirs = self.route[self.index], order.route[message.first - 1]
        if (ours.peer, ours.span) != (theirs.peer, theirs.span):
            return [] if self.is_last else [self._to_next(_readdressed(message, self.index + 1))]
        if order.client != self.order.client or order.chain <= self.epoch.chain:
            return []
        if self._compresses(order) != self._compresses(self.order):  # what the newcomers are to get is not what there is
            return [self._to_prev(Ready(self.session, self.epoch.chain, self.index - 1, order.chain, "unknown"))]
        farewell = self._dismiss_branch(order)
        self._branch = branch = Branch(order, message.first, message.upto)
        return [*farewell, Send(branch.peer, branch.opening(message))]

    def ready(self, sender: PeerId, message: Ready) -> list[Effect]:
        """Travels to the client, as bad news do."""
        if self.is_last or sender != self._next[0] or message.chain != self.epoch.chain:
            return []
        return [self._to_prev(_readdressed(message, self.index - 1))]

    def _feed(self, branch: Branch) -> list[Effect]:
        """Forward to newcomers what they lack. What the journal no longer holds they cannot get without holding up the chain. Guesses they do not get: an OPEN
        that makes use of them may overtake, from one newcomer to the next, the step that takes a wrong one back."""
        effects: list[Effect] = []
        right = min(self.computed, self._sure)
        while (part := branch.lacks(right, self._chunk, self.limits.window)) is not None:
            if branch.sent < self._journal.start:
                return effects + self._give_up(branch, "unknown")
            effects.append(Send(branch.peer, self._rows(branch.order.chain, branch.first, branch.draft, *part, ())))
            branch.sent = part[1]
        if not branch.told and branch.is_fed(right, 2 * self.limits.ack_every):
            branch.told = True
            effects.append(self._tell_ready(branch))
        return effects

    def _give_up(self, branch: Branch, reason: str) -> list[Effect]:
        """Whoever is lost would have to be dialled to be told."""
        farewell = self._dismiss_branch(None)
        return [*(farewell if reason != "lost" else ()), self._tell_ready(branch, reason)]

    def _tell_ready(self, branch: Branch, reason: str = "") -> Effect:
        return self._to_prev(Ready(self.session, self.epoch.chain, self.index - 1, branch.order.chain, reason))

    def _dismiss_branch(self, order: Order | None) -> list[Effect]:
        branch, self._branch = self._branch, None
        farewell = branch.farewell(order) if branch is not None else None
        return [Send(branch.peer, farewell)] if branch is not None and farewell is not None else []

    # --- drafts: the first hop guesses ahead ----------------------------------------------------------------------------------------------------------------

    def more(self) -> list[Effect]:
        """The guesser may have something new."""
        return self._take_held() if self._order is not None and self.is_first else []

    def retract(self, length: int) -> list[Effect]:
        """Take back positions from `length` on, under a higher draft number that the next step carries down the chain."""
        self.epoch = Epoch(self.epoch.chain, self.epoch.draft + 1)
        if self._guesser is not None:
            self._guesser.missed(length)
        self._held = None
        kept = tuple(self.tokens[:length])
        effects = self._truncate(length) + self._append(kept[self.accepted :], None, ())
        self._sure = self.accepted
        return effects

    # --- inside ---------------------------------------------------------------------------------------------------------------------------------------------

    def _veiled(self, start: int, tokens: Sequence[int]) -> tuple[int, ...]:
        """Token ids as they travel between a client's own first hop and its own last one."""
        if self._veil is None or self.is_first == self.is_last or self.route[0].peer != self.route[-1].peer:
            return tuple(tokens)
        return tuple(self._veil(position, token) for position, token in enumerate(tokens, start))

    def _dismiss(self, order: Order) -> list[Effect]:
        """Tell the old successors that are not needed any more, so that they need not wait for their leases to run out."""
        if self._order is None or self.is_last:
            return []
        if (last := dismissed(self.route, order.route, self.index + 1)) is None:
            return []
        return [self._to_next(Close(self.session, self.epoch.chain, self.index + 1, last))]

    @property
    def _chunk(self) -> int:
        """Positions computed or sent at once."""
        return min(max(self.order.chunk, LEAST_CHUNK), self.limits.chunk) if self.order.chunk else self.limits.chunk

    def _append(self, tokens: Sequence[int], hidden: Blob | None, micros: tuple[int, ...]) -> list[Effect]:
        effects: list[Effect] = []
        at = 0
        while at < len(tokens):
            start = self.accepted
            part = tuple(tokens[at : at + self._portion(start)])
            self.tokens.extend(part)
            self._longest = max(self._longest, self.accepted)
            self._serial += 1
            self._pending.append(_Pending(self._serial, start, len(part), micros))
            rows = hidden[at : at + len(part)] if hidden is not None else None
            self._marks += marks(rows) if rows is not None else b""
            draw, history = self._wanted(start, part)
            effects.append(Compute(self._serial, start, part, rows, draw, history, self._compresses(self.order)))
            at += len(part)
        return effects

    def _portion(self, start: int) -> int:
        """Positions computed at once from there on. Where logits are asked for these are few: a row of them is as long as the vocabulary."""
        before = self.order.emit_from - 1 - start
        if not self.is_last or self.order.reply != LOGITS:
            return self._chunk
        return min(self._chunk, before) if before > 0 else LEAST_CHUNK

    def _wanted(self, start: int, part: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """At the head: which offsets of this job to draw after, and the history that the sampling asks for."""
        if not self.is_last:
            return (), ()
        draw = tuple(range(max(self.order.emit_from - 1 - start, 0), len(part)))
        draws = draw and self.order.reply == LOOP and self.order.sampling.repetition_penalty != 1
        return draw, tuple(self.tokens[:start]) if draws else ()

    def _tell(self, rows: Blob, micros: tuple[int, ...]) -> Effect:
        """Send what was asked for instead of tokens home: of the last positions computed."""
        return Send(self.route[0].peer, Rows(self.session, self.epoch.chain, 0, self.epoch.draft, self.computed - len(rows), rows, micros))

    def _emit(self, draws: Sequence[Draw], micros: tuple[int, ...]) -> list[Effect]:
        """Send drawn tokens home. A token already here that differs from the drawn one was a wrong guess: what follows it is astray until it is taken back."""
        sent: list[Draw] = []
        finish = None
        for draw in draws:
            if draw.position < self.order.emit_from:
                continue
            if self._drawn is not None and draw.position - 1 == self._drawn[0] and self.tokens[draw.position - 1] != self._drawn[1]:
                self._astray = True
            if self._astray:
                break
            self._drawn = (draw.position, draw.token)
            sent.append(draw)
            if draw.token in self.order.sampling.stop_ids:
                finish = "stop"
            elif draw.position + 1 >= self.order.limit:
                finish = "length"
            if finish is not None:
                self._astray = True
                break
        if not sent:
            return []
        tokens, logprobs = tuple(draw.token for draw in sent), tuple(draw.logprobs for draw in sent if draw.logprobs is not None)
        return [Send(self.route[0].peer, Drawn(self.session, self.epoch.chain, 0, self.epoch.draft, sent[0].position, tokens, finish, logprobs, micros))]

    def _take_held(self) -> list[Effect]:
        """Start the positions whose tokens came home and whose credit is there, and with them what is guessed to follow."""
        fresh: list[int] = []
        if self._held is not None and self._held[0] < self.accepted:  # the client has fed it
            self._held = None
        if self._held is not None and not self._halted and not self._deserted and self._held[0] == self.accepted < min(self._until, self.order.limit):
            fresh, self._held = [self._held[1]], None
        tokens, effects = (*fresh, *self._guesses(fresh)), list[Effect]()
        for at in range(0, len(tokens), STEP):
            part = tokens[at : at + STEP]
            if self._guesser is not None:
                self._guesser.left(self.accepted, self.accepted + len(part))
            effects += self._append(part, None, ())
        return effects

    def _drawable(self, message: Drawn) -> int:
        """Up to where tokens can have been drawn: behind the last position, and behind the first guess that is not what this message says."""
        for position, token in enumerate(message.tokens, message.start):
            if self._sure <= position < self.accepted and self.tokens[position] != token:
                return position + 1
        return self.accepted + 1

    def _guesses(self, fresh: Sequence[int]) -> Sequence[int]:
        """What may follow what is here and `fresh`, as far as there is credit. The last position draws nothing, so it is not worth a guess."""
        if self._guesser is None or not self._flows or self._halted or self._deserted:
            return ()
        begin = self.accepted + len(fresh)
        room = min(self._until, self.order.limit - 1) - begin
        return self._guesser.propose(self.tokens, fresh, min(self._sure, begin), room)[:room] if room > 0 else ()

    def _judge(self, position: int, right: bool) -> None:
        if self._guesser is not None:
            self._guesser.judged(position, right)

    def _told(self, message: Drawn) -> SessionMessage:
        """For the client, to whom what a step of several positions took would look like slowness."""
        several = self._guesser is not None and self._guesser.home(message.start, message.micros) > 1
        return msgspec.structs.replace(message, to=CLIENT, micros=()) if several else _readdressed(message, CLIENT)

    def _forward(self) -> list[Effect]:
        """To the successor what it lacks, and to newcomers."""
        effects: list[Effect] = []
        while self._next_ready and self.sent < self.computed and self.sent < self.acked + self.limits.window:
            if self.sent < self._journal.start:
                return effects + self._rewind(self.sent)
            stop = min(self.computed, self.sent + self._chunk, self.acked + self.limits.window)
            micros = self._last[2] if (self.sent, stop) == self._last[:2] else ()
            effects.append(self._to_next(self._rows(self.epoch.chain, self.index + 1, self.epoch.draft, self.sent, stop, micros)))
            self.sent = stop
        return effects + (self._feed(self._branch) if self._branch is not None else [])

    def _rows(self, chain: int, to: int, draft: int, start: int, stop: int, micros: tuple[int, ...]) -> Step:
        """Positions [start, stop) as the next hop gets them."""
        tokens = self._veiled(start, self.tokens[start:stop]) if self.is_first else tuple(self.tokens[start:stop])
        return Step(self.session, chain, to, draft, start, tokens, self._journal.rows(start, stop), micros, self._sure)

    def _rewind(self, length: int) -> list[Effect]:
        """The successor needs outputs that the journal no longer holds: compute them again, fed by our own predecessor. The first hop feeds itself: what it
        guessed may be further down already, and one draft has one token at a position."""
        tokens, sure = tuple(self.tokens), self._sure
        effects = self._truncate(length)
        if not self.is_first:
            return [*effects, self._have(resend=True)]
        self._sure = sure
        return effects + self._append(tokens[self.accepted :], None, ())

    def _truncate(self, length: int) -> list[Effect]:
        """Keep positions below `length`. Jobs in the engine that reach beyond are void; those below it go on."""
        if length >= self.accepted:
            return []
        keep = min([length, *(job.start for job in self._pending if job.start + job.count > length)]) if self._rewindable else 0
        while self._pending and self._pending[-1].start >= keep:
            self._pending.pop()
        del self.tokens[keep:], self._marks[MARK * keep :]
        self._sure = min(self._sure, keep)
        self._longest = longest_after_cut(self._longest, keep)
        self.computed, self.sent, self.acked = min(self.computed, keep), min(self.sent, keep), min(self.acked, keep)
        self._journal.truncate(self.computed)
        if self._branch is not None:
            self._branch.truncate(keep)
        self._asked = False
        if self._drawn is None or self._drawn[0] > keep:
            self._drawn = None
        self._astray = False
        return [Truncate(keep)]

    def _ask(self) -> list[Effect]:
        """Ask for what is missing, once: one request outstanding until something useful arrives."""
        if self._asked:
            return []
        self._asked = True
        return [self._have(resend=True)]

    def _have(self, *, resend: bool = False) -> Effect:
        length = self.accepted if resend else self.computed
        return self._to_prev(Have(self.session, self.epoch.chain, self.index - 1, self.epoch.draft, length, resend))

    def _report(self, hop: int, reason: str, detail: str) -> Effect:
        return self._to_prev(Broken(self.session, self.epoch.chain, self.index - 1, hop, reason, detail))

    def _to_prev(self, message: SessionMessage) -> Effect:
        return Send(self._prev[0], message)

    def _to_next(self, message: SessionMessage) -> Effect:
        return Send(self._next[0], message)

    def _renew(self, now: float) -> None:
        self.lease_ends = now + self.limits.lease


def _readdressed(message: SessionMessage, to: int) -> SessionMessage:
    return msgspec.structs.replace(message, to=to)
