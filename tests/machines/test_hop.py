"""The hop's rule, one guard at a time. `test_sessions` shows that together they keep the tokens; here each is seen to do its part."""

from __future__ import annotations

import copy
import struct

import msgspec
import pytest

from swarm.core import CLIENT, Hop, Sampling
from swarm.machines.effects import Compute, Draw, Forget, Passed, Send, Truncate
from swarm.machines.hop import HopSession
from swarm.machines.limits import LEAST_CHUNK, HopLimits
from swarm.wire import COMPRESSED, HIDDEN, LOGITS, Blob, Broken, Close, Drawn, Grant, Have, Keep, Open, Order, Prepare, Ready, Rows, Step, encode

S = b"s" * 16
ROUTE = (Hop("a", 0, 2), Hop("b", 2, 4), Hop("c", 4, 6))


def order(
    to: int, *, chain: int = 1, starts=((1, 0),), emit_from: int = 3, until: int = 100, limit: int = 100, route=ROUTE, sampling=None, reply="loop"
) -> tuple[Open, Order]:
    """An OPEN to hop `to`, and what is in it."""
    order = Order(S, chain, "client", "rev", "float32", tuple(starts), emit_from, until, limit, sampling or Sampling(), route, reply)
    return Open(S, chain, to, encode(order)), order


def rows(*values: float) -> Blob:
    return Blob("float32", 1, memoryview(struct.pack(f"{len(values)}f", *values)))


def opened(to: int, limits: HopLimits = HopLimits(), **kwargs) -> HopSession:
    hop = HopSession(S, limits)
    hop.open(*order(to, **kwargs), now=0)
    return hop


def run(hop: HopSession, effects) -> list:
    """Answer every Compute at once, as an engine would; returns the effects that follow."""
    out = []
    for effect in effects:
        if isinstance(effect, Compute):
            produced = None if hop.is_last else rows(*[1.0] * len(effect.tokens))
            draws = [Draw(effect.start + at + 1, 7) for at in effect.draw]
            out += hop.finished(effect.serial, produced, draws, 5)
    return out


def sent(effects, kind):
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kind)]


def settled(to: int, chain: int) -> HopSession:
    """A hop that has computed three positions and handed them on."""
    hop = opened(to, chain=chain, starts=((chain, 0),), until=3)
    run(hop, hop.step("ab"[to - 1] if to else "client", Step(S, chain, to, 0, 0, (1, 2, 3), rows(1, 1, 1) if to else None), 0))
    if not hop.is_last:
        hop.have("abc"[to + 1], Have(S, chain, to, 0, 0, True))
    return hop


def state(part) -> dict:
    """All that a hop remembers, its books included."""
    books = {name: state(book) for name, book in vars(part).items() if hasattr(book, "__dict__")}
    return copy.deepcopy({**vars(part), **books})


