"""Whom a client lets serve it: what it does not look at it cannot plan with, whoever proposes it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from swarm.client.aio import Client
from swarm.client.trust import Trust
from swarm.compose import own_spans
from swarm.core import ModelShape, Span
from swarm.errors import MissingLayers, UsageError
from swarm.net.identity import Identity
from swarm.wire import LIFETIME, Announcement
from tests.net.virtual import run

SHAPE = ModelShape("m", 2, 8, 100, 1000, "hash")
FRIEND, OTHER, STRANGER = (Identity.ephemeral().peer_id for _ in range(3))


def record(peer: str, start: int, stop: int, decode: float = 0.01) -> Announcement:
    cost = {"decode": decode, "prefill": decode / 10, "cache_tokens": 1000, "free_tokens": 1000, "max_length": 1000}
    about = {"addrs": (), "model": "m", "config_hash": "hash", "revision": "r", "numerics": "float32", "components": 4}
    return Announcement(version=1, peer=peer, **about, spans=((start, stop),), **cost, state="online", sequence=1, time=LIFETIME)


class Directory:
    def __init__(self, *records: Announcement) -> None:
        self.records = records

    async def read(self, model: str) -> list[Announcement]:
        return list(self.records)


class Links:
    peer = "me"

    def subscribe(self, receive, lost) -> None: ...

    def send(self, peer, message) -> None: ...

    def learn(self, peer, addrs) -> None: ...


async def joined(directory: Directory, **options) -> Client:
    """A client that has begun, its tasks aside."""
    it = Client("m", patience=0.0, **options)
    it._opened = SimpleNamespace(shape=SHAPE, revision="r")
    await it._begin(it._opened, SimpleNamespace(links=Links(), directory=directory, verify=None, failed=asyncio.Future()), None)
    return it


def route(**options) -> list[str]:
    async def main() -> list[str]:
        it = await joined(Directory(record(FRIEND, 0, 3), record(OTHER, 2, 4), record(STRANGER, 0, 4, decode=0.0001)), **options)
        try:
            assert (it.advisers is None) == it.trust.only, "a coordinator would have to be told whom, and could propose anybody"
            found = await it.session()._chain._planner.find(None, 5, 10, patience=0)
            return [hop.peer for hop in found.hops]
        finally:
            await it.close()

    return run(main())


def test_only_those_who_are_trusted_serve_however_fast_others_are():
    assert route() == [STRANGER]
    assert route(trust=[FRIEND, OTHER]) == [FRIEND, OTHER]
    assert route(trust=[FRIEND, OTHER], trusted_only=True) == [FRIEND, OTHER]
    assert route(trust=[FRIEND, OTHER], trusted_only=False) == [STRANGER]


def test_rather_nobody_than_a_stranger_and_the_error_says_so():
    with pytest.raises(MissingLayers, match="only the 1 peers that you trust are asked") as caught:
        route(trust=FRIEND)
    assert caught.value.layers == "head"


def test_trust_in_nobody_is_a_mistake():
    with pytest.raises(UsageError, match="needs somebody to trust"):
        Client("m", trusted_only=True)
    for wrong in ("nobody", FRIEND[:-1], "Qm" + "a" * 44, 7):
        with pytest.raises(UsageError):
            Client("m", trust=[wrong])
    assert Trust.of([], None) == Trust() and not Trust.of([FRIEND], False).only


def test_layers_of_our_own_go_on_from_an_end():
    shape = ModelShape("m", 6, 8, 100, 1000, "hash")
    assert own_spans("", shape) == (Span(0, 1), Span(7, 8))
    assert own_spans("0:2", shape) == (Span(0, 3), Span(7, 8))
    assert own_spans("0:1,4:6", shape) == (Span(0, 2), Span(5, 8))
    assert own_spans("0:6", shape) == (Span(0, 8),)
    with pytest.raises(UsageError, match="go on from an end"):
        own_spans("2:4", shape)
    with pytest.raises(UsageError):
        Client("m", own_layers="all")
