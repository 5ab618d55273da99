"""The hop room: which orders it obeys, and what it answers to the rest."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core import Hop, HopKey, Sampling, Span, digest_of
from swarm.machines.client import FEED
from swarm.machines.ledger import CacheLedger
from swarm.peer.admission import IDLE
from swarm.peer.drafting import INDEX_AT_ONCE, Drafter
from swarm.peer.hops import AT_WORK, HopRoom
from swarm.peer.offer import Offer
from swarm.wire import ROUTE_LIFETIME, Blob, Broken, Close, Drawn, Facts, Grant, Have, Keep, Open, Order, Prefix, Step, encode

S = b"s" * 16
ROUTE = (Hop("before", 0, 2), Hop("me", 2, 4), Hop("after", 4, 6))
HELD = (Span(2, 4),)
PLAIN = Order(S, 1, "client", "rev", "float32", ((1, 0),), 3, 50, 100, Sampling(), ROUTE)
ORDER = Open(S, 1, 1, encode(PLAIN), b"good")


class Links:
    peer = "me"

    def __init__(self):
        self.sent = []

    def send(self, peer, message):
        self.sent.append((peer, message))

    def learn(self, peer, addrs): ...


class Engine:
    def __init__(self):
        self.open_keys, self.jobs, self.copied, self.freed, self.round = set(), [], [], [], []

    def open(self, key, order):
        self.open_keys.add(key)

    def submit(self, key, job):
        self.jobs.append(job)

    def truncate(self, key, length): ...

    def passed(self, key, length):
        self.round.append((key, length))

    def begin_as(self, key, other, length):
        assert {key, other} <= self.open_keys
        self.copied.append((key.session, other.session, length))

    def take_over(self, key, other, length):
        self.begin_as(key, other, length)
        self.open_keys.discard(other)

    def rest(self, key):
        assert key in self.open_keys

    def free(self, key):
        self.open_keys.discard(key)
        self.freed.append(key)


class Setting:
    def __init__(self, tokens=200, only=None, journal=0.0, spans=HELD, version=0, drafters=lambda ready: (), rewindable=True, vocab=0, max_length=120):
        offer = Offer("rev", "float32", 6, spans, max_length, rewindable, journal=journal, version=version, vocab=vocab)
        self.now, self.links, self.engine, self.ledger = 0.0, Links(), Engine(), CacheLedger(tokens, offer.whole_weight)
        self.room = HopRoom(
            self.links,
            self.engine,
            offer,
            self.ledger,
            clock=lambda: self.now,
            verify=lambda peer, data, signature: signature == b"good",
            only=only,
            wall=lambda: 1000.0 + self.now,
            drafters=drafters,
        )

    def answer(self, sender, message):
        self.links.sent.clear()
        self.room.receive(sender, message)
        return self.links.sent


def changed(to: int = 1, signature: bytes = b"good", **changes) -> Open:
    order = msgspec.structs.replace(PLAIN, **changes)
    return Open(order.session, order.chain, to, encode(order), signature)


def test_a_clients_own_ends_serve_nobody_else():
    stranger = Setting(only="me")
    assert [(to, message.reason) for to, message in stranger.answer("before", ORDER)] == [("before", "refused")]
    assert not stranger.engine.open_keys and not stranger.room.sessions
    assert any(isinstance(message, Have) for _, message in Setting(only="client").answer("before", ORDER))


def test_a_token_that_the_model_does_not_have_is_the_last_hops_fault():
    setting = Setting(spans=(Span(0, 2),), vocab=10)
    setting.answer("client", changed(0, route=(Hop("me", 0, 2), Hop("after", 2, 6))))
    setting.room.receive("client", Step(S, 1, 0, 0, 0, (1, 2, 3)))
    ((to, message),) = setting.answer("after", Drawn(S, 1, 0, 0, 3, (10,)))
    assert (to, message.hop, message.reason) == ("client", 1, "failed")


@pytest.mark.parametrize(
    ("held", "ordered", "obeyed"),
    [
        ("float32", "float32", True),
        ("float32-int8", "float32", False),
        ("float32", "float32-int8", False),
        ("float32", "float32-mixed", True),
        ("float32-int8", "float32-mixed", True),
        ("bfloat16-int8", "float32-mixed", False),
    ],
)
def test_who_rounds_weights_and_who_does_not_share_a_chain_where_the_signed_order_says_so(held, ordered, obeyed):
    setting = Setting()
    setting.room.offer = replace(setting.room.offer, numerics=held)
    sent = [message for _, message in setting.answer("before", changed(numerics=ordered))]
    assert isinstance(sent[0], Have) if obeyed else sent[0].reason == "refused"


def test_an_order_is_obeyed_reserved_and_passed_on():
    setting = Setting()
    sent = setting.answer("before", ORDER)
    assert [(peer, type(message)) for peer, message in sent] == [("before", Have), ("after", Open)]
    assert setting.ledger.free_tokens == 100 and setting.room.sessions == 1


def test_a_peer_that_moves_forgets_its_sessions_and_says_to_whoever_asks_what_it_will_hold():
    setting = Setting(version=3)
    setting.answer("before", ORDER)
    setting.links.sent.clear()
    setting.room.vacate(Span(0, 2), 4)
    assert [(to, message.reason) for to, message in setting.links.sent if isinstance(message, Broken)] == [("before", "unknown")]
    assert not setting.engine.open_keys and not setting.room.sessions and setting.ledger.free_tokens == 200
    planned_before = changed(route=tuple(replace(hop, version=3) for hop in ROUTE))
    (_, refusal) = setting.answer("before", planned_before)[0]
    assert refusal.reason == "moved" and refusal.facts.spans == ((0, 2),) and refusal.facts.span_version == 4
    early = changed(0, route=(Hop("me", 0, 2, (), 4), Hop("after", 2, 6)))
    assert [message.reason for _, message in setting.answer("client", early)] == ["leaving"], "its weights are not there yet"
    setting.room.settle(setting.room.offer, CacheLedger(120, setting.room.offer.whole_weight))
    setting.room.leaving = False
    assert any(isinstance(message, Have) for _, message in setting.answer("client", early)) and setting.room.ledger.free_tokens == 20


@pytest.mark.parametrize(
    "sender, order, reason",
    [
        ("stranger", ORDER, "refused"),
        ("before", changed(revision="other"), "refused"),
        ("before", changed(numerics="bfloat16"), "refused"),
        ("before", changed(signature=b"forged"), "refused"),
        ("before", changed(route=(Hop("before", 0, 2), Hop("me", 2, 5), Hop("after", 5, 6))), "refused"),
        ("before", changed(route=(Hop("before", 0, 2), Hop("me", 2, 4), Hop("after", 5, 6))), "refused"),
        ("before", changed(route=ROUTE[:2]), "refused"),
        ("before", msgspec.structs.replace(ORDER, chain=2), "refused"),
        ("before", msgspec.structs.replace(ORDER, order=b"garbage"), "refused"),
        ("before", changed(to=2), "refused"),
        ("before", changed(to=7), "refused"),
        ("before", changed(reply="strange"), "refused"),
        ("before", changed(limit=121), "refused"),
    ],
)
def test_an_order_that_is_not_for_us_is_refused_and_leaves_nothing_behind(sender, order, reason):
    setting = Setting()
    ((peer, message),) = setting.answer(sender, order)
    assert peer == sender and isinstance(message, Broken) and message.reason == reason and message.hop == order.to
    assert setting.room.sessions == 0 and setting.ledger.free_tokens == 200 and not setting.engine.open_keys


def test_an_order_for_more_cache_than_is_left_is_refused_before_anything_is_allocated():
    setting = Setting(tokens=150)
    setting.answer("before", ORDER)
    ((_, message),) = setting.answer("before", changed(session=b"t" * 16))
    assert message.reason == "overloaded" and "50 more" in message.detail and len(setting.engine.open_keys) == 1


def test_a_journal_is_reserved_with_the_cache_and_the_last_hop_has_none():
    setting = Setting(tokens=150, journal=2.0)
    setting.answer("before", ORDER)
    assert setting.ledger.free_tokens == 50
    setting.answer("before", changed(chain=2, starts=((2, 0),), route=(Hop("before", 0, 2), Hop("me", 2, 3), Hop("after", 3, 6))))
    assert setting.ledger.free_tokens == 75  # one layer and a journal are 3 of the 4 that the whole span weighs
    assert setting.room.offer.weight([Span(2, 6)]) == 3 and setting.room.offer.weight([Span(0, 3)]) == 2


def test_a_session_over_part_of_a_span_may_have_as_many_positions_as_were_announced():
    """A hop that ends before the head keeps a journal, so a part can need what the whole does not."""
    setting = Setting(tokens=100, journal=1.5, spans=(Span(0, 6),))
    route = (Hop("before", 0, 1), Hop("me", 1, 5), Hop("after", 5, 6))
    assert any(isinstance(message, Have) for _, message in setting.answer("before", changed(route=route)))
    assert setting.ledger.free_tokens == 0


@given(st.data(), st.sampled_from([0.0, 0.3, 1.5, 7.0]), st.integers(0, 99))
def test_free_cache_is_enough_for_any_hops_that_one_session_can_have(data, journal, taken):
    edges = sorted(data.draw(st.sets(st.integers(0, 6), min_size=2)))
    held = tuple(Span(*pair) for pair in zip(edges[::2], edges[1::2], strict=False))
    setting = Setting(tokens=100, journal=journal, spans=held)
    if taken:
        setting.ledger.reserve("other", taken, setting.room.offer.whole_weight * 0.7)
    cuts = sorted(data.draw(st.sets(st.integers(1, 5))) | {0, 6})
    parts = [Span(*pair) for pair in pairwise(cuts)]
    ours = [any(span.covers(part) for span in held) and data.draw(st.booleans()) for part in parts]
    route = tuple(Hop("me" if mine else "other", part.start, part.stop) for mine, part in zip(ours, parts, strict=True))
    free = setting.ledger.free_tokens
    for to, mine in enumerate(ours):
        if mine and free:
            sent = setting.answer(route[to - 1].peer if to else "client", changed(to=to, limit=free, route=route))
            assert not any(isinstance(message, Broken) for _, message in sent)
    whole = setting.room.offer.whole_weight
    assert sum(setting.ledger._held.values()) <= 100 * whole + 1e-3


def test_a_session_gives_back_what_its_last_hop_of_a_span_used():
    setting = Setting(tokens=100, journal=1.0, spans=(Span(0, 6),))
    route = (Hop("me", 0, 2), Hop("x", 2, 4), Hop("me", 4, 5), Hop("y", 5, 6))
    setting.answer("client", changed(to=0, limit=50, route=route))
    assert sum(setting.ledger._held.values()) == 50 * 2
    setting.answer("x", changed(to=2, limit=50, route=route))
    assert sum(setting.ledger._held.values()) == 50 * 3  # two layers and one journal
    setting.answer("x", Close(S, 1, 2, 2))
    assert sum(setting.ledger._held.values()) == 50 * 2
    setting.answer("client", Close(S, 1, 0))
    assert setting.ledger.free_tokens == 100 and not setting.engine.open_keys


def test_a_session_belongs_to_the_client_that_opened_it():
    setting = Setting()
    setting.answer("before", ORDER)
    ((_, message),) = setting.answer("before", changed(chain=2, starts=((2, 0),), client="thief"))
    assert message.reason == "refused" and "another client" in message.detail


def test_frames_of_unknown_sessions_are_answered_and_late_ones_are_not():
    setting = Setting()
    for frame in (Step(S, 1, 1, 0, 0, (1,)), Keep(S, 1, 1), Grant(S, 1, 0, 5)):
        ((peer, message),) = setting.answer("before", frame)
        assert peer == "before" and message.reason == "unknown" and message.to == frame.to - 1
    setting.answer("before", changed(chain=3, starts=((3, 0),)))
    assert setting.answer("before", Step(S, 2, 1, 0, 0, (1,))) == []


@pytest.mark.parametrize(
    "sender, kind, rest",
    [
        ("before", Step, (0, 0, (1,), Blob("float32", 1, memoryview(b"1234")))),
        ("before", Keep, ()),
        ("before", Close, ()),
        ("after", Have, (0, 0, True)),
        ("after", Broken, (2, "lost")),
        ("client", Grant, (5,)),
        ("after", Drawn, (0, 3, (1,))),
    ],
)
def test_frames_of_an_older_chain_do_nothing_and_of_a_newer_one_no_more_than_ask(sender, kind, rest):
    setting = Setting()
    setting.answer("before", changed(chain=3, starts=((3, 0),)))
    assert setting.answer(sender, kind(S, 2, 1, *rest)) == []
    answers = [(peer, message.reason) for peer, message in setting.answer(sender, kind(S, 4, 1, *rest))]
    assert answers == ([(sender, "unknown")] if kind in (Step, Grant, Keep) else [])
    assert setting.room.sessions == 1 and not setting.engine.jobs and setting.ledger.free_tokens == 100


def test_of_two_hops_that_have_the_same_number_in_two_chains_the_one_of_the_frames_chain_is_meant():
    """A repair puts hops before one of ours, and the OPEN is not yet at the other."""
    setting = Setting(spans=(Span(3, 4), Span(5, 6)))
    first = (Hop("before", 0, 1), Hop("x", 1, 3), Hop("y", 3, 5), Hop("me", 5, 6))
    second = (Hop("before", 0, 1), Hop("x", 1, 2), Hop("z", 2, 3), Hop("me", 3, 4), Hop("y", 4, 5), Hop("me", 5, 6))
    setting.answer("y", changed(to=3, route=first))
    setting.answer("z", changed(to=3, chain=2, starts=((1, 0), (2, 0)), route=second))
    setting.answer("z", Step(S, 2, 3, 0, 0, (1,), Blob("float32", 1, memoryview(b"1234"))))
    assert [job.start for job in setting.engine.jobs] == [0]


def test_a_peer_whose_span_changes_passes_the_farewell_on_that_can_no_longer_reach_it():
    setting = Setting(spans=(Span(2, 5),))
    setting.answer("before", ORDER)
    sent = setting.answer("before", changed(chain=2, starts=((2, 0),), route=(Hop("before", 0, 2), Hop("me", 2, 5), Hop("end", 5, 6))))
    assert ("after", Close(S, 1, 2, 2)) in sent and len(setting.engine.open_keys) == 1


def test_a_leaving_peer_tells_its_sessions_and_takes_no_more_but_keeps_those_it_has():
    setting = Setting()
    setting.answer("before", ORDER)
    setting.links.sent.clear()
    setting.room.leave()
    ((peer, message),) = setting.links.sent
    assert peer == "before" and message.reason == "leaving"
    ((_, message),) = setting.answer("before", changed(session=b"t" * 16))
    assert message.reason == "leaving"
    assert isinstance(setting.answer("before", changed(chain=2, starts=((1, 0), (2, 0))))[0][1], Have)


def test_closed_and_silent_sessions_give_everything_back():
    setting = Setting()
    setting.answer("before", ORDER)
    assert setting.answer("before", Close(S, 1, 1)) == [("after", Close(S, 1, 2))]
    assert setting.room.sessions == 0 and setting.ledger.free_tokens == 200 and not setting.engine.open_keys
    setting.answer("before", ORDER)
    setting.now = 29
    setting.room.tick()
    assert setting.room.sessions == 1
    setting.now = 31
    setting.room.tick()
    assert setting.room.sessions == 0 and setting.ledger.free_tokens == 200


def test_a_hop_keeps_its_cache_when_its_number_in_the_chain_changes():
    setting = Setting()
    setting.answer("before", ORDER)
    (key,) = setting.engine.open_keys
    longer = (Hop("x", 0, 1), Hop("y", 1, 2), Hop("me", 2, 4), Hop("after", 4, 6))
    setting.answer("y", changed(chain=2, to=2, starts=((1, 0), (2, 0)), route=longer))
    assert setting.engine.open_keys == {key}


def test_an_engine_failure_is_reported_without_its_details():
    setting = Setting()
    setting.answer("before", ORDER)
    (key,) = setting.engine.open_keys
    setting.links.sent.clear()
    setting.room.failed(key, "secret path /home/somebody")
    ((peer, message),) = setting.links.sent
    assert peer == "before" and message.reason == "failed" and "secret" not in message.detail
    assert setting.room.sessions == 0


def test_a_conversation_that_waits_for_its_next_turn_is_not_one_that_something_is_computed_for():
    setting = Setting()
    setting.answer("before", ORDER)
    assert setting.room.sessions == setting.room.working(10.0) == 1, "it has only just begun"
    setting.now = 50.0
    assert setting.room.sessions == 1 and setting.room.working(10.0) == 0
    setting.answer("before", Step(ORDER.session, 1, 1, 0, 0, (5,), Blob("float32", 1, memoryview(bytes(4)))))
    setting.now = 100.0
    assert setting.room.working(10.0) == 1, "the engine still owes the answer"
    (key,), (job,) = setting.engine.open_keys, setting.engine.jobs
    setting.room.finished(key, job.serial, Blob("float32", 1, memoryview(bytes(4))), (), 3)
    setting.now = 109.0
    assert setting.room.working(10.0) == 1
    setting.now = 110.0
    assert setting.room.working(10.0) == 0 and setting.room.sessions == 1


MOVED = (ROUTE[0], Hop("me", 2, 4, (), 4), ROUTE[2])


def test_a_route_planned_with_another_span_is_refused_with_the_facts_and_one_that_runs_goes_on():
    setting = Setting(version=5)
    ((to, broken),) = setting.answer("before", changed(route=MOVED))
    assert (to, broken.reason) == ("before", "moved") and broken.facts == Facts(((2, 4),), 5, 200) and not setting.room.sessions
    setting.answer("before", changed(route=(ROUTE[0], Hop("me", 2, 4, (), 5), ROUTE[2])))
    assert setting.room.sessions == 1
    assert not [m for _, m in setting.answer("before", changed(chain=2, starts=((2, 1),), route=MOVED)) if isinstance(m, Broken)]


def test_a_route_of_a_coordinator_that_was_replaced_is_obeyed_for_as_long_as_routes_live():
    setting = Setting()
    setting.room.heard(3)
    for term, age, refused in ((2, ROUTE_LIFETIME - 1, False), (2, ROUTE_LIFETIME + 1, True), (3, 99, False), (0, 99, False), (4, 99, False)):
        setting.now = age
        order = changed(term=term, session=bytes([int(age), term]) * 8)
        broken = [message for _, message in setting.answer("before", order) if isinstance(message, Broken)]
        assert [(m.reason, m.facts.term) for m in broken] == ([("stale", 3)] if refused else []), (term, age)
        setting.answer("before", Close(order.session, 1, 1))


def test_a_term_falls_where_all_begin_anew_and_not_while_two_are_claimed():
    setting = Setting()
    setting.room.heard(7)
    for setting.now in range(1, 100):
        setting.room.heard(1 if setting.now % 20 else 7)
        assert setting.room.facts().term == 7
    for setting.now in range(100, 200):
        setting.room.heard(1)
    assert setting.room.facts().term == 1


def test_what_runs_counts_as_load_and_what_rests_does_not():
    setting = Setting()
    setting.answer("before", ORDER)
    assert setting.room.busy(2.0) == 2
    setting.now = 3.0
    assert setting.room.busy(2.0) == 0


def test_a_client_cannot_hold_more_than_it_has_reserved_by_ordering_less():
    setting = Setting()
    setting.answer("before", changed(limit=100))
    ones = Blob("float32", 1, memoryview(bytes(4 * 90)))
    setting.answer("before", Step(S, 1, 1, 0, 0, tuple(range(90)), ones))
    setting.answer("before", changed(chain=2, starts=((1, 90), (2, 90)), limit=0))
    assert setting.ledger.free_tokens == 100


def test_the_last_of_the_cache_is_for_clients_that_have_none_of_it():
    """One with a session here begins another only as long as an eighth stays free; the first session of a client may take all there is, and one that is here
    may grow."""
    setting, answers = Setting(tokens=200), []

    def opened(number: int, client: str, limit: int, **more) -> str:
        order = changed(session=bytes([number]) * 16, limit=limit, client=client, **more)
        return next((message.detail for _, message in setting.answer("before", order) if isinstance(message, Broken)), "")

    answers += [opened(0, "one", 100), opened(1, "one", 75)]
    assert answers == ["", ""] and setting.ledger.free_tokens == 25
    assert "25 positions" in opened(2, "one", 1)
    assert opened(0, "one", 110, chain=2, starts=((2, 0),)) == "" and setting.ledger.free_tokens == 15
    assert opened(3, "two", 15) == "" and setting.ledger.free_tokens == 0
    assert opened(0, "whole", 120) != ""
    alone = Setting(tokens=100)
    assert not any(isinstance(message, Broken) for _, message in alone.answer("before", ORDER)), "a small cache takes one long session"
    own = Setting(tokens=200, only="client")
    for number in range(2):
        assert any(isinstance(message, Have) for _, message in own.answer("before", changed(session=bytes([number]) * 16)))


def test_sessions_that_reserve_nothing_are_counted_too(monkeypatch):
    monkeypatch.setattr("swarm.peer.admission.MOST_EACH", 3)
    monkeypatch.setattr("swarm.peer.admission.MOST_SESSIONS", 5)
    setting, reasons = Setting(), []
    for number, client in enumerate(["one"] * 4 + ["two"] * 3):
        order = changed(session=bytes([number]) * 16, limit=0, client=client)
        reasons += [message.reason for _, message in setting.answer("before", order) if isinstance(message, Broken)]
    assert setting.room.sessions == 5 and reasons == ["overloaded"] * 2
    again = changed(session=bytes([0]) * 16, limit=0, client="one", chain=2, starts=((2, 0),))
    assert any(isinstance(message, Have) for _, message in setting.answer("before", again)), "a session that is here goes on"


@pytest.mark.parametrize("expires, begun", [(0.0, True), (1000.5, True), (999.5, False)])
def test_an_order_that_is_over_begins_nothing_and_what_runs_goes_on(expires, begun):
    """Or whoever has seen one could have cache reserved with it for ever."""
    setting = Setting()
    order = changed(expires=expires)
    sent = setting.answer("before", order)
    assert [message.reason for _, message in sent if isinstance(message, Broken)] == ([] if begun else ["refused"])
    if begun:
        setting.now = 10.0
        assert any(isinstance(message, Have) for _, message in setting.answer("before", order))


# --- prefixes -------------------------------------------------------------------------------------------------------------------------------------------------

TOKENS = tuple(range(40))


def computed(setting: Setting, session: bytes = S, client: str = "client") -> None:
    """A session that has computed TOKENS here."""
    setting.answer("before", changed(session=session, client=client))
    rows = Blob("float32", 1, memoryview(bytes(4 * len(TOKENS))))
    setting.answer("before", Step(session, 1, 1, 0, 0, TOKENS, rows))
    setting.room.finished(HopKey(session, 2, 4), setting.engine.jobs[-1].serial, rows, (), 0)


def ended(setting: Setting, session: bytes = S, client: str = "client") -> None:
    """And rests."""
    computed(setting, session, client)
    assert setting.answer("before", Close(session, 1, 1, rests=True)) == [("after", Close(session, 1, 2, rests=True))]


def begun(setting: Setting, prefix: Prefix | None, session: bytes = b"n" * 16, client: str = "client", limit: int = 100) -> int:
    """How many positions a new session has from the start."""
    sent = setting.answer("before", changed(session=session, client=client, prefix=prefix, limit=limit, starts=((1, 39),)))
    return next(message.length for _, message in sent if isinstance(message, Have))


def test_a_session_begins_with_what_an_ended_one_holds():
    setting = Setting()
    ended(setting)
    assert setting.room.sessions == 0 and setting.ledger.free_tokens == 200, "what rests is in nobody's way"
    assert begun(setting, Prefix(S, 30, digest_of(TOKENS[:30]))) == 30
    assert setting.engine.copied == [(b"n" * 16, S, 30)] and setting.ledger.free_tokens == 100


def test_who_goes_on_from_an_ended_session_takes_its_cache_over():
    """Where most of it is of use, and what it takes is reserved: nothing is copied, and nothing counted twice."""
    setting = Setting(tokens=400)
    ended(setting)
    assert begun(setting, Prefix(S, 38, digest_of(TOKENS[:38]))) == 38
    assert {key.session for key in setting.engine.open_keys} == {b"n" * 16} and (setting.ledger.laid, setting.ledger.free_tokens) == (0, 300)
    for length, limit in ((29, 100), (38, 63)):
        setting = Setting(tokens=400)
        ended(setting)
        assert begun(setting, Prefix(S, length, digest_of(TOKENS[:length])), limit=limit) == length
        assert len(setting.engine.open_keys) == 2 and setting.ledger.laid > 0, "a copy"


@pytest.mark.parametrize(
    ("prefix", "client"),
    [
        (None, "client"),
        (Prefix(S, 30, digest_of(TOKENS[1:31])), "client"),
        (Prefix(S, 41, digest_of((*TOKENS, 40))), "client"),
        (Prefix(b"?" * 16, 30, digest_of(TOKENS[:30])), "client"),
        (Prefix(S, 30, digest_of(TOKENS[:30])), "another"),
    ],
    ids=["none", "other tokens", "more than there is", "unknown", "another client"],
)
def test_nothing_else_is_begun_with(prefix, client):
    setting = Setting()
    ended(setting)
    assert begun(setting, prefix, client=client) == 0 and not setting.engine.copied


def test_nothing_is_begun_with_that_is_not_reserved():
    """Or one that reserves a single position would hold as many as it likes."""
    setting = Setting()
    ended(setting)
    assert begun(setting, Prefix(S, 30, digest_of(TOKENS[:30])), limit=30) == 0 and not setting.engine.copied
    assert begun(setting, Prefix(S, 30, digest_of(TOKENS[:30])), session=b"m" * 16, limit=31) == 30


def test_a_session_that_names_itself_begins_with_nothing_and_harms_nobody():
    setting = Setting(tokens=400)
    own = b"n" * 16
    assert begun(setting, Prefix(own, 30, digest_of(TOKENS[:30])), session=own) == 0
    assert any(isinstance(message, Have) for _, message in setting.answer("before", ORDER))
    setting.room.lost("after")
    setting.room.leave()


def test_nobody_keeps_what_is_anothers():
    setting = Setting(tokens=210)
    for session in (S, b"t" * 16):
        ended(setting, session)
    assert begun(setting, Prefix(S, 30, digest_of(TOKENS[:30])), client="another", limit=90) == 0
    assert {key.session for key in setting.engine.open_keys} == {b"t" * 16, b"n" * 16}, "the oldest still goes first"


def test_what_rests_counts_as_large_as_it_is():
    """Its cache has grown under an earlier order, which let it."""
    setting = Setting(tokens=200)
    computed(setting)
    rows = Blob("float32", 1, memoryview(bytes(4 * 30)))
    setting.answer("before", Step(S, 1, 1, 0, 40, tuple(range(30)), rows))
    setting.answer("before", changed(chain=2, starts=((2, 69),), limit=71))
    setting.answer("before", Close(S, 2, 1, rests=True))
    assert setting.ledger.laid == 100, "a slab for 128 positions under a limit of 100"


def test_caches_that_cannot_be_cut_and_tokens_that_are_hidden_are_not_begun_with():
    for odd in ("rewindable", "veil"):
        setting = Setting()
        ended(setting)
        if odd == "rewindable":
            setting.room.offer = replace(setting.room.offer, rewindable=False)
        else:
            setting.room._veil = lambda session, position, token: token
        assert begun(setting, Prefix(S, 30, digest_of(TOKENS[:30]))) == 0


def test_the_prefix_that_is_asked_for_goes_last():
    """The oldest makes room, unless it is what the newcomer begins with."""
    setting = Setting(tokens=210)
    for session in (S, b"t" * 16):
        ended(setting, session)
    assert setting.ledger.reserve(b"somebody", 40, 2) == [] and len(setting.engine.open_keys) == 2
    assert begun(setting, Prefix(S, 20, digest_of(TOKENS[:20]))) == 20
    assert {key.session for key in setting.engine.open_keys} == {S, b"n" * 16}


def test_an_order_that_comes_after_the_end_begins_anew():
    setting = Setting()
    ended(setting)
    assert any(isinstance(message, Have) and message.length == 0 for _, message in setting.answer("before", ORDER))
    assert setting.engine.freed == [HopKey(S, 2, 4)], "its cache is not that of the new one"
    setting.answer("before", Close(S, 1, 1))
    assert not setting.engine.open_keys and len(setting.room._prefixes) == 0


def test_a_second_farewell_ends_the_rest():
    setting = Setting()
    ended(setting)
    assert setting.answer("stranger", Close(S, 1, 1)) == [] and len(setting.engine.open_keys) == 1
    assert setting.answer("before", Close(S, 1, 1)) == [("after", Close(S, 1, 2))]
    assert not setting.engine.open_keys


def test_a_peer_that_leaves_or_moves_keeps_nothing():
    for act in (lambda room: room.leave(), lambda room: room.vacate(Span(0, 2), 4)):
        setting = Setting()
        ended(setting)
        act(setting.room)
        assert not setting.engine.open_keys
    setting = Setting()
    computed(setting)
    setting.room.leave()
    setting.answer("before", Close(S, 1, 1, rests=True))
    assert not setting.engine.open_keys


def test_no_client_rests_with_more_than_its_share(monkeypatch):
    monkeypatch.setattr("swarm.peer.prefixes.MOST", 5)
    monkeypatch.setattr("swarm.peer.prefixes.MOST_EACH", 2)
    setting = Setting(tokens=100_000)
    for number, client in enumerate(["one"] * 3 + ["two"] * 2 + ["three"] * 2):
        ended(setting, bytes([number]) * 16, client)
    assert sorted(key.session[0] for key in setting.engine.open_keys) == [2, 3, 4, 5, 6]


def test_what_has_to_make_room_is_freed_and_counted_once(monkeypatch):
    """For a session, for another one at rest, and for the machine's other programs; and what ends itself is not counted any more."""
    setting = Setting(tokens=200)
    for session in (S, b"t" * 16):
        ended(setting, session)
    before = setting.ledger.laid
    setting.answer("before", Close(S, 1, 1))
    assert setting.ledger.laid == before / 2 and len(setting.engine.open_keys) == 1
    ended(setting, b"u" * 16)
    ended(setting, b"v" * 16)
    ended(setting, b"w" * 16)
    assert {key.session[:1] for key in setting.engine.open_keys} == {b"v", b"w"}, "what runs took the room of the others"
    setting.room.hold_to(100)
    assert {key.session[:1] for key in setting.engine.open_keys} == {b"w"}