HANDLERS = {
    Step: (1, "a", lambda hop, sender, chain: hop.step(sender, Step(S, chain, 1, 0, 3, (9,), rows(1)), 1)),
    Drawn: (0, "c", lambda hop, sender, chain: hop.drawn(sender, Drawn(S, chain, 0, 0, 3, (9,)), 1)),
    Rows: (0, "c", lambda hop, sender, chain: hop.rows(sender, Rows(S, chain, 0, 0, 2, rows(1)), 1)),
    Have: (1, "c", lambda hop, sender, chain: hop.have(sender, Have(S, chain, 1, 0, 1, True))),
    Grant: (0, "client", lambda hop, sender, chain: hop.grant(sender, Grant(S, chain, 0, 9), 1)),
    Keep: (1, "a", lambda hop, sender, chain: hop.keep(sender, Keep(S, chain, 1), 1)),
    Close: (1, "a", lambda hop, sender, chain: hop.close(sender, Close(S, chain, 1))),
    Broken: (1, "c", lambda hop, sender, chain: hop.broken(sender, Broken(S, chain, 1, 2, "lost"))),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_a_frame_of_another_chain_does_nothing_though_it_comes_from_the_right_neighbour(kind):
    to, sender, handle = HANDLERS[kind]
    hop = settled(to, chain=5)
    before = state(hop)
    for chain in 1, 4, 6:
        assert handle(hop, sender, chain) == [] and state(hop) == before
    assert handle(hop, sender, 5) or state(hop) != before


def test_open_answers_the_predecessor_and_travels_on():
    effects = HopSession(S).open(*order(1), now=0)
    assert sent(effects, Have) == [Have(S, 1, 0, 0, 0, True)]
    (onward,) = sent(effects, Open)
    assert onward == order(2)[0]
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == ["a", "c"]


def test_a_lower_chain_is_dropped_and_the_same_one_answered_again():
    hop = opened(1, chain=5, starts=((5, 0),))
    assert hop.open(*order(1, chain=4), now=0) == []
    again = hop.open(*order(1, chain=5), now=0)
    assert sent(again, Have) and not sent(again, Open)


def test_only_frames_of_the_predecessor_count():
    hop = opened(1)
    step = Step(S, 1, 1, 0, 0, (4,), rows(1))
    assert hop.step("stranger", step, 0) == []
    assert hop.step("c", step, 0) == []
    assert any(isinstance(effect, Compute) for effect in hop.step("a", step, 0))


def test_a_late_frame_of_an_older_draft_is_dropped_even_where_it_would_fit():
    hop = opened(1)
    run(hop, hop.step("a", Step(S, 1, 1, 1, 0, (4,), rows(1)), 0))
    assert hop.step("a", Step(S, 1, 1, 0, 1, (9,), rows(2)), 0) == []
    assert hop.tokens == [4]


def test_a_higher_draft_cuts_to_its_start_and_keeps_jobs_below_it():
    hop = opened(1)
    first = hop.step("a", Step(S, 1, 1, 0, 0, (4,), rows(1)), 0)
    hop.step("a", Step(S, 1, 1, 0, 1, (5,), rows(1)), 0)
    effects = hop.step("a", Step(S, 1, 1, 1, 1, (6,), rows(1)), 0)
    assert Truncate(1) in effects and hop.tokens == [4, 6]
    run(hop, first)
    assert hop.computed == 1


def test_a_gap_is_asked_for_once_and_overlap_is_cut_off():
    hop = opened(1)
    assert sent(hop.step("a", Step(S, 1, 1, 0, 2, (6,), rows(1)), 0), Have) == [Have(S, 1, 0, 0, 0, True)]
    assert hop.step("a", Step(S, 1, 1, 0, 3, (7,), rows(1)), 0) == []
    hop.step("a", Step(S, 1, 1, 0, 0, (4, 5), rows(1, 1)), 0)
    assert sent(hop.step("a", Step(S, 1, 1, 0, 0, (4,), rows(1)), 0), Have) == [Have(S, 1, 0, 0, 0)]
    (job,) = hop.step("a", Step(S, 1, 1, 0, 1, (5, 6), rows(1, 2)), 0)
    assert job.start == 2 and job.tokens == (6,) and bytes(job.hidden.data) == struct.pack("f", 2)


def test_what_is_sent_again_is_acknowledged_again():
    """A predecessor that computed again from the start would otherwise fill its window with what we have, and wait for ever."""
    hop = opened(1)
    run(hop, hop.step("a", Step(S, 1, 1, 0, 0, (4, 5), rows(1, 1)), 0))
    assert hop.step("a", Step(S, 1, 1, 0, 0, (4, 5), rows(1, 1)), 0) == [Send("a", Have(S, 1, 0, 0, 2))]


def test_an_acknowledgement_from_before_a_guess_was_taken_back_moves_the_window():
    hop, _ = guessing(9, limits=HopLimits(chunk=2, window=2))
    hop.drawn("c", Drawn(S, 1, 0, 0, 3, (7,)), 0)
    hop.drawn("c", Drawn(S, 1, 0, 0, 4, (8,)), 0)
    assert hop.tokens == [1, 2, 3, 7, 8]
    steps = sent(hop.have("b", Have(S, 1, 0, 0, 2)), Step)
    assert [(step.draft, step.start) for step in steps] == [(1, 2)]
    assert hop.have("b", Have(S, 1, 0, 0, 0, True)) == []


def test_a_step_beyond_the_reservation_is_dropped():
    assert opened(1, limit=4).step("a", Step(S, 1, 1, 0, 0, (1, 2, 3, 4, 5), rows(1, 1, 1, 1, 1)), 0) == []


def test_forwarding_waits_for_the_successor_begins_where_it_says_and_respects_the_window():
    hop = opened(1, HopLimits(chunk=2, window=4))
    assert sent(run(hop, hop.step("a", Step(S, 1, 1, 0, 0, tuple(range(8)), rows(*range(8))), 0)), Step) == []
    steps = sent(hop.have("c", Have(S, 1, 1, 0, 1, True)), Step)
    assert [(step.start, len(step.tokens)) for step in steps] == [(1, 2), (3, 2)]
    steps = sent(hop.have("c", Have(S, 1, 1, 0, 3)), Step)
    assert [(step.start, len(step.tokens)) for step in steps] == [(5, 2)]


def test_outputs_gone_from_the_journal_are_asked_of_the_predecessor():
    hop = opened(1, HopLimits(journal_bytes=8))
    for position in range(6):
        run(hop, hop.step("a", Step(S, 1, 1, 0, position, (position,), rows(1)), 0))
    effects = hop.have("c", Have(S, 1, 1, 0, 1, True))
    assert effects == [Truncate(1), Send("a", Have(S, 1, 0, 0, 1, True))]


def test_the_past_that_holds_depends_on_when_the_hop_last_took_part():
    for last, kept in [(1, 2), (3, 5)]:
        hop = HopSession(S)
        hop.open(*order(1, chain=last, starts=((last, 0),)), now=0)
        run(hop, hop.step("a", Step(S, last, 1, 0, 0, tuple(range(8)), rows(*range(8))), 0))
        effects = hop.open(*order(1, chain=4, starts=((2, 2), (4, 5))), now=0)
        assert sent(effects, Have)[0].length == kept


def test_the_head_draws_from_emit_from_on_and_says_why_it_ends():
    head = opened(2, emit_from=3, limit=5)
    effects = run(head, head.step("b", Step(S, 1, 2, 0, 0, (1, 2, 3), rows(1, 1, 1)), 0))
    (drawn,) = sent(effects, Drawn)
    assert (drawn.to, drawn.start, drawn.tokens, drawn.finish) == (0, 3, (7,), None)
    (drawn,) = sent(run(head, head.step("b", Step(S, 1, 2, 0, 3, (7,), rows(1)), 0)), Drawn)
    assert (drawn.start, drawn.finish) == (4, "length")


def test_a_stop_token_ends_the_ring():
    head = opened(2, emit_from=1, sampling=Sampling(stop_ids=(7,)))
    (drawn,) = sent(run(head, head.step("b", Step(S, 1, 2, 0, 0, (1,), rows(1)), 0)), Drawn)
    assert drawn.finish == "stop"
    first = opened(0)
    first.step("client", Step(S, 1, 0, 0, 0, (1,)), 0)
    effects = first.drawn("c", Drawn(S, 1, 0, 0, 1, (7,), "stop"), 0)
    assert [type(effect) for effect in effects] == [Send] and effects[0].peer == "client"
    assert first.grant("client", Grant(S, 1, 0, 50), 0) == []


def test_a_draw_asked_under_an_older_order_is_not_sent_again():
    """Tokens delivered before a repair are forced: the head must not draw them, even from a job that was asked to."""
    head = opened(2, emit_from=2)
    jobs = head.step("b", Step(S, 1, 2, 0, 0, (1, 2, 7, 8), rows(1, 1, 1, 1)), 0)
    head.open(*order(2, chain=2, starts=((1, 0), (2, 4)), emit_from=5), now=0)
    assert sent(run(head, jobs), Drawn) == []


def test_behind_a_wrong_guess_the_head_is_silent_until_it_is_taken_back():
    head = opened(2, emit_from=1)
    (drawn,) = sent(run(head, head.step("b", Step(S, 1, 2, 0, 0, (1, 9, 9), rows(1, 1, 1)), 0)), Drawn)
    assert drawn.start == 1
    assert sent(run(head, head.step("b", Step(S, 1, 2, 0, 3, (9,), rows(1)), 0)), Drawn) == []
    (drawn,) = sent(run(head, head.step("b", Step(S, 1, 2, 1, 1, (7,), rows(1)), 0)), Drawn)
    assert (drawn.draft, drawn.start) == (1, 2)


def test_the_first_hop_starts_the_next_step_only_on_credit():
    first = opened(0, until=1)
    run(first, first.step("client", Step(S, 1, 0, 0, 0, (1,)), 0))
    effects = first.drawn("c", Drawn(S, 1, 0, 0, 1, (5,)), 0)
    assert sent(effects, Drawn)[0].to == CLIENT and first.accepted == 1
    assert first.drawn("b", Drawn(S, 1, 0, 0, 2, (6,)), 0) == []
    assert first.grant("stranger", Grant(S, 1, 0, 9), 0) == []
    (job,) = first.grant("client", Grant(S, 1, 0, 9), 0)
    assert (job.start, job.tokens) == (1, (5,))


def test_bad_news_and_lost_successors_travel_back():
    hop = opened(1)
    assert sent(hop.lost("c"), Broken) == [Broken(S, 1, 0, 2, "lost", "")]
    assert hop.lost("a") == []
    assert sent(hop.broken("c", Broken(S, 1, 1, 2, "overloaded", "full")), Broken) == [Broken(S, 1, 0, 2, "overloaded", "full")]
    assert hop.broken("a", Broken(S, 1, 1, 2, "overloaded", "full")) == []


@pytest.mark.parametrize(("hop", "reason", "told"), [(0, "lost", True), (0, "moved", False), (1, "failed", False), (2, "moved", True)])
def test_a_successor_speaks_of_those_behind_us_alone(hop, reason, told):
    """It may make up what it likes of them; but of nobody before it, save that the head has lost the first one, which it cannot be asked."""
    assert bool(opened(1).broken("c", Broken(S, 1, 1, hop, reason))) == told


def test_the_first_hop_computes_nothing_beyond_what_is_reserved_and_takes_nothing_that_nobody_can_have_drawn():
    first = opened(0, limit=5, until=2**53)
    run(first, first.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0))
    for position in range(3, 7):
        run(first, first.drawn("c", Drawn(S, 1, 0, 0, position, (7,)), 0))
    assert first.accepted == 5 and first._looping.held == (5, 7)
    wide = opened(0, limit=10**6)
    run(wide, wide.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0))
    assert wide.drawn("c", Drawn(S, 1, 0, 0, 3, (7, 7)), 0) == [] == wide.drawn("c", Drawn(S, 1, 0, 0, 5000, (7,)), 0), "the client is not told, either"
    assert not wide._looping.held and wide.accepted == 3 and wide.drawn("c", Drawn(S, 1, 0, 0, 3, (7,)), 0)


