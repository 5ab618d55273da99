"""The short end of `make fuzz`: damaged trees from hypothesis, for every decoder of strangers' bytes."""

import tracemalloc
from random import Random

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm import wire
from swarm.errors import ProtocolError
from tests.fuzz import DECODERS, MESSAGES, Mutator, attempt
from tests.fuzz_planning import fuzz_world


@pytest.mark.parametrize("name", DECODERS)
def test_what_honest_nodes_say_decodes(name):
    assert all(attempt(name, data) for data in DECODERS[name][1] if name != "addresses" or data.startswith(b"/ip4"))


@pytest.mark.parametrize("name", DECODERS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_damaged_tree_does_more_than_be_refused(name, seed):
    """A seed of hypothesis is twenty inputs: drawing each choice from it would take most of the time."""
    mutator = Mutator(Random(seed))
    for _ in range(20):
        attempt(name, mutator.input(name))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_strangers_announce_and_ask_somebody_plans_or_says_that_there_is_no_way(seed):
    fuzz_world(seed)


def test_a_bug_over_an_announcement_is_a_finding(monkeypatch):
    """Although it ends no node."""
    monkeypatch.setattr("swarm.peer.coordinator.Coordinator._route", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        for seed in range(20):
            fuzz_world(seed)


def test_every_message_is_fuzzed():
    assert {type(message) for message in MESSAGES} == set(wire.AnyMessage.__args__)


def _many(*fields: object) -> bytes:
    """A message whose last field is a million nothings."""
    return bytes([0x91 + len(fields)]) + b"".join(map(msgspec.msgpack.encode, fields)) + b"\xdd" + (2**20).to_bytes(4, "big") + bytes(2**20)


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd" + (2**20).to_bytes(4, "big") + b"\xc0" * 2**20,
        _many(11, bytes(16), 1, 0, 0, 0, [1], None),
        _many(12, bytes(16), 1, 0, 0, 0, [1], None),
        _many(12, bytes(16), 1, 0, 0, 0, [1], None, []),
        _many(None, None),
    ],
    ids=["unknown message", "micros of a step", "logprobs", "micros of a draw", "dictionary"],
)
def test_no_message_takes_much_more_memory_than_it_is_long(data):
    """Each would be an object, or a place in a list, before anybody asks how many there are: 80 times the bytes in one case."""
    tracemalloc.start()
    try:
        for decode in (wire.decode, wire.decode_order, wire.decode_advice, lambda data: wire.decode_dictionary(msgpack.packb(msgpack.ExtType(0x50, data)))):
            with pytest.raises(ProtocolError):
                decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
