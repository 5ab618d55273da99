"""What peers say to one another, and the only place where their bytes become values.

Every message is a frozen msgspec struct, encoded as a msgpack array that opens with the message's number. Readers ignore extra trailing fields, fill missing
ones with defaults and pass over messages of unknown number, so versions N−1, N and N+1 understand one another as long as fields are only ever added at the
end. Decoding checks types, ranges and sizes; whatever fails is a ProtocolError and never anything else. No message can make a reader run code or allocate
more than it received.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from swarm.core import Hop, PeerId, Sampling
from swarm.errors import ProtocolError

VERSION = 1

MAX_MESSAGE = 64 * 2**20
"""Bytes of one encoded message: 1024 positions × hidden 8192 × float32 = 32 MiB, with room to spare."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
Index = Annotated[int, Meta(ge=-1, le=2**12)]
TokenId = Annotated[int, Meta(ge=0, le=2**31)]
Text = Annotated[str, Meta(max_length=512)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Session = Annotated[bytes, Meta(min_length=16, max_length=16)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=2**20)]
Micros = Annotated[tuple[Count, ...], Meta(max_length=2**10)]
"""Of each hop of a route, one."""

MOST_FIELDS = 256
"""Fields of a message of tomorrow. Each is an object of 80 bytes once decoded, so that 64 MiB of them would be 5 GB."""

ITEM_SIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number for every dtype that may travel as it is; anything but these and COMPRESSED is refused."""

COMPRESSED, GROUP = "int8", 32
"""Rows with less in them: each number in one byte, and behind the numbers of a row a scale in bfloat16 for every GROUP of them, so that a large one costs
its neighbours their precision, and nobody else."""


def row_size(dtype: str, width: int) -> int:
    """Bytes of a row."""
    return width + 2 * -(-width // GROUP) if dtype == COMPRESSED else ITEM_SIZE[dtype] * width


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """Rows of activations as they travel: row-major `rows × width` numbers of `dtype`, or COMPRESSED. Slicing by rows copies nothing."""

    dtype: str
    width: Annotated[int, Meta(ge=1, le=2**20)]
    data: memoryview

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_SIZE and self.dtype != COMPRESSED:
            raise ValueError(f"dtype {self.dtype!r} does not travel")
        if self.data.nbytes % self.row_bytes:
            raise ValueError(f"{self.data.nbytes} bytes are no whole rows of {self.width} {self.dtype}")

    @property
    def row_bytes(self) -> int:
        return row_size(self.dtype, self.width)

    def __len__(self) -> int:
        return self.data.nbytes // self.row_bytes

    def __getitem__(self, rows: slice) -> Blob:
        start, stop, _ = rows.indices(len(self))
        return Blob(self.dtype, self.width, self.data[start * self.row_bytes : stop * self.row_bytes])


def compressed(*blobs: Blob | None) -> bool:
    """Whether any is, so that only who `compresses` can make something of it."""
    return any(blob is not None and blob.dtype == COMPRESSED for blob in blobs)


class Logprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability (natural log) of the drawn token, and the `top` alternatives, likeliest first."""

    drawn: float
    top: Annotated[tuple[tuple[TokenId, float], ...], Meta(max_length=20)] = ()


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Something one peer says to another over their link."""


class SessionMessage(Message, frozen=True, array_like=True):
    """About one session. `to` is the index of the hop it is addressed to in the session's chain, −1 for the client."""

    session: Session
    chain: Count
    to: Index