def test_a_head_cannot_change_tokens_that_are_known():
    """Or the first hop would hold others than its client, and be at odds with it when its work is looked at."""
    first, parrot = guessing()
    for position, token in ((0, 9), (2, 9)):
        effects = first.drawn("c", Drawn(S, 1, 0, 0, position, (token,)), 0)
        assert not [effect for effect in effects if not isinstance(effect, Send)] and first.tokens == [1, 2, 3] and first.epoch == (1, 0)
    parrot.guesses = [5, 6]
    run(first, first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0))
    first.drawn("c", Drawn(S, 1, 0, 0, 3, (9, 5)), 0)
    assert first.tokens == [1, 2, 3, 4, 5, 6] and first.epoch == (1, 0)
    halted = opened(0, until=3)
    run(halted, halted.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0))
    for token in 4, 9:
        halted.drawn("c", Drawn(S, 1, 0, 0, 3, (token,)), 0)
    (job,) = halted.grant("client", Grant(S, 1, 0, 50), 0)
    assert job.tokens == (4,), "nor the one that waits for credit"


def test_a_token_that_the_model_does_not_have_is_the_heads_fault():
    first = HopSession(S, vocab=10)
    first.open(*order(0), now=0)
    run(first, first.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0))
    effects = first.drawn("c", Drawn(S, 1, 0, 0, 3, (10,)), 0)
    (broken,) = sent(effects, Broken)
    assert (broken.to, broken.hop, broken.reason) == (CLIENT, 2, "failed") and len(effects) == 1 and first.accepted == 3
    assert len(first.drawn("c", Drawn(S, 1, 0, 0, 3, (9,)), 0)) == 2 and first.tokens == [1, 2, 3, 9]


