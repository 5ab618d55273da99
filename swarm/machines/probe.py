"""A piece of work for one peer, by somebody who poses as the hops before and behind it: rows (or tokens) go in, and what its components make of them comes out.
Or an answer of a whole chain of peers.

To the peer it is a session like any other, of a client with ends of its own. Pure: events in, messages out; signing and deadlines are the shell's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarm.core import CLIENT, Hop, PeerId, Sampling, SessionId
from swarm.machines.effects import Send
from swarm.machines.limits import CREDIT
from swarm.wire import COMPRESSED, Blob, Broken, Close, Drawn, Have, Message, Open, Order, SessionMessage, Step, encode

CHUNK, WINDOW = 256, 1024
"""As of hops: positions sent at once, and beyond what is acknowledged."""

USUAL_ROOM = 64, 512
"""Positions that an answer, which nobody will draw, asks room for: few orders ask for none."""


@dataclass(frozen=True, slots=True)
class Work:
    """Positions from 0 on, for a hop: their tokens, and what it receives of them unless it is the first. The head draws from position `emit_from` on."""

    hop: Hop
    revision: str
    numerics: str
    components: int
    tokens: tuple[int, ...]
    hidden: Blob | None = None
    sampling: Sampling = field(default_factory=Sampling)
    emit_from: int = 0
    room: int = 0
    """Positions of an answer that seems to be wanted."""
    compress: bool = False
    """What comes out is to be compressed, as it was."""
    behind: tuple[Hop, ...] = ()
    """Of a first hop: those of other peers to whom it hands on what it makes, up to the head. Then tokens come home."""
    wants: int = 1
    """Tokens that are to be drawn behind those that are given, where any are."""

    @property
    def compressed(self) -> tuple[int, ...]:
        """As in `Order`."""
        takes = self.hidden is not None and self.hidden.dtype == COMPRESSED
        return (self.hop.start,) * takes + (self.hop.stop,) * self.compress

    @property
    def is_first(self) -> bool:
        return self.hop.start == 0

    @property
    def is_last(self) -> bool:
        return self.hop.stop == self.components


class Probe:
    """`rows` is what came out, `drawn` what a head drew, in order; `over` once nothing more will come, with a `failure` if that is why."""

    def __init__(self, session: SessionId, me: PeerId, work: Work, expires: float = 0.0) -> None:
        self.work, self.over, self.failure = work, False, ""
        self.session = session
        self.drawn: list[Drawn] = []
        self._me, self._peer = me, work.hop.peer
        before = () if work.is_first else (Hop(me, 0, work.hop.start),)
        behind = work.behind or (() if work.is_last else (Hop(me, work.hop.stop, work.components),))
        self.to = len(before)
        self.route = (*before, work.hop, *behind)
        length = len(work.tokens)
        until = length + min(work.room, CREDIT) if work.room else 0
        self._order = Order(
            session, 1, me, work.revision, work.numerics, ((1, 0),), work.emit_from or length, until, length + 1 + work.room, work.sampling, self.route,
            expires=expires, compressed=work.compressed,
        )  # fmt: skip
        self._sent = self._acked = self._received = 0
        self._parts: list[Blob] = []

    @property
    def rows(self) -> Blob | None:
        if not self._parts:
            return None
        first = self._parts[0]
        return Blob(first.dtype, first.width, memoryview(b"".join(part.data for part in self._parts)))

    def begin(self) -> list[Send]:
        return [self._send(Open(self.session, 1, self.to, encode(self._order)))]

    def end(self) -> list[Send]:
        return [self._send(Close(self.session, 1, self.to))]

    def lost(self, peer: PeerId) -> None:
        if peer == self._peer and not self.over:
            self.over, self.failure = True, "lost"

    def is_for_me(self, message: SessionMessage) -> bool:
        """Not for a hop, which may be in the same process."""
        return message.to == CLIENT if self.work.behind else message.to != self.to

    def receive(self, sender: PeerId, message: Message) -> list[Send]:
        if sender != self._peer or not isinstance(message, SessionMessage) or (message.session, message.chain) != (self.session, 1) or self.over:
            return []
        if isinstance(message, Open) and message.to == self.to + 1:
            return [self._have(0, resend=True)]
        if isinstance(message, Have) and message.to == self.to - 1:
            return self._feed(message)
        if isinstance(message, Step) and message.to == self.to + 1:
            return self._take(message)
        if isinstance(message, Drawn) and message.to in (0, CLIENT):
            self._note(message)
        elif isinstance(message, Broken):
            self.over, self.failure = True, message.reason
        return []

    # --- inside ---------------------------------------------------------------------------------------------------------------------------------------------

    def _feed(self, message: Have) -> list[Send]:
        if message.resend:
            self._sent = self._acked = min(message.length, len(self.work.tokens))
        else:
            self._acked = max(self._acked, min(message.length, self._sent))
        work, sends = self.work, []
        while self._sent < (end := min(len(work.tokens), self._acked + WINDOW)):
            stop = min(self._sent + CHUNK, end)
            rows = None if work.hidden is None else work.hidden[self._sent : stop]
            sends.append(self._send(Step(self.session, 1, self.to, 0, self._sent, work.tokens[self._sent : stop], rows)))
            self._sent = stop
        return sends

    def _take(self, message: Step) -> list[Send]:
        rows = message.hidden
        if message.start != self._received or rows is None or not 0 < len(rows) <= len(self.work.tokens) - self._received:
            return []
        if self._parts and (rows.dtype, rows.width) != (self._parts[0].dtype, self._parts[0].width):  # no honest peer changes that half-way
            self.over, self.failure = True, "nonsense"
            return []
        self._parts.append(rows)
        self._received += len(rows)
        self.over = self._received >= len(self.work.tokens)
        return [self._have(self._received)]

    def _note(self, message: Drawn) -> None:
        """The head stops drawing where it disagrees with the tokens that it was given."""
        for at, token in enumerate(message.tokens):
            position = self.drawn[-1].start + 1 if self.drawn else self._order.emit_from
            if message.start + at != position or self.over:
                return
            finish = message.finish if at == len(message.tokens) - 1 else None
            self.drawn.append(replace(message, start=position, tokens=(token,), logprobs=message.logprobs[at : at + 1], finish=finish))
            told = self.work.tokens[position] if position < len(self.work.tokens) else None
            self.over = position + 1 >= len(self.work.tokens) + self.work.wants or finish is not None or (told is not None and told != token)

    def _have(self, length: int, *, resend: bool = False) -> Send:
        return self._send(Have(self.session, 1, self.to, 0, length, resend))

    def _send(self, message: SessionMessage) -> Send:
        return Send(self._peer, message)


def hide(tokens: Sequence[int], bits: Callable[[int], int]) -> tuple[int, ...]:
    """Token ids for a hop whose work does not depend on them: it is not told what was asked, and sees what own ends would veil them as. `bits` are random."""
    return tuple(bits(31) for _ in tokens)