# --- sessions ---------------------------------------------------------------------------------------------------------------------------------------------


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
    ahead: Count = 2**10
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
    those of what it made of positions [start, stop), which the head has none of."""

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


class Shown(SessionMessage, frozen=True, array_like=True, tag=33):
    """The answer of hop number `hop`: an encoded Statement, signed by the hop, and the rows that it made. An empty statement: what was asked for is not
    here (any more)."""

    hop: Index
    statement: Annotated[bytes, Meta(max_length=3 * MARK * MOST_SHOWN)] = b""
    signature: Annotated[bytes, Meta(max_length=64)] = b""
    rows: Blob | None = None


REASONS = ("lost", "unknown", "overloaded", "leaving", "refused", "failed", "moved", "stale")
"""`moved`: the peer's span is not the one the route was planned with. `stale`: the route's coordinator has been replaced for longer than routes live."""

# --- links ------------------------------------------------------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, array_like=True, tag=1):
    """First frame each way. `membership` is an encoded Signed that holds a Member, of those who belong to a private swarm; `revocations` likewise."""

    version: Count
    software: Text = ""
    membership: Annotated[bytes, Meta(max_length=512)] = b""
    revocations: Annotated[tuple[Annotated[bytes, Meta(max_length=512)], ...], Meta(max_length=64)] = ()


class Ping(Message, frozen=True, array_like=True, tag=2):
    """`padding` only takes time to send."""

    stamp: Count
    padding: Annotated[bytes, Meta(max_length=2**16)] = b""


class Pong(Message, frozen=True, array_like=True, tag=3):
    stamp: Count


class End(Message, frozen=True, array_like=True, tag=4):
    """The explicit end of a link: end of file without it is a failure."""

    reason: Text = ""


# --- being reached ------------------------------------------------------------------------------------------------------------------------------------------


class DialBack(msgspec.Struct, frozen=True, array_like=True):
    """Under a passing name: can you dial this peer at these addresses of mine? On a stream of its own, not on a link."""

    peer: Text
    addrs: Annotated[tuple[Text, ...], Meta(max_length=4)]


class DialledBack(msgspec.Struct, frozen=True, array_like=True):
    """For each address "", or why not; the answerer's wall clock; and the host at which it sees whoever asks."""

    results: Annotated[tuple[Text, ...], Meta(max_length=4)]
    now: Annotated[float, Meta(ge=0, le=1e12)]
    seen_at: Text = ""


# --- coordination -----------------------------------------------------------------------------------------------------------------------------------------

ORDER_LIFETIME = 60.0
"""Seconds in which an order may be begun with: what clocks may be apart, and half a minute to reach the last hop."""

ROUTE_LIFETIME = 10.0
"""Seconds after which a planned route is not begun with any more, by the clock of whoever asked for it."""

MOST_NAMED = 256
"""Peers that a question names, to be avoided or as slow, at most. Who knows of more plans for itself."""

Shard = Annotated[int, Meta(ge=1, le=16)]


