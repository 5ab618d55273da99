"""Staying in the swarm: whoever let us in is asked again when we have lost sight of them.

hivemind joins once. A bootstrap peer that restarts knows nobody, and is forgotten by everybody: newcomers who enter there would found a second swarm beside the
first. So each node looks for the initial peers that are missing from its routing table every now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from hivemind.dht.node import DHTNode
from hivemind.p2p import P2P, P2PDaemonError, PeerID

from swarm.errors import contained
from swarm.net.addresses import Entrance
from swarm.net.clock import SwarmClock
from swarm.net.seeking import survey

log = logging.getLogger(__name__)

KNOCK = 3.0
"""Seconds one initial peer has to answer."""

PERIOD = 10.0
"""Seconds between two looks: how long a restarted bootstrap peer may stay alone. Costs nothing while nobody is missing."""


CLOCKS_EVERY, FEW = 6, 8
"""Every how many looks a few others are asked what time it is, and how many those are."""

SURVEY_EVERY = 12
"""Every how many looks it is estimated how many nodes there are: some 26 calls."""


class Membership:
    def __init__(self, node: DHTNode, p2p: P2P, entrances: Sequence[Entrance], others: Sequence[Entrance], clock: SwarmClock) -> None:
        """`others` are asked while nobody is in sight at all: peers of former times, of whom most will be gone."""
        self._node, self._p2p, self._entrances, self._others = node, p2p, tuple(entrances), tuple(others)
        self._clock = clock
        self._named = tuple(PeerID.from_base58(place.peer) for place in entrances)
        self._told = False
        self._read_clocks()

    @property
    def alone(self) -> bool:
        """We entered a swarm and see nobody of it any more. Who began one may be alone in it."""
        return bool(self._entrances) and not self._node.protocol.routing_table.peer_id_to_uid

    async def look(self) -> None:
        """Knock where somebody is missing."""
        table = self._node.protocol.routing_table
        asked = (*self._entrances, *self._others) if self.alone else self._entrances
        missing = [place for place in asked if table.get(peer_id=PeerID.from_base58(place.peer)) is None]
        if missing:
            await asyncio.gather(*(self._knock(place) for place in missing))

    async def keep(self) -> None:
        looks = 0
        while True:
            with contained(log, "estimating how many nodes there are"):
                if looks % SURVEY_EVERY == 0 or not self._node.protocol.surveys:
                    await survey(self._node)
            await asyncio.sleep(PERIOD)
            looks += 1
            with contained(log, "looking for the initial peers"):
                await self.look()
                if looks % CLOCKS_EVERY == 0:
                    await self._ask_the_time()

    async def _ask_the_time(self) -> None:
        """Of those whom we have asked before and of one more, so that a clock which is set right meanwhile is noticed."""
        protocol = self._node.protocol
        for peer in self._named:
            protocol.ahead.pop(peer, None)
        known = [*protocol.ahead][-FEW:]
        more = [peer for peer in protocol.routing_table.peer_id_to_uid if peer not in (*self._named, *known)][:1]
        await asyncio.gather(*(protocol.call_ping(peer) for peer in (*known, *more)))  # each has a deadline, RPC_DEADLINE
        await asyncio.gather(*(protocol.call_ping(peer) for peer in self._named))
        self._read_clocks()

    def _read_clocks(self) -> None:
        """The initial peers alone have a voice once one of them has answered: others are there because they have announced themselves, and are free to be many.
        Who began a swarm is one voice of its own: or the first to come would say what time it is."""
        ahead = self._node.protocol.ahead
        ours = () if self._entrances else (0.0,)
        named = [ahead[peer] for peer in self._named if peer in ahead]
        self._told = self._told or bool(named)
        self._clock.correct(named if self._told else (*ours, *ahead.values()))

    async def _knock(self, place: Entrance) -> None:
        peer = PeerID.from_base58(place.peer)
        with contextlib.suppress(P2PDaemonError, OSError, EOFError):
            async with asyncio.timeout(KNOCK):
                await self._p2p._client.connect(peer, [place.addr])
            await self._node.protocol.call_ping(peer)  # has a deadline of its own, RPC_DEADLINE
            await asyncio.sleep(0)  # it updates the routing table in a task
