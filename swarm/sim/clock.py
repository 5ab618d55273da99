"""The room `sim`, its time: an event loop in which waiting costs nothing, and processes that can be frozen. Knows nothing of networks or peers.

Everything runs in the order in which it was asked for; what is due at one instant too. So a run is a function of what is started in it, provided that no
decision hangs on an address: asyncio keeps tasks in sets, and cancels those of a group in the order of a set, so tasks are hashed by the order of their birth.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

START = 1.7e9
"""What the clocks on the walls show when a run begins, in seconds."""


class Process:
    """What a freeze stops: whatever was started in its `context`, and everything that was started there in turn. Its clocks go on."""

    def __init__(self, name: str, skew: float = 0.0) -> None:
        self.name, self.skew = name, skew
        self.frozen = False
        self.held: deque[asyncio.Handle] = deque()
        """What came due while it was frozen."""
        self.context = copy_context()
        self.context.run(_running.set, self)


_running: ContextVar[Process | None] = ContextVar("process", default=None)


class _Task(asyncio.Task):
    """A task hashed by the order of its birth."""

    def __init__(self, born: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._born = born  # first: the loop's book of tasks asks for the hash at once
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._born


class VirtualLoop(asyncio.AbstractEventLoop):
    """As much of a loop as timers, tasks and futures need. Threads, sockets and child processes are refused: nothing real has a place here."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.faults: list[str] = []
        """Exceptions that nobody caught."""
        self._ready: deque[tuple[Process | None, asyncio.Handle]] = deque()
        self._due: list[tuple[float, int, Process | None, asyncio.TimerHandle]] = []
        self._numbers = itertools.count(1)

    def time(self) -> float:
        return self.now

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, as the only loop of this thread. Raises RuntimeError when everybody waits and nothing will ever happen."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                self._step()
            return task.result()
        finally:
            asyncio._set_running_loop(None)

    def thaw(self, process: Process) -> None:
        """What came due meanwhile happens now, in the order in which it came due."""
        process.frozen = False
        self._ready.extend((process, handle) for handle in process.held)
        process.held.clear()

    def _step(self) -> None:
        if self._ready:
            process, handle = self._ready.popleft()
        elif self._due:
            when, _, process, handle = heapq.heappop(self._due)
            if not handle.cancelled():
                self.now = max(self.now, when)
        else:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        if handle.cancelled():
            return
        if process is not None and process.frozen:
            process.held.append(handle)
            return
        self.steps += 1
        handle._run()

    # --- what asyncio asks of a loop ----------------------------------------------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((_process(context), handle))
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._due, (when, next(self._numbers), _process(context), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> asyncio.Task[Any]:
        return _Task(next(self._numbers), coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: who is cancelled is passed over when its time comes."""


def _process(context: Context | None) -> Process | None:
    return _running.get() if context is None else context.get(_running)