def test_a_session_that_rests_has_nothing_left_to_do():
    setting = Setting()
    computed(setting)
    cuts = []
    setting.engine.truncate = lambda key, length: cuts.append(length)
    rows = Blob("float32", 1, memoryview(bytes(4 * 5)))
    setting.answer("before", Step(S, 1, 1, 0, 40, (1, 2, 3, 4, 5), rows))
    setting.answer("before", Close(S, 1, 1, rests=True))
    assert cuts == [40], "what was not computed yet never will be"


def test_what_has_computed_nothing_does_not_rest():
    setting = Setting()
    setting.answer("before", ORDER)
    setting.answer("before", Close(S, 1, 1, rests=True))
    assert not setting.engine.open_keys and len(setting.room._prefixes) == 0


def full_of(*clients: str) -> Setting:
    """As many sessions as fit, each kept alive and none with anything to do."""
    setting = Setting(tokens=120 * len(clients))
    for number, client in enumerate(clients):
        session = bytes([number]) * 16
        assert any(isinstance(message, Have) for _, message in setting.answer("before", changed(session=session, client=client)))
    return setting


def kept(setting: Setting) -> list[int]:
    return sorted(key.session[0] for key in setting.engine.open_keys)


def test_who_holds_room_and_does_nothing_makes_room_for_who_has_work():
    setting = full_of("hoarder", "another")
    setting.now = IDLE - 1
    late = changed(session=b"x" * 16, client="other")
    assert [message.reason for _, message in setting.answer("before", late)] == ["overloaded"] and kept(setting) == [0, 1]
    for number in (0, 1):
        setting.room.receive("before", Keep(bytes([number]) * 16, 1, 1))  # which is no work
    setting.now = IDLE + 1
    said = setting.answer("before", late)
    assert [message.reason for _, message in said if isinstance(message, Broken)] == ["unknown"], "its client is told to open it again"
    assert any(isinstance(message, Have) and message.session == b"x" * 16 for _, message in said)
    assert kept(setting) == [1, 120], "the one that has been idle longest, and no more than needed"
    assert setting.ledger.free_tokens == 40