class Coordination(Message, frozen=True, array_like=True):
    """To or from a coordinator, or somebody who might be one."""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What an announcement says of its peer as a coordinator: `role` is "candidate", "claim" or "released", `score` says how fit it is (higher is better),
    `shards` among how many peers a coordinator divides what it is asked."""

    role: Text
    term: Count
    score: Annotated[tuple[Count, ...], Meta(max_length=8)] = ()
    shards: Shard = 1


class Poll(Coordination, frozen=True, array_like=True, tag=20):
    """From a standby: do you still coordinate? From whoever took the place, with its own claim and the sequence under which it was announced."""

    number: Count
    config_hash: Text
    claim: Claim | None = None
    sequence: Count = 0


class Polled(Coordination, frozen=True, array_like=True, tag=21):
    number: Count
    leads: bool


class RouteRequest(Coordination, frozen=True, array_like=True, tag=22):
    """From a client to a coordinator or standby: a route for a session, or, where `old` is given, one with the holes filled that `exclude` leaves in it. With
    `tentative` the session may stay where it is, and counts there. Other fields as in `routing.route.Request`."""

    number: Count
    session: Session
    config_hash: Text
    revision: Text
    numerics: Text
    tokens_needed: Count
    prompt: Count
    output: Count
    own: Annotated[tuple[tuple[Count, Count], ...], Meta(max_length=2)] = ()
    rtts: Annotated[dict[Text, Seconds], Meta(max_length=64)] = {}
    exclude: Annotated[tuple[Text, ...], Meta(max_length=MOST_NAMED)] = ()
    old: Annotated[tuple[Hop, ...], Meta(max_length=2**10)] = ()
    slower: Annotated[dict[Text, Annotated[float, Meta(gt=0, le=1e6)]], Meta(max_length=MOST_NAMED)] = {}
    row_bytes: Annotated[int, Meta(ge=0, le=2**24)] = 0
    tentative: bool = False


class Advice(msgspec.Struct, frozen=True, array_like=True):
    """A planned route: the body of a Routed, signed as bytes. `cost` and `seconds_per_token` as in `routing.route.Route`; `lifetime` in seconds from when it
    was asked for."""

    number: Count
    client: PeerId
    coordinator: PeerId
    term: Count
    hops: Annotated[tuple[Hop, ...], Meta(min_length=1, max_length=2**10)]
    cost: Annotated[float, Meta(ge=0, le=1e9)]
    seconds_per_token: Annotated[float, Meta(ge=0, le=1e6)]
    lifetime: Annotated[float, Meta(ge=0, le=60)] = ROUTE_LIFETIME


class Routed(Coordination, frozen=True, array_like=True, tag=23):
    """`advice` is an encoded Advice, `signature` its coordinator's Ed25519 signature over exactly these bytes."""

    number: Count
    advice: Annotated[bytes, Meta(max_length=2**20)]
    signature: Annotated[bytes, Meta(max_length=64)]


class Unrouted(Coordination, frozen=True, array_like=True, tag=24):
    """No route from here: "missing" layers, "busy", or "elsewhere" (another model, or no coordinator). Whoever asked plans for itself."""

    number: Count
    reason: Text


class Progress(Coordination, frozen=True, array_like=True, tag=25):
    """From a client to whoever placed a session: its answer has got so many `tokens` since, and still runs, or has `ended` and burdens nobody any more."""

    session: Session
    tokens: Count
    ended: bool = False


class Needed(Coordination, frozen=True, array_like=True, tag=26):
    """From a coordinator to a peer: by what is announced, it would help more at components [start, stop). Whoever moves at all looks for itself."""

    config_hash: Text
    start: Count
    stop: Count


class Accuse(Coordination, frozen=True, array_like=True, tag=32):
    """From a client to a coordinator: this is what a peer made of what it received, in its own signed words, and others make something else of it. Whoever
    hears it tries for itself before believing it. `tokens` and `hidden` are what was received, `rows` what it made of the last ones."""

    config_hash: Text
    statement: Annotated[bytes, Meta(max_length=3 * MARK * MOST_SHOWN)]
    signature: Annotated[bytes, Meta(max_length=64)]
    tokens: TokenIds
    hidden: Blob | None
    rows: Blob


AnyMessage = (
    Open
    | Step
    | Drawn
    | Have
    | Grant
    | Guess
    | Keep
    | Close
    | Broken
    | Prepare
    | Ready
    | Rows
    | Hello
    | Ping
    | Pong
    | End
    | Poll
    | Polled
    | RouteRequest
    | Routed
    | Unrouted
    | Progress
    | Needed
    | Show
    | Shown
    | Accuse
)

