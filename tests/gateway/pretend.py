"""A gateway over a client that is only pretended, and requests that need no socket."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from swarm.client.overview import Overview, overview_of
from swarm.client.session import Token
from swarm.core import ModelShape, Sampling
from swarm.errors import EmptyPrompt, PromptTooLong, UsageError
from swarm.gateway.access import OPEN, Keys
from swarm.gateway.app import build
from swarm.gateway.gateway import Gateway, Settings
from swarm.wire import Announcement, Logprobs

EOS = 0
ROOM = 1000
SHAPE = ModelShape("m", 2, 8, 300, ROOM, "hash")
WALL = 1_000_000.0


class Bytes:
    """A tokenizer of UTF-8 bytes, moved up by one for the end token."""

    chats = True

    def encode(self, prompt: str) -> list[int]:
        if not prompt:
            raise EmptyPrompt
        return [byte + 1 for byte in prompt.encode()]

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode("".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>")

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id - 1 for id in ids if 0 < id <= 256).decode(errors="replace")

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        return bytes([id - 1]).decode(errors="replace"), bytes([id - 1])

    def detokenizer(self) -> Any:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return SimpleNamespace(feed=lambda id: decoder.decode(bytes([id - 1])), finish=lambda: decoder.decode(b"", final=True))


@dataclass
class Session:
    """Says `says`, a byte a token, then ends, or raises what `breaks` has for it, or stands still for ever."""

    says: bytes
    breaks: Exception | None
    stands: bool
    closed: bool = False
    asked: list[tuple[Sequence[int], dict[str, Any]]] = field(default_factory=list)
    glance = None

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def stream_details(self, ids: Sequence[int], *, max_new_tokens: int, logprobs: int | None = None, **options: Any) -> AsyncGenerator[Token, None]:
        self.asked.append((ids, {"max_new_tokens": max_new_tokens, "logprobs": logprobs, **options}))
        for at, byte in enumerate(self.says):
            await asyncio.sleep(0)
            said = None if logprobs is None else Logprobs(-0.5, ((byte + 1, -0.5), (66, -1.5))[:logprobs])
            last = at + 1 == max_new_tokens
            yield Token(byte + 1, said, "length" if last else None)
            if last:
                return
        if self.breaks is not None:
            raise self.breaks
        if self.stands:
            await asyncio.Event().wait()
        yield Token(EOS, None, "stop")


class Client:
    max_length = ROOM
    text = Bytes()

    def __init__(self, says: str = "hello", breaks: Exception | None = None, refuses: Exception | None = None, stands: bool = False) -> None:
        self.says, self.breaks, self.refuses, self.stands = says, breaks, refuses, stands
        self.sessions: list[Session] = []

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    def check_tokens(self, ids: Sequence[int], *, max_new_tokens: int, timeout: float | None = None, **drawing: Any) -> None:
        if not ids:
            raise EmptyPrompt
        if wrong := [id for id in ids if not 0 <= id < SHAPE.vocab]:
            raise UsageError(f"{wrong[0]} is no token of this model; ids go from 0 to {SHAPE.vocab - 1}")
        if len(ids) + max_new_tokens > ROOM:
            raise PromptTooLong(len(ids) + max_new_tokens, ROOM)
        drawing.pop("ignore_eos")
        Sampling(**{**drawing, "seed": drawing["seed"] or 0})

    async def ready_session(self, *, timeout: float | None = None) -> Session:
        if self.refuses is not None:
            raise self.refuses
        self.sessions.append(Session(self.says.encode(), self.breaks, self.stands))
        return self.sessions[-1]


def seen(*spans: tuple[int, int]) -> Overview:
    records = [
        Announcement(1, f"peer{at}", (), "m", "hash", "r", "bfloat16", 4, (span,), 0.01, 0.001, 500, 400, 1000, "online", 1, WALL)
        for at, span in enumerate(spans)
    ]
    return overview_of(SHAPE, records, WALL)


def gateway(client: Client | None = None, view: Callable[[], Overview] = lambda: seen((0, 4)), **settings: Any) -> Gateway:
    it = Gateway(client or Client(), Settings("m", ("models/m",), **{"keys": OPEN, **settings}), lambda: WALL)  # type: ignore[arg-type]

    async def look() -> Overview:
        return view()

    it.lookout._look = look
    return it


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Those of a stream; "[DONE]" is the text."""
        parts = [part.removeprefix("data: ") for part in self.body.decode().split("\n\n") if part.startswith("data: ")]
        return [part if part == "[DONE]" else json.loads(part) for part in parts]


async def ask(
    app: Any, path: str, body: Any = None, *, raw: bytes | None = None, method: str | None = None, leaves_after: int | None = None, **headers: str
) -> Answered:
    """One request, straight into the app. Its client leaves after so many parts of the body."""
    data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    method = method or ("GET" if body is None and raw is None else "POST")
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    left, answered, parts, sent = asyncio.Event(), Answered(0, {}, b""), 0, False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            if leaves_after == 0:
                left.set()
            return {"type": "http.request", "body": data, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal parts
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            answered.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answered.body += message.get("body", b"")
            parts += 1
            if leaves_after is not None and parts >= leaves_after:
                left.set()

    await app(scope, receive, send)
    return answered


def asking(it: Gateway, path: str, body: Any = None, **options: Any) -> Answered:
    async def main() -> Answered:
        return await ask(build(it), path, body, **options)

    return asyncio.run(main())


def keys(*texts: str) -> Keys:
    return Keys(texts)
