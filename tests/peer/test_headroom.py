"""How many positions there is memory for, whatever was promised: bytes and seconds, nothing real."""

from __future__ import annotations

from swarm.peer.headroom import BACK, LEFT, Headroom

POSITION = 2**20
GB = 2**30


def test_without_sizes_nothing_is_held_back():
    assert Headroom(0.0).most(0, 0, 0, 0.0, 0.0) is None


def test_there_is_as_much_as_is_free_less_what_is_left_alone():
    assert Headroom(POSITION).most(2 * GB, 5 * GB, 2 * GB, 0.0, 0.0) == (2 * GB - LEFT) // POSITION
    assert Headroom(POSITION).most(LEFT - 1, 5 * GB, LEFT - 1, 0.0, 0.0) == 0


def test_what_our_own_sessions_take_step_by_step_changes_nothing():
    """As a session fills its reservation, memory moves from free to ours; what it may still take is not promised again."""
    room = Headroom(POSITION)
    first = room.most(2 * GB, GB, 2 * GB, 0.0, 0.0)
    for second in range(1, 100):
        used = second * POSITION
        assert room.most(2 * GB - used, GB + used, 2 * GB - used, 100.0, float(second)) == first


def test_what_others_take_is_gone_at_once_and_back_after_a_while():
    room = Headroom(POSITION)
    most = lambda free, now: room.most(free, GB, free, 0.0, now)  # noqa: E731
    assert most(2 * GB, 0.0) == 1792 and most(GB, 1.0) == 768 and most(2 * GB, 2.0) == 768
    assert most(2 * GB, 1.0 + BACK) == 768 and most(2 * GB, 1.5 + BACK) == 1792


def test_memory_that_comes_and_goes_does_not_count_as_back():
    room = Headroom(POSITION)
    assert {room.most(GB if second % 10 == 0 else 2 * GB, GB, 2 * GB, 0.0, float(second)) for second in range(0, 200)} == {768}


def test_what_an_allocator_keeps_of_sessions_that_ended_is_not_counted_as_theirs():
    """It is ours still, and not free: too little is promised rather than too much. Nor is what layers took that were compiled meanwhile."""
    room = Headroom(POSITION)
    room.most(2 * GB, GB, 2 * GB, 0.0, 0.0)
    assert room.most(GB, 2 * GB, GB, 0.0, 1.0) == (GB - LEFT) // POSITION
    assert room.most(GB, 2 * GB, GB, 100.0, 2.0 + BACK) == (GB - LEFT) // POSITION


def test_a_peer_that_computes_on_a_gpu_needs_some_of_the_machine_s_memory_too():
    room = Headroom(POSITION)
    assert room.most(20 * GB, GB, GB, 0.0, 0.0) > 0 and room.most(20 * GB, GB, LEFT - 1, 0.0, 1.0) == 0
