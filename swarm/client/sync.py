"""The synchronous face of `aio`: the same names, the same arguments, usable from any thread. Not a second implementation: it runs `aio` on a loop of its own.

A client owns one background thread with one event loop; every call is handed to it and waited for. Ctrl-C in a waiting call cancels the call, not the client.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from swarm.client import aio
from swarm.client.report import RouteReport
from swarm.errors import Closed
from swarm.wire import Blob

T = TypeVar("T")


class _LoopThread:
    """An event loop in a thread. `stop` ends both."""

    def __init__(self) -> None:
        self._settling: set[asyncio.Task[None]] = set()
        self._unfinished: set[AsyncIterator[Any]] = set()
        self._ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._main, name="swarm-client", daemon=True)
        self._thread.start()
        self._loop = self._ready.result()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._loop.is_running():
            work.close()
            raise Closed("this client is closed; open another")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed("this client was closed; open another") from None
        except BaseException:
            future.cancel()
            raise

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """The same, and not waited for; nothing where the loop is gone."""
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """An async generator as a plain one; leaving it early closes the other too."""
        iterator = make()
        self._unfinished.add(iterator)
        try:
            while True:
                try:
                    yield self.call(anext(iterator))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            self._unfinished.discard(iterator)
            if threading.current_thread() is self._thread:  # the garbage collector ends us where it happens to run; waiting here would be for ourselves
                self._settling.add(task := self._loop.create_task(_settle(iterator)))
                task.add_done_callback(self._settling.discard)
            elif self._loop.is_running():
                self.call(_settle(iterator))

    @property
    def running(self) -> bool:
        return self._loop.is_running()

    def settle(self) -> None:
        """Leave what nobody has read to its end."""
        for iterator in tuple(self._unfinished):
            self.call(_settle(iterator))

    def stop(self) -> None:
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            loop = runner.get_loop()
            loop.call_soon(self._ready.set_result, loop)
            loop.run_forever()


async def _settle(iterator: Any) -> None:
    """Close an async generator, once a step that was cancelled (by Ctrl-C, say) has found its way out of it."""
    while True:
        try:
            await iterator.aclose()
            return
        except RuntimeError:
            await asyncio.sleep(0.01)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class Client:
    """A client of one model. Joins the swarm at once; `close` it, or use it in a `with`. Arguments and errors as for `swarm.aio.Client`."""

    def __init__(self, model: str | os.PathLike[str], **options: Any) -> None:
        self._client = aio.Client(model, **options)
        self._loop = _LoopThread()
        self._open = True
        try:
            self._loop.call(self._client.start())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(self, prompt: str, **options: Any) -> str:
        return self._loop.call(self._client.generate(prompt, **options))

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        return self._loop.iterate(lambda: self._client.stream(prompt, **options))

    def generate_tokens(self, tokens: Sequence[int], **options: Any) -> list[int]:
        return self._loop.call(self._client.generate_tokens(tokens, **options))

    def session(self, *, timeout: float | None = None) -> Session:
        return Session(self._loop.call(self._client.ready_session(timeout=timeout)), self._loop)

    def run(self, work: Callable[[aio.Client], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on this client's loop, with the asynchronous client that does its work; for many things at once."""
        return self._loop.call(work(self._client))

    def begin(self, work: Callable[[aio.Client], Coroutine[Any, Any, None]]) -> None:
        """The same, and not waited for. Nothing once the client is closed."""
        if self._open:
            self._loop.begin(work(self._client))

    def close(self) -> None:
        """Leave the network. Idempotent."""
        if self._open:
            self._open = False
            try:
                self._loop.call(self._client.close())  # whoever waits for a token is told so
                self._loop.settle()
            finally:
                self._loop.stop()


class Session:
    """A conversation that keeps its caches between turns. Methods as for `swarm.aio.Session`."""

    def __init__(self, session: aio.Session, loop: _LoopThread) -> None:
        self._session, self._loop = session, loop

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(self, prompt: str, **options: Any) -> str:
        return self._loop.call(self._session.generate(prompt, **options))

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        return self._loop.iterate(lambda: self._session.stream(prompt, **options))

    def stream_tokens(self, tokens: Sequence[int], **options: Any) -> Iterator[int]:
        return self._loop.iterate(lambda: self._session.stream_tokens(tokens, **options))

    def stream_details(self, tokens: Sequence[int], **options: Any) -> Iterator[aio.Token]:
        return self._loop.iterate(lambda: self._session.stream_details(tokens, **options))

    def read(self, tokens: Sequence[int], **options: Any) -> Iterator[Blob]:
        return self._loop.iterate(lambda: self._session.read(tokens, **options))

    def resume(self, **options: Any) -> Iterator[str]:
        return self._loop.iterate(lambda: self._session.resume(**options))

    @property
    def tokens(self) -> tuple[int, ...]:
        return self._look("tokens")

    @property
    def route(self) -> RouteReport:
        return self._look("route")

    @property
    def longest_gap(self) -> float:
        return self._look("longest_gap")

    def close(self) -> None:
        """End the session everywhere. Idempotent; closing the client has closed it too."""
        if self._loop.running:
            self._loop.call(self._session.close())

    def _look(self, name: str) -> Any:
        """A property of the session, read in the loop that owns it."""

        async def look() -> Any:
            return getattr(self._session, name)

        return self._loop.call(look())
