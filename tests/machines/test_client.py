"""The client's end: what it says of the past, what it counts, how it pays out credit."""

from __future__ import annotations

import struct

from swarm.core import Hop, Sampling
from swarm.machines.client import PAST, ClientSession
from swarm.machines.effects import Deliver, Reroute, Send
from swarm.wire import Blob, Broken, Close, Drawn, Grant, Have, Order, Rows, Step, decode_order

S = b"s" * 16
ROUTE = (Hop("a", 0, 2), Hop("b", 2, 4))


def rows(*values: float) -> Blob:
    return Blob("float32", 1, memoryview(struct.pack(f"{len(values)}f", *values)))


def begun(prompt=(1, 2, 3), count=10, credit=64) -> tuple[ClientSession, Order]:
    client = ClientSession(S, "me", "rev", "float32", credit=credit)
    client.begin(prompt, Sampling(), count)
    (send,) = client.open(ROUTE)
    return client, decode_order(send.message.order)


def test_a_first_open_keeps_nothing_forces_the_prompt_and_ends_at_the_goal():
    _, opened = begun()
    assert (opened.chain, opened.starts, opened.emit_from, opened.limit, opened.until) == (1, ((1, 0),), 3, 13, 12)


def test_the_history_is_fed_from_where_the_first_hop_asks():
    client, _ = begun()
    (send,) = client.have("a", Have(S, 1, -1, 0, 1, True))
    assert send == Send("a", Step(S, 1, 0, 0, 1, (2, 3)))
    assert client.have("b", Have(S, 1, -1, 0, 1, True)) == []
    assert client.have("a", Have(S, 0, -1, 0, 1, True)) == client.have("a", Have(S, 2, -1, 0, 1, True)) == []
    assert client.have("a", Have(S, 1, -1, 0, 2)) == []


def test_only_what_continues_the_history_is_delivered():
    client, _ = begun()
    assert client.drawn("a", Drawn(S, 1, -1, 0, 4, (9,))) == []
    assert client.drawn("b", Drawn(S, 1, -1, 0, 3, (9,))) == []
    assert client.drawn("a", Drawn(S, 0, -1, 0, 3, (9,))) == []
    assert client.drawn("a", Drawn(S, 1, -1, 0, 3, (9,))) == [Deliver(3, 9)]
    assert client.drawn("a", Drawn(S, 1, -1, 0, 3, (9,))) == []
    assert client.history == [1, 2, 3, 9]


def test_a_token_that_the_model_does_not_have_is_not_taken():
    client = ClientSession(S, "me", "rev", "float32", vocab=10)
    client.begin((1, 2, 3), Sampling(), 10)
    client.open(ROUTE)
    (effect,) = client.drawn("a", Drawn(S, 1, -1, 0, 3, (9, 10)))
    assert isinstance(effect, Reroute) and (effect.hop, effect.peer, effect.reason) == (0, "a", "failed")
    assert client.history == [1, 2, 3] and client.drawn("a", Drawn(S, 1, -1, 0, 3, (9,))) == [Deliver(3, 9)]


def test_an_answer_ends_at_its_goal_whatever_the_head_says():
    client, _ = begun(count=2)
    client.drawn("a", Drawn(S, 1, -1, 0, 3, (9,)))
    assert client.drawn("a", Drawn(S, 1, -1, 0, 4, (9,))) == [Deliver(4, 9, finish="length")]
    assert client.drawn("a", Drawn(S, 1, -1, 0, 5, (9,))) == []


def test_a_turn_whose_length_changes_the_keys_begins_from_nothing():
    client = ClientSession(S, "me", "rev", "float32", reach=lambda goal: 1 if goal <= 20 else 21)
    starts = []
    for prompt, count in ((1, 2, 3), 10), ((4,), 2), ((5, 6), 30), ((7,), 40):
        client.begin(prompt, Sampling(), count)
        (send,) = client.open(ROUTE)
        starts.append(decode_order(send.message.order).starts)
        client.cut(len(client.history))
    assert starts == [((1, 0),), ((1, 0), (2, 3)), ((3, 0),), ((3, 0), (4, 6))]


