"""The room `gateway`, put together: the routes of the OpenAI API over one client, with the page, health and metrics. Knows which path is what; the rest is in
the files beside."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from swarm.client.aio import Client
from swarm.client.overview import Overview, overview
from swarm.client.session import USUAL_ANSWER
from swarm.errors import SwarmError
from swarm.gateway.access import OPEN, Keys, Named
from swarm.gateway.answers import Piece, Question, Whole, answers, check
from swarm.gateway.asked import MOST_PROMPTS, OPENAI_ANSWER, Asked, ChatAsked, CompletionAsked
from swarm.gateway.metrics import Meters
from swarm.gateway.rate import Rate
from swarm.gateway.refusals import CLIENT_GONE, ApiError, ClientGone, of_http, of_validation, told_of
from swarm.gateway.replies import Style, Usage
from swarm.gateway.streaming import DONE, EventStream, event, unless_gone
from swarm.gateway.view import add_view
from swarm.gateway.watch import Lookout

MOST_BODY = 8 * 2**20
"""Bytes of a request: a prompt of some million tokens."""

LONG = 20_000
"""Characters of prompts from which on they are made tokens beside the event loop: some milliseconds, for which answers that run would stand still."""

BUSY_FOR = 1.0
"""Seconds after which whoever was turned away may come again."""

REFUSALS = {
    400: "The request makes no sense, or asks for what is not possible; the sentence says what",
    401: "A key is missing or unknown",
    404: "No such model",
    413: "The body is too large",
    421: "The gateway has no keys, and was asked by a name that is not its own",
    429: "The gateway or the swarm has no room; Retry-After says when to ask again",
    503: "Layers are missing, or peers were lost; `layers` names them",
    504: "The time allowed for an answer is over",
}


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


def build(gateway: Gateway) -> FastAPI:
    """The app of a gateway. Run `gateway.lookout` beside it."""
    settings = gateway.settings
    app = FastAPI(
        title="swarm gateway",
        summary="The OpenAI API over a swarm",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        max_body_size=MOST_BODY,
        responses={status: {"description": text} for status, text in REFUSALS.items()},
    )
    _add_refusals(app)
    _add_answers(app, gateway)
    _add_figures(app, gateway)
    add_view(app, gateway.lookout, settings.keys, gateway.facts)
    app.add_middleware(_Counting, gateway.meters)
    if not settings.keys:
        app.add_middleware(Named, host=settings.host)
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"], expose_headers=["Retry-After"])
    return app


def _add_answers(app: FastAPI, gateway: Gateway) -> None:
    admitted = [gateway.settings.keys.dependency]
    model = {"id": gateway.settings.name, "object": "model", "created": int(gateway.wall()), "owned_by": "swarm"}

    @app.get("/v1/models", dependencies=admitted, summary="The model that is served")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}", dependencies=admitted, summary="Whether a model is served")
    async def one_model(name: str) -> dict[str, Any]:
        if name not in (gateway.settings.name, *gateway.settings.also):
            raise ApiError(404, f"there is no model {name[:200]!r} here; this gateway serves {gateway.settings.name}", code="model_not_found", param="model")
        return {**model, "id": name}

    @app.post("/v1/completions", dependencies=admitted, summary="Go on from a text", response_model=None)
    async def completions(asked: CompletionAsked, request: Request) -> Any:
        return await _answer(gateway, asked, request)

    @app.post("/v1/chat/completions", dependencies=admitted, summary="Answer in a conversation", response_model=None)
    async def chat_completions(asked: ChatAsked, request: Request) -> Any:
        return await _answer(gateway, asked, request)


async def _answer(gateway: Gateway, asked: Asked, request: Request) -> Response:
    job = await gateway.job(asked)
    try:
        if asked.stream:
            return await unless_gone(request, job.begin())
        return JSONResponse(await unless_gone(request, job.collect()))
    except ClientGone:
        return Response(status_code=CLIENT_GONE)


def _add_figures(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health", summary="Whether the swarm can answer", response_model=None)
    async def health() -> Response:
        seen: Overview = await gateway.lookout.now()
        said = {
            "status": "ok" if seen.served else "missing layers",
            "model": gateway.settings.name,
            "missing": seen.covers[0].missing if seen.covers else "all",
        }
        said["sentence"] = seen.sentence
        return JSONResponse(said, 200 if seen.served else 503)

    @app.get("/metrics", dependencies=[gateway.settings.keys.dependency], summary="Figures for Prometheus", response_model=None)
    async def metrics() -> Response:
        return Response(gateway.meters.text(), media_type="text/plain; version=0.0.4")


def _add_refusals(app: FastAPI) -> None:
    """Every error in the shape that OpenAI's clients read."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return of_validation(list(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        response = of_http(error).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def any_other(request: Request, error: Exception) -> Response:
        return told_of(error).response()

    app.add_exception_handler(ApiError, any_other)
    app.add_exception_handler(SwarmError, any_other)


class _Counting:
    """Counts requests by path and status, also of streams that end long after they began."""

    def __init__(self, app: Any, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_GONE

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception as error:
            if status != CLIENT_GONE:  # an answer has begun, and nothing else can be said on its connection
                raise
            await told_of(error).response()(scope, receive, counted)  # here rather than by the framework, whose place is beyond the headers for other pages
        finally:
            self._meters.requests.labels(_template(scope), str(status)).inc()


def _template(scope: Any) -> str:
    """The path as the app has it, never as it was asked for: strangers could make any number of those up."""
    route = scope.get("route")
    return getattr(route, "path", None) or "other"


def names(model: str, name: str | None) -> tuple[str, tuple[str, ...]]:
    """What a model is called, and what else is understood: the name that was chosen, its id on the hub, or the last part of its folder's path."""
    short = name or (model.rstrip("/").rpartition("/")[2] if model.startswith((".", "/", "~")) or model.count("/") > 1 else model)
    return short, tuple(other for other in dict.fromkeys((model,)) if other != short)


def settings_of(model: str, name: str | None, keys: Keys, origins: Iterable[str], most: int, timeout: float | None, host: str) -> Settings:
    called, also = names(model, name)
    return Settings(called, also, keys, tuple(origins), most, timeout, host)
