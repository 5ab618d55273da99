"""Who is served here, whose they are and who is at work; and what a session claims of the room before its order is obeyed."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from swarm.core import Hop, HopKey, Sampling, Span
from swarm.machines.ledger import CacheLedger
from swarm.peer.admission import IDLE, SPARE, TERM_FORGOTTEN, Admission, key_of
from swarm.peer.offer import Offer
from swarm.peer.prefixes import Prefixes
from swarm.peer.tenants import Tenants
from swarm.wire import ROUTE_LIFETIME, Open, Order, encode

OFFER = Offer("r", "f", 6, (Span(0, 3), Span(3, 6)), 100)


@dataclass
class Standing:
    """A hop, as far as others look at it."""

    client: str
    reserved: int = 10
    computes: bool = False

    @property
    def order(self):
        return SimpleNamespace(client=self.client)

    def reserves(self, order: Order) -> int:
        return max(order.limit, self.reserved)


class Setting:
    def __init__(self, only: str | None = None) -> None:
        self.now = 0.0
        self.tenants = Tenants(lambda: self.now)
        more = {"clock": lambda: self.now, "verify": lambda *_: True, "only": only, "wall": None}
        self.admission = Admission("me", self.tenants, Prefixes(), **more)

    def add(self, session: int, client: str = "one", start: int = 0, stop: int = 3, **more) -> HopKey:
        key = HopKey(bytes([session]) * 16, start, stop)
        self.tenants.add(key, Standing(client, **more))
        self.tenants.works(key.session)
        return key

    def objection(self, order: Order, to: int, ledger: CacheLedger | None = None, leaving: bool = False):
        message = Open(order.session, order.chain, to, encode(order), b"")
        return self.admission.objection(order.sender(to), message, order, OFFER, ledger or CacheLedger(1000, OFFER.whole_weight), leaving=leaving)


def order(session: int, *, client: str = "one", limit: int = 50, term: int = 0, mine: tuple[tuple[int, int], ...] = ((0, 3),)) -> Order:
    """Over hops of ours, and somebody else's between and behind them."""
    hops, at = [], 0
    for start, stop in mine:
        hops += [Hop("other", at, start)] * (at < start) + [Hop("me", start, stop)]
        at = stop
    hops += [Hop("other", at, 6)] * (at < 6)
    return Order(bytes([session]) * 16, 2, client, "r", "f", ((2, 0),), 1, 9, limit, Sampling(), tuple(hops), term=term)


def test_a_session_is_here_as_long_as_it_has_a_hop_here():
    setting = Setting()
    one, two = setting.add(1, start=0, stop=3), setting.add(1, start=3, stop=6)
    other = setting.add(2, "two")
    tenants = setting.tenants
    assert len(tenants) == 2 and [key for key, _ in tenants.all()] == [one, two, other] and set(tenants.of(one.session)) == {one, two}
    assert tenants.client(other.session) == "two" and tenants.sessions_of("one") == 1
    assert tenants.remove(one) is not None and len(tenants) == 2 and tenants.get(one) is None and tenants.get(two) is not None
    assert tenants.remove(two) is not None and len(tenants) == 1 and tenants.remove(two) is None and not tenants.of(two.session)
    assert tenants.working(10.0) == 1, "who is gone does not work"


def test_who_is_at_work_is_who_was_computed_for_lately_or_is_now():
    setting = Setting()
    old, now, fresh = setting.add(1), setting.add(2, computes=True, start=3, stop=5), setting.add(3)
    setting.now = 5.0
    setting.tenants.works(fresh.session)
    assert setting.tenants.working(2.0) == 2 and setting.tenants.busy(2.0) == 3 and setting.tenants.working(6.0) == 3
    assert setting.tenants.others(old.session, 2.0) == 1 and setting.tenants.others(fresh.session, 2.0) == 0 and setting.tenants.others(now.session, 6.0) == 2


def test_idle_are_sessions_of_others_for_which_nothing_was_computed_for_long_the_idlest_first():
    setting = Setting()
    for now, session, client, more in (
        (5.0, 1, "one", {}),
        (1.0, 2, "two", {}),
        (0.0, 3, "mine", {}),
        (0.0, 4, "two", {"computes": True}),
        (9.0, 5, "two", {}),
    ):
        setting.now = now
        setting.add(session, client, **more)
    setting.now = IDLE + 6.0
    assert [session[0] for session in setting.admission.idle(order(9, client="mine"))] == [2, 1]


def test_a_claim_counts_what_stays_and_what_comes_and_not_what_the_order_does_without():
    setting = Setting()
    setting.add(1, start=0, stop=3, reserved=80)
    setting.add(1, start=3, stop=6, reserved=20)

    def claimed(wanted: Order, to: int, upto: int = 2**16) -> tuple[int, float]:
        message = Open(wanted.session, 2, to, b"", b"", upto)
        assert key_of(message, wanted) == HopKey(wanted.session, *[(hop.start, hop.stop) for hop in wanted.route][to])
        return setting.admission.claim(message, wanted, OFFER)

    both, first = OFFER.weight([Span(0, 3), Span(3, 6)]), OFFER.weight([Span(0, 3)])
    assert claimed(order(1, limit=50, mine=((0, 3), (3, 6))), 1) == (80, both), "the first hop has not heard of it yet"
    assert claimed(order(1, limit=50), 0) == (80, first), "the other one goes"
    assert claimed(order(1, limit=50, mine=((3, 6),)), 1) == (50, OFFER.weight([Span(3, 6)]))
    assert claimed(order(1, limit=50), 0, upto=0) == (80, both), "only prepared: the old chain goes on"
    assert claimed(order(7, limit=50), 0) == (50, first)


def test_who_has_a_session_here_leaves_some_room_to_others_and_a_first_one_takes_all():
    ledger = CacheLedger(100, OFFER.weight([Span(0, 3)]))
    assert Setting().objection(order(1, limit=100), 0, ledger) is None
    for only, more, fits in ((None, 0, True), (None, 1, False), ("one", 1, True)):
        setting = Setting(only)
        setting.add(2)
        found = setting.objection(order(1, limit=int(100 * (1 - SPARE)) + more), 0, ledger)
        assert (found is None) == fits and (fits or "for other clients" in found[1])


def test_an_order_is_held_against_the_newest_term_once_older_routes_are_over():
    setting = Setting()
    setting.admission.heard(5)
    old = order(1, term=4)
    setting.now = ROUTE_LIFETIME
    assert setting.objection(old, 0) is None
    setting.now += 0.1
    assert setting.objection(old, 0)[0] == "stale" and setting.objection(order(1, term=5), 0) is None and setting.objection(order(1), 0) is None
    setting.add(1)
    assert setting.objection(old, 0) is None, "what runs goes on"
    setting.admission.heard(4)
    assert setting.admission.term == 5
    setting.now += TERM_FORGOTTEN
    setting.admission.heard(4)
    assert setting.admission.term == 4, "all candidates began anew"


@pytest.mark.parametrize(("client", "leaving", "reason"), [("one", False, None), ("two", False, "refused"), ("one", True, None)])
def test_a_session_is_its_clients_and_a_leaving_peer_goes_on_with_what_it_has(client, leaving, reason):
    setting = Setting()
    setting.add(1)
    found = setting.objection(order(1, client=client), 0, leaving=leaving)
    assert (found and found[0]) == reason
    assert not leaving or setting.objection(order(2), 0, leaving=True)[0] == "leaving"
