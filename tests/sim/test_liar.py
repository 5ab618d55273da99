"""A peer that announces a hundred times its speed, and goes on doing so whatever its rounds take: a client finds it out, and plans with what it measured.

Its fair share is the share of all work (rows times the components that each goes through) that it does on the same stage, from the same seed, when it announces
the truth. The cheapest chain is taken, so on one stage that is often nothing or a third; shares are therefore added up over several stages.
"""

from __future__ import annotations

import asyncio

from swarm.client.watching import Watching
from swarm.sim.swarm import Scene, Server, Stage

SCENE = Scene(peers=10, clients=1, holds=(4, 6), answer=(3, 12), think=(0.0, 1.0), impatience=0.0, skew=0.5)

LEARNING, JUDGED = 20, 30
"""Requests in which a client may learn, and those in which the liar's share is taken."""

SEEDS = range(5)


def share(seed: int, boast: float) -> float:
    """What part of the work the first peer does after some requests, if it says that it is so many times as fast as it is."""
    shares: list[float] = []

    class Boasting(Stage):
        def join(self, *arguments, **options) -> Server:
            return super().join(*arguments, **options, boast=1.0 if self.servers else boast)

    def work(stage: Stage) -> list[int]:
        return [server.engine.work for server in stage.servers.values() if server.engine is not None]

    async def asked(stage: Stage, turns: int) -> None:
        while len(stage.turns) < turns:  # noqa: ASYNC110  nobody says that a turn has begun
            await asyncio.sleep(0.25)

    async def script(stage: Stage) -> None:
        await asked(stage, LEARNING)
        before = work(stage)
        await asked(stage, LEARNING + JUDGED)
        done = [now - then for now, then in zip(work(stage), before, strict=True)]
        shares.append(done[0] / sum(done))

    verdict = Boasting(seed, SCENE).run(script)
    assert not verdict.broken and not verdict.excused, f"seed {seed}:\n" + "\n".join(verdict.broken)
    return shares[0]


def test_a_peer_that_announces_a_hundred_times_its_speed_gets_no_more_than_its_share(monkeypatch):
    fair, got = (sum(share(seed, boast) for seed in SEEDS) for boast in (1.0, 100.0))
    assert fair > 0.1, "it never had a share"
    assert got <= 1.2 * fair
    monkeypatch.setattr(Watching, "note", lambda watching, hop: None)
    unwatched = sum(share(seed, 100.0) for seed in SEEDS)
    assert unwatched > 1.5 * fair, "nobody need look: the scene proves nothing"
