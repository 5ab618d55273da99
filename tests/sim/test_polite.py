"""A polite peer on the stage: its owner begins to work, it slows down and says so, answers go on or go to whoever has the time, and it comes back."""

from __future__ import annotations

import asyncio

from swarm.peer.courtesy import FLOOR
from swarm.sim.host import Meters
from swarm.sim.swarm import Guest, Server, Stage
from tests.sim.test_slow import FIRST, SCENE, SECOND, Bare, chain, left


async def answering(stage: Stage, meters: Meters) -> tuple[Guest, Server]:
    """A guest whose answer has been running for a while, and the polite hop that serves the second half."""
    stage.join(FIRST)
    polite = stage.join(SECOND, meters=meters)
    await asyncio.sleep(30.0)
    guest = stage.visit()
    await asyncio.sleep(10.0)
    assert chain(stage, guest) == [server.peer for server in stage.servers.values()]
    return guest, polite


async def busy(stage: Stage, server: Server, seconds: float) -> float:
    """How much of the time it computes, by its steps, each of which takes as long."""
    before = server.engine.steps
    await asyncio.sleep(seconds)
    return (server.engine.steps - before) * len(SECOND) * (server.engine.speed.layer + server.engine.speed.row) / seconds


def test_its_owner_gets_the_machine_and_whoever_waits_for_tokens_gets_them_more_slowly():
    seen: list[float] = []

    async def script(stage: Stage) -> None:
        meters = Meters()
        _, polite = await answering(stage, meters)
        seen.append(await busy(stage, polite, 10.0))
        meters.show(others=1.0)
        await asyncio.sleep(15.0)
        seen.append(await busy(stage, polite, 20.0))
        meters.show(others=0.0)
        await asyncio.sleep(30.0)
        seen.append(await busy(stage, polite, 10.0))

    verdict = Bare(1, SCENE).run(script)
    assert not verdict.broken, "\n".join(verdict.broken)
    before, slowed, after = seen
    assert 0.8 * FLOOR < slowed <= 1.05 * FLOOR and min(before, after) > 1.3 * FLOOR


def test_an_answer_that_runs_there_moves_to_whoever_has_the_time():
    async def script(stage: Stage) -> None:
        meters = Meters()
        guest, polite = await answering(stage, meters)
        other = stage.join(SECOND)
        await asyncio.sleep(15.0)
        assert chain(stage, guest)[-1] == polite.peer
        meters.show(others=1.0)
        await left(stage, guest, polite.peer, 30.0)
        assert chain(stage, guest)[-1] == other.peer

    verdict = Bare(2, SCENE).run(script)
    assert not verdict.broken, "\n".join(verdict.broken)
