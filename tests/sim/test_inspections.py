"""Coordinators that have work made again, where no client audits anything: cheats are found, whoever is honest is left alone, and nobody sees who asks."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from swarm.core import Span
from swarm.peer.heads import LONGEST as HEADS_LONGEST
from swarm.peer.heads import SHORTEST as HEADS_SHORTEST
from swarm.peer.heads import Heads
from swarm.peer.inspector import LONGEST, SHORTEST
from swarm.peer.server import Peer
from swarm.sim.swarm import Scene, Server, Stage
from swarm.sim.verdict import Verdict
from tests.sim.test_cheats import SCENE, WHOLE, Bare, nobody_moves, now_and_then, tell_other_tokens, until, wrong

FRONT, BACK = Span(0, 3), Span(3, 6)

__all__ = ["nobody_moves"]


@pytest.fixture
def often(monkeypatch):
    """Ten times as often, so that virtual hours need not pass."""
    monkeypatch.setattr("swarm.peer.inspector.SOON", 6.0)
    monkeypatch.setattr("swarm.peer.inspector.SELDOM", 6.0)


def inspected(seed: int, spans: list[Span], prepare, seconds: float, **scene: object) -> tuple[frozenset[str], list[str], int, Verdict]:
    """Whom the coordinator plans without after so long at most, who cheats, and how often it looked. `prepare` is shown everybody who serves and the
    coordinator, and says who cheats."""
    told = []

    async def script(stage: Stage) -> None:
        servers = [stage.join(span) for span in spans]
        await asyncio.sleep(60.0)
        (coordinator,) = stage.coordinators
        cheats = [server.peer for server in prepare(servers, coordinator)]
        office = coordinator.shell.coordinator
        await until(lambda: len(office.table.shunned(stage.loop.now)) >= max(len(cheats), 1), seconds)
        told.append((office.table.shunned(stage.loop.now), cheats, office.inspector.walks))

    verdict = Bare(seed, replace(SCENE, inspects=True, audit=0.0, **scene)).run(script)
    return *told[0], verdict


def makes(cheat, span: Span, count: int = 1):
    """Some of those that hold this compute something else; the coordinator may be one of them."""

    def prepare(servers: list[Server], coordinator: Server) -> list[Server]:
        cheats = [server for server in servers if server.span == span][:count]
        for server in cheats:
            server.engine.cheat = cheat
        return cheats

    return prepare


@pytest.mark.parametrize("span", [FRONT, BACK], ids=["front", "back"])
def test_a_cheat_that_no_client_audits_is_found(span):
    banned, cheats, walks, verdict = inspected(1, 4 * [FRONT, BACK], makes(wrong, span), 900.0)
    assert banned == set(cheats) and walks <= 12 and not verdict.broken


def test_one_that_cheats_now_and_then_is_found_too(often):
    banned, cheats, walks, _ = inspected(2, 4 * [FRONT, BACK], makes(now_and_then(0.1), FRONT), 3600.0)
    assert banned == set(cheats) and walks < 200


def test_without_inspections_it_is_not_found(monkeypatch):
    async def idle(inspector, leads) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("swarm.peer.inspector.Inspector.run", idle)
    assert not inspected(1, 4 * [FRONT, BACK], makes(wrong, FRONT), 900.0)[0]


def draws_otherwise(key, rows: list[bytes]) -> list[bytes]:
    """What it hands on is right, and as a head it draws something else."""
    return wrong(key, rows) if key.stop == SCENE.components else rows


@pytest.mark.parametrize("spans", [4 * [FRONT, BACK], 3 * [WHOLE] + [FRONT, BACK]], ids=["of a chain", "of a whole model"])
def test_a_head_that_draws_otherwise_is_found(monkeypatch, spans):
    asked: list[int] = []
    compare = Heads._compare
    monkeypatch.setattr(Heads, "_compare", lambda *about: (asked.append(len(about[-1].tokens) - about[-1].begins), compare(*about))[1])
    banned, cheats, walks, verdict = inspected(1, spans, makes(draws_otherwise, spans[0] if WHOLE in spans else BACK), 1800.0)
    assert banned == set(cheats) and walks <= 30 and not verdict.broken
    assert all(HEADS_SHORTEST <= tokens <= HEADS_LONGEST for tokens in asked)


def test_it_is_found_by_a_coordinator_that_has_no_other_name_and_is_a_hop_itself(monkeypatch):
    """As in private swarms."""
    real = Peer.__init__

    def unmasked(peer, *about, **more) -> None:
        real(peer, *about, **{**more, "guise": None})

    monkeypatch.setattr(Peer, "__init__", unmasked)
    banned, cheats, *_ = inspected(1, [FRONT, BACK, BACK, BACK, BACK], makes(draws_otherwise, BACK), 900.0)
    assert banned == set(cheats)


def test_and_not_where_heads_are_not_inspected(monkeypatch):
    async def idle(heads, *about) -> None: ...

    monkeypatch.setattr("swarm.peer.heads.Heads.inspect", idle)
    assert not inspected(1, 4 * [FRONT, BACK], makes(draws_otherwise, BACK), 1800.0)[0]


def test_a_first_hop_that_passes_on_other_tokens_convicts_no_head(often):
    """The head signs what it drew."""

    def prepare(servers: list[Server], coordinator: Server) -> list[Server]:
        for server in servers:
            if server.span == FRONT:
                tell_other_tokens(server)
        return []

    banned, _, walks, _ = inspected(6, 4 * [FRONT, BACK], prepare, 600.0)
    assert not banned and walks > 30


def rounded(key, rows: list[bytes]) -> list[bytes]:
    """What the same layers make of the same in another dtype."""
    return [hashlib.blake2b(row + b"bfloat16", digest_size=8).digest() for row in rows]


def test_nobody_honest_is_banned_whatever_they_compute_in(often):
    """Two dtypes, spans that overlap in every way, some held by one peer alone."""
    spans = [FRONT, FRONT, BACK, BACK, WHOLE, WHOLE, Span(1, 4), Span(2, 5), Span(0, 1), Span(5, 6)]

    def prepare(servers: list[Server], coordinator: Server) -> list[Server]:
        for server in servers[1::2]:
            assert server.shell.room.offer.numerics == "bfloat16"
            server.engine.cheat = rounded
        return []

    banned, _, walks, verdict = inspected(3, spans, prepare, 900.0, numerics=("float32", "bfloat16"))
    assert not banned and walks >= 60 and not verdict.broken


def test_where_two_contradict_each_other_and_there_is_no_third_nobody_is_banned_but_both_are_looked_at(often):
    office = []

    def prepare(servers: list[Server], coordinator: Server) -> list[Server]:
        office.append(coordinator.shell.coordinator)
        return makes(wrong, FRONT)(servers, coordinator)

    banned, _, walks, _ = inspected(4, [FRONT, FRONT, BACK, BACK], prepare, 300.0)
    assert not banned and walks > 10
    assert all(office[0].judge.audits.is_new(view.peer) for view in office[0].table.views.values() if view.spans == (FRONT,))


def test_to_the_peers_it_is_somebody_else_who_wants_an_answer():
    seen: list[tuple[str, object]] = []

    def prepare(servers: list[Server], coordinator: Server) -> list[Server]:
        for server in servers:
            engine, opened = server.engine, server.engine.open
            engine.open = lambda key, order, opened=opened: (seen.append((coordinator.peer, order)), opened(key, order))[1]
        return []

    inspected(5, 3 * [FRONT, BACK], prepare, 600.0)
    assert len(seen) > 8
    for coordinator, order in seen:
        length = order.emit_from
        assert order.client != coordinator and SHORTEST <= length <= LONGEST and length < order.until < order.limit
        assert {hop.peer for hop in order.route} != {order.client}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_inspections_disturb_nothing(seed):
    """A swarm with all its misfortunes, inspected all the time."""

    async def script(stage: Stage) -> None:
        await asyncio.sleep(1200.0)

    assert not Stage(seed, Scene(inspects=True, peers=12)).run(script).broken