def test_a_repair_keeps_all_but_the_last_token_and_a_cut_keeps_less():
    client, _ = begun()
    client.drawn("a", Drawn(S, 1, -1, 0, 3, (9, 8)))
    (send,) = client.open(ROUTE)
    assert decode_order(send.message.order).starts == ((1, 0), (2, 4)) and decode_order(send.message.order).emit_from == 5
    client.cut(4)
    client.begin((5, 6), Sampling(), 4)
    (send,) = client.open(ROUTE)
    assert decode_order(send.message.order).starts == ((1, 0), (3, 4))


def test_a_long_conversation_does_not_grow_its_open_and_never_claims_too_much():
    client, _ = begun()
    everything = {1: 0}
    for turn in range(100):
        client.begin((turn,), Sampling(), 1)
        (send,) = client.open(ROUTE)
        everything[send.message.chain] = decode_order(send.message.order).starts[-1][1]
    starts = decode_order(send.message.order).starts
    assert len(starts) <= PAST
    for last in range(1, 101):
        claimed = min(start for chain, start in starts if chain > last)
        assert claimed <= min(start for chain, start in everything.items() if chain > last)


def test_credit_is_topped_up_once_half_is_used():
    client, opened = begun(count=100, credit=8)
    assert opened.until == 11
    grants = []
    for position in range(3, 13):
        effects = client.drawn("a", Drawn(S, 1, -1, 0, position, (1,)))
        grants += [effect.message for effect in effects if isinstance(effect, Send)]
    assert grants == [Grant(S, 1, 0, 15), Grant(S, 1, 0, 19)]


def test_a_cut_halts_the_ring():
    client, _ = begun()
    assert client.cut(3) == [Send("a", Grant(S, 1, 0, 0))]


def test_broken_chains_ask_for_a_new_route_once_they_are_ours():
    client, _ = begun()
    assert client.broken("a", Broken(S, 1, -1, 1, "lost")) == [Reroute(1, "b", "lost", "")]
    assert client.broken("a", Broken(S, 1, -1, 1, "fai\x1b]led", "no\x1b[2J r\u202eoom\n")) == [Reroute(1, "b", "fai]led", "no[2J room")], (
        "no word to a terminal"
    )
    assert client.broken("a", Broken(S, 0, -1, 1, "lost")) == []
    assert client.broken("b", Broken(S, 1, -1, 1, "lost")) == []
    assert client.broken("a", Broken(S, 1, -1, 7, "lost")) == []
    assert client.lost("b") == [] and client.lost("a") == [Reroute(0, "a", "lost", "")]


def test_the_overshoot_of_the_last_turn_is_not_taken_for_an_answer_to_the_next():
    client, _ = begun()
    client.drawn("a", Drawn(S, 1, -1, 0, 3, (9, 8, 7)))
    client.cut(4)
    client.begin((5, 6), Sampling(), 4)
    assert client.drawn("a", Drawn(S, 1, -1, 0, 6, (66,))) == []
    client.open(ROUTE)
    assert client.drawn("a", Drawn(S, 1, -1, 0, 6, (66,))) == []
    assert client.drawn("a", Drawn(S, 2, -1, 0, 6, (1,))) == [Deliver(6, 1)]


def test_a_first_hop_that_is_replaced_hears_it_but_those_who_stay_do_not():
    client, _ = begun()
    effects = client.open((Hop("x", 0, 2), Hop("b", 2, 4)))
    assert Send("a", Close(S, 1, 0, 0)) in effects
    assert client.open((Hop("x", 0, 2), Hop("b", 2, 4)))[1:] == []


