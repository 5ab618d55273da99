"""The room `sim`, its guests: clients who hold conversations, and write down what they asked and what came. Each draws from a generator of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from swarm.client.aio import Client
from swarm.client.session import Session
from swarm.compose import Connection, OpenedModel, OwnEnds, run_ends
from swarm.core import Span
from swarm.errors import SwarmError
from swarm.peer.offer import Offer
from swarm.sim import toy
from swarm.sim.directory import Directory
from swarm.sim.verdict import SETTLED, Turn

if TYPE_CHECKING:
    from swarm.sim.swarm import Guest, Stage


MOST_REPEATED = 200
"""Tokens of an earlier conversation that another begins with."""


class Talk:
    """All that one guest says, for as long as the script lasts."""

    def __init__(self, stage: Stage, guest: Guest) -> None:
        self._stage, self._guest = stage, guest
        self._random = random.Random(f"{stage.seed} {guest.peer}")
        self._said: tuple[int, ...] = ()

    async def run(self) -> None:
        stage, guest = self._stage, self._guest
        opened = OpenedModel(None, stage.shape, None, toy.Text(), (toy.EOS,))  # type: ignore[arg-type]
        own_ends = list(stage.guests).index(guest.peer) % 3 == 2
        addrs = (f"/sim/{guest.peer}",) if own_ends else ()
        directory = Directory(stage.table, guest.links)
        connection = Connection(guest.links, directory, addrs, lambda data: toy.signed(guest.peer, data), toy.verify, stage.loop.create_future())
        ends, scene = self._ends if own_ends else None, stage.scene
        client = guest.client = await Client.over(opened, connection, self._random, ends, directory.wall, scene.mixed, scene.audit, toy, scene.compress)
        try:
            while not stage.over:
                await self._converse(client)
                await self._think()
        finally:
            await client.close()

    @contextlib.asynccontextmanager
    async def _ends(self, opened: OpenedModel, connection: Connection, dtype: str | None) -> AsyncIterator[OwnEnds]:
        stage, key = self._stage, connection.links.peer.encode()
        components = stage.scene.components
        spans = Span(0, 1), Span(components - 1, components)
        offer = Offer(toy.REVISION, toy.NUMERICS, components, spans, stage.shape.max_length, vocab=toy.VOCAB)
        async with run_ends(stage.engine(stage.scene.layer[0]), offer, connection, clock=stage.loop.time, verify=toy.verify, key=key) as own:
            yield own

    async def _think(self) -> None:
        await asyncio.sleep(self._random.uniform(*self._stage.scene.think))

    async def _converse(self, client: Client) -> None:
        turn = Turn(self._guest.peer, self._stage.loop.now, [], 0)
        try:
            session = await client.ready_session()
        except SwarmError as error:
            self._over_with(turn, error)
            self._stage.turns.append(turn)
            return
        async with session:
            self._guest.session = session
            for _ in range(self._random.randint(1, 3)):
                if not await self._ask(session) or self._stage.over:
                    return
                await self._think()
            self._said = session.tokens

    async def _ask(self, session: Session) -> bool:
        """One turn, and where it broke off its rest, once somebody may have come. False if that failed as well."""
        dice, scene, peer = self._random, self._stage.scene, self._guest.peer
        prompt = [dice.randrange(1, toy.VOCAB) for _ in range(dice.randint(*scene.prompt))]
        if not session.tokens and dice.random() < scene.repeats:
            prompt = [*self._said[: dice.randint(0, MOST_REPEATED)], *prompt]
        turn = Turn(peer, self._stage.loop.now, [*session.tokens, *prompt], dice.randint(*scene.answer))
        enough = dice.randint(1, turn.asked) if dice.random() < scene.impatience else None
        await self._follow(turn, session, session.stream_tokens(prompt, max_new_tokens=turn.asked), enough)
        left = turn.asked - len(turn.tokens)
        if turn.error is None or not left or (turn.tokens and turn.tokens[-1] == toy.EOS):
            return turn.error is None
        await asyncio.sleep(SETTLED)
        rest = Turn(peer, self._stage.loop.now, list(session.tokens), left)
        await self._follow(rest, session, (ord(piece) - toy.FIRST_CHARACTER async for piece in session.resume()))
        if rest.error is None and session.tokens[-1] == toy.EOS:
            rest.tokens.append(toy.EOS)  # which is no text
        return rest.error is None

    async def _follow(self, turn: Turn, session: Session, tokens: AsyncGenerator[int, None], enough: int | None = None) -> None:
        """Read a turn to its end, or until there was `enough`; what the ring says beyond that must not come into the next one."""
        self._stage.turns.append(turn)
        before = _reroutes(session)
        error: SwarmError | None = None
        try:
            async with contextlib.aclosing(tokens):
                async for token in tokens:
                    turn.tokens.append(token)
                    if len(turn.tokens) == enough:
                        turn.asked = enough
                        break
        except SwarmError as caught:
            error = caught
        turn.reroutes = _reroutes(session) - before
        turn.longest_gap = session.longest_gap
        with contextlib.suppress(SwarmError):  # it never had a route
            turn.planner = session.route.planner
        self._over_with(turn, error)

    def _over_with(self, turn: Turn, error: SwarmError | None) -> None:
        turn.ended, turn.error = self._stage.loop.now, error
        self._stage.note(f"{turn.guest} {len(turn.tokens)} of {turn.asked} tokens {type(error).__name__ if error else 'done'}")


def _reroutes(session: Session) -> int:
    try:
        return session.route.reroutes
    except SwarmError:  # no route yet
        return 0
