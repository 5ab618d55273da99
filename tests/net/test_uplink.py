"""The token bucket: never more than a burst above its rate, over any stretch of time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.net.uplink import BURST, Uplink


@given(st.integers(100, 10_000), st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 2)), max_size=50))
def test_whoever_waits_as_told_never_exceeds_the_rate(rate, sends):
    uplink, now, sent, largest = Uplink(rate), 0.0, 0, 0
    for size, idle in sends:
        now += idle
        assert sent <= rate * (now + BURST) + largest + 1e-6
        sent, largest = sent + size, max(largest, size)
        now += uplink.spend(size, now)


def test_no_limit_never_waits_and_a_limit_does():
    assert Uplink().spend(10**9, 0.0) == 0
    uplink = Uplink(1000)
    assert uplink.spend(1000, 0.0) == 0
    assert uplink.spend(500, 0.0) == 0.5
