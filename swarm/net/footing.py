"""What a node stands on: one p2pd and a place in the DHT. It may give way under the node, which then finds itself another. In the room `net`.

Knows how a start can fail and says it in terms of the person at the keyboard; of links and records it knows nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from hivemind.dht.node import DHTNode
from hivemind.p2p import P2PDaemonError, PeerID

from swarm.errors import NoBootstrap, PortInUse, SwarmError
from swarm.net.addresses import Entrance
from swarm.net.clock import SwarmClock
from swarm.net.daemon import Daemon, DaemonError
from swarm.net.directory import RPC_DEADLINE
from swarm.net.guards.placing import place_of
from swarm.net.identity import Identity
from swarm.net.joining import Membership
from swarm.net.records import Guard

JOIN = 10.0
"""Seconds for any initial peer to answer: two attempts at TCP, TLS and negotiation across the world."""

LOOK = 1.0
"""Seconds between two looks whether p2pd still answers. Its death is noticed at once; this is for one that hangs."""

HUNG = 4.0
"""Seconds p2pd has to say who it is, which takes a millisecond. Twice in a row, since it may have been us who slept: a suspended machine, a busy loop."""


@dataclass(frozen=True)
class Ground:
    """All that one p2pd after another is started with."""

    identity: Identity
    flags: tuple[str, ...]
    client_mode: bool
    guard: Guard
    clock: SwarmClock
    debug: bool
    at: tuple[str, int]
    """Where it listens."""


class Footing:
    def __init__(self, daemon: Daemon, dht: DHTNode, membership: Membership) -> None:
        self.daemon, self.dht, self.membership = daemon, dht, membership
        self._keeping = asyncio.ensure_future(membership.keep())

    @classmethod
    async def start(cls, ground: Ground, first: Sequence[Entrance], others: Sequence[Entrance] = ()) -> Footing:
        """Enter through the `first`, and through `others` just as well; only the former are missed when they are gone.

        Raises PortInUse, NoBootstrap, SwarmError.
        """
        entrances = (*first, *others)
        try:
            daemon = await Daemon.start(ground.identity, [*ground.flags, *through(entrances)], ground.debug)
        except DaemonError as error:
            raise explained(error, entrances, ground.at) from error
        try:
            dht = await _place(daemon, ground, entrances)
        except BaseException:
            await daemon.close()
            raise
        return cls(daemon, dht, Membership(dht, daemon.p2p, first, others, ground.clock))

    async def gave_way(self) -> str:
        """Returns how, once p2pd is gone or of no use any more."""
        silent = 0
        while silent < 2:
            done, _ = await asyncio.wait({self.daemon.died, self.daemon.deaf}, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
            if self.daemon.died in done:
                return f"ended (status {self.daemon.died.result()})"
            if done:
                return "is not heard any more"
            silent = 0 if await self.daemon.answers(HUNG) else silent + 1
        return "does not answer"

    async def close(self) -> None:
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        if not self.daemon.died.done():
            with contextlib.suppress(P2PDaemonError, OSError):  # hivemind tells p2pd to forget each handler and waits for its answer
                async with asyncio.timeout(1.0):
                    await self.dht.shutdown()
        await self.daemon.close()


async def _place(daemon: Daemon, ground: Ground, entrances: Sequence[Entrance]) -> DHTNode:
    try:
        async with asyncio.timeout(JOIN):
            return await DHTNode.create(
                p2p=daemon.p2p,
                node_id=place_of(PeerID.from_base58(ground.identity.peer_id)),
                initial_peers=[place.text for place in entrances] or None,
                client_mode=ground.client_mode,
                record_validator=ground.guard,
                wait_timeout=RPC_DEADLINE,
                bootstrap_timeout=JOIN / 2,
                strict=False,  # a clock three seconds off is refused otherwise
                cache_locally=False,  # we always want the latest, so a cache answers nothing and only holds what strangers sent
                cache_nearest=0,
                cache_on_store=False,
                cache_refresh_before_expiry=0,
            )
    except (RuntimeError, TimeoutError) as error:
        raise nobody(entrances) from error


def through(entrances: Sequence[Entrance]) -> list[str]:
    return ["-b", "-bootstrapPeers=" + ",".join(place.text for place in entrances)] if entrances else []


def explained(error: DaemonError, entrances: Sequence[Entrance], at: tuple[str, int]) -> SwarmError:
    if "address already in use" in error.output:
        return PortInUse(*at)
    if "bootstrap" in error.output or (entrances and "not ready" in error.output):
        return nobody(entrances)
    return error


def nobody(entrances: Sequence[Entrance]) -> NoBootstrap:
    names = ", ".join(place.text for place in entrances)
    return NoBootstrap(
        f"none of the initial peers answered: {names}; check that one of them runs (swarm-bootstrap), that this machine can reach it, "
        "and that the id at the end is right to the last letter: who has another key has another address"
    )
