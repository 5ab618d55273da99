"""Loops of one program that start processes at the same time: each client brings a loop and starts a p2pd.

uvloop notes that it forks, runs what was registered to happen before a fork (here is where the GIL goes to another thread), forks, and takes the note away. The
tests stop a loop in the midst of that."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarm import spawning
from swarm.spawning import spawn

uvloop = pytest.importorskip("uvloop")

PATIENCE = 60.0
"""Seconds until a thread that waits in vain fails its test."""

_before_fork = []
os.register_at_fork(before=lambda: [call() for call in _before_fork])


class Watched:
    """A lock that says when somebody comes for it."""

    def __init__(self, coming):
        self._lock, self._coming = threading.Lock(), coming

    def __enter__(self):
        if not self._lock.acquire(blocking=False):
            self._coming.set()
            self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


async def ended() -> int:
    return await (await spawn("true")).wait()


def test_two_loops_that_start_processes_at_once(monkeypatch):
    forking, coming = threading.Event(), threading.Event()
    monkeypatch.setattr(spawning, "_TURN", Watched(coming))

    def before():
        if not forking.is_set():
            forking.set()
            assert coming.wait(PATIENCE)

    def second():
        assert forking.wait(PATIENCE)
        try:
            return uvloop.run(ended())
        finally:
            coming.set()

    _before_fork.append(before)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert [done.result(PATIENCE) for done in (pool.submit(uvloop.run, ended()), pool.submit(second))] == [0, 0]
    finally:
        _before_fork.clear()


def test_a_loop_that_stands_still_after_the_fork_keeps_no_other_waiting():
    async def main():
        starting = asyncio.create_task(spawn("true"))
        await asyncio.sleep(0)  # the process has been started, and its pipes wait for this loop
        assert not starting.done()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(uvloop.run, ended()).result(PATIENCE) == 0
        assert await (await starting).wait() == 0

    uvloop.run(main())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_start_that_is_cancelled_or_fails_leaves_the_turn_to_others(run):
    async def main():
        starting = asyncio.create_task(spawn("sleep", "600"))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        with pytest.raises(FileNotFoundError):
            await spawn("/no/such/program")
        assert await ended() == 0

    run(main())
