"""What a client adds to planning: its own distances, whom it shuns, and how long it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from swarm.client.earlier import Earlier
from swarm.client.planner import LOOK_AGAIN, Planner
from swarm.client.trust import Trust
from swarm.core import ModelShape, PeerId, Span
from swarm.errors import MissingLayers, PromptTooLong
from swarm.routing.peers import PeerTable
from swarm.routing.slow import Slowness
from swarm.routing.table import PeerView
from tests.net.virtual import run

ENDS = (Span(0, 1), Span(3, 4))


class Around:
    peer, components, patience, advisers, shape, packed_bytes, ahead = "me", 4, 10.0, None, None, 0, 9
    slowness = Slowness()
    earlier, trust = Earlier(), Trust()

    def __init__(self, peers: list[PeerView], own: tuple[Span, ...] = (), rtts: Mapping[PeerId, float] | None = None, appears_after: float = 0.0) -> None:
        self.own, self.rtts, self.table, self._later, self._appears = own, rtts or {}, PeerTable(), peers, appears_after

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def refresh(self) -> None:
        if self.clock() >= self._appears:
            self.table.show(self._later)


def find(around: Around) -> list[PeerId]:
    async def main() -> list[PeerId]:
        return [hop.peer for hop in (await Planner(around, b"s" * 16, "", "").find(None, 10, 100)).hops]

    return run(main())


@pytest.mark.parametrize(("near", "far"), [("a", "b"), ("b", "a")])
def test_a_client_with_its_own_ends_stands_beside_who_is_near(near, far):
    peers = [PeerView(name, spans=(Span(1, 3),)) for name in "ab"]
    assert find(Around(peers, ENDS, {near: 0.002, far: 0.2})) == ["me", near, "me"]


def test_it_waits_for_somebody_to_come_and_looks_now_and_then():
    async def main() -> tuple[list[PeerId], float]:
        around = Around([PeerView("a", spans=(Span(0, 4),))], appears_after=4.0)
        route = await Planner(around, b"s" * 16, "", "").find(None, 10, 100)
        return [hop.peer for hop in route.hops], around.clock()

    peers, when = run(main())
    assert peers == ["a"] and 4.0 <= when <= 4.0 + LOOK_AGAIN


def test_it_gives_up_when_its_patience_is_over():
    async def main() -> float:
        around = Around([], appears_after=99.0)
        with pytest.raises(MissingLayers, match="embed|0:2"):
            await Planner(around, b"s" * 16, "", "").find(None, 10, 100)
        return around.clock()

    assert 10.0 <= run(main()) <= 10.0 + LOOK_AGAIN


def test_it_says_how_much_memory_would_fill_a_hole_as_the_peers_it_goes_with_serve_it():
    """The checkpoint is bfloat16; peers of this class serve it in float32, twice as large."""
    around = Around([])
    around.shape = ModelShape("m", 2, 8, 100, 1000, "x", (10**6, 2 * 10**6, 2 * 10**6, 10**6), (0, 1000, 1000, 0), row_bytes=16)

    async def main(numerics: str) -> MissingLayers:
        with pytest.raises(MissingLayers) as caught:
            await Planner(around, b"s" * 16, "", numerics).find(None, 10, 100, patience=0)
        return caught.value

    for numerics, memory, words in (("float32", 12_403_200, "12.4 MB"), ("bfloat16", 6_201_600, "6.2 MB"), ("something new", 6_201_600, "6.2 MB")):
        error = run(main(numerics))
        assert error.memory == memory and f"a cache of 100 positions take about {words}" in str(error)


def test_a_session_that_loses_its_last_peer_hears_that_mixing_would_help():
    async def main(*others: PeerView) -> MissingLayers:
        around = Around([PeerView("a", spans=(Span(0, 2),), revision="r", numerics="float32"), *others])
        with pytest.raises(MissingLayers) as caught:
            await Planner(around, b"s" * 16, "r", "float32").find(None, 10, 100, patience=0, begun=True)
        return caught.value

    other = PeerView("b", spans=(Span(2, 4),), revision="r", numerics="float32-int8")
    assert "--mixed" in str(run(main(other)))
    for useless in (replace(other, revision="s"), replace(other, numerics="bfloat16-int8"), replace(other, spans=(Span(3, 4),))):
        assert "--mixed" not in str(run(main(useless)))


@pytest.mark.parametrize("begun", [False, True])
def test_what_no_peer_could_ever_take_is_refused_at_once_but_an_answer_that_has_begun_waits_for_somebody(begun):
    async def main() -> float:
        around = Around([PeerView("small", spans=(Span(0, 4),), cache_tokens=50)])
        with pytest.raises(MissingLayers if begun else PromptTooLong, match="limit is below the 100" if begun else "takes more than 50"):
            await Planner(around, b"s" * 16, "", "").find(None, 10, 100, begun=begun)
        return around.clock()

    assert run(main()) == (pytest.approx(10.0, abs=LOOK_AGAIN) if begun else 0.0)


def test_a_peer_that_failed_and_has_spoken_since_is_better_than_none():
    async def main() -> list[PeerId]:
        around = Around([PeerView("a", spans=(Span(0, 4),))])
        await around.refresh()
        around.table.shun("a", around.clock(), 0.0)
        with pytest.raises(MissingLayers, match="just failed"):
            await Planner(around, b"s" * 16, "", "").find(None, 10, 100, patience=0)
        around.table.spoke["a"] = 1.0
        return [hop.peer for hop in (await Planner(around, b"s" * 16, "", "").find(None, 10, 100, patience=0)).hops]

    assert run(main()) == ["a"]


def test_who_has_just_failed_is_no_alternative():
    async def main() -> str:
        around = Around([PeerView(name, spans=(Span(0, 4),), decode=decode) for name, decode in (("fast", 0.01), ("spare", 0.02), ("slow", 0.03))])
        around.wall = lambda: 0.0
        planner = Planner(around, b"s" * 16, "", "")
        await around.refresh()
        around.table.shun("fast", around.clock(), 0.0)
        route = await planner.find(None, 10, 100)
        assert [hop.peer for hop in route.hops] == ["spare"]
        return "\n".join(planner.reasons(route, 10, 100)())

    reasons = run(main())
    assert "slow" in reasons and "fast" not in reasons


def test_routes_of_a_client_that_lets_peers_compress_are_planned_so():
    around = Around([])
    around.packed_bytes = 1020

    async def main() -> int:
        return Planner(around, b"s" * 16, "", "")._request(5, 10, frozenset()).packed_bytes

    assert run(main()) == 1020


def test_routes_of_a_client_that_wants_no_guesses_are_planned_so():
    around = Around([])

    async def main(ahead: int) -> bool:
        around.ahead = ahead
        return Planner(around, b"s" * 16, "", "")._request(5, 10, frozenset()).guesses

    assert [run(main(ahead)) for ahead in (0, 9)] == [False, True]


def test_a_newcomer_that_boasts_is_planned_with_as_one_that_boasts_a_little():
    async def main() -> dict[PeerId, float]:
        around = Around([])
        around.slowness = Slowness()
        around.table.show([*(PeerView(name, spans=(Span(0, 4),), decode=0.02) for name in "abcd"), PeerView("boaster", spans=(Span(0, 4),), decode=0.0001)])
        slower = Planner(around, b"s" * 16, "", "")._request(5, 10, frozenset()).slower
        around.slowness.prove("boaster")
        assert Planner(around, b"s" * 16, "", "")._request(5, 10, frozenset()).slower == {}
        return dict(slower)

    assert run(main()) == {"boaster": pytest.approx(50.0)}
