"""Clients that let slow peers compress, under all kinds of misfortune at once: who computes and who journals, who is sent rows again and who takes over, all
mean the same rows.

What is promised of every run is checked by the stage. Toy's digests lose nothing when they are compressed, so tokens must be the model's own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.sim import scripts
from swarm.sim.scripts import repeated
from swarm.sim.swarm import Scene, Script, Stage, Verdict

SCENE = Scene(peers=14, compress=True)


def run(seed: int, scene: Scene, script: Script) -> tuple[Verdict, int]:
    """The verdict, and how many rows were compressed."""
    stage = Stage(seed, scene)
    verdict = stage.run(script)
    assert not verdict.broken, f"seed {seed}:\n" + "\n".join(verdict.broken)
    return verdict, sum(server.engine.compressed for server in stage.servers.values() if server.engine is not None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("right", [0.0, 0.7], ids=["plain", "guesses"])
def test_compressed_rows_under_all_kinds_of_misfortune(seed, right):
    verdict, compressed = run(seed, replace(SCENE, guesses=right), repeated(scripts.churn, (3, 8), 60.0))
    assert verdict.finished > 0.7 * len(verdict.turns) and verdict.reroutes > 0 and compressed > 50
