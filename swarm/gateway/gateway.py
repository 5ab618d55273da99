"""Room: gateway. One client's answers: what may be asked of it, how many run, and what a request comes down to. Knows no HTTP but errors' statuses."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from swarm.client.aio import Client
from swarm.client.options import USUAL_ANSWER
from swarm.client.overview import overview
from swarm.gateway.access import OPEN, Keys
from swarm.gateway.answers import Question, check
from swarm.gateway.asked import MOST_PROMPTS, OPENAI_ANSWER, Asked, ChatAsked, CompletionAsked
from swarm.gateway.job import Job
from swarm.gateway.metrics import Meters
from swarm.gateway.rate import Rate
from swarm.gateway.refusals import ApiError
from swarm.gateway.replies import Style
from swarm.gateway.watch import Lookout

LONG = 20_000
"""Characters of prompts from which on they are made tokens beside the event loop: some milliseconds, for which answers that run would stand still."""


BUSY_FOR = 1.0
"""Seconds after which whoever was turned away may come again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`name` is what the model is called here, `also` other names that are understood. At most `most` answers run at once, each for at most `timeout`
    seconds. `origins` are web pages from elsewhere that may ask."""

    name: str
    also: tuple[str, ...] = ()
    keys: Keys = OPEN
    origins: tuple[str, ...] = ()
    most: int = 256
    timeout: float | None = None
    host: str = "127.0.0.1"
    """By which it was told to listen: where there are no keys, it answers to this name, localhost and addresses alone."""


@dataclass(slots=True)
class Gateway:
    """One client's answers, and what is known of them. `wall` is the time as people have it."""

    client: Client
    settings: Settings
    wall: Callable[[], float]
    meters: Meters = field(default_factory=Meters)
    rate: Rate = field(default_factory=Rate)
    running: int = 0
    lookout: Lookout = field(init=False)

    def __post_init__(self) -> None:
        self.lookout = Lookout(lambda: overview(self.client), self.client.clock, self.meters.look)

    # --- questions ----------------------------------------------------------------------------------------------------------------------------------------

    async def job(self, asked: Asked) -> Job:
        """What a request comes down to. Raises ApiError, UsageError: nothing has begun."""
        if asked.model not in (self.settings.name, *self.settings.also):
            raise ApiError(
                404, f"there is no model {asked.model[:200]!r} here; this gateway serves {self.settings.name}", code="model_not_found", param="model"
            )
        prompts = self._prompts(asked) if asked.characters < LONG else await asyncio.to_thread(self._prompts, asked)
        if len(prompts) * asked.choices > (most := min(MOST_PROMPTS, self.settings.most)):  # not 429: it would be told to come again for ever
            raise ApiError(400, f"{len(prompts) * asked.choices} answers in one request are too many; {most} are possible", param="n")
        questions = [self._question(asked, ids, at * asked.choices + choice, choice) for at, ids in enumerate(prompts) for choice in range(asked.choices)]
        for question in questions[:: asked.choices]:
            check(self.client, question)
        echoes = {}
        if isinstance(asked, CompletionAsked) and asked.echo:
            echoes = {one.index: self._echo(asked, one.index) for one in questions}
        is_chat = isinstance(asked, ChatAsked)
        style = Style(
            f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}", int(self.wall()), self.settings.name, is_chat,
            self._logprobs(asked) is not None, asked.include_usage, echoes,
        )  # fmt: skip
        return Job(self, style, questions, sum(map(len, prompts)))

    def _prompts(self, asked: Asked) -> list[list[int]]:
        text = self.client.text
        if isinstance(asked, ChatAsked):
            return [text.encode_chat([message.plain for message in asked.messages])]
        assert isinstance(asked, CompletionAsked)
        return [text.encode(prompt) if isinstance(prompt, str) else prompt for prompt in asked.prompts]

    def _question(self, asked: Asked, ids: list[int], index: int, choice: int) -> Question:
        options = {**asked.drawing(choice), "logprobs": self._logprobs(asked)}
        most = self._most(asked)
        if most is None:  # OpenAI's usual lengths, or less where the model has no more room
            usual = USUAL_ANSWER if isinstance(asked, ChatAsked) else OPENAI_ANSWER
            most = max(min(usual, self.client.max_length - len(ids)), 1)
        return Question(index, ids, {**options, "max_new_tokens": most}, asked.stops, bool(asked.show_route))

    @staticmethod
    def _most(asked: Asked) -> int | None:
        if isinstance(asked, ChatAsked):
            return asked.max_completion_tokens or asked.max_tokens
        return asked.max_tokens if isinstance(asked, CompletionAsked) else None

    @staticmethod
    def _logprobs(asked: Asked) -> int | None:
        if isinstance(asked, ChatAsked):
            return (asked.top_logprobs or 0) if asked.logprobs else None
        return asked.logprobs if isinstance(asked, CompletionAsked) else None

    def _echo(self, asked: CompletionAsked, index: int) -> str:
        prompt = asked.prompts[index // asked.choices]
        return prompt if isinstance(prompt, str) else self.client.text.decode(prompt)

    # --- what there is to see -----------------------------------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.settings.name,
            "chat": bool(self.client.text.chats),
            "running": self.running,
            "most": self.settings.most,
            "tokens": self.rate.total,
            "tokens_per_second": self.rate.recent(self.client.clock()),
        }

    @contextlib.contextmanager
    def admitted(self, count: int) -> Iterator[None]:
        """Room for so many answers. Raises ApiError."""
        if self.running + count > self.settings.most:
            raise ApiError(
                429,
                f"{self.running} answers run here and {self.settings.most} are allowed; ask again in a moment",
                "overloaded",
                code="busy",
                retry_after=BUSY_FOR,
            )
        self.running += count
        self.meters.running.set(self.running)
        try:
            yield
        finally:
            self.running -= count
            self.meters.running.set(self.running)


def names(model: str, name: str | None) -> tuple[str, tuple[str, ...]]:
    """What a model is called, and what else is understood: the name that was chosen, its id on the hub, or the last part of its folder's path."""
    short = name or (model.rstrip("/").rpartition("/")[2] if model.startswith((".", "/", "~")) or model.count("/") > 1 else model)
    return short, tuple(other for other in dict.fromkeys((model,)) if other != short)


def settings_of(model: str, name: str | None, keys: Keys, origins: Iterable[str], most: int, timeout: float | None, host: str) -> Settings:
    called, also = names(model, name)
    return Settings(called, also, keys, tuple(origins), most, timeout, host)
