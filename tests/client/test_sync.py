"""The thread under the synchronous client: whoever waits for it is told when it ends, and nobody waits for himself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from swarm.client.sync import _LoopThread
from swarm.errors import Closed


def test_whoever_waits_while_the_client_is_closed_is_told_so():
    thread, began, told = _LoopThread(), threading.Event(), []

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    def wait() -> None:
        try:
            thread.call(work())
        except BaseException as error:
            told.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert began.wait(10)
    thread.stop()
    waiting.join(10)
    assert [type(error) for error in told] == [Closed]
    with pytest.raises(Closed):
        thread.call(work())


def test_a_stream_that_the_garbage_collector_ends_on_the_clients_own_thread_does_not_stop_it():
    thread, closed = _LoopThread(), threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(9):
                yield number
        finally:
            closed.set()

    stream = thread.iterate(numbers)
    assert next(stream) == 0

    async def collect() -> None:
        stream.close()

    thread.call(asyncio.wait_for(collect(), 10))
    assert closed.wait(10)
    assert thread.call(asyncio.sleep(0, 7)) == 7
    thread.stop()


def test_an_answer_that_nobody_reads_to_its_end_is_left_before_the_loop_ends(capfd):
    """Quietly: the loop would complain of a generator that it cannot end."""
    ended = []

    async def stream():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    loop = _LoopThread()
    numbers = loop.iterate(stream)
    assert next(numbers) == 1
    loop.settle()
    loop.stop()
    assert ended == [True] and not capfd.readouterr().err
    with pytest.raises(Closed):
        next(numbers)
