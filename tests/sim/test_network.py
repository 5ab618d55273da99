"""The fake wires, held to what the real ones promise: order, one loss for each side, late or never, and how long each way of going takes to be noticed."""

from __future__ import annotations

import asyncio
import random

import pytest

from swarm.core import PeerId
from swarm.errors import PeerLost
from swarm.sim.clock import Process, VirtualLoop
from swarm.sim.network import DIAL, HEARTBEAT, SILENCE, Links, Network
from swarm.wire import Grant, Message

LATENCY = 0.05


class World:
    def __init__(self, *peers: PeerId, seed: int = 1, loss: float = 0.0) -> None:
        self.loop = VirtualLoop()
        self.network = Network(self.loop, random.Random(seed), lambda one, other: LATENCY, loss=loss)
        self.heard: list[tuple[float, PeerId, PeerId, int]] = []
        """When who heard what number from whom; −1 for a loss."""
        for peer in peers:
            self.start(peer)

    def start(self, peer: PeerId) -> Links:
        links = self.network.attach(peer, Process(peer))

        def receive(sender: PeerId, message: Message) -> None:
            assert isinstance(message, Grant)
            self.heard.append((self.loop.now, peer, sender, message.until))

        links.subscribe(receive, lambda other: self.heard.append((self.loop.now, peer, other, -1)))
        for other in self.network.nodes:
            self[other].learn(peer, ["/x"])
            links.learn(other, ["/x"])
        return links

    def __getitem__(self, peer: PeerId) -> Links:
        return self.network.nodes[peer]

    def say(self, sender: PeerId, receiver: PeerId, number: int) -> None:
        async def send() -> None:
            self[sender].send(receiver, Grant(b"s" * 16, 1, 0, number))

        self.loop.create_task(send(), context=self[sender].process.context)

    def run(self, main) -> list[tuple[float, PeerId, PeerId, int]]:
        self.loop.run(main)
        assert not self.loop.faults and not self.network.faults
        return self.heard

    def of(self, peer: PeerId) -> list[int]:
        return [number for _, who, _, number in self.heard if who == peer]

    def when(self, peer: PeerId, number: int = -1) -> list[float]:
        return [time for time, who, _, what in self.heard if (who, what) == (peer, number)]


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_messages_of_a_pair_arrive_in_order_both_ways(loss):
    world = World("a", "b", loss=loss)

    async def main() -> None:
        for number in range(50):
            world.say("a", "b", number)
            world.say("b", "a", number)
            await asyncio.sleep(world.network.random.uniform(0, 0.1))
        await asyncio.sleep(2)

    world.run(main())
    assert world.of("a") == world.of("b") == list(range(50))


@pytest.mark.parametrize("seed", range(20))
def test_both_dial_at_once_and_nothing_is_lost(seed):
    world = World("a", "b", seed=seed)

    async def main() -> None:
        world.say("a", "b", 1)
        await asyncio.sleep(world.network.random.uniform(0, 0.7))
        world.say("b", "a", 2)
        await asyncio.sleep(1)
        world.say("a", "b", 3)
        world.say("b", "a", 4)
        await asyncio.sleep(1)

    world.run(main())
    assert (world.of("b"), world.of("a")) == ([1, 3], [2, 4])


@pytest.mark.parametrize(("silently", "least", "most"), [(False, LATENCY, 2 * LATENCY), (True, SILENCE - HEARTBEAT, SILENCE)])
def test_who_dies_is_missed_once_and_as_soon_as_can_be(silently, least, most):
    world = World("a", "b")

    async def main() -> None:
        world.say("a", "b", 1)
        await asyncio.sleep(10)
        world.network.kill(world["b"], silently=silently)
        await asyncio.sleep(10)

    world.run(main())
    (lost,) = world.when("a")
    assert least <= lost - 10 <= most and world.of("b") == [1]


