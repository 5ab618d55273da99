"""Three peers that share one machine's cores, and sessions that come as they please: who waits for whose prompt, and what it costs all together.

Engines on virtual time, everything real but the model and the cores: `swarm/sim/crowded.py`, with costs as they were measured.
"""

from __future__ import annotations

import random

import pytest

from swarm.sim.cores import Host
from swarm.sim.crowded import Crowded, Seen

TOKENS = 64


def mixed(seed: int) -> list[tuple[float, list[int]]]:
    """32 sessions within 10 s, with prompts of 16 to 512 tokens: as `bench/mixed.py` has them."""
    dice = random.Random(seed)
    prompts = [[1 + dice.randrange(40000) % 899 for _ in range(dice.randint(16, 512))] for _ in range(32)]
    return [(dice.uniform(0, 10.0), prompt) for prompt in prompts]


def at_once(some: list[tuple[float, list[int]]]) -> list[tuple[float, list[int]]]:
    return [(0.0, prompt) for _, prompt in some]


@pytest.mark.parametrize("apart", [False, True])
def test_nobody_waits_four_steps_for_a_token_and_all_together_are_nearly_as_fast_as_the_best_fixed_batch(apart):
    """On shared cores nobody waits twice as long as usual. Where each peer has its own, no hop waits for another."""
    wave = mixed(1)
    groups = [at_once(wave[at : at + size]) for size in (16, 32) for at in range(0, 32, size)]
    *fixed, seen = Crowded(Host(apart=apart)).ask(*groups, wave, count=TOKENS)
    best = min(fixed[0].seconds + fixed[1].seconds, fixed[2].seconds)
    assert best / seen.seconds >= 0.9
    assert seen.longest <= (4 if apart else 2) * seen.step
    if apart:
        assert seen.seconds < 20.0


def rare(seen: Seen) -> float:
    """The longest gap of streams among whom one prompt came by, over their usual one."""
    return max(gap for one in seen.asked[:-1] for gap in one.gaps) / seen.step


def test_one_prompt_among_streams_makes_no_token_wait_four_steps():
    """Where portions are as large as where prompts never end, it is eight."""
    streams = [(0.0, [1 + at] * 20) for at in range(4)]
    (seen,) = Crowded(Host()).ask([*streams, (2.0, list(range(1, 500)))], count=TOKENS * 2)
    assert rare(seen) <= 4