def test_what_has_grown_under_an_earlier_limit_stays_reserved():
    hop = opened(1, limit=100)
    run(hop, hop.step("a", Step(S, 1, 1, 0, 0, tuple(range(90)), rows(*[1.0] * 90)), 0))
    for chain, limit, kept, reserved in ((2, 0, 80, 100), (3, 120, 70, 120), (4, 0, 60, 120), (5, 0, 0, 0)):
        message, opens = order(1, chain=chain, starts=((chain, kept),), limit=limit)
        assert hop.reserves(opens) == reserved, "what is asked before is what is done"
        hop.open(message, opens, now=0)
        assert hop.reserved == reserved
    hop.open(*order(1, chain=6, starts=((6, 0),), limit=120), now=0)
    run(hop, hop.step("a", Step(S, 6, 1, 0, 0, tuple(range(10)), rows(*[1.0] * 10)), 0))
    hop.open(*order(1, chain=7, starts=((7, 5),), limit=0), now=0)
    assert hop.reserved == 64, "what went back with a cut is not counted for ever"
    fresh = opened(1, limit=100)
    run(fresh, fresh.step("a", Step(S, 1, 1, 0, 0, (1, 2), rows(1, 1)), 0))
    fresh.open(*order(1, chain=2, starts=((2, 2),), limit=10), now=0)
    assert fresh.reserved == 64, "the smallest cache that grows at all"


def test_leases_are_renewed_along_the_chain_and_run_out():
    hop = opened(1)
    assert hop.tick(29.9) == []
    assert sent(hop.keep("a", Keep(S, 1, 1), 20.0), Keep) == [Keep(S, 1, 2)]
    assert hop.tick(49.9) == []
    assert hop.tick(50.0) == [Forget("lease ran out")]


def test_close_travels_on_and_only_from_the_predecessor():
    hop = opened(1)
    assert hop.close("c", Close(S, 1, 1)) == []
    assert hop.close("a", Close(S, 1, 1)) == [Send("c", Close(S, 1, 2)), Forget("closed")]


def test_a_successor_that_is_no_longer_needed_is_told_so():
    hop = opened(1)
    spare = (Hop("a", 0, 2), Hop("b", 2, 4), Hop("d", 4, 6))
    assert Send("c", Close(S, 1, 2, 2)) in hop.open(*order(1, chain=2, starts=((1, 0), (2, 0)), route=spare), now=0)
    assert sent(hop.open(*order(1, chain=3, starts=((1, 0), (3, 0)), route=spare), now=0), Close) == []


def test_a_hop_that_is_replaced_dismisses_those_behind_it_but_nobody_who_stays():
    wider = (Hop("a", 0, 2), Hop("b", 2, 5), Hop("d", 5, 6))
    assert opened(1).retire(order(1, chain=2, route=wider)[1]) == [Send("c", Close(S, 1, 2, 2)), Forget("replaced")]
    narrower = (Hop("a", 0, 2), Hop("b", 2, 3), Hop("d", 3, 4), Hop("c", 4, 6))
    assert opened(1).retire(order(1, chain=2, route=narrower)[1]) == [Forget("replaced")]
    assert opened(2).retire(order(2, chain=2, route=wider)[1]) == [Forget("replaced")]


def test_between_a_clients_own_ends_token_ids_travel_veiled():
    ring = (Hop("client", 0, 1), Hop("b", 1, 5), Hop("client", 5, 6))

    def veil(position: int, token: int) -> int:
        return token ^ (1000 + position)

    first, last = HopSession(S, veil=veil), HopSession(S, veil=veil)
    first.open(*order(0, route=ring), now=0)
    run(first, first.step("client", Step(S, 1, 0, 0, 0, (4, 5)), 0))
    (step,) = sent(first.have("b", Have(S, 1, 0, 0, 0, True)), Step)
    assert step.tokens == (4 ^ 1000, 5 ^ 1001) and first.tokens == [4, 5]
    last.open(*order(2, route=ring), now=0)
    last.step("b", Step(S, 1, 2, 0, 0, step.tokens, rows(1, 1)), 0)
    assert last.tokens == [4, 5]
    plain = HopSession(S, veil=veil)
    plain.open(*order(0), now=0)
    run(plain, plain.step("client", Step(S, 1, 0, 0, 0, (4,)), 0))
    assert sent(plain.have("b", Have(S, 1, 0, 0, 0, True)), Step)[0].tokens == (4,)


