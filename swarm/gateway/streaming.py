"""The room `gateway`, its streams: server-sent events while an answer comes, and how it ends when nobody listens any more. Knows ASGI; not what is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from swarm.gateway.refusals import ClientGone

T = TypeVar("T")

SIGN_OF_LIFE = 15.0
"""Seconds of silence after which a comment is sent: proxies cut what is idle, most of them after 30 or 60."""

DONE = b"data: [DONE]\n\n"


def event(said: Any) -> bytes:
    return b"data: " + msgspec.json.encode(said) + b"\n\n"


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client closes the connection: nobody computes for nobody. Raises ClientGone then."""
    working, leaving = asyncio.create_task(work, name="answer"), asyncio.create_task(_gone(request.receive), name="listen")
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await _end(working, leaving)


class EventStream(Response):
    """Events of a body that has begun: what is in `first` is there already. The body is closed when it ends, or its reader does."""

    media_type = "text/event-stream"

    def __init__(self, first: list[bytes], body: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first, self._rest, self._close = first, body, close
        self._parts = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending, leaving = asyncio.create_task(self._send(send), name="events"), asyncio.create_task(_gone(receive), name="listen")
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(sending, leaving)
            await self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        living = asyncio.create_task(self._stay_alive(send), name="sign of life")
        try:
            await send({"type": "http.response.body", "body": b"".join(self._first), "more_body": True})
            async for part in self._rest:
                self._parts += 1
                await send({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            await _end(living)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stay_alive(self, send: Send) -> None:
        """Looks now and then instead of at every part: those are some microseconds apiece."""
        while True:
            before = self._parts
            await asyncio.sleep(SIGN_OF_LIFE)
            if self._parts == before:
                await send({"type": "http.response.body", "body": b": still there\n\n", "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()  # looked at, so that nobody is told it was lost
