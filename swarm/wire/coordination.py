"""Room: wire. What is said to a coordinator, by one, and among those who might be one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from swarm.core import Hop, PeerId
from swarm.wire.sessions import MARK, MOST_SHOWN
from swarm.wire.words import Blob, Count, Message, Seconds, Session, Text, TokenIds

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
    packed_bytes: Annotated[int, Meta(ge=0, le=2**24)] = 0
    guesses: bool = True


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
