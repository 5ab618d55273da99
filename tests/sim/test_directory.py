"""The fake directory: late, mortal, by everybody's own clock, and torn by a partition."""

from __future__ import annotations

import asyncio
import random

import pytest

from swarm.errors import RemoteError
from swarm.sim.clock import START, Process, VirtualLoop
from swarm.sim.directory import SPREAD, WALK, Directory, Table
from swarm.sim.network import Network
from swarm.wire import LIFETIME, Announcement


class World:
    def __init__(self, **skews: float) -> None:
        self.loop = VirtualLoop()
        self.network = Network(self.loop, random.Random(1), lambda one, other: 0.05)
        table = Table(self.network, random.Random(2))
        self.of = {peer: Directory(table, self.network.attach(peer, Process(peer, skew))) for peer, skew in skews.items()}

    async def announce(self, peer: str, sequence: int = 1, state: str = "online", **changes) -> None:
        record = Announcement(1, peer, (), "m", changes.get("config_hash", "m"), "", "", 4, ((0, 4),), 0.1, 0.1, 9, 9, 9, state, sequence, self.of[peer].wall())
        await self.of[peer].announce(record)

    async def seen(self, reader: str) -> list[tuple[str, int]]:
        return [(record.peer, record.sequence) for record in await self.of[reader].read("m")]


def test_a_record_is_found_soon_and_until_it_expires():
    world = World(a=0.0, b=0.0)

    async def main() -> None:
        await world.announce("a")
        await asyncio.sleep(SPREAD[1])
        assert await world.seen("b") == [("a", 1)]
        await asyncio.sleep(LIFETIME - SPREAD[1] - 3 * WALK[1])
        assert await world.seen("b") == [("a", 1)]
        await asyncio.sleep(3 * WALK[1])
        assert await world.seen("b") == []

    world.loop.run(main())


def test_the_newest_counts_a_tombstone_hides_and_other_models_are_no_concern():
    world = World(a=0.0, b=0.0, c=0.0)

    async def main() -> None:
        for sequence in (2, 1):
            await world.announce("b", sequence)
        await world.announce("a")
        await world.announce("c", config_hash="other")
        await asyncio.sleep(SPREAD[1])
        assert await world.seen("c") == [("a", 1), ("b", 2)]
        await world.announce("b", 3, "left")
        await asyncio.sleep(SPREAD[1])
        assert await world.seen("c") == [("a", 1)]

    world.loop.run(main())


@pytest.mark.parametrize(("skew", "found"), [(20.0, True), (26.0, False), (-26.0, True), (-40.0, False)])
def test_everybody_goes_by_a_clock_of_its_own(skew, found):
    """A reader whose clock is ahead thinks a record old; one far behind does not believe a record from the future."""
    world = World(a=0.0, b=skew)

    async def main() -> bool:
        await world.announce("a")
        await asyncio.sleep(SPREAD[1])
        return bool(await world.seen("b"))

    assert world.loop.run(main()) == found
    assert world.of["b"].wall() == pytest.approx(START + world.loop.now + skew)


def test_a_partition_keeps_what_is_new_on_its_own_side_until_it_heals():
    world = World(a=0.0, b=0.0, c=0.0)

    async def main() -> None:
        await world.announce("a", 1)
        await asyncio.sleep(SPREAD[1])
        world.network.part({"a", "b"})
        await world.announce("a", 2)
        await asyncio.sleep(SPREAD[1])
        assert await world.seen("b") == [("a", 2)] and await world.seen("c") == [("a", 1)]
        with pytest.raises(RemoteError):
            await world.announce("c")
        world.network.heal()
        assert await world.seen("c") == [("a", 2)]

    world.loop.run(main())
