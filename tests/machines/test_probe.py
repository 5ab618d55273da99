"""Work for one peer by somebody who poses as its neighbours, against the real machine of a hop; and what a hop's signed words prove."""

from __future__ import annotations

import struct
from dataclasses import replace

import msgspec
import pytest

from swarm.core import Hop, HopKey, Sampling, Span
from swarm.errors import ProtocolError
from swarm.machines.effects import Draw
from swarm.machines.evidence import charge, stated
from swarm.machines.ledger import CacheLedger
from swarm.machines.limits import SHOWN
from swarm.machines.marks import marks, token_marks
from swarm.machines.probe import Probe, Work
from swarm.peer.hops import HopRoom
from swarm.peer.offer import Offer
from swarm.wire import MARK, Accuse, Blob, Close, Drawn, Have, Open, Show, Shown, Step, decode_order

S = b"p" * 16
COMPONENTS = 6

MIDDLE = Span(2, 4)


def rows(*values: float) -> Blob:
    return Blob("float32", 1, memoryview(struct.pack(f"{len(values)}f", *values)))


def values(blob: Blob) -> list[float]:
    return list(struct.unpack(f"{len(blob)}f", blob.data))


def sign(data: bytes) -> bytes:
    return b"signed by b:" + data[-52:]


def verify(peer: str, data: bytes, signature: bytes) -> bool:
    return peer != "b" or signature == sign(data)


class Peer:
    """Peer "b": a real hop room, whose engine doubles each number and, as a head, draws 7."""

    peer = "b"

    def __init__(self, span: Span) -> None:
        self.out: list[tuple[str, object]] = []
        self.room = HopRoom(self, self, Offer("r", "float32", COMPONENTS, (span,), 4096), CacheLedger(10_000, 4), clock=lambda: 0.0, verify=verify, sign=sign)

    def send(self, peer, message) -> None:
        self.out.append((peer, message))

    def learn(self, peer, addrs) -> None: ...

    def open(self, key, order) -> None: ...

    def truncate(self, key, length) -> None: ...

    def free(self, key) -> None: ...

    def submit(self, key: HopKey, job) -> None:
        made = None if key.stop == COMPONENTS else rows(*(2 * value for value in (values(job.hidden) if job.hidden else job.tokens)))
        self.todo = getattr(self, "todo", [])
        self.todo.append((key, job.serial, made, [Draw(job.start + at + 1, 7) for at in job.draw]))

    def work(self) -> None:
        while getattr(self, "todo", []):
            key, serial, made, draws = self.todo.pop(0)
            self.room.finished(key, serial, made, draws, 5)


def run(peer: Peer, probe: Probe) -> None:
    pending = probe.begin()
    while pending and not probe.over:
        for effect in pending:
            assert effect.peer == "b"
            peer.room.receive("me", effect.message)
        peer.work()
        pending = []
        while peer.out:
            to, message = peer.out.pop(0)
            if to == "b":  # it is its own neighbour
                peer.room.receive("b", message)
            else:
                pending += probe.receive("b", message)


@pytest.mark.parametrize("count", [1, 700, 3000])
@pytest.mark.parametrize("span", [Span(0, 3), Span(2, 4)], ids=["first", "middle"])
def test_what_goes_in_comes_out_however_much_it_is(span, count):
    hidden = rows(*map(float, range(count))) if span.start else None
    probe = Probe(S, "me", Work(Hop("b", *(span.start, span.stop)), "r", "float32", COMPONENTS, tuple(range(count)), hidden))
    run(Peer(span), probe)
    assert probe.over and not probe.failure and values(probe.rows) == [2.0 * value for value in range(count)]


@pytest.mark.parametrize("span", [Span(0, 6), Span(4, 6)], ids=["alone", "head"])
def test_a_head_draws_until_it_disagrees(span):
    for tokens, drawn in (((1, 2, 7, 7, 7), [7, 7, 7, 7]), ((1, 2, 7, 3, 7), [7, 7])):
        hidden = rows(*map(float, range(len(tokens)))) if span.start else None
        probe = Probe(S, "me", Work(Hop("b", span.start, span.stop), "r", "float32", COMPONENTS, tokens, hidden, Sampling(), 2))
        run(Peer(span), probe)
        assert probe.over and [one.tokens[0] for one in probe.drawn] == drawn


