"""Room: gateway. The answers to one request, whole or in a stream. Knows what they are made of and who counts them; not how they were asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from swarm.gateway.answers import Piece, Question, Whole, answers
from swarm.gateway.refusals import told_of
from swarm.gateway.replies import Style, Usage
from swarm.gateway.streaming import DONE, EventStream, event

if TYPE_CHECKING:
    from swarm.gateway.gateway import Gateway


class Job:
    """The answers to one request."""

    def __init__(self, gateway: Gateway, style: Style, questions: list[Question], prompt_tokens: int) -> None:
        self._gateway, self._style, self._questions, self._prompt_tokens = gateway, style, questions, prompt_tokens
        self._asked = gateway.client.clock()
        self._tokens = 0
        self._first: float | None = None
        self._stack = contextlib.AsyncExitStack()

    async def collect(self) -> dict[str, Any]:
        """All of them, whole. An answer that breaks off is an error, which tells what there was of it."""
        wholes = [Whole() for _ in self._questions]
        async with self._stack:
            try:
                async for piece in await self._pieces():
                    wholes[piece.index].add(self._counted(piece))
            except Exception as error:
                told = told_of(error)
                if self._tokens:
                    self._gateway.meters.interrupted.labels(told.code or "").inc()
                    told.more["partial"] = ["".join(whole.text) for whole in wholes]
                raise told from error
        return self._style.whole(wholes, self._usage)

    async def begin(self) -> EventStream:
        """A stream, once its first piece is there: what fails before that has a status of its own."""
        try:
            pieces = await self._pieces()
            first = await anext(pieces)
        except BaseException:
            await self._stack.aclose()
            raise
        opening = [event(said) for said in self._style.opening(len(self._questions))]
        return EventStream([*opening, *self._events(first)], self._rest(pieces), self._stack.aclose)

    async def _rest(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        try:
            async for piece in pieces:
                if said := b"".join(self._events(piece)):
                    yield said
        except Exception as error:
            told = told_of(error)
            self._gateway.meters.interrupted.labels(told.code or "").inc()
            yield event(told.body)  # and nothing after it: an answer that broke off has no finish_reason, and is not done
            return
        if self._style.include_usage:
            yield event(self._style.closing(self._usage))
        yield DONE

    async def _pieces(self) -> AsyncIterator[Piece]:
        gateway = self._gateway
        self._stack.enter_context(gateway.admitted(len(self._questions)))
        self._stack.callback(self._over)
        return await self._stack.enter_async_context(answers(gateway.client, self._questions, gateway.settings.timeout))

    def _events(self, piece: Piece) -> list[bytes]:
        said = self._style.chunk(self._counted(piece))
        return [] if said is None else [event(said)]

    def _counted(self, piece: Piece) -> Piece:
        now = self._gateway.client.clock()
        if self._first is None:
            self._first = now
            self._gateway.meters.prompt_tokens.inc(self._prompt_tokens)
            self._gateway.meters.first.observe(now - self._asked)
        if piece.tokens:
            self._tokens += piece.tokens
            self._gateway.rate.add(now, piece.tokens)
            self._gateway.meters.tokens.inc(piece.tokens)
        return piece

    def _over(self) -> None:
        if self._first is not None and self._tokens > len(self._questions):
            spent, steps = self._gateway.client.clock() - self._first, self._tokens / len(self._questions) - 1
            self._gateway.meters.gap.observe(spent / steps)

    @property
    def _usage(self) -> Usage:
        return Usage(self._prompt_tokens, self._tokens)
