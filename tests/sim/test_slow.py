"""A hop that becomes slow in mid-answer is left for a faster peer, and no reader of the answer notices; who is to take over and hangs is passed over."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from swarm.client.better import FEEDING, SETTLED
from swarm.core import Span
from swarm.sim.swarm import Guest, Scene, Server, Stage

SCENE = Scene(peers=0, clients=0, layers=8, layer=(0.01, 0.0101), answer=(900, 900), think=(0.0, 0.0), impatience=0.0, cache_tokens=20_000, loss=0.0)
"""One answer of 900 tokens, some 0.1 s each."""

FIRST, SECOND = Span(0, 5), Span(5, 10)


class Bare(Stage):
    """Nobody is there but who joins."""

    def _found_swarm(self) -> None: ...


def chain(stage: Stage, guest: Guest) -> list[str]:
    return [server.peer for server in stage.hops(guest)]


def slow_down(server: Server) -> None:
    server.engine.speed = replace(server.engine.speed, layer=6 * server.engine.speed.layer)


async def left(stage: Stage, guest: Guest, peer: str, within: float) -> float:
    """Seconds until a peer is in the guest's chain no more."""
    began = stage.loop.now
    async with asyncio.timeout(within):
        while peer in chain(stage, guest):  # noqa: ASYNC110  nobody says so
            await asyncio.sleep(0.1)
    return stage.loop.now - began


async def answering(stage: Stage) -> tuple[Guest, Server]:
    """A guest whose answer has been running for a while, and the hop that serves the second half."""
    stage.join(FIRST)
    second = stage.join(SECOND)
    await asyncio.sleep(30.0)
    guest = stage.visit()
    await asyncio.sleep(10.0)
    assert chain(stage, guest) == [server.peer for server in stage.servers.values()]
    return guest, second


def test_a_hop_that_becomes_slow_is_left_within_ten_seconds_and_without_a_pause():
    gaps: list[float] = []

    async def script(stage: Stage) -> None:
        guest, slow = await answering(stage)
        stage.join(SECOND)
        await asyncio.sleep(15.0)
        slow_down(slow)
        await left(stage, guest, slow.peer, 10.0)
        await asyncio.sleep(5.0)
        gaps.append(guest.session.longest_gap)

    verdict = Bare(3, SCENE).run(script)
    assert not verdict.broken, "\n".join(verdict.broken)
    assert gaps[0] < 2 * len(SECOND) * 6 * SCENE.layer[1], "longer than two steps of the slow hop"


def test_where_newcomers_hang_others_are_taken():
    async def script(stage: Stage) -> None:
        guest, slow = await answering(stage)
        hung = stage.join(SECOND)
        await asyncio.sleep(15.0)
        stage.hang(hung)  # its links and its announcements live on
        slow_down(slow)
        await asyncio.sleep(15.0)
        assert slow.peer in chain(stage, guest), "somebody who computes nothing has taken over"
        idle = stage.join(SECOND)
        await left(stage, guest, slow.peer, FEEDING + 40.0)
        assert idle.peer in chain(stage, guest)

    verdict = Bare(4, SCENE).run(script)
    assert not verdict.broken, "\n".join(verdict.broken)


def test_what_does_not_pay_is_not_done(monkeypatch):
    asked = []
    monkeypatch.setattr("swarm.client.watching.pays", lambda *arguments: bool(asked.append(arguments)))

    async def script(stage: Stage) -> None:
        guest, slow = await answering(stage)
        stage.join(SECOND)
        await asyncio.sleep(15.0)
        slow_down(slow)
        await asyncio.sleep(15.0)
        assert slow.peer in chain(stage, guest)

    verdict = Bare(3, SCENE).run(script)
    assert not verdict.broken, "\n".join(verdict.broken)
    (gain, history, done, left_over, prefill), *_ = asked
    assert gain > 3 * len(SECOND) * SCENE.layer[1] and history > done > 50 and done + left_over == 900 and prefill > 0


def test_an_answer_does_not_wander():
    async def script(stage: Stage) -> None:
        guest, slow = await answering(stage)
        second = stage.join(SECOND)
        await asyncio.sleep(15.0)
        slow_down(slow)
        await left(stage, guest, slow.peer, 10.0)
        assert second.peer in chain(stage, guest)
        stage.join(SECOND)
        await asyncio.sleep(15.0)
        slow_down(second)
        assert 20.0 < await left(stage, guest, second.peer, 2 * SETTLED), "it has just moved"

    verdict = Bare(3, SCENE).run(script)
    assert not verdict.broken, "\n".join(verdict.broken)