def test_a_farewell_goes_no_further_than_the_hops_it_is_meant_for():
    hop = opened(1)
    assert hop.close("a", Close(S, 1, 1, 1)) == [Forget("closed")]
    middle = opened(1)
    assert Send("c", Close(S, 1, 2, 9)) in middle.close("a", Close(S, 1, 1, 9))


def test_a_head_that_cannot_reach_the_first_hop_says_so():
    head = opened(2)
    assert sent(head.lost("a"), Broken) == [Broken(S, 1, 1, 0, "lost", "")]
    assert head.lost("b") == []


def test_a_gap_is_asked_for_again_under_a_new_draft():
    hop = opened(1)
    assert hop.step("a", Step(S, 1, 1, 0, 2, (6,), rows(1)), 0)
    assert sent(hop.step("a", Step(S, 1, 1, 1, 2, (6,), rows(1)), 0), Have) == [Have(S, 1, 0, 1, 0, True)]


def test_a_ring_whose_client_is_gone_halts_until_it_is_heard_of_again():
    hop = opened(0)
    run(hop, hop.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0))
    assert hop.lost("client") == []
    effects = hop.drawn("c", Drawn(S, 1, 0, 0, 3, (7,)), 0)
    assert sent(effects, Drawn) and not [effect for effect in effects if isinstance(effect, Compute)]
    assert [effect.tokens for effect in hop.grant("client", Grant(S, 1, 0, 50), 0) if isinstance(effect, Compute)] == [(7,)]
    hop.lost("client")
    hop.open(*order(0, chain=2, starts=((1, 0), (2, 3)), emit_from=4), now=0)
    run(hop, hop.step("client", Step(S, 2, 0, 0, 3, (7,)), 0))
    assert [effect.tokens for effect in hop.drawn("c", Drawn(S, 2, 0, 0, 4, (8,)), 0) if isinstance(effect, Compute)] == [(8,)]


def test_a_successor_that_asks_for_the_same_again_and_again_is_given_up():
    hop = settled(1, chain=1)
    asked = [sent(hop.have("c", Have(S, 1, 1, 0, 0, True)), Step) for _ in range(hop.limits.resends - 1)]
    assert all(asked)
    assert [message.reason for message in sent(hop.have("c", Have(S, 1, 1, 0, 0, True)), Broken)] == ["failed"]
    assert hop.have("c", Have(S, 1, 1, 0, 0, True)) == []
    hop.open(*order(1, chain=2, starts=((1, 0), (2, 3))), now=0)
    assert sent(hop.have("c", Have(S, 2, 1, 0, 0, True)), Step), "another chain, another chance"


@pytest.mark.parametrize("asked, chunk", [(0, 256), (64, 64), (1, LEAST_CHUNK), (10**6, 256)])
def test_a_prompt_is_cut_as_the_order_says_within_bounds(asked, chunk):
    hop = HopSession(S)
    order = Order(S, 1, "client", "r", "f", ((1, 0),), 700, 700, 900, Sampling(), (Hop("a", 0, 1), Hop("b", 1, 2)), chunk=asked)
    hop.open(Open(S, 1, 0, encode(order), b""), order, 0.0)
    jobs = [effect for effect in hop.step("client", Step(S, 1, 0, 0, 0, tuple(range(600))), 0.0) if isinstance(effect, Compute)]
    assert [len(job.tokens) for job in jobs[:-1]] == [chunk] * (len(jobs) - 1) and sum(len(job.tokens) for job in jobs) == 600


@pytest.mark.parametrize(("reply", "portions"), [(HIDDEN, [100]), (LOGITS, [39, LEAST_CHUNK, 29])])
def test_a_head_that_is_read_gives_rows_of_the_wanted_positions_and_draws_nothing(reply, portions):
    hop = opened(2, emit_from=40, limit=200, reply=reply)
    jobs = [effect for effect in hop.step("b", Step(S, 1, 2, 0, 0, tuple(range(100)), rows(*[1.0] * 100)), 0) if isinstance(effect, Compute)]
    assert [len(job.tokens) for job in jobs] == portions
    wanted = [job.start + offset for job in jobs for offset in job.draw]
    assert wanted == list(range(39, 100)), "of each position from emit_from - 1 on"
    told = []
    for job in jobs:
        told += sent(hop.finished(job.serial, rows(*map(float, job.draw)) if job.draw else None, (), 5), (Rows, Drawn))
    assert [type(message) for message in told] == [Rows] * len([job for job in jobs if job.draw])
    assert [(message.start, message.to) for message in told] == [(job.start + job.draw[0], 0) for job in jobs if job.draw]


def test_the_first_hop_hands_rows_to_the_client_and_begins_nothing():
    hop = settled(0, chain=1)
    effects = hop.rows("c", Rows(S, 1, 0, 0, 2, rows(1)), 1)
    assert effects == [Send("client", Rows(S, 1, CLIENT, 0, 2, rows(1)))]
    assert hop.rows("b", Rows(S, 1, 0, 0, 2, rows(1)), 1) == [] and hop.accepted == 3


