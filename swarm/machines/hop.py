"""One hop of one session: the rule that tells an ordinary step, a resend, a replay, a late frame and a rolled-back draft apart by one comparison.

Knows its neighbours in the chain, and what each event means. Keeps four books: what it holds (`positions.py`), how far its successor is (`feed.py`), what it
starts by itself where it is the first hop (`looping.py`), and what it has drawn where it is the last (`drawing.py`). Knows nothing of sockets, tensors, clocks
or which peer it lives on besides itself: every event is a method that returns what should happen next.

A hop's positions come in four lengths, each at most the one before:

    accepted    appended in order and handed to the engine
    computed    answered by the engine, outputs in the journal
    sent        forwarded to the successor
    acked       known to be computed by the successor
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from swarm.core import CLIENT, Epoch, Hop, PeerId, SessionId, on_one_machine
from swarm.machines.branch import Branch
from swarm.machines.drawing import Drawing, portion, wanted
from swarm.machines.effects import Compute, Draw, Effect, Forget, Passed, Rest, Send, Truncate
from swarm.machines.feed import Feed
from swarm.machines.limits import SHOWN, STEP, HopLimits
from swarm.machines.looping import Guesser, Looping
from swarm.machines.marks import MOST_SHOWN_BYTES, token_marks
from swarm.machines.positions import Positions
from swarm.machines.routes import dismissed
from swarm.wire import (
    COMPRESSED,
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

Veil = Callable[[int, int], int]


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
        self.lease_ends = float("inf")
        self.reserved = 0
        """Positions that its cache has room for, or may come to have."""
        self._order: Order | None = None
        self._opened: Open | None = None
        self._veil = veil
        self._vocab = vocab
        self._positions = Positions(limits.journal_bytes, rewindable)
        self._looping = Looping(guesser, vocab)
        self._drawing = Drawing()
        self._feed = Feed()
        """Of the successor."""
        self._branch: Branch | None = None
        self._last: tuple[int, int, tuple[int, ...]] = (0, 0, ())
        """What the engine answered last, [start, stop), and what each hop so far spent on it."""
        self._asked = False
        """Whether the predecessor is to send something again, and nothing useful has come since."""
        self._resent = self._shown = 0
        """How often in this chain."""

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
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == len(self.route) - 1

    @property
    def is_newcomer(self) -> bool:
        """Whether it was opened for a chain that is not there yet."""
        return self._opened is not None and self._opened.upto < len(self.route)

    def feeds(self, chain: int, to: int) -> bool:
        """Whether frames of newcomers that this hop feeds are addressed so."""
        return self._branch is not None and self._branch.addressed(chain, to)

    @property
    def _prev(self) -> tuple[PeerId, int]:
        return self.order.sender(self.index), self.index - 1

    @property
    def _next(self) -> tuple[PeerId, int]:
        return self.route[self.index + 1].peer, self.index + 1

    def _compresses(self, order: Order) -> bool:
        """Whether its outputs are to be compressed."""
        return self.route[self.index].stop in order.compressed

    # --- what it holds -------------------------------------------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> list[int]:
        return self._positions.tokens

    @property
    def accepted(self) -> int:
        return self._positions.accepted

    @property
    def computed(self) -> int:
        return self._positions.computed

    @property
    def computes(self) -> bool:
        """Whether the engine owes it an answer."""
        return self._positions.owed

    def reserves(self, order: Order) -> int:
        """Positions to be reserved once it follows this order: a lower limit does not shrink what has grown under an earlier one."""
        return max(order.limit, min(self._positions.size_after_cut(self._kept(order)), self.reserved))

    def _kept(self, order: Order) -> int:
        """How many of its positions an order lets it keep."""
        if order.chain <= self.epoch.chain:
            return self.accepted
        if self._order is not None and self._compresses(order) != self._compresses(self._order):  # a journal is of one kind of rows
            return 0
        return self._positions.keeps(min((start for chain, start in order.starts if chain > self.epoch.chain), default=0))

    @property
    def size(self) -> int:
        """Positions that its cache takes room for now."""
        return min(self._positions.size, self.reserved)

    def holds(self, prefix: Prefix) -> bool:
        return self._positions.holds(prefix)

    def begin_as(self, other: HopSession, length: int, *, instead: bool = False) -> None:
        """Before the first OPEN: hold what another hop over the same components holds below `length`; `instead` of that one, which is over."""
        self._positions.begin_as(other._positions, length, instead=instead)

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
        self._feed.ready = self._asked = False
        self._resent = self._shown = 0
        effects: list[Effect] = self._truncate(keep)
        self._drawing = self._drawing.anew(keep)
        self._looping.opened(order.until, self.accepted)
        effects.append(self._have(resend=True))
        if not self.is_last and self.index != message.upto:
            effects.append(self._onward(message))
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
        elif self._drawing.astray:  # nothing is drawn of it: at the head, guesses behind a wrong one need not even be computed
            return []
        if not self.is_first:
            self._looping.told(message.sure)
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
            flows = self.order.reply == LOOP and self.accepted >= self.order.emit_from
            self._looping.given(self.accepted - len(tokens), self.accepted, flows)
        return effects + self._start()

    def finished(self, serial: int, rows: Blob | None, draws: Sequence[Draw], micros: int) -> list[Effect]:
        """The engine finished a job: its output rows, or at the head the drawn tokens. Before the head that may be a part of it, and the rest comes later. The
        result of a voided job is dropped."""
        before = self.computed // self.limits.ack_every
        if (job := self._positions.finished(serial, None if rows is None or self.is_last else len(rows))) is None:
            return []
        effects: list[Effect] = []
        if job.count > STEP or self.computed // self.limits.ack_every > before:
            effects += self._acknowledge()
        spent = (*job.micros, micros)
        if self.is_first:
            self._looping.took(job.start, micros, self.tokens)
        if self.is_last:
            return effects + (self._emit(draws, spent) if rows is None else [self._tell(rows, spent)])
        if rows is not None:
            self._positions.journal.append(rows)
        self._last = (job.start, self.computed, spent)
        return effects + self._forward()

    def have(self, sender: PeerId, message: Have) -> list[Effect]:
        """Our successor says how far it is, and perhaps where we must send from. What it acknowledged before guesses were taken back still moves the window."""
        if self._branch is not None and self.feeds(message.chain, message.to):
            self._branch.have(sender, message)
            return self._feed_branch(self._branch)
        if self.is_last or message.chain != self.epoch.chain or message.draft > self.epoch.draft:
            return []
        passed = self._passed(sender, message)
        if sender != self._next[0]:
            return passed
        if message.resend and message.draft < self.epoch.draft:
            return []
        if not message.resend:
            self._feed.has(message.length)
            return self._forward() + passed
        self._resent += 1
        if self._resent > self.limits.resends:
            return [self._report(self.index + 1, "failed", "it asks for the same again and again")] if self._resent == self.limits.resends + 1 else []
        self._feed.begins_at(message.length)
        return self._forward()

    def drawn(self, sender: PeerId, message: Drawn, now: float) -> list[Effect]:
        """At the first hop: the head's tokens come home, go on to the client, and start the next step if the client's credit allows."""
        if not self.is_first or sender != self.route[-1].peer or (message.chain, message.draft) != self.epoch:
            return []
        if not self._looping.believes(message, self.tokens):  # nobody can have drawn that yet, nor can we answer for it
            return []
        if 0 < self._vocab <= max(message.tokens, default=0):  # our own engine would fail on it, and we for the head
            return [self._report(len(self.route) - 1, "failed", "it drew a token that the model does not have")]
        self._renew(now)
        effects: list[Effect] = [Send(self.order.client, self._told(message))]
        while (wrong := self._looping.home(message, self.tokens)) is not None:
            effects += self.retract(wrong)
        return effects + self._start()

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
        self._looping.granted(message.until)
        return self._start()

    def keep(self, sender: PeerId, message: Keep, now: float) -> list[Effect]:
        if sender != self._prev[0] or message.chain != self.epoch.chain:
            return []
        self._renew(now)
        return [] if self.is_last else [self._onward(message)]

    def close(self, sender: PeerId, message: Close) -> list[Effect]:
        if sender != self._prev[0] or message.chain != self.epoch.chain:
            return []
        onward: list[Effect] = [] if self.is_last or self.index >= message.last else [self._onward(message)]
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
        return [self._back(message)]

    def lost(self, peer: PeerId) -> list[Effect]:
        """The link to a peer is gone. A lost predecessor is noticed by whoever precedes it, so only a lost successor is ours to report; the head's is the
        first hop, which the client notices if it is dead, but not if only the way to it is. Without its client the ring halts until that is heard of again."""
        if self.is_first and peer == self.order.client:
            self._looping.deserted()
        effects = self._give_up(self._branch, "lost") if self._branch is not None and peer == self._branch.peer else []
        if self.is_last:
            return [*effects, *([self._report(0, "lost", "")] if peer == self.route[0].peer and not self.is_first else [])]
        if peer != self._next[0]:
            return effects
        self._feed.ready = False
        return [*effects, self._report(self.index + 1, "lost", "")]

    def failed(self, reason: str, detail: str) -> list[Effect]:
        """This hop itself cannot go on (engine error, leaving)."""
        return [self._report(self.index, reason, detail)]

    def tick(self, now: float) -> list[Effect]:
        return [Forget("lease ran out")] if now >= self.lease_ends else []

    def show(self, start: int, stop: int) -> tuple[bytes, Blob | None, bytes] | None:
        """The marks of what was received for positions [0, stop), what was made of [start, stop): none at the head; and the marks of what that has drawn. None
        where it is not here, is too much at once, or was shown often enough."""
        makes = start < stop and not self.is_last
        if not start <= stop <= self.computed or self._shown == SHOWN:
            return None
        if makes and (start < (journal := self._positions.journal).start or (stop - start) * journal.row_bytes > MOST_SHOWN_BYTES):
            return None
        self._shown += 1
        received = token_marks(self.tokens[:stop]) if self.is_first else bytes(self._positions.marks[: MARK * stop])
        return received, self._positions.journal.rows(start, stop) if makes else None, self._drawing.marks(stop)

    # --- newcomers: fed while the chain goes on -------------------------------------------------------------------------------------------------------------

    def prepare(self, sender: PeerId, message: Prepare, order: Order, now: float) -> list[Effect]:
        """The client wants newcomers fed by the hop that would precede them: this one, or one further down."""
        if sender != self._prev[0] or message.chain != self.epoch.chain or not 0 < message.first <= message.upto < len(order.route):
            return []
        self._renew(now)
        ours, theirs = self.route[self.index], order.route[message.first - 1]
        if (ours.peer, ours.span) != (theirs.peer, theirs.span):
            return [] if self.is_last else [self._onward(message)]
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
        return [self._back(message)]

    def _feed_branch(self, branch: Branch) -> list[Effect]:
        """Forward to newcomers what they lack. What the journal no longer holds they cannot get without holding up the chain. Guesses they do not get: an OPEN
        that makes use of them may overtake, from one newcomer to the next, the step that takes a wrong one back."""
        effects: list[Effect] = []
        right = min(self.computed, self._looping.sure)
        while (part := branch.feed.lacks(right, self._chunk, self.limits.window)) is not None:
            if part[0] < self._positions.journal.start:
                return effects + self._give_up(branch, "unknown")
            effects.append(Send(branch.peer, self._rows(branch.order.chain, branch.first, branch.draft, *part, ())))
            branch.feed.sent = part[1]
        if not branch.told and branch.feed.is_fed(right, 2 * self.limits.ack_every):
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
        return self._start() if self._order is not None and self.is_first else []

    def retract(self, length: int) -> list[Effect]:
        """Take back positions from `length` on, under a higher draft number that the next step carries down the chain."""
        self.epoch = Epoch(self.epoch.chain, self.epoch.draft + 1)
        self._looping.missed(length)
        kept = tuple(self.tokens[:length])
        effects = self._truncate(length) + self._append(kept[self.accepted :], None, ())
        self._looping.settled(self.accepted)
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
        return self.limits.chunk_for(self.order.chunk)

    def _append(self, tokens: Sequence[int], hidden: Blob | None, micros: tuple[int, ...]) -> list[Effect]:
        effects: list[Effect] = []
        at = 0
        while at < len(tokens):
            start = self.accepted
            part = tuple(tokens[at : at + (portion(self.order, start, self._chunk) if self.is_last else self._chunk)])
            rows = hidden[at : at + len(part)] if hidden is not None else None
            serial = self._positions.append(part, rows, micros)
            draw, history = wanted(self.order, start, len(part), self.tokens) if self.is_last else ((), ())
            effects.append(Compute(serial, start, part, rows, draw, history, self._compresses(self.order)))
            at += len(part)
        return effects

    def _tell(self, rows: Blob, micros: tuple[int, ...]) -> Effect:
        """Send what was asked for instead of tokens home: of the last positions computed."""
        return Send(self.route[0].peer, Rows(self.session, self.epoch.chain, 0, self.epoch.draft, self.computed - len(rows), rows, micros))

    def _emit(self, draws: Sequence[Draw], micros: tuple[int, ...]) -> list[Effect]:
        """Send drawn tokens home."""
        sent, finish = self._drawing.take(draws, self.tokens, self.order)
        if not sent:
            return []
        tokens, logprobs = tuple(draw.token for draw in sent), tuple(draw.logprobs for draw in sent if draw.logprobs is not None)
        return [Send(self.route[0].peer, Drawn(self.session, self.epoch.chain, 0, self.epoch.draft, sent[0].position, tokens, finish, logprobs, micros))]

    def _start(self) -> list[Effect]:
        """Start the positions whose tokens came home and whose credit is there, and with them what is guessed to follow."""
        return [effect for step in self._looping.starts(self.tokens, self.order.limit) for effect in self._append(step, None, ())]

    def _told(self, message: Drawn) -> SessionMessage:
        """For the client, to whom what a step of several positions took would look like slowness."""
        several = self._looping.positions_of(message) > 1
        return msgspec.structs.replace(message, to=CLIENT, micros=()) if several else _readdressed(message, CLIENT)

    def _forward(self) -> list[Effect]:
        """To the successor what it lacks, and to newcomers."""
        effects: list[Effect] = []
        while (part := self._feed.lacks(self.computed, self._chunk, self.limits.window)) is not None:
            if part[0] < self._positions.journal.start:
                return effects + self._rewind(part[0])
            micros = self._last[2] if part == self._last[:2] else ()
            effects.append(self._to_next(self._rows(self.epoch.chain, self.index + 1, self.epoch.draft, *part, micros)))
            self._feed.sent = part[1]
        return effects + (self._feed_branch(self._branch) if self._branch is not None else [])

    def _rows(self, chain: int, to: int, draft: int, start: int, stop: int, micros: tuple[int, ...]) -> Step:
        """Positions [start, stop) as the next hop gets them."""
        tokens = self._veiled(start, self.tokens[start:stop]) if self.is_first else tuple(self.tokens[start:stop])
        return Step(self.session, chain, to, draft, start, tokens, self._positions.journal.rows(start, stop), micros, self._looping.sure)

    def _rewind(self, length: int) -> list[Effect]:
        """The successor needs outputs that the journal no longer holds: compute them again, fed by our own predecessor. The first hop feeds itself: what it
        guessed may be further down already, and one draft has one token at a position."""
        tokens, sure = tuple(self.tokens), self._looping.sure
        effects = self._truncate(length)
        if not self.is_first:
            return [*effects, self._have(resend=True)]
        self._looping.settled(sure)
        return effects + self._append(tokens[self.accepted :], None, ())

    def _truncate(self, length: int) -> list[Effect]:
        """Keep positions below `length`. Jobs in the engine that reach beyond are void; those below it go on."""
        if (keep := self._positions.cut(length)) is None:
            return []
        self._looping.truncate(keep)
        self._drawing.truncate(keep)
        self._feed.truncate(keep)
        if self._branch is not None:
            self._branch.truncate(keep)
        self._asked = False
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

    def _acknowledge(self) -> list[Effect]:
        """How far we are, to whoever feeds us; from the last hop of a ring on one machine to the first as well, which lets the next portion of a prompt go."""
        tells_first = self.is_last and self.index > 1 and on_one_machine(self.route)
        first: list[Effect] = [Send(self.route[0].peer, Have(self.session, self.epoch.chain, 0, self.epoch.draft, self.computed))] if tells_first else []
        return [self._have(), *first]

    def _passed(self, sender: PeerId, message: Have) -> list[Effect]:
        """At the first hop of such a ring, if it is the last one that says so."""
        if not self.is_first or sender != self.route[-1].peer or message.resend or message.draft < self.epoch.draft or not on_one_machine(self.route):
            return []
        return [Passed(min(message.length, self.computed))]

    def _report(self, hop: int, reason: str, detail: str) -> Effect:
        return self._to_prev(Broken(self.session, self.epoch.chain, self.index - 1, hop, reason, detail))

    def _onward(self, message: SessionMessage) -> Effect:
        """What was said to us, to the next hop."""
        return self._to_next(_readdressed(message, self.index + 1))

    def _back(self, message: SessionMessage) -> Effect:
        """The same, towards the client."""
        return self._to_prev(_readdressed(message, self.index - 1))

    def _to_prev(self, message: SessionMessage) -> Effect:
        return Send(self._prev[0], message)

    def _to_next(self, message: SessionMessage) -> Effect:
        return Send(self._next[0], message)

    def _renew(self, now: float) -> None:
        self.lease_ends = now + self.limits.lease


def _readdressed(message: SessionMessage, to: int) -> SessionMessage:
    return msgspec.structs.replace(message, to=to)
