"""First hops that guess, rightly and wrongly, under all kinds of misfortune at once: rejections, draft and chain numbers, losses, replacements, moves.

What is promised of every run is checked by the stage: the model's own tokens, honest errors, nothing left behind.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.sim import scripts
from swarm.sim.scripts import repeated
from swarm.sim.swarm import Scene, Stage, Verdict

FAR = Scene(peers=14, clients=3, across=0.4, layer=(0.001, 0.006), answer=(20, 90))
"""A trip round the ring takes as long as fifty steps of a hop."""


def run(seed: int, right: float, script) -> tuple[Stage, Verdict]:
    stage = Stage(seed, replace(FAR, guesses=right))
    verdict = stage.run(script)
    assert not verdict.broken, f"seed {seed}:\n" + "\n".join(verdict.broken)
    return stage, verdict


@pytest.mark.parametrize("right", [0.95, 0.7, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_guesses_under_all_kinds_of_misfortune(seed, right):
    stage, verdict = run(seed, right, repeated(scripts.churn, (3, 8), 60.0))
    made, wrong = sum(oracle.made for oracle in stage.oracles), sum(oracle.wrong for oracle in stage.oracles)
    assert verdict.turns and made > 50 and wrong > 5


def test_guesses_hide_the_distance():
    """The same guests say more in the same time."""
    quiet = scripts.quiet(60.0)
    tokens = [sum(len(turn.tokens) for turn in run(1, right, quiet)[1].turns) for right in (0.0, 0.95)]
    assert tokens[1] > 1.5 * tokens[0]