class Parrot:
    """A guesser that says what it is told, and remembers what it hears."""

    def __init__(self, *guesses: int) -> None:
        self.guesses = list(guesses)
        self.heard: list = []
        self.asked: list = []

    def propose(self, tokens, fresh, sure, most):
        self.asked.append((list(tokens), list(fresh), sure, most))
        guesses, self.guesses = self.guesses[:most], []
        return guesses

    def left(self, start, stop, *, told=False):
        self.heard.append(("told" if told else "left", start, stop))

    def took(self, start, micros):
        self.heard.append(("took", start, micros))

    def read(self, tokens, sure): ...

    def judged(self, position, right):
        self.heard.append((position, right))

    def home(self, position, micros):
        return 2 if micros else 0

    def missed(self, length):
        self.heard.append(("missed", length))


def guessing(*guesses: int, until: int = 100, limit: int = 100, limits: HopLimits = HopLimits()) -> tuple[HopSession, Parrot]:
    """A first hop that has fed a prompt of three positions, and can guess from then on."""
    parrot = Parrot()
    hop = HopSession(S, limits, guesser=parrot)
    hop.open(*order(0, until=until, limit=limit), now=0)
    hop.have("b", Have(S, 1, 0, 0, 0, True))
    run(hop, hop.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0))
    parrot.guesses, parrot.asked = list(guesses), []
    return hop, parrot


def test_what_follows_a_prompt_is_guessed_before_the_first_token_comes_home():
    first = HopSession(S, guesser=(parrot := Parrot(4, 5)))
    first.open(*order(0, emit_from=3), now=0)
    first.have("b", Have(S, 1, 0, 0, 0, True))
    run(first, first.step("client", Step(S, 1, 0, 0, 0, (1, 2)), 0))
    assert not parrot.asked and parrot.heard[1] == ("told", 0, 2), "what the client has yet to feed is not to be guessed"
    effects = first.step("client", Step(S, 1, 0, 0, 2, (3,)), 0)
    assert parrot.asked == [([1, 2, 3], [], 3, 96)]
    assert [effect.tokens for effect in effects if isinstance(effect, Compute)] == [(3,), (4, 5)]
    assert {step.sure for step in sent(run(first, effects), Step)} == {3}
    first.drawn("c", Drawn(S, 1, 0, 0, 3, (4, 6)), 0)
    assert first.tokens == [1, 2, 3, 4, 6] and parrot.heard[-3:] == [(4, False), ("missed", 4), ("left", 4, 5)]


@pytest.mark.parametrize("reply", ["logits", "hidden"])
def test_nothing_is_guessed_where_nothing_is_drawn(reply):
    first = HopSession(S, guesser=(parrot := Parrot(4, 5)))
    first.open(*order(0, emit_from=3, reply=reply), now=0)
    first.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0)
    assert not parrot.asked and first.tokens == [1, 2, 3]


def test_what_is_guessed_goes_with_the_token_that_came_home_as_one_step():
    first, parrot = guessing(5, 6)
    effects = first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0)
    assert parrot.asked == [([1, 2, 3], [4], 4, 95)]
    assert [effect.tokens for effect in effects if isinstance(effect, Compute)] == [(4, 5, 6)]
    assert [step.tokens for step in sent(run(first, effects), Step)] == [(4, 5, 6)]


def test_many_guesses_travel_as_several_steps():
    first, parrot = guessing(*range(20))
    effects = first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0)
    assert [len(effect.tokens) for effect in effects if isinstance(effect, Compute)] == [8, 8, 5]
    assert parrot.heard[-3:] == [("left", 3, 11), ("left", 11, 19), ("left", 19, 24)]


def test_right_guesses_stand_and_the_first_wrong_one_is_replaced_under_a_higher_draft():
    first, parrot = guessing(5, 6, 7)
    run(first, first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0))
    effects = first.drawn("c", Drawn(S, 1, 0, 0, 4, (5, 9)), 0)
    assert parrot.heard[-4:] == [(4, True), (5, False), ("missed", 5), ("left", 5, 6)]
    assert first.epoch == (1, 1) and first.tokens == [1, 2, 3, 4, 5, 9] and Truncate(5) in effects
    (step,) = sent(run(first, effects), Step)
    assert (step.draft, step.start, step.tokens) == (1, 5, (9,))
    assert not first.drawn("c", Drawn(S, 1, 0, 0, 6, (8,)), 0), "it belongs to the wrong guess"


def test_nothing_is_taken_of_a_head_that_draws_behind_a_wrong_guess():
    """Its client would have tokens that we do not hold."""
    first, _ = guessing(5, 6, 7)
    run(first, first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0))
    assert first.drawn("c", Drawn(S, 1, 0, 0, 4, (5, 9, 9)), 0) == [] and first.tokens == [1, 2, 3, 4, 5, 6, 7]
    assert first.drawn("c", Drawn(S, 1, 0, 0, 4, (5, 9)), 0) and first.tokens == [1, 2, 3, 4, 5, 9]


def test_a_token_that_waits_for_credit_is_started_once():
    first, _ = guessing(until=3)
    assert len(first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0)) == 1
    assert [effect.tokens for effect in first.grant("client", Grant(S, 1, 0, 9), 0)] == [(4,)]
    assert first.grant("client", Grant(S, 1, 0, 10), 0) == [] and first.tokens == [1, 2, 3, 4]


