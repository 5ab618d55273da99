"""Room: wire. What the hops of a session and its client say to one another. The rules are `machines/hop.py` and `machines/client.py`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from swarm.core import Hop, PeerId, Sampling
from swarm.wire.words import COMPRESSED, Blob, Count, Index, Logprobs, Micros, Session, SessionMessage, Text, TokenId, TokenIds

MOST_ORDERED = 2**17
"""Bytes of an order: a route of some hundred hops with all their addresses."""


LOOP, LOGITS, HIDDEN = REPLIES = ("loop", "logits", "hidden")
"""What a chain answers: drawn tokens, which go round the ring; or, to its client alone, what the head makes of each position, or what the head's matrix is
given. The last two are single steps: nothing is drawn, and nothing is begun by itself."""


class Prefix(msgspec.Struct, frozen=True, array_like=True):
    """The first `length` positions of an earlier session of the same client, whose token ids have this `digest` (`core.digest_of`)."""

    session: Session
    length: Annotated[int, Meta(ge=1, le=2**31)]
    digest: Annotated[bytes, Meta(min_length=16, max_length=16)]


MOST_AHEAD = 2**10
"""Guesses beyond the last token that came home: a ring of a second whose slowest hop takes a millisecond has room for no more."""


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What a client orders when its route changes: the body of an OPEN, signed as bytes and passed on as bytes, so that fields unknown to a hop on the way
    reach those who know them.

    `term` is that of the coordinator that planned the route just now, 0 for a route of the client's own, or one it has used before. From `expires` on, in
    seconds of the wall clock, nobody begins with it; 0 is never.

    `starts` says what of the past still holds: pairs (chain, start), rising in both. A hop that last took part in chain c keeps its positions below the least
    start of all chains after c. `emit_from` is the first position the head may draw; earlier ones are forced. `until` is the first position that the ring may
    not start (credit). `chunk` is into how many positions a prompt is best cut on this route, 0 where nobody has said. `limit` is the length the session will
    not outgrow: what every hop reserves. `reply` is one of REPLIES. `prefix` is what the session begins with: a
    hop that knows nothing of it yet, and holds those positions of the earlier session, need not compute them again. `ahead` is how many positions the first hop
    may start at most on nothing but a guess. `compressed` are the components whose inputs travel in fewer bits: whoever makes them compresses them.
    """

    session: Session
    chain: Count
    client: PeerId
    revision: Text
    numerics: Text
    starts: Annotated[tuple[tuple[Count, Count], ...], Meta(min_length=1, max_length=64)]
    emit_from: Count
    until: Count
    limit: Count
    sampling: Sampling
    route: Annotated[tuple[Hop, ...], Meta(min_length=1, max_length=2**10)]
    reply: Text = LOOP
    term: Count = 0
    expires: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    chunk: Count = 0
    prefix: Prefix | None = None
    ahead: Annotated[int, Meta(ge=0, le=MOST_AHEAD)] = MOST_AHEAD
    compressed: Annotated[tuple[Annotated[int, Meta(ge=1, le=2**12)], ...], Meta(max_length=2**10)] = ()

    def sender(self, to: int) -> PeerId:
        """Who hands the OPEN to hop `to`: its predecessor, or the client."""
        return self.route[to - 1].peer if to > 0 else self.client


class Open(SessionMessage, frozen=True, array_like=True, tag=10):
    """Every change of route. Travels hop to hop along the new chain; each hop learns its neighbours and answers its predecessor with a Have. `order` is an
    encoded Order, `signature` its client's Ed25519 signature over exactly these bytes. Hops behind number `upto` do not hear of it: those up to there are
    newcomers, who are fed while an older chain goes on."""

    order: Annotated[bytes, Meta(max_length=MOST_ORDERED)]
    signature: Annotated[bytes, Meta(max_length=64)] = b""
    upto: Index = 2**12


class Step(SessionMessage, frozen=True, array_like=True, tag=11):
    """The tokens, and off the first hop the activations, of positions [start, start + len(tokens)). `micros` is what each earlier hop spent on it.
    Tokens of the session from `sure` on are guesses, as far as the first hop knew."""

    draft: Count
    start: Count
    tokens: TokenIds
    hidden: Blob | None = None
    micros: Micros = ()
    sure: Count = 2**53


class Drawn(SessionMessage, frozen=True, array_like=True, tag=12):
    """Tokens the head drew for positions [start, …): head to first hop, first hop to client. `finish` is "stop" or "length" when nothing follows."""

    draft: Count
    start: Count
    tokens: TokenIds
    finish: Text | None = None
    logprobs: Annotated[tuple[Logprobs, ...], Meta(max_length=2**12)] = ()
    micros: Micros = ()


class Guess(SessionMessage, frozen=True, array_like=True, tag=34):
    """From the client to the first hop: tokens that may stand at positions [start, …), as its own draft model guesses. Advice, which nobody need take."""

    start: Count
    tokens: Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=64)]


