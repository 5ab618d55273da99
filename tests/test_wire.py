"""Remote bytes become values in one place: everything survives the trip, and nothing that arrives can do more than be refused."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import wire
from swarm.core import Hop, Sampling
from swarm.errors import ProtocolError
from tests.net.helpers import announcement

S = b"s" * 16
HOPS = (Hop("a", 0, 2, ("/ip4/1.2.3.4/tcp/5",)), Hop("b", 2, 4))
ORDER = wire.Order(S, 3, "client", "rev", "float32", ((1, 0), (3, 7)), 8, 20, 30, Sampling(0.7, 5, seed=9, stop_ids=(1, 2)), HOPS)
MESSAGES = [
    wire.Open(S, 3, 1, b"an order", b"x" * 64),
    wire.Step(S, 1, 2, 0, 5, (1, 2), wire.Blob("float32", 3, memoryview(struct.pack("6f", *range(6)))), (10, 20)),
    wire.Step(S, 1, 0, 0, 5, (1, 2)),
    wire.Drawn(S, 1, -1, 0, 5, (1,), "stop", (wire.Logprobs(-0.5, ((1, -0.5), (2, -1.5))),), (1, 2)),
    wire.Have(S, 1, 0, 2, 9, True),
    wire.Grant(S, 1, 0, 99),
    wire.Keep(S, 1, 0),
    wire.Close(S, 1, 0),
    wire.Broken(S, 1, -1, 2, "lost", "gone"),
    wire.Rows(S, 1, 0, 0, 4, wire.Blob("float32", 1, memoryview(b"abcd")), (7,)),
    wire.Show(S, 1, 0, 2, 4, 5, 9),
    wire.Shown(S, 1, -1, 0, b"a statement", b"x" * 64, wire.Blob("float32", 1, memoryview(b"abcd"))),
    wire.Shown(S, 1, -1, 0),
    wire.Accuse("m", b"a statement", b"x" * 64, (1, 2), wire.Blob("float32", 1, memoryview(b"abcdefgh")), wire.Blob("float32", 1, memoryview(b"abcd"))),
    wire.Hello(1, "swarm"),
    wire.Ping(5),
    wire.Pong(5),
    wire.End("bye"),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_trip(message):
    assert wire.decode(wire.encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_newer_peer_may_add_fields_and_an_older_one_may_lack_optional_ones(message):
    fields = msgspec.msgpack.decode(wire.encode(message))
    assert wire.decode(msgspec.msgpack.encode([*fields, "a field of tomorrow"])) == message
    required = len(msgspec.structs.fields(type(message))) - sum(not field.required for field in msgspec.structs.fields(type(message)))
    wire.decode(msgspec.msgpack.encode(fields[: 1 + required]))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_no_bytes_do_more_than_be_refused(data):
    for decode in (wire.decode, wire.decode_order, wire.decode_announcement, wire.decode_signed):
        try:
            decode(data)
        except ProtocolError:
            pass


@given(st.sampled_from(MESSAGES), st.data())
@settings(max_examples=500)
def test_no_damaged_message_does_more_than_be_refused(message, data):
    body = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        wire.decode(bytes(body))
    except ProtocolError:
        pass


def test_what_is_out_of_range_is_refused():
    fields = msgspec.msgpack.decode(wire.encode(wire.Have(S, 1, 0, 0, 9, True)))
    for at, wrong in [(1, b"short"), (2, -1), (2, 2**60), (3, -2), (3, 2**20), (5, 1.5), (6, "yes")]:
        with pytest.raises(ProtocolError):
            wire.decode(msgspec.msgpack.encode([*fields[:at], wrong, *fields[at + 1 :]]))


def test_activations_of_a_strange_dtype_or_of_broken_rows_are_refused():
    for blob in (["float64", 1, bytes(8)], ["object", 1, bytes(8)], ["float32", 3, bytes(8)], ["float32", 0, b""]):
        with pytest.raises(ProtocolError):
            wire.decode(msgspec.msgpack.encode([11, S, 1, 0, 0, 0, [1], blob]))


def test_deep_nesting_is_refused():
    with pytest.raises(ProtocolError):
        wire.decode(b"\x91" * 100_000)


def test_sampling_is_checked_on_arrival():
    assert wire.decode_order(wire.encode(ORDER)) == ORDER
    with pytest.raises(ProtocolError):
        wire.decode_order(wire.encode(msgspec.structs.replace(ORDER, ahead=wire.MOST_AHEAD + 1)))
    fields = msgspec.msgpack.decode(wire.encode(ORDER))
    at = next(index for index, field in enumerate(fields) if isinstance(field, dict))
    fields[at] = {**fields[at], "temperature": -1.0}
    with pytest.raises(ProtocolError):
        wire.decode_order(msgspec.msgpack.encode(fields))


def test_a_message_of_tomorrow_is_told_from_garbage():
    with pytest.raises(wire.UnknownMessage):
        wire.decode(msgspec.msgpack.encode([99, S, 1, 0, {"new": True}]))
    for garbage in (b"", b"\xc1", msgspec.msgpack.encode([16, "wrong"]), msgspec.msgpack.encode({})):
        with pytest.raises(ProtocolError) as caught:
            wire.decode(garbage)
        assert not isinstance(caught.value, wire.UnknownMessage)


def test_a_token_on_its_way_is_small():
    assert len(wire.encode(wire.Drawn(S, 1, -1, 0, 1000, (40_000,), None, (), (1000, 1000, 1000)))) < 64


def test_rows_are_cut_without_copying():
    blob = wire.Blob("bfloat16", 2, memoryview(bytes(range(24))))
    assert len(blob) == 6 and bytes(blob[2:4].data) == bytes(range(8, 16)) and blob[2:4].data.obj is blob.data.obj


def test_a_share_of_time_is_above_none_and_at_most_all_and_who_knows_of_none_takes_all():
    fields = msgspec.msgpack.decode(wire.encode(announcement("a", share=0.25)))
    assert wire.decode_announcement(msgspec.msgpack.encode(fields)).share == 0.25
    at = wire.Announcement.__struct_fields__.index("share")
    assert wire.decode_announcement(msgspec.msgpack.encode(fields[:at])).share == 1.0
    for wrong in (0.0, -0.5, 1.01, float("nan"), float("inf"), "half"):
        with pytest.raises(ProtocolError):
            wire.decode_announcement(msgspec.msgpack.encode([*fields[:at], wrong]))


@pytest.mark.parametrize("never", [float("inf"), float("nan"), 1e13, -1.0])
def test_an_announcement_is_of_some_time(never):
    fields = msgspec.msgpack.decode(wire.encode(announcement("a")))
    at = wire.Announcement.__struct_fields__.index("time")
    with pytest.raises(ProtocolError):
        wire.decode_announcement(msgspec.msgpack.encode([*fields[:at], never, *fields[at + 1 :]]))