def test_a_token_that_came_last_is_fed_again_with_the_next_turn():
    """Until somebody computed beyond it, a hop may hold a wrong guess in its place."""
    client, _ = begun()
    client.drawn("a", Drawn(S, 1, -1, 0, 3, (9, 8)))
    client.cut(5)
    client.begin((5, 6), Sampling(), 4)
    (send,) = client.open(ROUTE)
    assert decode_order(send.message.order).starts == ((1, 0), (2, 4))


def test_an_order_says_until_when_it_is_good():
    client = ClientSession(S, "me", "rev", "float32", expires=lambda: 1060.0)
    client.begin([1], Sampling(), 5)
    (opened,) = client.open([Hop("a", 0, 4)])
    assert decode_order(opened.message.order).expires == 1060.0


def test_a_turn_that_reads_draws_nothing_and_asks_again_for_what_is_missing_alone():
    client = ClientSession(S, "me", "rev", "float32")
    client.begin_reading((1, 2, 3, 4), 1, 64, "logits")
    (send,) = client.open(ROUTE)
    order = decode_order(send.message.order)
    assert (order.reply, order.starts, order.emit_from, order.until, order.limit) == ("logits", ((1, 0),), 2, 4, 64)
    assert client.drawn("a", Drawn(S, 1, -1, 0, 4, (9,))) == [] and client.history == [1, 2, 3, 4]


def test_rows_count_once_in_order_and_of_this_chain():
    client = ClientSession(S, "me", "rev", "float32")
    client.begin_reading((1, 2, 3, 4), 1, 64, "hidden")
    client.open(ROUTE)
    two = rows(1.0, 2.0)
    assert client.rows("b", Rows(S, 1, -1, 0, 1, two)) == client.rows("a", Rows(S, 2, -1, 0, 1, two)) == client.rows("a", Rows(S, 1, -1, 0, 2, two)) == []
    (first,) = client.rows("a", Rows(S, 1, -1, 0, 1, two))
    assert (first.position, first.token, len(first.rows), first.finish) == (1, 2, 2, None)
    assert client.rows("a", Rows(S, 1, -1, 0, 1, two)) == []
    (send,) = client.open(ROUTE)
    order = decode_order(send.message.order)
    assert (order.chain, order.starts, order.emit_from) == (2, ((1, 0), (2, 3)), 4)
    (last,) = client.rows("a", Rows(S, 2, -1, 0, 2, rows(7.0, 8.0, 9.0)))
    assert (last.position, bytes(last.rows.data), last.finish) == (3, bytes(rows(8.0).data), "length") and not client.running
    client.begin((5,), Sampling(), 3)
    (send,) = client.open(ROUTE)
    assert decode_order(send.message.order).reply == "loop"


def test_where_rows_are_compressed_holds_for_the_session_and_for_those_that_go_on_from_it():
    said = {2: True, 4: False}
    client = ClientSession(S, "me", "rev", "float32", compresses=lambda one, other: said[other.start])

    def compressed(session: ClientSession, *hops: Hop) -> tuple[int, ...]:
        return decode_order(session.open(hops)[0].message.order).compressed

    client.begin([1, 2, 3], Sampling(), 4)
    route = (Hop("a", 0, 2), Hop("b", 2, 4), Hop("c", 4, 6))
    assert compressed(client, *route) == (2,)
    said |= {2: False, 4: True, 3: True}
    assert compressed(client, route[0], Hop("d", 2, 4), route[2]) == (2,), "whoever takes over is sent the same rows"
    assert compressed(client, Hop("a", 0, 3), Hop("c", 3, 6)) == (3,)
    other = ClientSession(bytes(16), "me", "rev", "float32", compresses=lambda one, other: said[other.start])
    other.begin([1, 2, 9], Sampling(), 4)
    other.begin_as(client, 2)
    assert compressed(other, *route) == (2,)
    said[2] = None
    assert compressed(client, *route) == (), "who cannot read them gets none"