def test_an_answer_of_a_chain_is_as_long_as_there_is_room_for():
    route = (Hop("b", 0, 3), Hop("c", 3, COMPONENTS))
    probe = Probe(S, "me", Work(route[0], "r", "float32", COMPONENTS, (1, 2), room=2, behind=route[1:], wants=3))
    (opened,) = probe.begin()
    order = decode_order(opened.message.order)
    assert opened.peer == "b" and order.route == route and (order.emit_from, order.until, order.limit) == (2, 4, 5)
    (fed,) = probe.receive("b", Have(S, 1, -1, 0, 0, True))
    assert fed.message.tokens == (1, 2)
    assert probe.is_for_me(Drawn(S, 1, -1, 0, 2, (7,))) and not probe.is_for_me(Step(S, 1, 1, 0, 0, (1, 2))), "we may be a hop ourselves"
    probe.receive("c", Drawn(S, 1, -1, 0, 2, (9,)))
    probe.receive("b", Drawn(S, 1, -1, 0, 2, (7,)))
    assert not probe.over
    probe.receive("b", Drawn(S, 1, -1, 0, 3, (8, 6, 5)))
    assert probe.over and [one.tokens[0] for one in probe.drawn] == [7, 8, 6], "who says more is not heard"


def test_who_refuses_or_is_lost_ends_it():
    probe = Probe(S, "me", Work(Hop("b", 2, 4), "another revision", "float32", COMPONENTS, (1,), rows(1.0)))
    run(Peer(Span(2, 4)), probe)
    assert probe.over and probe.failure == "refused"
    probe = Probe(S, "me", Work(Hop("b", 2, 4), "r", "float32", COMPONENTS, (1,), rows(1.0)))
    probe.lost("c")
    assert not probe.over
    probe.lost("b")
    assert probe.over and probe.failure == "lost"


def test_strangers_do_not_speak_for_it():
    probe = Probe(S, "me", Work(Hop("b", 2, 4), "r", "float32", COMPONENTS, (1,), rows(1.0)))
    assert probe.receive("c", Have(S, 1, 0, 0, 0, True)) == []
    assert probe.receive("b", Step(S, 2, 2, 0, 0, (0,), rows(3.0))) == [] and probe.rows is None
    assert probe.receive("b", Step(S, 1, 2, 0, 5, (0,), rows(3.0))) == [] and probe.rows is None


def test_who_changes_the_shape_of_its_rows_half_way_has_failed():
    wide, narrow = Blob("float32", 2, memoryview(bytes(8))), rows(1.0)
    probe = Probe(S, "me", Work(Hop("b", 2, 4), "r", "float32", COMPONENTS, (1, 2), rows(1.0, 2.0)))
    probe.receive("b", Step(S, 1, 2, 0, 0, (1,), wide))
    assert not probe.over
    probe.receive("b", Step(S, 1, 2, 0, 1, (2,), narrow))
    assert probe.over and probe.failure and len(probe.rows) == 1
    greedy = Probe(S, "me", Work(Hop("b", 2, 4), "r", "float32", COMPONENTS, (1, 2), rows(1.0, 2.0)))
    assert greedy.receive("b", Step(S, 1, 2, 0, 0, (1, 2, 3), rows(1.0, 2.0, 3.0))) == [] and greedy.rows is None, "more than it was asked for"


# --- what a hop says of its work -------------------------------------------------------------------------------------------------------------------


def shown(start: int = 1, stop: int = 3, span: Span = MIDDLE, client: str = "me", ended: bool = False) -> Shown:
    """Of three positions that peer "b" has computed."""
    peer, hidden = Peer(span), rows(1.0, 2.0, 3.0) if span.start else None
    probe = Probe(S, "me", Work(Hop("b", span.start, span.stop), "r", "float32", COMPONENTS, (4, 5, 6), hidden))
    peer.rest = lambda key: None
    run(peer, probe)
    peer.out.clear()
    if ended:
        peer.room.receive("me", Close(S, 1, probe.to, rests=True))
    peer.room.receive(client, Show(S, 1, probe.to, span.start, span.stop, start, stop))
    to, message = peer.out[-1]
    assert to == client
    return message


def test_a_hop_shows_its_client_what_it_received_and_made():
    for ended in (False, True):
        message = shown(ended=ended)
        statement = stated(message, "b", verify)
        assert statement.received == marks(rows(1.0, 2.0, 3.0)) and values(message.rows) == [4.0, 6.0] and statement.made == marks(message.rows)
    assert stated(shown(span=Span(0, 3)), "b", verify).received == token_marks((4, 5, 6))
    assert stated(shown(3, 3), "b", verify).received == marks(rows(1.0, 2.0, 3.0)) and shown(3, 3).rows is None


def test_it_shows_nobody_else_and_nothing_it_has_not_computed():
    for nothing in (shown(client="stranger"), shown(1, 4)):
        assert nothing.statement == b"" and nothing.rows is None
        with pytest.raises(ProtocolError):
            stated(nothing, "b", verify)


