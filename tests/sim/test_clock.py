"""Virtual time: order, freezing, and that nothing hangs on addresses."""

from __future__ import annotations

import asyncio

import pytest

from swarm.sim.clock import Process, VirtualLoop


def test_time_passes_only_where_everybody_waits():
    async def main() -> float:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        return asyncio.get_running_loop().time()

    assert VirtualLoop().run(main()) == 7200


def test_what_is_due_at_one_instant_happens_in_the_order_in_which_it_was_asked_for():
    async def main() -> list[int]:
        seen: list[int] = []
        for number in range(100):
            asyncio.get_running_loop().call_later(1.0, seen.append, number)
        await asyncio.sleep(1.0)
        return seen

    assert VirtualLoop().run(main()) == list(range(100))


def test_tasks_of_a_group_are_cancelled_in_the_order_of_their_birth():
    async def main() -> list[int]:
        gone: list[int] = []

        async def wait(number: int) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                gone.append(number)

        async def fail() -> None:
            await asyncio.sleep(1)
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                for number in range(50):
                    tasks.create_task(wait(number))
                tasks.create_task(fail())
        return gone

    first, second = VirtualLoop().run(main()), VirtualLoop().run(main())
    assert sorted(first) == list(range(50)) and first == second


def test_a_frozen_process_does_late_what_it_missed_and_cancels_what_it_no_longer_needs():
    loop, process = VirtualLoop(), Process("p")
    seen: list[tuple[str, float]] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            seen.append(("tick", loop.time()))

    async def main() -> None:
        ticking = loop.create_task(tick(), context=process.context)
        deadline = loop.call_later(5.0, seen.append, ("deadline", 0.0), context=process.context)
        loop.call_later(3.5, deadline.cancel, context=process.context)  # in time, though both are due before the thaw
        await asyncio.sleep(2.5)
        process.frozen = True
        await asyncio.sleep(4.0)
        assert len(seen) == 2
        loop.thaw(process)
        await asyncio.sleep(2.0)
        ticking.cancel()

    loop.run(main())
    assert seen == [("tick", 1.0), ("tick", 2.0), ("tick", 6.5), ("tick", 7.5)]


def test_waiting_for_what_will_never_happen_is_an_error():
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        VirtualLoop().run(main())


def test_what_nobody_catches_is_kept():
    async def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        del task

    loop = VirtualLoop()
    loop.run(main())
    assert len(loop.faults) == 1 and "ZeroDivisionError" in loop.faults[0]
