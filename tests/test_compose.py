"""What `compose` puts together and nobody else starts, in virtual time."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

from swarm.compose import Connection, OpenedModel, keep_ends, serving_peer
from swarm.core import Hop, Sampling, Span
from swarm.machines.limits import HopLimits
from swarm.net.identity import Identity, verify
from swarm.peer.holding import Holding
from swarm.peer.offer import Offer
from swarm.wire import Have, Open, Order, encode
from tests.model.tiny import build
from tests.net.virtual import run

SESSION = b"s" * 16


class Links:
    """Notes what our own hops say."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.sent: list = []

    def learn(self, peer, addrs) -> None: ...

    def send(self, peer, message) -> None:
        self.sent.append((peer, message))


async def at_once(function, *args, **kwargs):
    """`asyncio.to_thread` without a thread: nothing real may be awaited in virtual time."""
    return function(*args, **kwargs)


def test_own_ends_whose_farewell_was_lost_go_when_their_lease_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("swarm.model.span.native_code", lambda folder: None)  # which would be compiled into that folder first
    known, me = build("llama", tmp_path / "model"), Identity.ephemeral()
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr("swarm.compose.time", SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time()))
    shape, revision, lease = known.checkpoint.shape, known.checkpoint.revision, HopLimits().lease

    async def main() -> None:
        links = Links(me.peer_id)
        opened = OpenedModel(known.checkpoint, shape, revision, None, ())
        async with keep_ends(opened, Connection(links, None, (), me.sign, verify, None), None) as own:
            ends = [Hop(me.peer_id, span.start, span.stop) for span in own.spans]
            route = (ends[0], Hop("between", 1, shape.components - 1), ends[1])
            order = Order(SESSION, 1, me.peer_id, revision, own.numerics, ((1, 0),), 3, 50, 100, Sampling(), route)
            for to, sender in ((0, me.peer_id), (2, "between")):
                own.room.receive(sender, Open(SESSION, 1, to, encode(order), me.sign(encode(order))))
            assert sum(isinstance(message, Have) for _, message in links.sent) == 2
            await asyncio.sleep(lease - 2)
            assert own.room.sessions == 1
            await asyncio.sleep(4)
            assert own.room.sessions == 0

    run(main())


def test_who_is_never_to_coordinate_stands_for_nothing():
    shape = SimpleNamespace(name="toy", config_hash="c0ffee", vocab=256)
    held = Holding(object(), Offer("rev", "float32", 4, (Span(0, 4),), 100), 0.01, 0.001, 1.0, 100)
    links = SimpleNamespace(peer="me", subscribe=lambda receive, lost: None)
    connection = SimpleNamespace(links=links, directory=None, addrs=("addr",), verify=verify, sign=lambda data: b"", wall=time.time, guise=None)

    async def main() -> list[bool]:
        return [serving_peer(connection, shape, held, coordinate=willing).coordinator is not None for willing in (True, False)]

    assert asyncio.run(main()) == [True, False]
