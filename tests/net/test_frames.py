import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import ProtocolError
from swarm.net.frames import CONTROL, FRAGMENT, HEADER_SIZE, WRITE, Inbox, Outbox, one_frame

LANES = [CONTROL, b"a", b"b", b"c"]
SIZES = st.one_of(st.integers(1, 300), st.sampled_from([FRAGMENT - 1, FRAGMENT, FRAGMENT + 1, 3 * FRAGMENT, 200_000]))


def drain(outbox: Outbox, budget: int = WRITE) -> bytes:
    data = bytearray()
    while piece := outbox.take(budget):
        data += piece
    return bytes(data)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_messages_and_any_cut_arrive_whole_and_in_order_within_their_lane(data):
    """Messages are put while others leave, the stream is cut anywhere: each lane's messages come out as they went in."""
    outbox, inbox = Outbox(max_open_bytes=500_000, max_open=3), Inbox(max_message=500_000, max_partial=3)
    sent: dict = {lane: [] for lane in LANES}
    got: dict = {lane: [] for lane in LANES}
    stream = bytearray()

    def read(count: int) -> None:
        for message in inbox.feed(bytes(stream[:count])):
            got[LANES[message[0]]].append(bytes(message))
        del stream[:count]
        assert inbox.held <= 500_000 + HEADER_SIZE + FRAGMENT

    for number in range(data.draw(st.integers(1, 12))):
        lane = data.draw(st.sampled_from(LANES))
        size = data.draw(st.integers(1, 300) if lane is CONTROL else SIZES)
        message = (struct.pack(">BI", LANES.index(lane), number) + bytes([number]) * size)[: max(size, 5)]
        outbox.put(lane, message)
        sent[lane].append(message)
        for _ in range(data.draw(st.integers(0, 2))):
            stream += outbox.take(data.draw(st.integers(1, WRITE)))
        if stream and data.draw(st.booleans()):
            read(data.draw(st.integers(1, len(stream))))
    stream += drain(outbox)
    assert outbox.size == 0 and not outbox
    while stream:
        read(data.draw(st.integers(1, len(stream))))
    assert got == sent
    assert inbox.held == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20), st.integers(10, 1000))
def test_garbage_is_a_protocol_error_and_holds_little(pieces, limit):
    inbox = Inbox(max_message=limit, max_partial=4)
    try:
        for piece in pieces:
            inbox.feed(piece)
            assert inbox.held <= limit + HEADER_SIZE + FRAGMENT
    except ProtocolError:
        pass


def fragment(length: int, flags: int = 0, lane: int = 1) -> bytes:
    return struct.pack(">IBI", length, flags, lane) + bytes(length)


def test_what_a_stranger_may_not_do():
    for wrong in (fragment(0), fragment(FRAGMENT + 1), fragment(1, flags=2), b"\xff" * HEADER_SIZE):
        with pytest.raises(ProtocolError):
            Inbox().feed(wrong)
    inbox = Inbox(max_message=100)
    inbox.feed(fragment(60))
    with pytest.raises(ProtocolError, match="longer than"):
        inbox.feed(fragment(60))
    inbox = Inbox(max_message=100)
    inbox.feed(fragment(60, lane=1))
    with pytest.raises(ProtocolError, match="under way"):
        inbox.feed(fragment(60, lane=2))
    inbox = Inbox(max_partial=2)
    with pytest.raises(ProtocolError, match="under way"):
        for lane in range(3):
            inbox.feed(fragment(1, lane=lane))


def test_tiny_fragments_cost_no_more_than_their_bytes():
    import tracemalloc

    data = struct.pack(">IBI", 1, 0, 7) + b"x"
    inbox = Inbox()
    tracemalloc.start()
    for _ in range(20):
        inbox.feed(data * 500)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert inbox.held == 10_000 and held < 50_000


def test_a_token_passes_a_prompt():
    """Megabytes of one session wait; a small message of another waits for one fragment, a Ping for none."""
    outbox, inbox = Outbox(), Inbox()
    outbox.put(b"prompt", b"p" * 10_000_000)
    first = outbox.take(1)
    outbox.put(b"token", b"t")
    outbox.put(CONTROL, b"ping")
    assert len(inbox.feed(first)) == 0
    assert [bytes(message) for message in inbox.feed(outbox.take(2 * FRAGMENT))] == [b"ping", b"t"]


def test_lanes_take_turns():
    outbox, inbox = Outbox(), Inbox()
    for lane in b"abc":
        outbox.put(lane, bytes([lane]) * (4 * FRAGMENT))
    outbox.put(ord("a"), b"A")
    order = [bytes(message[:1]) for message in inbox.feed(drain(outbox))]
    assert order == [b"a", b"b", b"c", b"A"]


def test_what_is_ready_leaves_as_one_write():
    outbox = Outbox()
    for session in range(50):
        outbox.put(session, b"token")
    assert len(Inbox().feed(outbox.take())) == 50
    assert outbox.take() == b""


def test_large_messages_wait_rather_than_break_the_readers_limit():
    """Ten sessions send 200 kB each to a reader who holds 500 kB: at most two are under way, and all arrive."""
    outbox, inbox = Outbox(max_open_bytes=500_000), Inbox(max_message=500_000)
    for session in range(10):
        outbox.put(session, bytes([session]) * 200_000)
        outbox.put(session, b"next")
    held, got = 0, []
    while piece := outbox.take(FRAGMENT):
        got += inbox.feed(piece)
        held = max(held, inbox.held)
    assert len(got) == 20 and held <= 500_000


def test_the_largest_message_is_not_starved_by_smaller_ones():
    outbox, inbox = Outbox(max_open_bytes=1_000_000), Inbox(max_message=1_000_000)
    outbox.put("busy", b"b" * 100_000)
    outbox.take(1)
    outbox.put("huge", b"h" * 1_000_000)
    got: list[bytes] = []
    for _ in range(40):
        outbox.put("busy", b"b" * 100_000)
        got += [bytes(message[:1]) for message in inbox.feed(outbox.take(FRAGMENT))]
    assert b"h" in got


def test_restart_sends_begun_messages_again_from_their_beginning():
    outbox = Outbox()
    for session in range(3):
        outbox.put(session, bytes([session]) * 200_000)
        outbox.put(session, bytes([session]))
    outbox.take(300_000)
    outbox.restart()
    assert outbox.size == 3 * 200_001
    messages = Inbox().feed(drain(outbox))
    assert sorted(len(message) for message in messages) == [1] * 3 + [200_000] * 3


def test_what_cannot_be_sent_is_said_at_once():
    for wrong in (b"", b"x" * 101):
        with pytest.raises(ValueError):
            Outbox(max_open_bytes=100).put("lane", wrong)
    with pytest.raises(ValueError):
        Outbox().put(CONTROL, b"x" * (FRAGMENT + 1))


def test_one_frame_is_a_whole_message():
    assert Inbox().feed(one_frame(b"hello")) == [b"hello"]


def test_messages_that_leave_together_are_handed_on_together():
    outbox, inbox = Outbox(), Inbox()
    messages = [bytes([at]) * 100 for at in range(8)]
    for at, message in enumerate(messages):
        outbox.put(at, message)
    data = outbox.take()
    assert inbox.feed(data[:-1]) == []
    assert [bytes(message) for message in inbox.feed(data[-1:])] == messages


def test_a_stranger_that_always_promises_more_cannot_make_us_hold_it():
    inbox = Inbox()
    fragment = struct.pack(">IBI", 1000, 3, 1) + bytes(1000)
    for _ in range(1000):
        inbox.feed(fragment)
        assert inbox.held < 200_000
