"""Keeping the sessions of one machine's ring in step."""

from __future__ import annotations

import pytest

from swarm.core import Hop, on_one_machine
from swarm.peer.muster import LONGEST, SLACK, Muster


def one_round(muster: Muster, key: str, at: float, taken: float) -> None:
    muster.left(key, at)
    muster.back(key, at + taken)


def test_a_session_alone_never_waits():
    muster = Muster()
    one_round(muster, "a", 0.0, 0.2)
    assert muster.wait_until({"a"}, 0.2) == 0.2


def test_whoever_is_due_back_is_waited_for_and_then_all_go_at_once():
    muster = Muster()
    one_round(muster, "a", 0.0, 0.2)
    muster.left("b", 0.3)
    assert muster.wait_until({"a"}, 0.4) == pytest.approx(0.3 + SLACK * 0.2)
    muster.back("b", 0.5)
    assert muster.wait_until({"a", "b"}, 0.5) == 0.5


def test_whoever_is_late_or_gone_is_not_waited_for():
    muster = Muster()
    one_round(muster, "a", 0.0, 0.2)
    muster.left("b", 0.3)
    assert muster.wait_until({"a"}, 0.6) == 0.6
    muster.left("c", 0.6)
    muster.gone("c")
    assert muster.wait_until({"a"}, 0.7) == 0.7


def test_long_rounds_are_not_waited_out():
    muster = Muster()
    one_round(muster, "a", 0.0, 30.0)
    muster.left("b", 30.0)
    assert muster.wait_until({"a"}, 30.0) == 30.0 + LONGEST


@pytest.mark.parametrize(
    "hosts, same",
    [
        ([["127.0.0.1"], ["127.0.0.1"]], True),
        ([["192.168.1.5", "127.0.0.1"], ["192.168.1.5", "127.0.0.1"]], True),
        ([["192.168.1.5", "127.0.0.1"], ["192.168.1.6", "127.0.0.1"]], False),
        ([["192.168.1.5", "172.17.0.1", "198.51.100.7"], ["192.168.1.6", "172.17.0.1", "198.51.100.7"]], False),
        ([["127.0.0.1"]], False),
        ([[], []], False),
    ],
)
def test_one_machine_is_the_same_hosts_to_the_last(hosts, same):
    route = [Hop(f"peer{at}", at, at + 1, tuple(f"/ip4/{host}/tcp/{at + 1}/p2p/x" for host in some)) for at, some in enumerate(hosts)]
    assert on_one_machine(route) is same


def test_the_next_chunk_of_a_prompt_starts_when_the_last_one_can_have_left_the_ring():
    muster = Muster()
    assert muster.prompts_wait_until(5.0) == 5.0
    muster.chunk("a", 0.2, 0.25, now=10.0)
    muster.decodes("b")
    assert muster.prompts_wait_until(10.0) == pytest.approx(10.6) and muster.prompts_wait_until(11.0) == 11.0
    muster.decodes("a")
    assert muster.prompts_wait_until(10.0) == 10.0, "it has left the ring"
    muster.chunk("a", 0.2, 1.0, now=20.0)
    assert muster.prompts_wait_until(20.0) == 20.0, "who holds everything need not wait for itself"