def test_nobody_makes_room_for_another_session_of_its_own_client_or_in_vain():
    setting = full_of("one", "one")
    setting.now = IDLE + 1
    assert [message.reason for _, message in setting.answer("before", changed(session=b"x" * 16, client="one"))] == ["overloaded"]
    assert kept(setting) == [0, 1]
    setting = full_of("one", "two")
    setting.now = IDLE + 1
    setting.answer("before", Step(bytes([1]) * 16, 1, 1, 0, 0, (1,), Blob("float32", 1, memoryview(bytes(4)))))  # this one works
    setting.room._tenants.works(bytes(16))
    assert [message.reason for _, message in setting.answer("before", changed(session=b"x" * 16, client="three"))] == ["overloaded"]
    assert kept(setting) == [0, 1]


def test_where_there_are_as_many_sessions_as_are_taken_the_idlest_goes(monkeypatch):
    monkeypatch.setattr("swarm.peer.admission.MOST_SESSIONS", 2)
    setting = Setting(tokens=10_000)
    for number in (0, 1):
        setting.now = float(number)
        setting.answer("before", changed(session=bytes([number]) * 16, client="hoarder"))
    setting.now = IDLE + 5
    assert any(isinstance(message, Have) for _, message in setting.answer("before", changed(session=b"x" * 16, client="other")))
    assert kept(setting) == [1, 120]


