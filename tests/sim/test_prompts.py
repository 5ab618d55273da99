"""A long prompt goes through the hops in chunks, all hops at work at once."""

from __future__ import annotations

import asyncio

from swarm.core import Span
from swarm.sim.swarm import Scene, Stage

PROMPT = 2048
SCENE = Scene(
    peers=0,
    clients=0,
    layers=14,
    layer=(0.01, 0.0101),
    prompt=(PROMPT, PROMPT),
    answer=(1, 1),
    think=(20.0, 20.0),
    impatience=0.0,
    loss=0.0,
    cache_tokens=20_000,
)


class Bare(Stage):
    """Nobody is there but who joins."""

    def _found_swarm(self) -> None: ...


def test_four_hops_take_less_than_two_fifths_of_the_time_they_would_take_one_after_the_other():
    stage = Bare(1, SCENE)

    async def script(stage: Stage) -> None:
        for start in (0, 4, 8, 12):
            stage.join(Span(start, start + 4))
        await asyncio.sleep(30.0)
        stage.visit()
        await asyncio.sleep(30.0)

    stage.run(script)  # later turns do not fit into the model
    turn = stage.turns[0]
    assert len(turn.tokens) == 1 and len(turn.history) == PROMPT
    speeds = [server.engine.speed for server in stage.servers.values()]
    assert len(speeds) == 4
    unpipelined = sum(4 * (speed.layer + speed.row * PROMPT) for speed in speeds)
    assert turn.ended - turn.began <= 0.4 * unpipelined, f"{turn.ended - turn.began:.1f} of {unpipelined:.1f} s"
