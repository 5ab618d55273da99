"""The room `gateway`, its questions: what the bodies of requests may say, checked. Pure values; knows nothing of how they are answered.

What would change an answer and is not there is refused, with the reason; what changes nothing is passed over; what nobody knows is refused with the nearest
name, since a mistyped `temprature` must not go unnoticed.
"""

from __future__ import annotations

import difflib
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MOST_CHOICES = 16
"""Answers to one prompt, which run at once."""

MOST_PROMPTS = 64
"""Prompts of one request, which run at once too."""

MOST_STOPS = 16
"""Stop strings. OpenAI has four."""

MOST_MESSAGES = 2048

OPENAI_ANSWER = 16
"""New tokens of a completion that names no number: what OpenAI's API says."""


NO_TOOLS = "this gateway has no tools or functions: models answer with text alone; leave them out"

UNSUPPORTED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "tools": (NO_TOOLS, ([],)),
    "functions": (NO_TOOLS, ([],)),
    "tool_choice": (NO_TOOLS, ("none", "auto")),
    "function_call": (NO_TOOLS, ("none", "auto")),
    "response_format": ("only text is possible: drawing is not bound to a schema or to JSON; ask for the form in the prompt", ({"type": "text"},)),
    "logit_bias": ("single tokens cannot be made likelier; leave it out", ({},)),
    "presence_penalty": ("not available; repetition_penalty makes tokens that were already there less likely", (0,)),
    "frequency_penalty": ("not available; repetition_penalty makes tokens that were already there less likely", (0,)),
    "suffix": ("text can be gone on with, not filled in; leave it out", ("",)),
    "modalities": ("only text is possible", (["text"],)),
    "audio": ("only text is possible", ()),
    "prediction": ("not available; leave it out", ()),
    "web_search_options": ("not available; leave it out", ()),
}
"""Field → why not, and the values that ask for nothing."""

PASSED_OVER = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("parallel_tool_calls", "reasoning_effort", "verbosity"),
    )
)
"""Fields that say something about the caller, or give hints that nobody has to follow."""


def _unicode(text: str) -> str:
    """JSON can spell half of a surrogate pair, which is no character and cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid Unicode text at character {error.start}") from error
    return text


Characters = Annotated[str, AfterValidator(_unicode)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Stops = list[Annotated[Characters, Field(min_length=1)]]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = False
    include_obfuscation: bool | None = None
    """What OpenAI pads its chunks with. Not done."""


class Asked(BaseModel):
    """What both kinds of request may say."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: Characters
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = 1
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[Characters, Field(min_length=1)] | Annotated[Stops, Field(max_length=MOST_STOPS)] | None = None
    # Beyond OpenAI's API, in the words of vLLM and others.
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = False
    show_route: bool | None = False
    """With it, answers come with the route they took."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if name in cls.model_fields:
                kept[name] = value
            elif name in UNSUPPORTED:
                why, harmless = UNSUPPORTED[name]
                if value is not None and not any(value == one and type(value) is not bool for one in harmless):
                    raise ValueError(f"{name}: {why}")
            elif name not in PASSED_OVER:
                near = difflib.get_close_matches(str(name), cls.model_fields, 1)
                raise ValueError(
                    f"there is no {str(name)[:64]!r} in this request; {f'did you mean {near[0]}?' if near else 'see /openapi.json for what there is'}"
                )
        return kept

    @model_validator(mode="after")
    def _agree(self) -> Asked:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only possible with stream: true")
        return self

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    @abstractmethod
    def characters(self) -> int:
        """Of its prompts, about."""

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def drawing(self, choice: int) -> dict[str, Any]:
        """Options of a session for one of several answers. Each of them draws with a seed of its own; the same request gives the same answers."""
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p or 1.0,
            "top_k": max(self.top_k or 0, 0),
            "min_p": self.min_p or 0.0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "stop_ids": tuple(self.stop_token_ids or ()),
            "ignore_eos": bool(self.ignore_eos),
            "seed": seed,
        }


class CompletionAsked(Asked):
    """The body of POST /v1/completions."""

    prompt: Characters | list[Characters] | list[TokenId] | list[list[TokenId]]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None

    @model_validator(mode="after")
    def _possible(self) -> CompletionAsked:
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of: answers are not ranked; leave it out, or let it equal n")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo: a prompt's own log-probabilities are not known here; leave out echo or logprobs")
        if not 1 <= len(self.prompts) <= MOST_PROMPTS:
            raise ValueError(f"prompt: give at least one prompt and at most {MOST_PROMPTS}")
        return self

    @property
    def characters(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text"]
    text: Characters


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Characters | list[TextPart]
    name: Characters | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        """What other servers take here and no text model of ours does, told apart from what is misspelt."""
        if not isinstance(data, dict):
            return data
        if data.get("role") in ("tool", "function") or data.get("tool_calls") or data.get("function_call"):
            raise ValueError(NO_TOOLS)
        parts = data.get("content")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and part.get("type") in ("image_url", "input_image", "input_audio", "file", "video_url", "audio_url"):
                raise ValueError("models here read text alone; leave out images, sounds and files")
        passed_over = ("tool_calls", "function_call", "refusal", "audio", "annotations")
        return {name: value for name, value in data.items() if name not in passed_over}

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates know it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatAsked(Asked):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _possible(self) -> ChatAsked:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: is only possible with logprobs: true")
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens: says something else than max_completion_tokens; give one of them")
        return self

    @property
    def characters(self) -> int:
        return sum(len(message.plain["content"]) for message in self.messages)
