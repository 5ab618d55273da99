"""When to ask again for room that is not there."""

from __future__ import annotations

from swarm.peer.crowd import FORGOTTEN, LEAST, MOST, SHARE, USUAL, Crowd


def session(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_the_more_wait_and_the_seldomer_sessions_end_the_later():
    crowd = Crowd()
    assert crowd.retry_after(0.0) == 0.0
    crowd.refused(session(0), 0.0)
    crowd._gap = 0.1
    assert crowd.retry_after(0.0) == LEAST
    crowd._gap = USUAL
    for number in range(8):
        crowd.refused(session(number), 0.0)
    assert crowd.retry_after(0.0) == SHARE * 8 * USUAL
    for end in range(60):
        crowd.ended(0.1 * end)
    assert abs(crowd.retry_after(6.0) - SHARE * 8 * 0.1) < 0.01
    for number in range(8, 4000):
        crowd.refused(session(number), 6.0)
    assert crowd.retry_after(6.0) == MOST


def test_who_is_in_and_who_has_given_up_waits_no_more():
    crowd = Crowd()
    for number in range(8):
        crowd.refused(session(number), float(number))
    crowd.admitted(session(7))
    crowd.refused(session(6), 7.0)
    assert crowd.retry_after(7.0) == SHARE * 7 * USUAL
    assert crowd.retry_after(5.5 + FORGOTTEN) == SHARE * 1 * USUAL


def test_ends_while_nobody_waits_say_nothing():
    crowd = Crowd()
    crowd.ended(0.0)
    crowd.ended(1000.0)
    crowd.refused(session(1), 1000.0)
    crowd.ended(1001.0)
    assert crowd.retry_after(1001.0) == SHARE * USUAL


def test_a_crowd_without_end_takes_little_memory(monkeypatch):
    monkeypatch.setattr("swarm.peer.crowd.MOST_WAITING", 5)
    crowd = Crowd()
    for number in range(50):
        crowd.refused(session(number), 0.0)
    assert len(crowd._waiting) == 5