class Have(SessionMessage, frozen=True, array_like=True, tag=13):
    """From a hop to its predecessor: "I hold positions [0, length)". With `resend`: "send from there"."""

    draft: Count
    length: Count
    resend: bool = False


class Grant(SessionMessage, frozen=True, array_like=True, tag=14):
    """From the client to the first hop: the ring may start positions below `until`. The latest grant counts, so a lower one halts the ring."""

    until: Count


class Keep(SessionMessage, frozen=True, array_like=True, tag=15):
    """The client's sign of life for an idle session; travels along the chain."""


class Close(SessionMessage, frozen=True, array_like=True, tag=16):
    """The session is over, or goes on without these hops: travels along the chain up to hop `last`, and every hop on the way forgets it. If it `rests`, each
    keeps what it holds for a while, as far as nobody wants the room: another session of the client may begin with the same tokens."""

    last: Index = 2**12
    rests: bool = False


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What a peer that refuses an order holds now, so that the next route is planned with it. `term` is the highest it has heard of, `retry_after` how many
    seconds to wait before it is asked again for room that it lacks."""

    spans: Annotated[tuple[tuple[Count, Count], ...], Meta(min_length=1, max_length=64)]
    span_version: Count
    free_tokens: Count
    term: Count = 0
    retry_after: Annotated[float, Meta(ge=0, le=60)] = 0.0


class Broken(SessionMessage, frozen=True, array_like=True, tag=17):
    """Travels backwards to the client: hop number `hop` is gone or says no. `reason` is one of REASONS; `detail` is for people, `facts` for planning."""

    hop: Index
    reason: Text
    detail: Text = ""
    facts: Facts | None = None


class Prepare(SessionMessage, frozen=True, array_like=True, tag=18):
    """Travels along the chain to the hop that would precede hop number `first` of another route: open it and the newcomers behind it, up to number `upto`, with
    this order, and feed them beside your successor. The chain goes on meanwhile; an OPEN that makes use of them comes later."""

    order: Annotated[bytes, Meta(max_length=MOST_ORDERED)]
    signature: Annotated[bytes, Meta(max_length=64)]
    first: Index
    upto: Index


class Ready(SessionMessage, frozen=True, array_like=True, tag=19):
    """Travels backwards to the client: newcomers opened under chain number `prepared` hold nearly all there is, or never will, for a `reason` of REASONS."""

    prepared: Count
    reason: Text = ""


class Rows(SessionMessage, frozen=True, array_like=True, tag=40):
    """What an order of reply kind "logits" or "hidden" asked for, of positions [start, start + len(rows)): head to first hop, first hop to client."""

    draft: Count
    start: Count
    rows: Blob
    micros: Annotated[tuple[Count, ...], Meta(max_length=2**10)] = ()

    def __post_init__(self) -> None:
        if self.rows.dtype == COMPRESSED:
            raise ValueError("what was asked for is not compressed")


MARK = 8
"""Bytes of the mark of one row of activations: to find two rows of one mark takes some 2**32 tries, and serves for a single row."""

MOST_SHOWN = 2**12
"""Positions from the beginning of a session that may be shown: 32 KiB of marks."""

Shownable = Annotated[int, Meta(ge=0, le=MOST_SHOWN)]


class Show(SessionMessage, frozen=True, array_like=True, tag=31):
    """From a client to its session's hop over components [first, behind), which may rest: what have you received for positions [0, stop), and made of
    [start, stop)? Nothing is said of the latter where the two are equal. It may follow another chain by now: the answer speaks of hop `to`, as asked."""

    first: Count
    behind: Count
    start: Shownable
    stop: Shownable


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """What a hop over components [first, behind) says of a session: the marks of the rows (at hop 0: tokens) that it received for positions [0, stop), and
    those of what it made of positions [start, stop), which the head has none of. `drawn` are the marks of the tokens that a head has drawn, up to that for
    position `stop`, as far back as it has drawn in one go: they come home through the first hop, which might say otherwise."""

    peer: PeerId
    client: PeerId
    session: Session
    chain: Count
    revision: Text
    numerics: Text
    first: Count
    behind: Count
    start: Shownable
    stop: Shownable
    received: Annotated[bytes, Meta(max_length=MARK * MOST_SHOWN)]
    made: Annotated[bytes, Meta(max_length=MARK * MOST_SHOWN)] = b""
    drawn: Annotated[bytes, Meta(max_length=MARK * MOST_SHOWN)] = b""


class Shown(SessionMessage, frozen=True, array_like=True, tag=33):
    """The answer of hop number `hop`: an encoded Statement, signed by the hop, and the rows that it made. An empty statement: what was asked for is not
    here (any more)."""

    hop: Index
    statement: Annotated[bytes, Meta(max_length=3 * MARK * MOST_SHOWN)] = b""
    signature: Annotated[bytes, Meta(max_length=64)] = b""
    rows: Blob | None = None


REASONS = ("lost", "unknown", "overloaded", "leaving", "refused", "failed", "moved", "stale")
"""`moved`: the peer's span is not the one the route was planned with. `stale`: the route's coordinator has been replaced for longer than routes live."""
