"""Starting another process from an event loop, the one door for it (`tests/test_architecture.py`). Knows nothing of what is started.

A program may run several loops, each in a thread: every `swarm.Client` brings one. uvloop starts processes in one of them at a time and ends a second attempt
with "Racing with another loop to spawn a process", so whoever comes second waits here. The process is a child of the loop's own thread, since the life of p2pd
hangs on that thread's: handing the work to one thread that starts everything would break it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

_TURN = threading.Lock()
"""A module's global for once: what it guards, uvloop's note of who forks, is one for the process too."""


async def spawn(*command: str, **options: Any) -> asyncio.subprocess.Process:
    """`asyncio.create_subprocess_exec`, for any number of loops at once."""
    return await _InTurn(asyncio.create_subprocess_exec(*command, **options))


class _InTurn(Generator[Any, Any, T]):
    """`work`, each of whose steps is taken while no other loop takes one. Between them, when it waits, nobody is kept: neither a loop that is busy or has
    stopped nor a cancellation can take the turn along. A step is short (the fork, for which uvloop keeps the GIL, so that every thread stands still anyhow):
    a loop may block for it."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, Any, T]:
        return self

    def send(self, value: Any) -> Any:
        with _TURN:
            return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        return self._work.throw(*error)  # starts nothing, and may come from the garbage collector, in the midst of anything
