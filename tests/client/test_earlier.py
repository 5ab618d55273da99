"""Which session a new one begins as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.client import earlier as room
from swarm.client.earlier import Earlier, Found
from swarm.core import Hop, Sampling
from swarm.machines.client import ClientSession
from swarm.machines.effects import Send
from swarm.routing.route import Leg, Route
from swarm.wire import Close, Open, decode_order

HOPS = (Hop("a", 0, 4), Hop("b", 4, 8))


def session(number: int, tokens: list[int], *, opened: bool = True, numerics: str = "float32", reach=lambda goal: 1) -> ClientSession:
    made = ClientSession(bytes([number]) * 16, "me", "rev", numerics, reach=reach)
    made.begin(tokens, Sampling(), 10)
    if opened:
        made.open(HOPS)
    return made


def route() -> Route:
    return Route(8, tuple(Leg(hop, 0.1, 0.1, 0.1, 0.1) for hop in HOPS), 1.0)


def test_the_one_that_shares_most_is_taken_and_a_little_is_not_enough():
    earlier = Earlier()
    for number, length in ((1, 20), (2, 30), (3, 25)):
        one = session(number, [*range(length), 999])
        earlier.began(one)
        earlier.end(one, route(), 0.0)
    new = session(9, list(range(40)), opened=False)
    found = earlier.best(new, 1.0)
    assert (found.machine.session[0], found.length) == (2, 30) and found.ended is not None
    assert earlier.best(session(9, [*range(15), 7, 8], opened=False), 1.0) is None
    assert earlier.best(new, room.KEPT + 1.0) is None, "peers have forgotten it"


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.lists(st.integers(0, 1), min_size=1, max_size=40))
def test_sharing_is_counted_to_the_token(one, other):
    expected = next((at for at in range(min(len(one), len(other) - 1)) if one[at] != other[at]), min(len(one), len(other) - 1))
    assert session(2, other, opened=False).shares(session(1, one)) == expected


def test_where_keys_depend_on_the_length_a_session_that_runs_is_left_alone():
    """Its next turn may have all of them computed anew before we begin."""
    earlier = Earlier()
    running = session(1, list(range(30)), reach=lambda goal: 1 + (goal > 100))
    earlier.began(running)
    new = session(2, list(range(40)), opened=False, reach=lambda goal: 1 + (goal > 100))
    assert earlier.best(new, 0.0) is None
    earlier.end(running, route(), 0.0)
    assert earlier.best(new, 1.0) is not None


def test_only_what_every_hop_will_have_is_shared_and_the_last_token_is_fed():
    old = session(1, list(range(30)))
    assert session(2, list(range(30)), opened=False).shares(old) == 29
    assert session(2, list(range(60)), opened=False).shares(old) == 30
    assert session(2, list(range(60)), opened=False, numerics="bfloat16").shares(old) == 0
    assert session(2, list(range(60)), opened=False, reach=lambda goal: goal).shares(old) == 0, "its keys would be others"
    assert session(2, list(range(60)), opened=False).shares(session(3, list(range(30)), opened=False)) == 0, "nothing of it has been sent"
    old.cut(20)
    assert session(2, list(range(60)), opened=False).shares(old) == 20


def test_the_order_says_what_is_shared_and_hops_keep_it():
    old, new = session(1, list(range(30))), session(2, list(range(60)), opened=False)
    new.begin_as(old, 30)
    (sent,) = [effect for effect in new.open(HOPS) if isinstance(effect, Send) and isinstance(effect.message, Open)]
    order = decode_order(sent.message.order)
    assert (order.prefix.session, order.prefix.length, order.starts) == (old.session, 30, ((1, 30),))
    for length in (0, 31):
        with pytest.raises(ValueError):
            session(2, list(range(60)), opened=False).begin_as(old, length)


def test_a_prompt_that_was_withdrawn_takes_its_prefix_along():
    old, new = session(1, list(range(30))), session(2, list(range(60)), opened=False)
    new.begin_as(old, 30)
    new.cut(0)
    new.begin([7] * 40, Sampling(), 10)
    (sent,) = [effect for effect in new.open(HOPS) if isinstance(effect, Send) and isinstance(effect.message, Open)]
    assert decode_order(sent.message.order).prefix is None


def test_of_equal_ones_one_is_named_that_still_holds_it():
    """Who began as an ended session may have got what its hops held."""
    earlier = Earlier()
    old, first, second = session(1, list(range(30))), session(2, list(range(60))), session(3, list(range(50)), opened=False)
    earlier.began(old)
    earlier.end(old, route(), 0.0)
    earlier.began(first)
    third = session(4, list(range(30)), opened=False)
    assert earlier.best(third, 1.0).machine is old
    earlier.began(third, earlier.best(third, 1.0))
    assert earlier.best(session(5, list(range(30)), opened=False), 1.0).machine is first
    earlier.end(first, route(), 2.0)
    assert earlier.best(second, 3.0).machine is first


def test_one_at_a_time_takes_the_route_of_an_ended_session():
    earlier = Earlier()
    old = session(1, list(range(30)))
    earlier.began(old)
    earlier.end(old, route(), 0.0)
    first, second = (session(number, list(range(40)), opened=False) for number in (2, 3))
    found = earlier.best(first, 1.0)
    assert found.route is not None
    earlier.began(first, found)
    assert earlier.best(second, 1.0).ended is found.ended and earlier.best(second, 1.0).route is None
    earlier.end(first, None, 2.0)
    assert earlier.best(second, 1.0).route is found.route


def test_sessions_that_run_are_known_too_and_ended_ones_are_few(monkeypatch):
    monkeypatch.setattr(room, "MOST", 2)
    earlier = Earlier()
    running = session(1, list(range(30)))
    earlier.began(running)
    assert earlier.best(session(9, list(range(40)), opened=False), 0.0) == Found(running, 30)
    gone = []
    for number in range(2, 6):
        one = session(number, [number] * 30)
        earlier.began(one)
        rests, others = earlier.end(one, route(), 0.0)
        assert rests
        gone += others
    assert [other.session[0] for other in gone] == [2, 3]
    assert [other.session[0] for other in earlier.close()] == [4, 5]
    assert earlier.end(running, route(), 0.0) == (False, []), "a client that leaves leaves nothing behind"


def test_without_reuse_every_session_is_the_first():
    earlier = Earlier(reuse=False)
    one = session(1, list(range(30)))
    earlier.began(one)
    assert earlier.best(session(9, list(range(40)), opened=False), 0.0) is None
    assert earlier.end(one, route(), 0.0) == (False, [])


def test_what_never_ran_or_hardly_does_not_rest():
    earlier = Earlier()
    for tokens, where in (([1] * 30, None), ([1] * 16, route())):
        one = session(1, tokens)
        earlier.began(one)
        assert earlier.end(one, where, 0.0) == (False, [])
    assert earlier.end(session(2, [1] * 30), route(), 0.0) == (False, []), "nor what nobody has heard of"
    (sent,) = session(1, [1] * 30).close(rests=True)
    assert isinstance(sent.message, Close) and sent.message.rests
