"""What a client decides before a session begins, with a network that is only pretended."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from swarm.client import sync
from swarm.client.aio import Client, _never_resumed
from swarm.client.distances import MEASURE_AT_MOST, Distances
from swarm.core import ModelShape, Span
from swarm.errors import OR_RESUME, MissingLayers, PeerLost, TimedOut, UsageError
from swarm.routing.table import PeerView
from tests.client.test_session import Bytes
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
    it._distances = Distances(it._connection.links, it.table, random.Random(1))
    it.table.show(peers)
    return it


def peer(name: str, revision: str = "r", numerics: str = "float32", stop: int = 4, **changes) -> PeerView:
    return PeerView(name, spans=(Span(0, stop),), revision=revision, numerics=numerics, **changes)


def test_a_chain_mixes_peers_that_round_weights_with_others_only_if_its_client_allows_it():
    async def main(**options) -> tuple[str, str]:
        it = client(peer("a", stop=2), PeerView("b", spans=(Span(2, 4),), revision="r", numerics="float32-int8"), **options)
        it.patience = 0.0
        planner = it.session()._chain._planner
        route = await planner.find(None, 5, 10, patience=0)
        said = "\n".join(planner.reasons(route, 5, 10)())
        assert "in float32-int8" in said and "in float32\n" in said, "who looks at a mixed route sees what it is made of"
        return [hop.peer for hop in route.hops], planner._class

    for dtype in (None, "float32"):
        assert run(main(mixed=True, dtype=dtype)) == (["a", "b"], ("r", "float32-mixed"))
        with pytest.raises(MissingLayers, match=r"layers 1:2 are served by nobody.*; or let one chain mix .* --mixed, Client\(mixed=True\)") as caught:
            run(main(dtype=dtype))
        assert caught.value.layers == "1:2"
    with pytest.raises(UsageError, match="no peer serves this model in bfloat16"):
        run(main(mixed=True, dtype="bfloat16"))


def test_mixing_is_no_advice_where_it_would_not_help():
    async def main() -> None:
        client(peer("a", stop=2), peer("b", numerics="float32-int8", stop=3), peer("c", numerics="bfloat16-int8", stop=3)).session()

    with pytest.raises(MissingLayers) as caught:
        run(main())
    assert "mix" not in str(caught.value)


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
        (None, [peer("a", numerics="bfloat16-int8")], "bfloat16-int8"),
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
        await it._distances.measure()
        return dict(it.rtts), it.clock()

    rtts, took = run(main())
    assert rtts == {"near": 0.01, "far": 0.5} and took == pytest.approx(MEASURE_AT_MOST)


PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        *((model, {}, "a model is a hub id") for model in (None, 5, "")),
        *(("m", {"initial_peers": peers}, "initial_peers are addresses") for peers in (5, None, [5], b"x")),
        ("m", {"mixed": True, "dtype": "float32-int8"}, "dtype float32-int8 only some of them; name float32"),
        *(("m", {"timeout": timeout}, "timeout is a number of seconds above 0") for timeout in (-1, 0, "x", float("inf"))),
        *(("m", {"patience": patience}, "patience is a number of seconds from 0 on") for patience in (-1, "x", None, float("nan"))),
    ],
)
def test_a_client_of_nonsense_is_refused(model, options, words):
    for kind in (Client, sync.Client):
        with pytest.raises(UsageError, match=words):
            kind(model, **options)


def test_one_initial_peer_need_not_stand_in_a_list():
    assert Client("m", initial_peers=PEER)._initial_peers == Client(Path("m"), initial_peers=[PEER])._initial_peers == (PEER,)


@pytest.mark.parametrize("options", [{}, {"initial_peers": []}, {"own_ends": True}])
def test_a_client_that_knows_nobody_is_told_so_before_the_model_is_opened(options):
    for kind in (lambda: asyncio.run(Client("/nowhere/model", **options).start()), lambda: sync.Client("/nowhere/model", **options)):
        with pytest.raises(UsageError, match=r"no public peers yet; name one with initial_peers=\[…\].*LocalSwarm"):
            kind()


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("x" * 1000, {}, "need 1001 positions, but this model allows 1000"),
        ("x" * 999, {"max_new_tokens": 2}, "need 1001 positions"),
        ("x", {"temperature": -1.0}, "temperature"),
        ("x", {"timeout": -1}, "timeout"),
        ("x", {"stop": 5}, "stop"),
        ("x", {"foo": 3}, r"has no option foo; it has max_new_tokens.* timeout$"),
        (None, {}, "a prompt is text"),
        ("", {}, "empty"),
    ],
)
def test_what_no_session_takes_is_refused_before_anybody_is_waited_for(prompt, options, words):
    async def main() -> float:
        it = client()
        it._opened.text, it._opened.eos = Bytes(), ()
        with pytest.raises(UsageError, match=words):
            await it.generate(prompt, **options)
        with pytest.raises(UsageError, match=words):
            await anext(it.stream(prompt, **options))
        with pytest.raises(UsageError, match="need 1001 positions"):
            await it.generate_tokens([7] * 1000)
        with pytest.raises(UsageError, match="generate_tokens has no option chat"):
            await it.generate_tokens([7], chat=True)
        return it.clock()

    assert run(main()) == 0.0


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


def test_an_answer_of_a_session_that_nobody_holds_is_not_to_be_resumed():
    with pytest.raises(TimedOut, match=r"allow more time$") as caught, _never_resumed():
        raise TimedOut(f"it is over; allow more time{OR_RESUME}", (1, 2))
    assert caught.value.partial == (1, 2)


def test_an_unknown_option_of_a_client_names_the_nearest_one():
    with pytest.raises(UsageError, match=r"Client has no option initial_peer; did you mean initial_peers\? it has initial_peers, dtype"):
        Client("m", initial_peer="/a")