# --- directory --------------------------------------------------------------------------------------------------------------------------------------------


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """What a peer says of itself in the directory. Costs in seconds: one layer's decode step (`decode`), one layer and prompt token (`prefill`), and the
    head's share in layers' worth (`head_weight`). `rtts` are round trips in seconds to peers it measured. `sequence` rises with every announcement,
    `span_version` whenever the peer takes other layers. `busy` is the layers that answers now run here, summed over the answers. `region` is a name that peers
    near one another share, "" for none; `claim` is None for a peer that does not coordinate. `upload` is how many bytes per second it can send, 0 where it
    does not know. `draft` names the model that guesses ahead where this peer is a first hop, "" for none. `share` is the part of its time in which it
    computes, less than 1 while it makes way for its owner's other programs; the costs are what things take then. `membership` is that of `Hello`.
    `compresses`: it can make compressed rows, and read them.
    """

    version: Count
    peer: Text
    addrs: Annotated[tuple[Text, ...], Meta(max_length=16)]
    model: Text
    config_hash: Text
    revision: Text
    numerics: Text
    components: Count
    spans: Annotated[tuple[tuple[Count, Count], ...], Meta(min_length=1, max_length=64)]
    decode: Seconds
    prefill: Seconds
    cache_tokens: Count
    free_tokens: Count
    max_length: Count
    state: Text
    sequence: Count
    time: Annotated[float, Meta(ge=0)]
    name: Text = ""
    sessions: Count = 0
    head_weight: Annotated[float, Meta(ge=0, le=1e4)] = 1.0
    rtts: dict[Text, Seconds] = {}
    span_version: Count = 0
    busy: Count = 0
    region: Annotated[str, Meta(max_length=64)] = ""
    claim: Claim | None = None
    upload: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    draft: Annotated[str, Meta(max_length=128)] = ""
    membership: Annotated[bytes, Meta(max_length=512)] = b""
    compresses: bool = False


LIFETIME = 25.0
"""Seconds an announcement lives. Fixed: a record that replaces another must expire later."""

RENEW_EVERY = 8.0
"""Seconds between two announcements of one peer, so that two lost renewals in a row do not hide it."""

STATES = ("joining", "online", "leaving", "left")
"""`left` is a tombstone: it replaces the last record of a peer that is gone, and readers of the directory leave it out."""


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """A record and its owner's Ed25519 signature over exactly these bytes; the key is the one inside the peer id under which it is stored."""

    record: bytes
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


MAX_VALUE = 4352 + 8
"""Bytes of one stored value, in hivemind's packing."""

MAX_DICTIONARY, MAX_ENTRIES = 3 * 2**19, 2048
"""Bytes and entries of all that lies under one key of the directory: a reply must fit into the 4 MiB beyond which p2pd drops it, unnoticed by its caller."""

DICTIONARY_CODE = 0x50
"""hivemind's extension type of a dictionary of records."""

Subkey = Annotated[str, Meta(max_length=60)]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One record in hivemind's dictionary: whose it is, what it says (packed once more), until when."""

    subkey: Subkey
    value: Annotated[bytes, Meta(max_length=MAX_VALUE)]
    expiry: float


class Dictionary(msgspec.Struct, frozen=True, array_like=True):
    """hivemind's packing of all that lies under one key. What it says of its own size and life is nobody's business: entries speak for themselves."""

    size: msgspec.Raw
    latest: msgspec.Raw
    entries: Annotated[list[msgspec.Raw], Meta(max_length=MAX_ENTRIES)]


Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Time = Annotated[float, Meta(ge=0, le=1e12)]


class Member(msgspec.Struct, frozen=True, array_like=True, tag="member"):
    """A peer belongs to the private swarm with this public key, from one time to another. Signed with the swarm's key."""

    swarm: Key
    peer: Text
    issued: Time
    expires: Time


class Revocation(msgspec.Struct, frozen=True, array_like=True, tag="revoked"):
    """Memberships of a peer that were issued up to this time are void. Signed with the swarm's key."""

    swarm: Key
    peer: Text
    time: Time


