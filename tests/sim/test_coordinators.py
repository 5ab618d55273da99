"""The coordinator goes, every minute: no answer breaks for it whose chain it is not in, every answer is right, and routes are planned again within 10 s.

On virtual time. Who serves also stands for the office, so a chain that the coordinator is a hop of is mended like any other; those beside it must not notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from swarm.client.advice import Advisers
from swarm.core import PeerId
from swarm.machines.election import Candidacy, fitness
from swarm.sim.scripts import REPLACED
from swarm.sim.swarm import Scene, Server, Stage, Verdict

SCENE = Scene(peers=14, clients=6, holds=(4, 6), think=(0.0, 1.0), answer=(20, 60), impatience=0.0, repeats=0.0)
"""Who begins as it did before asks no coordinator."""

EVERY, TIMES = 60.0, 2

AGAIN = 10.0
"""Seconds in which somebody else must have planned a route, and hold the office."""

PAUSE = 1.5
"""Seconds that an answer may pause whose chain nobody of the victims is in."""


@dataclass
class Blow:
    time: float
    victims: set[PeerId]
    apart: set[PeerId]
    """Guests whose chain runs, and goes through none of the victims."""
    reelected: float | None = None


@dataclass
class Course:
    stage: Stage
    verdict: Verdict
    blows: list[Blow] = field(default_factory=list)
    plans: list[tuple[float, PeerId]] = field(default_factory=list)
    """When somebody asked for a route, and who planned it; "" where nobody did."""


def officers(stage: Stage, count: int) -> list[Server]:
    """The coordinator, and those whom clients ask next."""
    leaders = stage.coordinators
    model, others = stage.shape.config_hash, []
    for server in stage.serving:
        if server not in leaders and server.shell is not None and server.shell.coordinator is not None:
            claim = server.shell.coordinator.claim
            others.append((fitness(Candidacy(server.peer, "candidate", claim.term, 0, claim.score), model), server))
    ranked = [server for _, server in sorted(others, key=lambda entry: entry[0], reverse=True)]
    return [*leaders, *ranked][:count]


def kill(stage: Stage, server: Server) -> None:
    stage.kill(server, silently=stage.random.random() < 0.5)
    stage.later(REPLACED, stage.join)


def freeze(stage: Stage, server: Server) -> None:
    """Until long after another took its place; it wakes believing that it still is one."""
    stage.freeze(server)
    stage.later(25.0, lambda: stage.thaw(server))


def course(seed: int, strike: Callable[[Stage, Server], None], count: int, monkeypatch: pytest.MonkeyPatch) -> Course:
    stage = Stage(seed, SCENE)
    blows: list[Blow] = []
    plans: list[tuple[float, PeerId]] = []
    really = Advisers.route

    async def route(advisers, question, atlas):
        asked = stage.loop.now
        found = await really(advisers, question, atlas)
        if not question.running:
            plans.append((asked, found.planner if found is not None else ""))
        return found

    async def script(stage: Stage) -> None:
        await asyncio.sleep(20.0)
        for _ in range(TIMES):
            victims = officers(stage, count)
            assert len(stage.coordinators) == 1 and len(victims) == count
            chains = {guest.peer: set(stage.hops(guest)) for guest in stage.guests.values()}
            blow = Blow(stage.loop.now, {server.peer for server in victims}, {peer for peer, chain in chains.items() if chain and not chain & set(victims)})
            blows.append(blow)
            for server in victims:
                strike(stage, server)
            while stage.loop.now < blow.time + EVERY:
                await asyncio.sleep(0.25)
                if blow.reelected is None and any(server not in victims for server in stage.coordinators):
                    blow.reelected = stage.loop.now - blow.time

    with monkeypatch.context() as patched:
        patched.setattr(Advisers, "route", route)
        verdict = stage.run(script)
    assert not verdict.broken and not verdict.excused, f"seed {seed}:\n" + "\n".join(verdict.broken)
    return Course(stage, verdict, blows, plans)


@pytest.mark.parametrize(
    ("strike", "count", "seeds"),
    [(kill, 1, 2), (freeze, 1, 1), (kill, 2, 1), (freeze, 2, 1)],
    ids=["killed", "frozen", "killed with a standby", "frozen with a standby"],
)
def test_the_coordinator_goes_every_minute(strike, count, seeds, monkeypatch):
    beside = 0
    for seed in range(seeds):
        run = course(seed, strike, count, monkeypatch)
        for blow in run.blows:
            soon = {planner for asked, planner in run.plans if blow.time < asked < blow.time + AGAIN}
            assert soon - blow.victims - {""}, (seed, blow, soon)
            assert blow.reelected is not None and blow.reelected <= AGAIN, (seed, blow)
            for turn in run.verdict.turns:
                if turn.guest in blow.apart and turn.began < blow.time < (turn.ended or 0.0):
                    beside += 1
                    assert turn.reroutes == 0 and turn.longest_gap < PAUSE, (seed, blow, turn.guest, turn.longest_gap)
    assert beside >= seeds, "no answer ran beside it"
