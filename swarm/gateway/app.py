"""The room `gateway`, put together: the routes of the OpenAI API over one client, with the page, health and metrics. Knows which path is what; the rest is in
the files beside."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from swarm.client.overview import Overview
from swarm.errors import SwarmError
from swarm.gateway.access import Named
from swarm.gateway.asked import Asked, ChatAsked, CompletionAsked
from swarm.gateway.counting import Counting
from swarm.gateway.gateway import Gateway
from swarm.gateway.refusals import CLIENT_GONE, ApiError, ClientGone, of_http, of_validation, told_of
from swarm.gateway.streaming import unless_gone
from swarm.gateway.view import add_view

MOST_BODY = 8 * 2**20
"""Bytes of a request: a prompt of some million tokens."""


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
    app.add_middleware(Counting, gateway.meters)
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
