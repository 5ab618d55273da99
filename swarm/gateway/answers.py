"""The room `gateway`, its answers: from a question to pieces of text with what there is to say of them, one answer or several at once.

Every answer has a session of its own, which ends with it however it ends: that frees its caches at the peers. Knows a client; nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from swarm.client.aio import Client
from swarm.client.report import RouteReport
from swarm.client.session import Session, Token
from swarm.client.stops import StopStrings
from swarm.errors import SwarmError, UsageError
from swarm.gateway.refusals import not_served

AHEAD = 64
"""Pieces of several answers that may wait for a reader who is slow."""


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to be given: number `index` of its request. `options` are those of `Session.stream_details`."""

    index: int
    ids: Sequence[int]
    options: dict[str, Any]
    stop: tuple[str, ...] = ()
    show_route: bool = False


@dataclass(frozen=True, slots=True)
class Spelled:
    """A token as people are shown it; `raw` are its bytes, None where they cannot be told from its text."""

    text: str
    raw: bytes | None
    logprob: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token with its log-probability and those of the likeliest."""

    token: Spelled
    top: tuple[Spelled, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of answer number `index`: some `text`, from so many `tokens`, with their log-probabilities if those were asked for. `finish` is "stop" or
    "length" on the last one. `route` is there where it was asked for and is new."""

    index: int
    text: str = ""
    tokens: int = 0
    drawn: tuple[Drawn, ...] = ()
    finish: str | None = None
    route: RouteReport | None = None


@dataclass(slots=True)
class Whole:
    """An answer as it is put together."""

    text: list[str] = field(default_factory=list)
    tokens: int = 0
    drawn: list[Drawn] = field(default_factory=list)
    finish: str | None = None
    route: RouteReport | None = None

    def add(self, piece: Piece) -> None:
        self.text.append(piece.text)
        self.tokens += piece.tokens
        self.drawn += piece.drawn
        self.finish = piece.finish or self.finish
        self.route = piece.route or self.route


def check(client: Client, question: Question) -> None:
    """Raises UsageError for what no session would begin with. Asks nobody."""
    client.check_tokens(question.ids, **question.options)


async def answer(client: Client, question: Question, timeout: float | None = None) -> AsyncGenerator[Piece, None]:
    """The pieces of one answer. Raises what a session does, and ApiError where the peers that there are do not suit the gateway's client."""
    began = client.clock()
    try:
        session = await client.ready_session(timeout=timeout)
    except UsageError as error:
        raise not_served(error) from error
    async with session:
        options = dict(question.options)
        if timeout is not None:
            options["timeout"] = max(timeout - (client.clock() - began), 0.001)
        async with contextlib.aclosing(session.stream_details(question.ids, **options)) as tokens:
            reader = _Reader(client, question, session)
            async for token in tokens:
                piece = reader.read(token)
                yield piece
                if piece.finish is not None:
                    return
    raise SwarmError("the answer ended without saying why; ask again")


@contextlib.asynccontextmanager
async def answers(client: Client, questions: Sequence[Question], timeout: float | None = None) -> AsyncIterator[AsyncIterator[Piece]]:
    """Several answers at once, their pieces as they come. With the first that fails all fail."""
    if len(questions) == 1:
        async with contextlib.aclosing(answer(client, questions[0], timeout)) as pieces:
            yield pieces
        return
    arrived: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(AHEAD)

    async def follow(question: Question) -> None:
        try:
            async with contextlib.aclosing(answer(client, question, timeout)) as pieces:
                async for piece in pieces:
                    await arrived.put(piece)
        except Exception as error:
            await arrived.put(error)
        else:
            await arrived.put(None)

    async def merged() -> AsyncIterator[Piece]:
        left = len(questions)
        while left:
            piece = await arrived.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield piece

    tasks = [asyncio.create_task(follow(question), name=f"answer {question.index}") for question in questions]
    try:
        yield merged()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Reader:
    """Tokens of one answer to pieces. A stop string ends it where the text before it ends."""

    def __init__(self, client: Client, question: Question, session: Session) -> None:
        self._client, self._question, self._session = client, question, session
        self._cutter, self._detokenizer = StopStrings(question.stop), client.text.detokenizer()
        self._places: object = None

    def read(self, token: Token) -> Piece:
        piece = self._piece(token)
        return replace(piece, route=self._news(piece.finish is not None)) if self._question.show_route else piece

    def _piece(self, token: Token) -> Piece:
        index = self._question.index
        if token.finish == "stop":  # the token that stops is no part of the answer
            return Piece(index, self._rest()[0], finish="stop")
        drawn = (self._drawn(token),) if token.logprobs is not None else ()
        shown, stopped = self._cutter.feed(self._detokenizer.feed(token.id))
        if not stopped and token.finish is not None:
            rest, stopped = self._rest()
            shown += rest
        return Piece(index, shown, 1, drawn, "stop" if stopped else token.finish)

    def _rest(self) -> tuple[str, bool]:
        """What was held back, and whether a stop string ends it."""
        shown, stopped = self._cutter.feed(self._detokenizer.finish())
        return (shown, True) if stopped else (shown + self._cutter.finish(), False)

    def _drawn(self, token: Token) -> Drawn:
        said = token.logprobs
        assert said is not None
        return Drawn(self._spelled(token.id, said.drawn), tuple(self._spelled(id, logprob) for id, logprob in said.top))

    def _spelled(self, id: int, logprob: float) -> Spelled:
        text, raw = self._client.text.spelled(id)
        return Spelled(text, raw, logprob)

    def _news(self, last: bool) -> RouteReport | None:
        """The route where it is another than the last one told, and at the end, when it has been measured."""
        glance = self._session.glance
        places = glance and tuple((hop.peer_id, hop.start) for hop in glance.hops)
        if places == self._places and not last:
            return None
        self._places = places
        return glance
