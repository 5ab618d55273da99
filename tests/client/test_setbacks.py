"""When it is enough: how long a session bears peers that fail, fall silent or have no room."""

from __future__ import annotations

import pytest

from swarm.client.setbacks import LEAST_WAIT, Setbacks
from swarm.routing.peers import SHUNNED


def setbacks(first: int = 128) -> Setbacks:
    """Of a session whose id begins so: with 128 it waits for exactly what it is told."""
    return Setbacks(bytes([first, 0, 255]) + bytes(13))


def test_a_peer_that_fails_again_and_again_is_in_trouble_for_as_long_as_it_goes_on():
    one = setbacks()
    assert [one.troubled("a", now) for now in (0.0, 5.0, 5.0 + SHUNNED)] == [0.0, 5.0, 5.0 + SHUNNED]
    assert one.troubled("b", 7.0) == 0.0, "somebody else is"


def test_who_fails_after_it_was_forgiven_begins_anew():
    one = setbacks()
    one.troubled("a", 0.0)
    assert one.troubled("a", SHUNNED + 0.1) == 0.0


def test_who_has_no_room_is_asked_again_after_a_wait_and_not_before():
    one = setbacks()
    assert one.full("a") == {"a"} and one.full("b") == {"a", "b"}
    assert one.wait(2.0) == 2.0 and one.full("c") == {"c"}, "all have been asked"


@pytest.mark.parametrize(("first", "share"), [(0, 0.75), (128, 1.0), (255, 0.75 + 255 / 512)])
def test_sessions_refused_together_come_back_apart_and_nobody_asks_without_a_pause(first, share):
    one = setbacks(first)
    assert one.wait(4.0) == pytest.approx(4.0 * share)
    assert setbacks(first).wait(0.0) == pytest.approx(LEAST_WAIT * share)
    assert one.wait(4.0) == pytest.approx(3.0), "another time at another moment"
    assert one.waits == 2 and one.waited == pytest.approx(4.0 * share + 3.0)


def test_a_token_makes_up_for_everything():
    one = setbacks()
    one.troubled("a", 0.0)
    one.full("a")
    assert one.fell_silent() == 1 and one.fell_silent() == 2
    one.wait(1.0)
    one.over()
    assert (one.silences, one.waits, one.waited) == (0, 0, 0.0)
    assert one.troubled("a", 5.0) == 0.0 and one.full("b") == {"b"} and one.fell_silent() == 1
