"""Keeping the sessions of one machine's ring in step."""

from __future__ import annotations

import pytest

from swarm.core import Hop, on_one_machine
from swarm.peer.muster import LATE, LONGEST, SLACK, Muster


def one_round(muster: Muster, key: str, at: float, taken: float) -> None:
    muster.left([key], at)
    muster.back(key, at + taken)


def test_a_session_alone_never_waits():
    muster = Muster()
    one_round(muster, "a", 0.0, 0.2)
    assert muster.wait_until({"a"}, 0.2) == 0.2


def test_whoever_is_due_back_is_waited_for_and_then_all_go_at_once():
    muster = Muster()
    one_round(muster, "a", 0.0, 0.2)
    muster.left(["b"], 0.3)
    assert muster.wait_until({"a"}, 0.4) == pytest.approx(0.3 + SLACK * 0.2)
    muster.back("b", 0.5)
    assert muster.wait_until({"a", "b"}, 0.5) == 0.5


def test_whoever_is_late_or_gone_is_not_waited_for():
    muster = Muster()
    one_round(muster, "a", 0.0, 0.2)
    muster.left(["b"], 0.3)
    assert muster.wait_until({"a"}, 0.6) == 0.6
    muster.left(["c"], 0.6)
    muster.gone("c")
    assert muster.wait_until({"a"}, 0.7) == 0.7


def test_long_rounds_are_not_waited_out():
    muster = Muster()
    one_round(muster, "a", 0.0, 30.0)
    muster.left(["b"], 30.0)
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


def starts(muster: Muster, steps: str = "", prompts: str = "", *, now: float, streams: bool = True, turns: bool = True) -> tuple[bool, bool]:
    """Whether these steps may start, and these prompts."""
    until = muster.starts(set(steps), set(prompts), streams, turns, now)
    return until[0] <= now, until[1] <= now


def test_a_step_of_all_and_a_portion_of_a_prompt_take_turns():
    muster = Muster()
    one_round(muster, "a", 0.0, 0.2)
    assert starts(muster, "a", "p", now=0.2) == (False, True), "the last one was a step"
    muster.portion({"p": 96}, 96, 0.1, 0.4, now=0.3)
    assert starts(muster, "a", "pq", now=0.3) == (False, False), "it is on its way round"
    assert muster.passed("p", 95, now=0.5) is None and muster.passed("q", 96, now=0.5) is None
    assert muster.passed("p", 96, now=0.6) == (96, pytest.approx(0.4)), "from its begin here, 0.1 s before it left"
    assert starts(muster, "a", "pq", now=0.6) == (True, False), "nobody waits for two portions"
    muster.left(["a"], 0.7)
    assert not starts(muster, "", "p", now=0.7)[1], "the step is on its way round"
    muster.back("a", 0.9)
    assert starts(muster, "a", "p", now=0.9) == (False, True) and starts(muster, "a", "", now=0.9) == (True, True)


def test_a_portion_of_several_prompts_is_round_when_all_of_them_are():
    muster = Muster()
    muster.portion({"p": 30, "q": 20}, 50, 0.1, 0.4, now=1.0)
    assert muster.passed("q", 20, now=1.2) is None and starts(muster, "a", now=1.2) == (False, False)
    assert muster.passed("p", 44, now=1.3) == (50, pytest.approx(0.4)) and starts(muster, "a", now=1.3) == (True, True)


@pytest.mark.parametrize("gone", [True, False])
def test_a_portion_that_nobody_hears_of_holds_up_nobody_for_long(gone):
    muster = Muster()
    muster.portion({"p": 96}, 96, 0.1, 0.4, now=1.0)
    if gone:
        muster.gone("p")
    assert starts(muster, "a", "q", now=1.0 + LATE * 0.29) == (gone, False)
    assert starts(muster, "a", "q", now=1.0 + LATE * 0.31) == (True, False)


def test_nothing_is_learned_of_what_a_portion_takes_beside_another():
    muster = Muster()
    for end in 96, 192:
        muster.portion({"p": end}, 96, 0.1, 0.4, now=1.0)
    assert muster.passed("p", 96, now=1.3) is None and muster.passed("p", 192, now=1.5) == (0, pytest.approx(0.6))


def test_a_prompt_alone_need_not_take_turns_nor_need_those_whose_hops_have_cores_of_their_own():
    muster = Muster()
    muster.portion({"p": 96}, 96, 0.1, 0.4, now=1.0)
    assert starts(muster, "", "p", now=1.0, streams=False) == (True, True)
    assert starts(muster, "", "p", now=1.0) == (False, False), "somebody decodes"
    assert starts(muster, "", "pq", now=1.0, streams=False) == (False, False), "somebody soon will"
    assert starts(muster, "a", "pq", now=1.0, turns=False) == (True, True)


def test_how_far_apart_tokens_are_is_told_of_every_step_but_the_first():
    muster = Muster()
    assert muster.left(["a"], 1.0) is None
    assert muster.left(["a", "b"], 1.5) == 0.5 and muster.left(["b"], 1.75) == 0.25
    assert muster.left(["a", "b"], 2.0) == 0.25, "one of them has paused"
    muster.gone("b")
    assert muster.left(["b"], 2.5) is None