def test_guesses_end_where_credit_does_and_before_the_last_position():
    assert guessing(5, 6, 7, until=5)[0].drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0)[1].tokens == (4, 5)
    assert guessing(5, 6, 7, limit=6)[0].drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0)[1].tokens == (4, 5)
    first, parrot = guessing(5)
    first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,), "stop"), 0)
    assert not parrot.asked and first.accepted == 3


def test_a_guesser_hears_what_the_hops_own_part_takes():
    first, parrot = guessing(5)
    assert parrot.heard == [("missed", 0), ("told", 0, 3), ("took", 0, 5)]
    run(first, first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0))
    assert parrot.heard[-2:] == [("left", 3, 5), ("took", 3, 5)]


def test_a_guesser_that_knows_more_is_asked_again():
    first, parrot = guessing()
    assert first.more() == []
    first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0)
    parrot.guesses = [5]
    (effect,) = first.more()
    assert effect.tokens == (5,) and parrot.asked[-1] == ([1, 2, 3, 4], [], 4, 95)


def test_a_first_hop_that_must_compute_again_feeds_itself_guesses_and_all():
    """From its client it would get no guesses, and make others: two tokens at a position, of one draft."""
    first, _ = guessing(5, 6, limits=HopLimits(journal_bytes=8))
    run(first, first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0))
    effects = first.have("b", Have(S, 1, 0, 0, 1, True))
    assert effects[0] == Truncate(1) and not sent(effects, Have) and first.tokens == [1, 2, 3, 4, 5, 6] and first.epoch == (1, 0)
    assert [effect.tokens for effect in effects[1:]] == [(2, 3, 4, 5, 6)]
    assert {step.sure for step in sent(run(first, effects), Step)} == {4}


def test_what_is_right_stays_right_where_a_wrong_guess_takes_a_whole_job_along():
    """Else nothing more would ever be sure: no guess would be far enough from it, and newcomers would be fed no further."""
    first, _ = guessing(5, 6, limits=HopLimits(journal_bytes=8))
    run(first, first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0))
    first.have("b", Have(S, 1, 0, 0, 1, True))
    effects = first.drawn("c", Drawn(S, 1, 0, 0, 4, (9,)), 0)
    assert effects[1] == Truncate(1) and first.tokens == [1, 2, 3, 4, 9]
    assert {step.sure for step in sent(run(first, effects), Step)} == {5}


def test_after_an_open_nothing_is_guessed_before_all_is_there_again():
    first, parrot = guessing(5)
    first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,)), 0)
    first.open(*order(0, chain=2, starts=((1, 0), (2, 3)), emit_from=5), now=0)
    parrot.guesses, before = [7], len(parrot.asked)
    assert parrot.heard[-1] == ("missed", 3)
    first.step("client", Step(S, 2, 0, 0, 3, (4,)), 0)
    assert len(parrot.asked) == before and first.more() == []
    first.step("client", Step(S, 2, 0, 0, 4, (5,)), 0)
    assert first.tokens == [1, 2, 3, 4, 5, 7]


def test_the_client_is_not_told_how_long_steps_of_several_positions_took():
    first, _ = guessing()
    assert sent(first.drawn("c", Drawn(S, 1, 0, 0, 3, (4,), micros=(1, 2)), 0), Drawn)[0].micros == ()
    plain = settled(0, chain=1)
    assert sent(plain.drawn("c", Drawn(S, 1, 0, 0, 3, (4,), micros=(1, 2)), 0), Drawn)[0].micros == (1, 2)


def test_the_head_says_in_one_message_what_it_drew_up_to_the_first_wrong_guess():
    head = opened(2)
    head.step("b", Step(S, 1, 2, 0, 0, (1, 2, 3), rows(1, 1, 1)), 0)
    head.finished(1, None, [Draw(3, 7)], 5)
    head.step("b", Step(S, 1, 2, 0, 3, (7, 8, 9, 10), rows(1, 1, 1, 1)), 0)
    (drawn,) = sent(head.finished(2, None, [Draw(4, 8), Draw(5, 6), Draw(6, 1), Draw(7, 2)], 5), Drawn)
    assert (drawn.start, drawn.tokens) == (4, (8, 6))
    assert head.step("b", Step(S, 1, 2, 0, 7, (11,), rows(1)), 0) == [], "what is built on a wrong guess it does not even compute"
    (truncate, compute) = head.step("b", Step(S, 1, 2, 1, 5, (6,), rows(1)), 0)
    assert truncate == Truncate(5) and (compute.start, compute.tokens) == (5, (6,))


def test_newcomers_are_fed_no_guesses():
    """An OPEN that makes use of them may overtake, between two of them, the step that takes a wrong one back."""
    middle = opened(1)
    middle.have("c", Have(S, 1, 1, 0, 0, True))
    run(middle, middle.step("a", Step(S, 1, 1, 0, 0, (1, 2, 3), rows(1, 1, 1), sure=3), 0))
    other = (ROUTE[0], ROUTE[1], Hop("d", 4, 6))
    _, theirs = order(2, chain=9, route=other)
    middle.prepare("a", Prepare(S, 1, 1, encode(theirs), b"", 2, 2), theirs, 0)
    fed = sent(middle.have("d", Have(S, 9, 1, 0, 0, True)), Step)
    assert [step.tokens for step in fed] == [(1, 2, 3)]
    effects = run(middle, middle.step("a", Step(S, 1, 1, 0, 3, (4, 5, 6), rows(1, 1, 1), sure=4), 0))
    assert [(step.to, step.chain, step.tokens, step.sure) for step in sent(effects, Step)] == [(2, 1, (4, 5, 6), 4), (2, 9, (4,), 4)]


