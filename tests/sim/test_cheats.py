"""Peers that compute something else than they say, on a stage: clients find them out within the promised number of hops, nobody honest is banned, and then
answers are the model's own again."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest

from swarm.client.chat import Prompt
from swarm.core import CLIENT, HopKey, Span
from swarm.machines.marks import marks
from swarm.sim import toy
from swarm.sim.swarm import Scene, Server, Stage
from swarm.sim.verdict import faults_of
from swarm.wire import Blob, Drawn, Show, Shown, decode_statement, encode

SCENE = Scene(
    peers=0, clients=0, layers=4, answer=(5, 20), prompt=(5, 20), think=(0.0, 0.2), impatience=0.0, skew=0.5, repeats=0.0, loss=0.0, cache_tokens=20_000
)

WHOLE, FRONT, BACK = Span(0, 6), Span(0, 3), Span(3, 6)

Cheat = Callable[[HopKey, list[bytes]], list[bytes]]


class Bare(Stage):
    """Nobody is there but who joins."""

    def _found_swarm(self) -> None: ...


def wrong(key: HopKey, rows: list[bytes]) -> list[bytes]:
    """Zeros, noise, other weights, a skipped layer: digests know only one way to be wrong."""
    return [hashlib.blake2b(row, digest_size=8).digest() for row in rows]


def now_and_then(share: float, seed: int = 0) -> Cheat:
    """In some sessions only."""

    def cheat(key: HopKey, rows: list[bytes]) -> list[bytes]:
        return wrong(key, rows) if random.Random(f"{seed} {key.session.hex()}").random() < share else rows

    return cheat


async def until(met: Callable[[], bool], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            while not met():  # noqa: ASYNC110  nobody says so
                await asyncio.sleep(0.25)
    except TimeoutError:
        return False
    return True


def found_out(seed: int, cheat: Cheat | None, span: Span, seconds: float = 900.0, **scene: object) -> tuple[list[str], list[str], int]:
    """Who cheats, whom the client has banned when the first is, and in how many turns."""
    told: list[tuple[list[str], list[str], int]] = []

    async def script(stage: Stage) -> None:
        spans = 4 * (FRONT, BACK)
        servers = [stage.join(one) for one in spans]
        await asyncio.sleep(30.0)
        cheats = [server for server in servers if server.span == span][:1] if cheat is not None else []
        for server in cheats:
            server.engine.cheat = cheat
            server.engine.speed = type(server.engine.speed)(0.0001, 0.00001)
        guest = stage.visit()
        await until(lambda: guest.client is not None, 10.0)
        await until(lambda: bool(guest.client.audits.banned(stage.loop.now)), seconds)
        banned = sorted(guest.client.audits.banned(stage.loop.now))
        told.append(([server.peer for server in cheats], banned, len(stage.turns)))
        if banned:
            await asyncio.sleep(30.0)
            after = [turn for turn in stage.turns if turn.began > stage.loop.now - 25.0]
            assert after and not faults_of(after, [], SCENE.components), "answers are still wrong"
            assert not {server.peer for server in stage.hops(guest)} & set(banned), "who is banned still serves"
        assert guest.client.auditor.passed > 0 or banned
        assert not stage.scene.compress or sum(server.engine.compressed for server in servers) > 200
        assert not stage.scene.guesses or sum(oracle.wrong for oracle in stage.oracles) > 20

    Bare(seed, replace(SCENE, **{"audit": 0.05, **scene})).run(script)
    return told[0]


@pytest.fixture(autouse=True)
def nobody_moves(monkeypatch):
    async def stay(mover) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("swarm.peer.moving.Mover.run", stay)


@pytest.mark.parametrize("span", [FRONT, BACK], ids=["compresses", "is sent compressed rows"])
def test_a_cheat_is_found_out_where_rows_are_compressed(span):
    cheats, banned, turns = found_out(1, wrong, span, compress=True)
    assert banned == cheats and turns <= 60


@pytest.mark.parametrize("span", [FRONT, BACK], ids=["middle", "head"])
@pytest.mark.parametrize("share", [1.0, 0.1], ids=["always", "one in ten"])
def test_a_cheat_is_found_out_and_nobody_else(span, share):
    cheats, banned, turns = found_out(1, now_and_then(share), span)
    assert banned == cheats and turns <= (60 if share == 1.0 else 600)


def show_other_work(server: Server) -> None:
    """It shows other rows than it passed on, and signs that."""
    room = server.shell.room
    shown = room._shown

    def lie(sender: str, message: Show) -> Shown:
        said = shown(sender, message)
        if said.rows is None:
            return said
        rows = Blob(said.rows.dtype, said.rows.width, memoryview(bytes(byte ^ 1 for byte in said.rows.data)))
        statement = encode(msgspec.structs.replace(decode_statement(said.statement), made=marks(rows)))
        return msgspec.structs.replace(said, statement=statement, signature=toy.signed(server.peer, statement), rows=rows)

    room._shown = lie


def tell_other_tokens(server: Server) -> None:
    """As a first hop it tells clients other tokens than the head drew."""
    send = server.links.send

    def lie(peer: str, message) -> None:
        if isinstance(message, Drawn) and message.to == CLIENT:
            message = msgspec.structs.replace(message, tokens=tuple(token ^ 1 for token in message.tokens))
        send(peer, message)

    server.shell.room._links = SimpleNamespace(peer=server.peer, send=lie, learn=server.links.learn)


def test_a_first_hop_that_tells_other_tokens_is_at_odds_with_heads_and_has_none_of_them_banned():
    async def script(stage: Stage) -> None:
        servers = [stage.join(one) for one in 4 * (FRONT, BACK)]
        await asyncio.sleep(30.0)
        liar, guest = servers[0], stage.visit()
        tell_other_tokens(liar)
        liar.engine.speed = type(liar.engine.speed)(0.0001, 0.00001)
        assert await until(lambda: guest.client is not None and bool(guest.client.audits.banned(stage.loop.now)), 900.0)
        assert guest.client.audits.banned(stage.loop.now) == {liar.peer}

    Bare(6, replace(SCENE, audit=1.0)).run(script)


def test_who_shows_other_work_than_it_passed_on_is_found_out_and_not_its_neighbours():
    async def script(stage: Stage) -> None:
        servers = [stage.join(one) for one in 4 * (FRONT, BACK)]
        await asyncio.sleep(30.0)
        liar = servers[0]
        show_other_work(liar)
        liar.engine.speed = type(liar.engine.speed)(0.0001, 0.00001)
        guest = stage.visit()
        assert await until(lambda: guest.client is not None and bool(guest.client.audits.banned(stage.loop.now)), 900.0)
        await asyncio.sleep(60.0)
        assert guest.client.audits.banned(stage.loop.now) == {liar.peer}

    scene = Scene(**{**SCENE.__dict__, "audit": 0.2})
    Bare(6, scene).run(script)


def test_who_hangs_up_rather_than_show_its_work_is_found_out():
    async def script(stage: Stage) -> None:
        servers = [stage.join(one) for one in 4 * (FRONT, BACK)]
        await asyncio.sleep(30.0)
        liar, guest = servers[0], stage.visit()
        room = liar.shell.room
        shown = room._shown

        def hang_up(sender: str, message: Show) -> Shown:
            stage.cut(liar, guest)
            return shown(sender, message)

        room._shown = hang_up
        liar.engine.speed = type(liar.engine.speed)(0.0001, 0.00001)
        assert await until(lambda: guest.client is not None and bool(guest.client.audits.banned(stage.loop.now)), 900.0)
        assert guest.client.audits.banned(stage.loop.now) == {liar.peer}

    Bare(7, replace(SCENE, audit=0.2)).run(script)


@pytest.fixture
def doubts(monkeypatch):
    """Who was doubted, ban or not."""
    seen: list[str] = []
    monkeypatch.setattr("swarm.machines.audits.Audits.doubted", lambda audits, peer, *more: seen.append(peer) or False)
    return seen


def test_nobody_honest_is_banned_or_doubted(doubts):
    """Also in conversations too short to rest, which are over before their hops have shown anything."""
    _, banned, turns = found_out(2, None, FRONT, audit=1.0)
    assert not banned and not doubts and turns > 100


def test_nobody_honest_is_banned_or_doubted_for_wrong_guesses(doubts):
    """What was computed for them is taken back at every hop, and so are the marks of it."""
    _, banned, turns = found_out(2, None, FRONT, seconds=200.0, audit=1.0, guesses=0.5, across=0.2, layer=(0.001, 0.004))
    assert not banned and not doubts and turns > 100


def test_nobody_honest_is_banned_or_doubted_where_rows_are_compressed(doubts):
    _, banned, turns = found_out(2, None, FRONT, seconds=200.0, audit=1.0, compress=True)
    assert not banned and not doubts and turns > 100


def test_what_a_client_has_told_a_hop_to_forget_is_not_held_against_it(doubts):
    """Its next turn goes on from an earlier position while it still asks what the first one made of later ones."""

    async def script(stage: Stage) -> None:
        for one in 4 * (FRONT, BACK):
            stage.join(one)
        await asyncio.sleep(30.0)
        guest = stage.visit()
        assert await until(lambda: guest.client is not None, 10.0)
        auditor, asked = guest.client.auditor, 0
        for _ in range(30):
            async with await guest.client.ready_session() as session:
                async for _ in session.stream_tokens(range(1, 20), max_new_tokens=10, ignore_eos=True):
                    pass
                asked += bool(auditor._hearings)
                async for _ in session._turn(Prompt([7], 2), session._sampling(ignore_eos=True), 5, None):
                    pass
        assert asked > 20 and auditor.unclear > 10

    Bare(3, replace(SCENE, audit=1.0, across=0.5)).run(script)
    assert not doubts


@pytest.mark.parametrize("met", ["in its answers", "as a referee alone"])
def test_the_coordinator_hears_of_a_cheat_tries_for_itself_and_plans_without_it(met):
    """Other clients, who have seen nothing, are led past it."""

    async def script(stage: Stage) -> None:
        servers = [stage.join(one) for one in 4 * (FRONT, BACK)]
        await asyncio.sleep(60.0)
        cheat = next(server for server in servers if not server.shell.coordinates and server.span == FRONT)
        cheat.engine.cheat, cheat.engine.speed = wrong, type(cheat.engine.speed)(0.0001, 0.00001)
        guest = stage.visit()
        assert await until(lambda: guest.client is not None, 10.0)
        auditor, referees = guest.client.auditor, guest.client.auditor._referees
        if met == "in its answers":
            auditor._referees = lambda *about: [view for view in referees(*about) if view.peer != cheat.peer]
        else:  # nobody could judge its own work
            auditor._referees = lambda job, suspect: (
                [] if suspect.peer == cheat.peer else sorted(referees(job, suspect), key=lambda view: (view.peer != cheat.peer, view.peer))
            )
        assert await until(lambda: bool(guest.client.audits.banned(stage.loop.now)), 900.0)
        (coordinator,) = stage.coordinators
        judged = coordinator.shell.coordinator
        assert await until(lambda: bool(judged.table.shunned(stage.loop.now)), 60.0)
        assert judged.table.shunned(stage.loop.now) == {cheat.peer}

    scene = Scene(**{**SCENE.__dict__, "audit": 0.05})
    Bare(5, scene).run(script)
