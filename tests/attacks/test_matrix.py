"""The fault matrix: kill or freeze python, p2pd or both of a peer, or our own p2pd, during each kind of call. Every wait must end, in an error that has a name.

Calls of the DHT are *unary*. On a link that stands, *one-way* is a stream on which only we have something to say, *two-way* one on which we wait for answers.
*link* is a link that is yet to be made.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from swarm.errors import PeerLost
from swarm.net.directory import RPC_DEADLINE
from swarm.net.link import Timing
from swarm.net.seeking import SEARCH_DEADLINE
from tests.attacks.world import KEY, World, world
from tests.net.helpers import step

SLACK = 2.0
"""Seconds that other processes on this machine may take."""

STANDING = Timing().silence + SLACK
DEADLINES = {"unary": SEARCH_DEADLINE + SLACK, "one-way": STANDING, "two-way": STANDING, "link": Timing().dial + Timing().handshake + SLACK}


async def unary(swarm: World, peer: str, strike) -> None:
    strike()
    begin = time.monotonic()
    assert await swarm.observer.directory._node.protocol.call_find(PeerID.from_base58(peer), [DHTID(1)]) is None
    assert time.monotonic() - begin < RPC_DEADLINE + SLACK
    await swarm.observer.directory.read(KEY)


async def one_way(swarm: World, peer: str, strike) -> None:
    lost = asyncio.Event()
    swarm.observer.links.subscribe(lambda *_: None, lambda who: lost.set() if who == peer else None)
    strike()
    while not lost.is_set():
        swarm.observer.links.send(peer, step())
        await asyncio.wait({asyncio.ensure_future(lost.wait())}, timeout=0.1)


async def two_way(swarm: World, peer: str, strike) -> None:
    strike()
    with pytest.raises(PeerLost):
        while True:
            await swarm.observer.links.measure(peer)


CALLS = {"unary": unary, "one-way": one_way, "two-way": two_way, "link": two_way}


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "freeze"])
def test_every_wait_ends(figure, fault):
    worst: dict[str, float] = {}
    ended = 0

    async def cell(swarm: World, whom: str, kind: str) -> None:
        nonlocal ended
        victim, links = await swarm.join(), swarm.observer.links
        peer = victim.facts["peer_id"]
        links.learn(peer, victim.facts["addrs"])
        await swarm.all_seen()
        if kind != "link":
            await links.measure(peer)
        strike = (lambda: os.kill(swarm.observer._daemon.pid, fault)) if whom == "own p2pd" else (lambda: victim.signal(fault, whom))
        begin = time.monotonic()
        if kind == "link" and whom == "own p2pd" and fault is signal.SIGKILL:
            strike()  # another is started at once: then the dial succeeds, which is an end, too
            await asyncio.wait({asyncio.ensure_future(links.measure(peer))}, timeout=DEADLINES[kind])
        else:
            await asyncio.wait_for(CALLS[kind](swarm, peer, strike), DEADLINES[kind] + 5)
        took = time.monotonic() - begin
        print(f"{whom}, {kind}: {took:.1f} s")
        worst[kind] = max(worst.get(kind, 0.0), took)
        ended += took <= DEADLINES[kind]
        swarm.honest.remove(victim)
        await victim.close()
        while not await swarm.observer._daemon.answers(5.0):  # noqa: ASYNC110  # until it is another
            await asyncio.sleep(0.5)

    async def main():
        async with world(1) as swarm:
            for whom in ("python", "p2pd", "both", "own p2pd"):
                for kind in CALLS:
                    await cell(swarm, whom, kind)

    asyncio.run(main())
    said = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in worst.items())
    figure(
        2,
        f"{'kill' if fault is signal.SIGKILL else 'freeze'} × 4 whom × 4 kinds of call",
        "16 of 16 end in time, with a name",
        f"{ended} of 16; at worst {said}",
    )
    assert ended == 16
