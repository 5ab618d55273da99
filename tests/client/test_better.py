"""Ways without a hop that leaves or is slow: what is sought beside an answer, what is prepared, and which route is then opened."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from swarm.client.better import FEEDING, SETTLED, Better, BetterRoutes
from swarm.client.watching import Watching
from swarm.core import Hop
from swarm.errors import MissingLayers
from swarm.machines.effects import Prepared
from swarm.routing.peers import PeerTable
from swarm.routing.route import Leg, Route
from swarm.routing.slow import FEW, Slowness
from swarm.routing.table import PeerView
from tests.net.virtual import run


def route(*peers: str, compute: float = 0.1) -> Route:
    return Route(len(peers), tuple(Leg(Hop(peer, at, at + 1), compute, 0.01, 0.001, 0.0) for at, peer in enumerate(peers)), 1.0)


OLD, NEW = route("a", "b", "c"), route("a", "d", "c")


class Setting:
    """An answer of ten tokens that goes on over OLD, and a planner that finds NEW after a second, unless it is told otherwise."""

    def __init__(self) -> None:
        self.table, self.slowness, self.asked = PeerTable(), Slowness(), []
        self.table.show(PeerView(peer, decode=0.01, revision="r", numerics="f") for peer in "abcd")
        self.prepares, self.pays, self.answer = True, True, NEW
        self.prepared: list[Route] = []
        self.found: list[Better] = []
        machine = SimpleNamespace(history=[0] * 10, goal=100)
        watching = SimpleNamespace(pays=lambda *about: self.pays)
        self.better = BetterRoutes(self, machine, self, watching, self._prepare, self.found.append)

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return self.clock()

    async def find(self, old, length, goal, **options):
        self.asked.append((options["avoid"], options["tentative"]))
        await asyncio.sleep(1.0)
        if self.answer is None:
            raise MissingLayers("1:2")
        return self.answer

    def _prepare(self, route: Route) -> bool:
        self.prepared.append(route)
        return self.prepares

    async def seek(self, reason: str) -> Better:
        self.better.seek(reason, 1, OLD)
        await asyncio.sleep(2.0)
        return self.found[-1]


def test_what_is_sought_does_without_the_hop_and_a_slow_one_may_stay():
    async def main():
        it = Setting()
        assert await it.seek("slow") == Better("slow", 1, OLD, NEW) and await it.seek("leaving") == Better("leaving", 1, OLD, NEW)
        it.answer = None
        it.better.seek("leaving", 1, OLD)
        await asyncio.sleep(2.0)
        it.better.seek("slow", 1, None)
        return it.asked, len(it.found)

    assert run(main()) == ([(frozenset("b"), True), (frozenset("b"), False), (frozenset("b"), False)], 2)


def test_who_leaves_is_sought_for_before_who_is_slow():
    async def main():
        it = Setting()
        it.better.seek("slow", 0, OLD)
        await asyncio.sleep(0.1)
        it.better.seek("leaving", 1, OLD)
        await asyncio.sleep(0.1)
        it.better.seek("slow", 2, OLD)
        await asyncio.sleep(2.0)
        return [(better.reason, better.hop) for better in it.found]

    assert run(main()) == [("leaving", 1)]


def test_newcomers_are_fed_before_their_route_is_opened():
    async def main():
        it = Setting()
        assert it.better.leave(await it.seek("leaving"), OLD, 5) is None and it.better.next is NEW and it.prepared == [NEW]
        assert it.better.prepared(Prepared()) is NEW and it.better.next is None
        assert it.better.prepared(Prepared()) is None, "too late"

    run(main())


@pytest.mark.parametrize(("reason", "opened"), [("leaving", NEW), ("slow", None)])
def test_where_newcomers_cannot_be_fed_only_who_must_goes_without(reason, opened):
    async def main():
        it = Setting()
        it.prepares = False
        assert it.better.leave(await it.seek(reason), OLD, 5) is opened and it.better.next is None
        it.prepares = True
        if reason == "slow":
            await asyncio.sleep(SETTLED)
        it.better.leave(await it.seek(reason), OLD, 5)
        assert it.better.prepared(Prepared("lost")) is opened

    run(main())


def test_a_slow_hop_is_left_only_where_that_pays_and_nothing_else_is_prepared():
    async def main():
        it = Setting()
        slow = await it.seek("slow")
        it.pays = False
        it.better.leave(slow, OLD, 5)
        assert not it.prepared
        it.pays = True
        it.better.leave(slow, OLD, 5)
        it.better.leave(slow, OLD, 5)
        assert it.prepared == [NEW], "once"
        asked = len(it.asked)
        it.better.opened()
        it.better.notice_slow(1, NEW)
        await asyncio.sleep(0.1)
        assert len(it.asked) == asked, "it has just moved"
        await asyncio.sleep(SETTLED)
        it.better.notice_slow(1, NEW)
        await asyncio.sleep(0.1)
        assert len(it.asked) == asked + 1

    run(main())


def test_what_was_found_for_a_route_that_is_gone_is_sought_again_for_who_leaves_alone():
    async def main():
        it = Setting()
        leaving, slow = await it.seek("leaving"), await it.seek("slow")
        rebuilt = route("x", "a", "b")
        asked = len(it.asked)
        assert it.better.leave(slow, rebuilt, 5) is None and it.better.leave(leaving, rebuilt, 5) is None and not it.prepared
        await asyncio.sleep(2.0)
        assert len(it.asked) == asked + 1 and it.found[-1].hop == 2 and it.found[-1].old is rebuilt
        assert it.better.leave(leaving, NEW, 5) is None
        await asyncio.sleep(2.0)
        assert len(it.asked) == asked + 1, "it has left already"

    run(main())


def test_newcomers_that_hang_are_passed_over_and_others_sought():
    async def main():
        it = Setting()
        it.better.leave(await it.seek("leaving"), OLD, 5)
        it.better.give_up_late(OLD)
        assert it.better.next is NEW
        await asyncio.sleep(FEEDING + 4 * 10 * 0.001 + 0.01)
        asked = len(it.asked)
        it.better.give_up_late(OLD)
        await asyncio.sleep(0.1)
        assert it.better.next is None and it.table.shunned(it.clock()) == {"d"} and len(it.asked) == asked + 1
        await it.better.seek_no_more()
        before = len(it.found)
        await asyncio.sleep(2.0)
        assert len(it.found) == before

    run(main())


def watched(it: Setting) -> Watching:
    """A chain whose second hop took nine times as long as the others, often enough."""
    watching = Watching(it)
    watching.follow(OLD)
    for _ in range(FEW):
        watching.add((100_000, 900_000, 100_000))
    return watching


def test_a_hop_that_takes_longer_than_was_predicted_is_remembered_once_its_chain_is_over():
    async def main():
        it = Setting()
        watching = watched(it)
        watching.follow(route("a", "b", "c"))
        assert not it.slowness.factors(it.clock(), it.table.views), "the same hops: they are watched on"
        watching.follow(NEW)
        assert it.slowness.factors(it.clock(), it.table.views) == pytest.approx({"b": 9.0})

    run(main())


def test_of_a_chain_that_fell_silent_nothing_is_remembered():
    async def main():
        it = Setting()
        watching = watched(it)
        watching.forget()
        watching.follow(NEW)
        assert not it.slowness.factors(it.clock(), it.table.views)
        assert watching.add((1, 2)) is None, "times of another chain"

    run(main())


def test_whether_a_move_pays_is_reckoned_with_what_the_hops_take_by_now():
    async def main():
        watching = Watching(Setting())
        assert not watching.pays(1, OLD, NEW, [], 10, 5, 10_000), "nothing has been seen"
        watching.follow(OLD)
        newcomers = Better("slow", 1, OLD, NEW).newcomers
        assert [leg.hop.peer for leg in newcomers] == ["d"]
        assert not watching.pays(1, OLD, NEW, newcomers, 10, 5, 10_000), "it takes what was predicted"
        for _ in range(8):
            watching.add((100_000, 900_000, 100_000))
        assert watching.pays(1, OLD, NEW, newcomers, 10, 5, 10_000) and not watching.pays(1, OLD, NEW, newcomers, 10, 5, 0)

    run(main())