def compressing(hop: HopSession, to: int, chain: int, *components: int):
    """Opened, or opened again, under an order that wants the inputs of these components compressed."""
    message, plain = order(to, chain=chain, starts=((1, 0), (chain, 3)) if chain > 1 else ((1, 0),))
    return hop.open(message, msgspec.structs.replace(plain, compressed=components), now=0)


def test_a_hop_compresses_what_its_order_says_and_takes_compressed_rows_only_where_it_says_so():
    less = Blob(COMPRESSED, 1, memoryview(bytes(3)))
    for components, taken, made in (((), False, False), ((2,), True, False), ((4,), False, True), ((2, 4), True, True)):
        hop = HopSession(S)
        compressing(hop, 1, 1, *components)
        jobs = [effect for effect in hop.step("a", Step(S, 1, 1, 0, 0, (7,), less), 0) if isinstance(effect, Compute)]
        assert bool(jobs) == taken
        jobs = jobs or [effect for effect in hop.step("a", Step(S, 1, 1, 0, 0, (7,), rows(1)), 0) if isinstance(effect, Compute)]
        assert [job.compress for job in jobs] == [made]


def test_a_hop_whose_rows_are_to_travel_otherwise_begins_anew_and_no_other_does():
    for components, kept in (((), 3), ((2,), 3), ((4,), 0)):
        hop = settled(1, 1)
        effects = compressing(hop, 1, 2, *components)
        assert hop.accepted == kept and [have.length for have in sent(effects, Have)] == [kept]


def test_newcomers_are_not_fed_rows_of_another_kind_than_there_are():
    """What a hop keeps is compressed, or is not; who replaces those behind it hears that they must be fed otherwise."""
    for components, fed in (((2,), True), ((4,), False), ((2, 4), False)):
        middle = settled(1, 1)
        other = (ROUTE[0], ROUTE[1], Hop("d", 4, 6))
        _, theirs = order(2, chain=9, route=other)
        theirs = msgspec.structs.replace(theirs, compressed=components)
        effects = middle.prepare("a", Prepare(S, 1, 1, encode(theirs), b"", 2, 2), theirs, 0)
        assert bool(sent(effects, Open)) == fed and [ready.reason for ready in sent(effects, Ready)] == ([] if fed else ["unknown"])


HERE = tuple(Hop(hop.peer, hop.start, hop.stop, (f"/ip4/10.0.0.1/tcp/{hop.stop}",)) for hop in ROUTE)


def test_what_an_engine_has_of_a_chunk_goes_on_at_once():
    hop = opened(0, route=HERE, emit_from=50)
    (job,) = hop.step("client", Step(S, 1, 0, 0, 0, tuple(range(40))), 0)
    hop.have("b", Have(S, 1, 0, 0, 0, True))
    first, second = (sent(hop.finished(job.serial, rows(*[1.0] * count), (), 5), Step) for count in (30, 10))
    assert [(step.start, len(step.tokens)) for step in (*first, *second)] == [(0, 30), (30, 10)] and not hop.computes


def test_of_a_chunk_that_is_cut_half_way_what_was_handed_on_stays():
    hop = opened(0, route=HERE, emit_from=50)
    (job,) = hop.step("client", Step(S, 1, 0, 0, 0, tuple(range(40))), 0)
    hop.finished(job.serial, rows(*[1.0] * 30), (), 5)
    assert Truncate(30) in hop.open(*order(0, chain=2, starts=((1, 0), (2, 35)), route=HERE, emit_from=50), now=0)
    assert hop.finished(job.serial, rows(*[1.0] * 10), (), 5) == [] and hop.computed == hop.accepted == 30


@pytest.mark.parametrize("route", [HERE, ROUTE])
def test_on_one_machine_the_last_hop_tells_the_first_what_has_been_all_the_way_round(route):
    last = opened(2, route=route, emit_from=50)
    (job,) = last.step("b", Step(S, 1, 2, 0, 0, tuple(range(20)), rows(*range(20))), 0)
    told = [(effect.peer, effect.message.to) for effect in last.finished(job.serial, None, (), 5) if isinstance(effect, Send)]
    assert told == ([("b", 1), ("a", 0)] if route is HERE else [("b", 1)])
    first = opened(0, route=route)
    run(first, first.step("client", Step(S, 1, 0, 0, 0, (1, 2, 3)), 0))
    here = route is HERE
    assert first.have("c", Have(S, 1, 0, 0, 2)) == [Passed(2)] * here and first.have("c", Have(S, 1, 0, 0, 9)) == [Passed(3)] * here, "no more than there is"
    for sender, lie in ("c", Have(S, 2, 0, 0, 2)), ("c", Have(S, 1, 0, 1, 2)), ("c", Have(S, 1, 0, 0, 2, True)), ("d", Have(S, 1, 0, 0, 2)):
        assert first.have(sender, lie) == []
    assert not any(isinstance(effect, Passed) for effect in first.have("b", Have(S, 1, 0, 0, 2))), "its successor has computed it, no more"