def test_a_dial_to_nobody_fails_at_once_and_to_somebody_silent_after_its_deadline():
    world = World("a", "b", "c")

    async def main() -> None:
        world.network.kill(world["b"])
        world.network.kill(world["c"], silently=True)
        world.say("a", "b", 1)
        await asyncio.sleep(2)
        assert world.of("a") == [-1]
        world.say("a", "c", 2)
        world.say("a", "unheard of", 3)
        await asyncio.sleep(10)

    world.run(main())
    assert [(who, round(time, 2)) for time, _, who, _ in world.heard] == [("b", 0.3), ("unheard of", 2.3), ("c", 2 + DIAL)]


@pytest.mark.parametrize("frozen_for", [1.0, 10.0])
def test_a_frozen_peer_hears_first_what_had_arrived_and_then_of_its_loss(frozen_for):
    world = World("a", "b")

    async def main() -> None:
        world.say("a", "b", 1)
        await asyncio.sleep(5)
        world.network.freeze(world["b"])
        world.say("a", "b", 2)
        await asyncio.sleep(frozen_for)
        assert world.of("b") == [1]
        world.network.thaw(world["b"])
        await asyncio.sleep(5)
        world.say("b", "a", 3)
        await asyncio.sleep(5)

    world.run(main())
    assert world.of("b") == ([1, 2] if frozen_for < SILENCE else [1, 2, -1])
    assert world.of("a") == ([3] if frozen_for < SILENCE else [-1, 3])


@pytest.mark.parametrize("parted_for", [1.0, 10.0])
def test_what_a_partition_holds_back_comes_late_or_never(parted_for):
    world = World("a", "b")

    async def main() -> None:
        world.say("a", "b", 1)
        await asyncio.sleep(5)
        world.network.part({"a"})
        world.say("a", "b", 2)
        world.say("b", "a", 3)
        await asyncio.sleep(parted_for)
        assert 2 not in world.of("b") and 3 not in world.of("a")
        world.network.heal()
        await asyncio.sleep(5)
        world.say("a", "b", 4)
        await asyncio.sleep(5)

    world.run(main())
    assert world.of("b") == ([1, 2, 4] if parted_for < SILENCE else [1, -1, 4])
    assert world.of("a") == ([3] if parted_for < SILENCE else [-1])


def test_who_slept_does_not_hold_it_against_others():
    world = World("a", "b")

    async def main() -> None:
        world.say("a", "b", 1)
        await asyncio.sleep(5)
        world.network.freeze(world["b"])
        world.network.freeze(world["a"])
        await asyncio.sleep(60)
        world.network.thaw(world["a"])
        world.network.thaw(world["b"])
        world.say("a", "b", 2)
        await asyncio.sleep(60)

    world.run(main())
    assert world.of("b") == [1, 2] and world.of("a") == []


def test_a_cut_link_is_lost_to_both_with_what_was_under_way():
    world = World("a", "b")

    async def main() -> None:
        world.say("a", "b", 1)
        await asyncio.sleep(5)
        world.say("a", "b", 2)
        await asyncio.sleep(LATENCY / 2)
        assert world.network.cut("a", "b") and not world.network.cut("a", "c")
        await asyncio.sleep(5)
        world.say("b", "a", 3)
        await asyncio.sleep(5)

    world.run(main())
    assert world.of("b") == [1, -1] and world.of("a") == [-1, 3]


def test_who_closes_is_heard_out_and_a_restart_under_the_same_name_is_somebody_new():
    world = World("a", "b")

    async def main() -> None:
        world.say("a", "b", 1)
        await asyncio.sleep(5)
        world.say("b", "a", 2)
        await asyncio.sleep(0.001)
        await world["b"].close()
        await asyncio.sleep(5)
        world.start("b")
        world.say("a", "b", 3)
        await asyncio.sleep(5)

    world.run(main())
    assert world.of("a") == [2, -1] and world.of("b") == [1, 3]


def test_a_round_trip_is_measured_and_fails_with_the_link():
    world = World("a", "b", "c")

    async def main() -> float:
        world.network.kill(world["c"])
        with pytest.raises(PeerLost):
            await world["a"].measure("c")
        return await world["a"].measure("b")

    assert world.loop.run(main()) == pytest.approx(2 * LATENCY, rel=0.25)
