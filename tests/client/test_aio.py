"""What a client decides before a session begins, with a network that is only pretended."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from swarm.client.aio import MEASURE_AT_MOST, Client
from swarm.core import ModelShape, Span
from swarm.errors import MissingLayers, PeerLost, UsageError
from swarm.routing.table import PeerView
from tests.net.virtual import run

SHAPE = ModelShape("m", 2, 8, 100, 1000, "hash")


class Links:
    peer = "me"

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    def learn(self, peer: str, addrs: tuple[str, ...]) -> None: ...

    async def measure(self, peer: str) -> float:
        if (seconds := self._seconds[peer]) < 0:
            raise PeerLost("gone")
        await asyncio.sleep(seconds)
        return seconds


def client(*peers: PeerView, revision: str | None = None, **options) -> Client:
    """One that has joined and read the directory."""
    it = Client("m", **options)
    it._opened = SimpleNamespace(shape=SHAPE, revision=revision)
    it._connection = SimpleNamespace(links=Links({"near": 0.01, "far": 0.5, "gone": -1.0, "silent": 60.0}))
    it.table.show(peers)
    return it


def peer(name: str, revision: str = "r", numerics: str = "float32", stop: int = 4, **changes) -> PeerView:
    return PeerView(name, spans=(Span(0, stop),), revision=revision, numerics=numerics, **changes)


def test_a_peer_that_failed_lately_and_is_back_is_taken_before_it_is_said_that_nobody_serves():
    async def main() -> str:
        it = client(peer("a"))
        it.table.shun("a", it.clock(), 0.0)
        with pytest.raises(MissingLayers, match="have just failed"):
            it.session()
        it.table.spoke["a"] = 5.0  # it has announced itself since
        return it.session()._chain._planner._class[0]

    assert run(main()) == "r"


@pytest.mark.parametrize(
    ("revision", "peers", "dtype"),
    [
        (None, [peer("a", numerics="float32")], "float32"),
        ("r", [peer("a", numerics="float32"), peer("b", "other", "bfloat16")], "float32"),
        ("r", [peer("a", numerics="float32", stop=2)], "float32"),
        ("mine", [peer("a", numerics="float32")], None),
        (None, [peer("a", numerics="bfloat16-awq")], None),
        (None, [], None),
    ],
)
def test_own_ends_compute_as_the_peers_do(revision, peers, dtype):
    async def main() -> str | None:
        it = client(*peers, revision=revision)
        return it._usual_dtype(it._opened)

    assert run(main()) == dtype


def test_round_trips_are_measured_within_bounds_and_without_those_who_do_not_answer():
    async def main() -> tuple[dict[str, float], float]:
        it = client(*(peer(name) for name in ("near", "far", "gone", "silent")), peer("joining", state="joining"))
        await it._measure()
        return dict(it.rtts), it.clock()

    rtts, took = run(main())
    assert rtts == {"near": 0.01, "far": 0.5} and took == pytest.approx(MEASURE_AT_MOST)


def test_a_caller_who_asks_for_another_dtype_is_told_after_one_more_look():
    async def main() -> int:
        it, looks = client(peer("a"), dtype="bfloat16"), 0

        async def refresh() -> None:
            nonlocal looks
            looks += 1
            if looks == 2:
                it.table.show([peer("b", numerics="bfloat16")])

        it.refresh = refresh
        with pytest.raises(UsageError, match="no peer serves this model in bfloat16"):
            await it.ready_session()
        assert await it.ready_session()
        return looks

    assert run(main()) == 2