class Sayer(Drafter):
    """Always says 9, and is hardly ever wrong."""

    over = False

    def offers(self, tokens, fresh, sure):
        return "sayer 32"

    def take(self, tokens, fresh, most):
        return [9] * most

    def closed(self):
        self.over = True


class Front:
    """A first hop whose ring takes 0.1 s and its slowest hop 5 ms, and who guesses there."""

    def __init__(self, rewindable: bool = True, vocab: int = 0, **changes) -> None:
        self.sayers: list[Sayer] = []
        self.setting = Setting(2000, spans=(Span(0, 2),), drafters=self._drafters, rewindable=rewindable, vocab=vocab)
        self._changes = {"route": (Hop("me", 0, 2), Hop("after", 2, 6)), **changes}
        self.open(S)

    def _drafters(self, ready):
        self.sayers.append(Sayer())
        return self.sayers[-1:]

    def open(self, session: bytes) -> None:
        """A session, and its prompt is computed."""
        self.setting.answer("client", changed(0, session=session, **self._changes))
        self.setting.room.receive("client", Step(session, 1, 0, 0, 0, (1, 2, 3)))

    def guessed(self) -> int:
        """How many guesses leave with the second token that comes home."""
        room, jobs = self.setting.room, self.setting.engine.jobs
        room.receive("after", Drawn(S, 1, 0, 0, 3, (4,)))
        self.setting.now += 0.1
        before = len(jobs)
        room.receive("after", Drawn(S, 1, 0, 0, 4, (5,), micros=(5000, 5000)))
        return sum(job.tokens.count(9) for job in jobs[before:])


