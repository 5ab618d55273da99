"""Peers that move, on the stage: what nobody serves any more is served again by those who can be spared, and no answer stops for a move."""

from __future__ import annotations

import asyncio

import pytest

from swarm.core import Span
from swarm.peer.hops import HopRoom
from swarm.sim.scripts import repeated
from swarm.sim.swarm import Scene, Stage, Verdict

SPARE = Scene(peers=0, clients=6, layers=8, holds=(5, 5), layer=(0.010, 0.012), answer=(100, 300), think=(0.0, 2.0), cache_tokens=20_000)

FIRST, SECOND = Span(0, 5), Span(5, 10)


def acted(seed: int, spans: list[Span], script) -> tuple[Stage, Verdict]:
    """A swarm of peers with these spans, whatever they would have chosen; `script` begins when it has settled."""

    class Placed(Stage):
        def _found_swarm(self) -> None:
            for span in spans:
                self.join(span)

    stage = Placed(seed, SPARE)
    verdict = stage.run(script)
    assert not verdict.broken, f"seed {seed}:\n" + "\n".join(verdict.broken)
    return stage, verdict


async def until(stage: Stage, condition, seconds: float) -> float:
    began = stage.loop.now
    while not condition():
        assert stage.loop.now - began < seconds, [(server.peer, server.span, server.up) for server in stage.servers.values()]
        await asyncio.sleep(0.5)
    return stage.loop.now - began


def hosts(stage: Stage, span: Span) -> int:
    return sum(server.span == span for server in stage.serving)


def test_a_lopsided_swarm_evens_out_and_no_answer_stops_for_it(monkeypatch):
    """Five to one, and whoever has most to do is called. It has handed every answer over before its weights go."""
    ran: list[tuple[int, int]] = []

    def vacate(room: HopRoom, place: Span, version: int) -> None:
        ran.append((handed_over.pop(room, 0), room.working(10.0)))
        really_vacate(room, place, version)

    def leave(room: HopRoom) -> None:
        handed_over[room] = room.working(10.0)
        really_leave(room)

    handed_over: dict[HopRoom, int] = {}
    really_vacate, really_leave = HopRoom.vacate, HopRoom.leave
    monkeypatch.setattr(HopRoom, "vacate", vacate)
    monkeypatch.setattr(HopRoom, "leave", leave)

    async def script(stage: Stage) -> None:
        await asyncio.sleep(5.0)
        await until(stage, lambda: not any(server.shell.state == "joining" for server in stage.servers.values()), 60.0)
        busiest = max((server for server in stage.serving if server.span == FIRST), key=lambda server: server.shell.room.working(10.0))
        busiest.shell._mover.called()
        await until(stage, lambda: hosts(stage, SECOND) >= 2, 240.0)
        await asyncio.sleep(120.0)
        assert 2 <= hosts(stage, SECOND) <= 4

    for seed in range(4):
        stage, verdict = acted(seed, [FIRST] * 5 + [SECOND], script)
        assert not verdict.excused and verdict.longest_gap < 2.0
        assert sum(server.moves for server in stage.servers.values()) <= 3, "they walk about"
    assert sum(before for before, _ in ran) >= 2 and not any(after for _, after in ran), ran


@pytest.mark.parametrize("seed", range(2))
def test_what_nobody_serves_any_more_is_served_again_by_one_who_can_be_spared(seed):
    """The only host dies. Its announcement lives for 25 s; then somebody is called, announces, waits for news, and loads."""
    took = []

    async def script(stage: Stage) -> None:
        stage.kill(next(server for server in stage.servers.values() if server.span == SECOND))
        took.append(await until(stage, lambda: hosts(stage, SECOND), 150.0))
        await asyncio.sleep(30.0)
        assert hosts(stage, FIRST) and hosts(stage, SECOND)

    _, verdict = acted(seed, [FIRST] * 4 + [SECOND], script)
    assert took[0] < 100.0
    assert verdict.turns[-1].error is None


@pytest.mark.parametrize("seed", range(2))
def test_whoever_alone_serves_something_stays(seed):
    """However much it is wanted elsewhere, and by however many who die and come back."""

    async def script(stage: Stage) -> None:
        only = next(server for server in stage.servers.values() if server.span == SECOND)

        def act(stage: Stage) -> None:
            assert only.span == SECOND and only.up
            others = [server for server in stage.serving if server is not only]
            if len(others) > 1:
                stage.kill(stage.random.choice(others))

        await repeated(act, (20.0, 40.0), 120.0)(stage)

    acted(seed, [FIRST] * 4 + [SECOND], script)


def test_two_that_see_the_same_hole_do_not_both_leave_what_they_share():
    """All look at the same moment: the later ones have heard of the first, or come back."""

    async def script(stage: Stage) -> None:
        stage.kill(next(server for server in stage.servers.values() if server.span == SECOND))
        await asyncio.sleep(30.0)
        for server in stage.serving:
            server.shell._mover.called()
        await until(stage, lambda: hosts(stage, SECOND), 150.0)
        await asyncio.sleep(30.0)
        assert hosts(stage, FIRST) and hosts(stage, SECOND)

    for seed in range(3):
        acted(seed, [FIRST] * 2 + [SECOND], script)
