"""Room: wire. How bytes become messages and messages bytes: the only decoders of what others send."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from swarm.errors import ProtocolError
from swarm.wire.coordination import Accuse, Advice, Needed, Poll, Polled, Progress, Routed, RouteRequest, Unrouted
from swarm.wire.directory import DICTIONARY_CODE, MAX_DICTIONARY, MAX_VALUE, Announcement, Dictionary, Entry, Member, Revocation, Signed, Subkey
from swarm.wire.links import DialBack, DialledBack, End, Hello, Ping, Pong
from swarm.wire.sessions import (
    MARK,
    MOST_SHOWN,
    Broken,
    Close,
    Drawn,
    Grant,
    Guess,
    Have,
    Keep,
    Open,
    Order,
    Prepare,
    Ready,
    Rows,
    Show,
    Shown,
    Statement,
    Step,
)
from swarm.wire.words import MAX_MESSAGE, MOST_FIELDS

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