# --- coding -----------------------------------------------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(AnyMessage)
_order_decoder = msgspec.msgpack.Decoder(Order)
_tag_decoder = msgspec.msgpack.Decoder(Annotated[list[msgspec.Raw], Meta(max_length=MOST_FIELDS)])
_advice_decoder = msgspec.msgpack.Decoder(Advice)
_statement_decoder = msgspec.msgpack.Decoder(Statement)
_announcement_decoder = msgspec.msgpack.Decoder(Announcement)
_dial_back_decoder = msgspec.msgpack.Decoder(DialBack)
_dialled_back_decoder = msgspec.msgpack.Decoder(DialledBack)
_signed_decoder = msgspec.msgpack.Decoder(Signed)
_ext_decoder = msgspec.msgpack.Decoder(msgspec.msgpack.Ext)
_dictionary_decoder = msgspec.msgpack.Decoder(Dictionary)
_entry_decoder = msgspec.msgpack.Decoder(Entry)
_subkey_decoder = msgspec.msgpack.Decoder(Subkey)
_value_decoder = msgspec.msgpack.Decoder(bytes)
_member_decoder = msgspec.msgpack.Decoder(Member)
_revocation_decoder = msgspec.msgpack.Decoder(Revocation)


def encode(value: msgspec.Struct) -> bytes:
    return _encoder.encode(value)


KNOWN = frozenset(kind.__struct_config__.tag for kind in AnyMessage.__args__)  # type: ignore[attr-defined]


class UnknownMessage(ProtocolError):
    """A well-formed message of a number that this version does not know: to be passed over, since a newer peer may have sent it."""


def decode(data: bytes | memoryview) -> AnyMessage:
    """One message from bytes. Raises ProtocolError whatever the bytes are, UnknownMessage for one of a newer version."""
    try:
        return _decode(_message_decoder, data, MAX_MESSAGE)
    except ProtocolError:
        if _is_unknown(data):
            raise UnknownMessage("a message this version does not know") from None
        raise


def _is_unknown(data: bytes | memoryview) -> bool:
    try:
        tag = msgspec.msgpack.decode(_tag_decoder.decode(data)[0])
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, IndexError):
        return False
    return isinstance(tag, int) and tag not in KNOWN


def decode_order(data: bytes | memoryview) -> Order:
    return _decode(_order_decoder, data, 2**20)


def decode_advice(data: bytes | memoryview) -> Advice:
    return _decode(_advice_decoder, data, 2**20)


def decode_dial_back(data: bytes | memoryview) -> DialBack:
    return _decode(_dial_back_decoder, data, 4096)


def decode_dialled_back(data: bytes | memoryview) -> DialledBack:
    return _decode(_dialled_back_decoder, data, 4096)


def decode_statement(data: bytes | memoryview) -> Statement:
    return _decode(_statement_decoder, data, 3 * MARK * MOST_SHOWN)


def decode_announcement(data: bytes | memoryview) -> Announcement:
    return _decode(_announcement_decoder, data, 4096)


def decode_signed(data: bytes | memoryview) -> Signed:
    return _decode(_signed_decoder, data, 4352)


def decode_dictionary(data: bytes | memoryview) -> tuple[list[Entry], int]:
    """Everything under one key as hivemind packs it, and how many entries are none: each of those is left out alone."""
    packed = _decode(_ext_decoder, data, MAX_DICTIONARY)
    if packed.code != DICTIONARY_CODE:
        raise ProtocolError(f"no dictionary: extension type {packed.code}")
    entries, bad = [], 0
    for raw in _decode(_dictionary_decoder, packed.data, MAX_DICTIONARY).entries:
        try:
            entries.append(_decode(_entry_decoder, raw, MAX_VALUE + 128))
        except ProtocolError:
            bad += 1
    return entries, bad


def decode_subkey(data: bytes | memoryview) -> str:
    return _decode(_subkey_decoder, data, 64)


def decode_value(data: bytes | memoryview) -> bytes:
    """What hivemind packed around a value of ours."""
    return _decode(_value_decoder, data, MAX_VALUE)


def decode_member(data: bytes | memoryview) -> Member:
    return _decode(_member_decoder, data, 512)


def decode_revocation(data: bytes | memoryview) -> Revocation:
    return _decode(_revocation_decoder, data, 512)


def _decode(decoder: msgspec.msgpack.Decoder, data: bytes | memoryview, limit: int):
    if len(data) > limit:
        raise ProtocolError(f"a message of {len(data)} bytes is over the limit of {limit}")
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"undecodable message: {error}") from error
