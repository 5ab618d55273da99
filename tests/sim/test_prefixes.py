"""A session that begins as an earlier one of its client did: what has been computed is not computed again, wherever it still is, and by nobody else's leave."""

from __future__ import annotations

import asyncio
import random

from swarm.client.aio import Client
from swarm.compose import Connection, OpenedModel
from swarm.core import Span
from swarm.sim import toy
from swarm.sim.directory import Directory
from swarm.sim.swarm import Guest, Scene, Stage

SCENE = Scene(peers=0, clients=0, layers=8, loss=0.0, cache_tokens=4000)
PROMPT = list(range(1, 301))
NEW = 12
"""Tokens that only the second session has."""


class Bare(Stage):
    """Nobody is there but who joins."""

    def _found_swarm(self) -> None:
        for start, stop in ((0, 4), (4, 7), (7, 10)):
            self.join(Span(start, stop))

    def work(self) -> list[int]:
        """Rows that each peer has computed so far."""
        return [server.engine.tokens for server in self.servers.values()]


async def client_of(stage: Stage, name: str) -> Client:
    guest = stage._arrive(Guest, name)
    stage.guests[name] = guest
    opened = OpenedModel(None, stage.shape, None, toy.Text(), (toy.EOS,))  # type: ignore[arg-type]
    directory = Directory(stage.table, guest.links)
    connection = Connection(guest.links, directory, (), lambda data: toy.signed(name, data), toy.verify, stage.loop.create_future())
    return await Client.over(opened, connection, random.Random(name), None, directory.wall)


async def answer(stage: Stage, client: Client, prompt: list[int], count: int = 5) -> list[int]:
    """How many rows each peer computes for it. The answer is the model's."""
    before = dict(zip(stage.servers, stage.work(), strict=True))
    said = await client.generate_tokens(prompt, max_new_tokens=count)
    assert said == toy.answer(prompt, count, stage.scene.components)
    await asyncio.sleep(1.0)
    return [after - before.get(peer, 0) for peer, after in zip(stage.servers, stage.work(), strict=True)]


def run(script) -> None:
    verdict = Bare(1, SCENE).run(script)
    assert not verdict.broken, verdict.broken


def test_a_prompt_that_goes_on_from_an_earlier_one_is_computed_from_there():
    async def script(stage: Bare) -> None:
        client = await client_of(stage, "one")
        first = await answer(stage, client, PROMPT)
        assert all(rows >= len(PROMPT) for rows in first)
        again = await answer(stage, client, [*PROMPT, *range(400, 400 + NEW)])
        assert all(rows <= NEW + 5 for rows in again), again
        shorter = await answer(stage, client, [*PROMPT[:100], 7, 8, 9])
        assert all(rows <= 3 + 5 for rows in shorter), "a part of it is enough"
        same = await answer(stage, client, PROMPT)
        assert all(rows <= 1 + 5 for rows in same), "the last token is always fed"
        await client.close()

    run(script)


def test_sessions_that_run_share_what_they_begin_with():
    async def script(stage: Bare) -> None:
        client = await client_of(stage, "one")
        async with await client.ready_session() as session:
            async for _ in session.stream_tokens(PROMPT, max_new_tokens=5):
                pass
            before = stage.work()
            prompts = [[*PROMPT, 500 + number] for number in range(4)]
            said = await asyncio.gather(*(client.generate_tokens(prompt, max_new_tokens=5) for prompt in prompts))
            assert said == [toy.answer(prompt, 5, stage.scene.components) for prompt in prompts]
            assert all(after - then <= 4 * (1 + 5) for then, after in zip(before, stage.work(), strict=True))
        await client.close()

    run(script)


def test_nobody_else_begins_as_a_clients_sessions_do():
    """Not even who knows their names: whoever is answered faster would know what another has asked."""

    async def script(stage: Bare) -> None:
        one, other = await client_of(stage, "one"), await client_of(stage, "other")
        await answer(stage, one, PROMPT)
        other.earlier = one.earlier
        rows = await answer(stage, other, [*PROMPT, 7])
        assert all(rows > len(PROMPT) for rows in rows), rows
        await other.close()
        await one.close()

    run(script)


def test_a_peer_that_has_gone_is_replaced_by_one_who_computes_all_of_it_and_the_others_do_not():
    async def script(stage: Bare) -> None:
        client = await client_of(stage, "one")
        for span in (Span(0, 4), Span(4, 7), Span(7, 10)):  # two for each, so that nobody moves
            stage.join(span)
        await asyncio.sleep(20.0)
        rows = await answer(stage, client, PROMPT)
        first, middle, last = (next(at for at in (place, place + 3) if rows[at]) for place in range(3))
        stage.kill(list(stage.servers.values())[middle])
        rows = await answer(stage, client, [*PROMPT, *range(400, 400 + NEW)])
        spare = 5 - middle
        assert rows[middle] == 0
        assert rows[spare] >= len(PROMPT) + NEW and max(rows[first], rows[last]) <= NEW + 5, rows
        await client.close()

    run(script)


def rest(stage: Stage) -> list[int]:
    """Hops at rest at each peer."""
    return [len(server.shell.room._prefixes) for server in stage.servers.values()]


def test_what_rests_makes_room_for_whoever_comes():
    async def script(stage: Bare) -> None:
        one, other = await client_of(stage, "one"), await client_of(stage, "other")
        await answer(stage, one, PROMPT)
        assert rest(stage) == [1, 1, 1] and all(server.shell.status().free_tokens == SCENE.cache_tokens for server in stage.servers.values())
        await answer(stage, other, [5, 4, 3, 2, 1] * 740)
        assert rest(stage) == [1, 1, 2], "the other one's, which left no room for the first but where no journal is kept"
        first, middle, last = await answer(stage, one, [*PROMPT, 7])
        assert first > len(PROMPT) < middle and last <= 1 + 5
        await one.close()
        await other.close()

    run(script)


def test_what_rests_goes_when_its_client_does():
    async def script(stage: Bare) -> None:
        one, other = await client_of(stage, "one"), await client_of(stage, "other")
        await answer(stage, one, PROMPT)
        await answer(stage, other, PROMPT)
        assert rest(stage) == [2, 2, 2]
        await one.close()
        await asyncio.sleep(1.0)
        assert rest(stage) == [1, 1, 1] and [len(server.engine._slots) for server in stage.servers.values()] == [1, 1, 1]
        await other.close()

    run(script)


def test_nothing_rests_for_ever():
    async def script(stage: Bare) -> None:
        client = await client_of(stage, "one")
        await answer(stage, client, PROMPT)
        stage.kill(stage.guests["one"])
        await asyncio.sleep(310.0)
        assert rest(stage) == [0, 0, 0] and all(not server.engine._slots for server in stage.servers.values())
        await client.close()

    run(script)
