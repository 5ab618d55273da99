"""The room `gateway`, its replies: answers in the shapes of the OpenAI API, whole or as chunks. Pure: what is not known, such as the time, is handed in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarm.client.report import RouteReport
from swarm.gateway.answers import Drawn, Piece, Spelled, Whole

LEAST = -9999.0
"""What OpenAI's API says of tokens that are impossible: JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt: int
    completion: int

    @property
    def json(self) -> dict[str, int]:
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": self.prompt + self.completion}


@dataclass(slots=True)
class Style:
    """How answers of one request are told. `echoes` are the prompts that come before their answers."""

    id: str
    created: int
    model: str
    is_chat: bool
    logprobs: bool = False
    include_usage: bool = False
    echoes: Mapping[int, str] = field(default_factory=dict)
    _lengths: dict[int, int] = field(default_factory=dict)
    """Characters of each answer's tokens so far, shown or held back."""

    def whole(self, wholes: Sequence[Whole], usage: Usage) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": [self._choice(index, whole) for index, whole in enumerate(wholes)], "usage": usage.json}

    def opening(self, count: int) -> list[dict[str, Any]]:
        """What comes before the first token: in a chat, who speaks."""
        if self.is_chat:
            return [self._chunk({"index": at, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}) for at in range(count)]
        return [self._chunk({"index": at, "text": text, "logprobs": None, "finish_reason": None}) for at, text in sorted(self.echoes.items()) if text]

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """None for a piece that says nothing."""
        if not (piece.text or piece.drawn or piece.finish or piece.route):
            return None
        before = self._lengths.get(piece.index, 0)
        self._lengths[piece.index] = before + sum(len(one.token.text) for one in piece.drawn)
        logprobs = self._logprobs(piece.drawn, before) if self.logprobs and piece.drawn else None
        said: dict[str, Any] = {"delta": {"content": piece.text} if piece.text else {}} if self.is_chat else {"text": piece.text}
        return self._chunk({"index": piece.index, **said, "logprobs": logprobs, "finish_reason": piece.finish}, piece.route)

    def closing(self, usage: Usage) -> dict[str, Any]:
        return {**self._head(self._chunks), "choices": [], "usage": usage.json}

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    @property
    def _chunks(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: dict[str, Any], route: RouteReport | None = None) -> dict[str, Any]:
        if route is not None:
            choice["route"] = route_json(route)
        return {**self._head(self._chunks), "choices": [choice], **({"usage": None} if self.include_usage else {})}

    def _choice(self, index: int, whole: Whole) -> dict[str, Any]:
        echo = self.echoes.get(index, "")
        text = echo + "".join(whole.text)
        logprobs = self._logprobs(whole.drawn, len(echo)) if self.logprobs else None
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.is_chat else {"text": text}
        route = {} if whole.route is None else {"route": route_json(whole.route)}
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": whole.finish, **route}

    def _logprobs(self, drawn: Sequence[Drawn], offset: int) -> dict[str, Any]:
        if self.is_chat:
            return {"content": [{**_token(one.token), "top_logprobs": [_token(other) for other in one.top]} for one in drawn], "refusal": None}
        offsets, at = [], offset
        for one in drawn:
            offsets.append(at)
            at += len(one.token.text)
        return {
            "tokens": [one.token.text for one in drawn],
            "token_logprobs": [_finite(one.token.logprob) for one in drawn],
            "top_logprobs": [{other.text: _finite(other.logprob) for other in reversed(one.top)} for one in drawn],
            "text_offset": offsets,
        }


def route_json(route: RouteReport) -> dict[str, Any]:
    return {
        "hops": [
            {
                "peer": hop.peer_id,
                "layers": hop.layers,
                "start": hop.start,
                "stop": hop.stop,
                "compute_ms": round(hop.milliseconds, 3),
                "measured": hop.measured,
                "queue_ms": round(hop.queue_milliseconds, 3),
                "network_ms": round(hop.network_milliseconds, 3),
            }
            for hop in route.hops
        ],
        "network_and_waiting_ms": round(route.network_milliseconds, 3),
        "tokens_per_second": round(route.tokens_per_second, 3),
        "reroutes": route.reroutes,
        "planner": route.planner,
        "term": route.term,
        "standby": route.standby,
    }


def _token(token: Spelled) -> dict[str, Any]:
    return {"token": token.text, "logprob": _finite(token.logprob), "bytes": None if token.raw is None else list(token.raw)}


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LEAST