def test_a_first_hop_guesses_as_far_as_it_pays_and_as_its_client_wants():
    assert Front().guessed() == 19
    assert Front(ahead=3).guessed() == 3 and Front(ahead=0).guessed() == 0


def test_no_guess_is_started_that_is_no_token_of_the_model():
    """Its own engine would fail on it, and take the answer along."""
    assert Front(vocab=10).guessed() == 19 and Front(vocab=9).guessed() == 0


def test_a_long_prompt_that_is_copied_is_known_by_the_time_that_its_first_token_is_home():
    """It is looked at while it is computed."""
    period = 3 * INDEX_AT_ONCE
    text = [at % period for at in range(period + 20)]
    setting = Setting(10**6, spans=(Span(0, 2),), max_length=10**6)
    order = {"route": (Hop("me", 0, 2), Hop("after", 2, 6)), "emit_from": len(text), "limit": len(text) + 100, "until": len(text) + 100}
    setting.answer("client", changed(0, **order))
    for at in range(0, len(text), FEED):
        setting.room.receive("client", Step(S, 1, 0, 0, at, tuple(text[at : at + FEED])))
    key, jobs = HopKey(S, 0, 2), setting.engine.jobs
    for job in list(jobs):
        setting.room.finished(key, job.serial, Blob("float32", 1, memoryview(bytes(4 * len(job.tokens)))), (), 5000)
    before = len(jobs)
    setting.now += 0.5
    setting.room.receive("after", Drawn(S, 1, 0, 0, len(text), (20,), micros=(5000, 5000)))
    assert [token for job in jobs[before:] for token in job.tokens][:4] == [20, 21, 22, 23]


def test_guesses_make_way_for_other_sessions_that_are_at_work():
    for pause, guessed in ((0.0, 9), (AT_WORK, 19)):
        front = Front()
        front.open(b"t" * 16)
        front.setting.now += pause
        assert front.guessed() == guessed


def test_a_cache_that_cannot_be_cut_is_not_guessed_for():
    front = Front(rewindable=False)
    assert not front.sayers and front.guessed() == 0


def test_drafters_hear_that_a_session_is_over():
    """A draft model's cache would be kept for ever."""
    for end in (Close(S, 1, 0), Close(S, 1, 0, rests=True)):
        front = Front()
        assert not front.sayers[0].over
        front.setting.room.receive("client", end)
        assert front.sayers[0].over and not front.setting.room._guessers and not front.setting.room._told
