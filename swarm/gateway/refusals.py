"""The room `gateway`, its refusals: every error as a status and a body in the shape that OpenAI's clients read. Knows our errors; nothing of requests."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from swarm.errors import OR_RESUME, Closed, MissingLayers, PeerLost, PromptTooLong, Refused, RemoteError, SwarmError, TimedOut, UsageError

log = logging.getLogger(__name__)

RETRY_AFTER = 5.0
"""Seconds to wait where nobody has said how long: a peer that died is replaced, if at all, within a few."""

MOST_SAID = 4
"""Reasons given for one field."""

CLIENT_GONE = 499
"""What servers log for a client that did not wait for its answer. Nobody reads it."""


class ApiError(Exception):
    """What an HTTP client is told. `more` are fields beyond those that OpenAI has."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.param, self.retry_after, self.more = status, kind, code, param, retry_after, dict(more or {})

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code, **self.more}}

    @property
    def headers(self) -> dict[str, str]:
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return headers if self.retry_after is None else {**headers, "Retry-After": str(max(1, math.ceil(self.retry_after)))}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


class ClientGone(Exception):
    """Whoever asked has closed the connection."""


def told_of(error: Exception) -> ApiError:
    """What an HTTP client is told of an error. What it can mend is 400, a swarm that lacks something 503, one that is full 429."""
    if isinstance(error, ApiError):
        return error
    sentence = str(error).removesuffix(OR_RESUME)
    if isinstance(error, PromptTooLong):
        return ApiError(400, sentence, code="context_length_exceeded")
    if isinstance(error, UsageError):
        return ApiError(400, sentence)
    if isinstance(error, MissingLayers):
        more = {"layers": error.layers, "memory": error.memory}
        return ApiError(503, sentence, "missing_layers", code="missing_layers", retry_after=RETRY_AFTER, more=more)
    if isinstance(error, Refused) and error.reason == "overloaded":
        return ApiError(429, sentence, "overloaded", code="overloaded", retry_after=RETRY_AFTER if error.retry_after is None else error.retry_after)
    if isinstance(error, PeerLost | Refused | RemoteError):
        return ApiError(503, sentence, "swarm_error", code=_code(error), retry_after=RETRY_AFTER)
    if isinstance(error, TimedOut):
        return ApiError(504, sentence, "timeout", code="timeout")
    if isinstance(error, Closed):
        return ApiError(503, "this gateway is shutting down; ask another, or again later", "swarm_error", code="closed", retry_after=RETRY_AFTER)
    if isinstance(error, SwarmError):
        return ApiError(503, sentence, "swarm_error", code="swarm_error", retry_after=RETRY_AFTER)
    log.error("a request failed in a way nobody foresaw", exc_info=error)
    return ApiError(500, f"this is a bug: {type(error).__name__}; please report it, with the gateway's log", "server_error", code="bug")


def not_served(error: UsageError) -> ApiError:
    """No session begins, for a reason that whoever runs the gateway can mend, and not whoever asks: peers of another revision or format."""
    return ApiError(503, str(error), "swarm_error", code="not_served", retry_after=RETRY_AFTER)


SAID_BY_THE_FRAMEWORK = {
    404: ("there is no such path here; /openapi.json lists those there are", "not_found"),
    405: ("this path takes another method; see /openapi.json", "method_not_allowed"),
    413: ("the body is too large; send less text", None),
}


def of_http(error: HTTPException) -> ApiError:
    """What the framework says itself, in two words that name no next step."""
    sentence, code = SAID_BY_THE_FRAMEWORK.get(error.status_code, (str(error.detail), None))
    return ApiError(error.status_code, sentence, code=code)


def of_validation(errors: list[Any]) -> ApiError:
    """The first thing that is wrong with a body, in one sentence. Where a field may have several forms, each says why it is not that one."""
    if errors and errors[0].get("type") == "json_invalid":
        return ApiError(400, f"the body is not valid JSON at character {errors[0].get('loc', ('body', 0))[-1]}; send one JSON object")
    places = [[str(part) for part in error.get("loc", ()) if part != "body"] for error in errors]
    field = places[0][0] if places and places[0] else None
    said = []
    for error, place in zip(errors, places, strict=True):
        own = error.get("ctx", {}).get("error")
        sentence = str(own) if isinstance(own, ValueError) else str(error.get("msg", "cannot be read"))
        if (place[0] if place else None) == field and sentence not in said:
            said.append(sentence)
    sentence = "; or ".join(said[:MOST_SAID])
    if not field and not any(isinstance(error.get("ctx", {}).get("error"), ValueError) for error in errors):
        sentence = "the body is no JSON object; send one, with `Content-Type: application/json`"
    return ApiError(400, f"{field}: {sentence}" if field and not sentence.startswith(f"{field}:") else sentence, param=field)


def _code(error: RemoteError) -> str:
    return "peer_lost" if isinstance(error, PeerLost) else error.reason or "refused" if isinstance(error, Refused) else "swarm_error"