def test_no_more_is_shown_at_once_than_can_be_read_while_others_wait(monkeypatch):
    monkeypatch.setattr("swarm.machines.hop.MOST_SHOWN_BYTES", 8)
    assert shown(1, 3).rows is not None and shown(3, 3).statement and not shown(0, 3).statement


def test_it_is_shown_only_so_often():
    peer, about = Peer(Span(0, 3)), Show(S, 1, 0, 0, 3, 1, 3)
    run(peer, Probe(S, "me", Work(Hop("b", 0, 3), "r", "float32", COMPONENTS, (4, 5, 6))))
    peer.out.clear()
    for _ in range(SHOWN + 3):
        peer.room.receive("me", about)
    assert [bool(message.statement) for _, message in peer.out] == [True] * SHOWN + [False] * 3


def test_what_was_taken_back_is_not_stated():
    from tests.machines.test_hop import opened
    from tests.machines.test_hop import run as compute

    hop = opened(1)
    compute(hop, hop.step("a", Step(b"s" * 16, 1, 1, 0, 0, (4, 5), rows(1, 2)), 0))
    compute(hop, hop.step("a", Step(b"s" * 16, 1, 1, 1, 1, (6,), rows(9)), 0))
    assert hop.show(0, 2)[0] == marks(rows(1, 9))


def test_a_head_states_what_it_has_drawn_until_that_is_taken_back():
    from tests.machines.test_hop import S, opened, order
    from tests.machines.test_hop import run as compute

    head = opened(2, emit_from=2)
    compute(head, head.step("b", Step(S, 1, 2, 0, 0, (1, 2), rows(1, 1)), 0))
    compute(head, head.step("b", Step(S, 1, 2, 0, 2, (7,), rows(1)), 0))
    assert head.show(3, 3)[2] == token_marks((7, 7)) and head.show(2, 2)[2] == token_marks((7,)) and head.show(1, 1)[2] == b""
    compute(head, head.step("b", Step(S, 1, 2, 0, 3, (9, 9), rows(1, 1)), 0))
    assert head.show(4, 4)[2] == b"", "behind a wrong guess it has drawn nothing"
    head.open(*order(2, chain=2, starts=((1, 0), (2, 3)), emit_from=6), now=0)
    assert head.show(3, 3)[2] == token_marks((7, 7)), "another turn changes nothing of it"
    head.open(*order(2, chain=3, starts=((1, 0), (2, 3), (3, 2)), emit_from=6), now=0)
    compute(head, head.step("b", Step(S, 3, 2, 0, 2, (5,), rows(1)), 0))
    assert head.show(3, 3)[2] == b"" and head.show(2, 2)[2] == token_marks((7,))


def test_a_statement_binds_who_made_it_and_what_came_of_it():
    message = shown()
    with pytest.raises(ProtocolError, match="signed"):
        stated(message, "c", verify)
    for forged in (
        msgspec.structs.replace(message, rows=rows(4.0, 6.5)),
        msgspec.structs.replace(message, signature=b"x" * 64),
        msgspec.structs.replace(message, statement=message.statement[:-1] + b"x"),
    ):
        with pytest.raises(ProtocolError):
            stated(forged, "b", verify)


def test_an_accusation_must_be_whole_and_in_its_own_words():
    message = shown()
    good = Accuse("m", message.statement, message.signature, (0, 0, 0), rows(1.0, 2.0, 3.0), message.rows)
    assert charge(good, verify).peer == "b"
    for bad in (
        {"hidden": rows(1.0, 2.0, 3.5)},  # it would have made something else of that
        {"hidden": rows(1.0, 2.0)},
        {"hidden": None},
        {"tokens": (0, 0)},  # whoever made it again would wait for the rest
        {"tokens": (0,) * 5000},
        {"rows": rows(4.0, 6.5)},
        {"rows": rows(4.0)},
        {"signature": b""},
    ):
        with pytest.raises(ProtocolError):
            charge(msgspec.structs.replace(good, **bad), verify)


def test_marks_tell_rows_apart():
    one, other = rows(1.0, 2.0), rows(1.0, 2.5)
    assert marks(one)[:MARK] == marks(other)[:MARK] and marks(one)[MARK:] != marks(other)[MARK:]
    assert replace(Work(Hop("b", 2, 4), "r", "n", 6, (1,)), tokens=(2,)).is_first is False
    assert isinstance(Probe(S, "me", Work(Hop("b", 0, 6), "r", "n", 6, (1,))).begin()[0].message, Open)
