"""Room: client. How far away peers are, as this client has measured, and who did not answer. Knows links and what is known of peers; no sessions, no routes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping

from swarm.core import PeerId
from swarm.errors import PeerLost
from swarm.ports import Links
from swarm.routing.peers import PeerTable

MEASURE_EVERY = 30.0
"""Seconds between two measurements, where there are any."""

MEASURED_PEERS = 20
"""Both as serving peers do, and for the same reason (docs/routing.md)."""

MEASURE_AT_MOST = 2.0
"""Seconds for all round trips of one look together: whoever has not answered by then is far away, or gone."""


class Distances:
    """Round trips to peers, in seconds. `rtts` are those of the last `measure`, by which routes are planned; `seen` what looks have found of peers that are
    still there, and `mute` who could not be reached when it was last tried."""

    def __init__(self, links: Links, table: PeerTable, generator: random.Random) -> None:
        self._links, self._table, self._random = links, table, generator
        self.rtts: Mapping[PeerId, float] = {}
        self.seen: Mapping[PeerId, float] = {}
        self.mute: frozenset[PeerId] = frozenset()

    async def measure(self) -> None:
        """To some peers, drawn anew each time."""
        self.rtts, _ = await self._trips()

    async def keep_measuring(self) -> None:
        """Round trips to peers beside which our own ends might stand: every token passes there. Without own ends a client's distance is paid once an answer."""
        while True:
            await asyncio.sleep(MEASURE_EVERY)
            await self.measure()

    async def look(self) -> None:
        """To some peers, and to all that were mute."""
        trips, mute = await self._trips(self.mute)
        there = self._table.views.keys()
        self.seen = {peer: trip for peer, trip in {**self.seen, **trips}.items() if peer in there and peer not in mute}
        self.mute = frozenset(peer for peer in self.mute | mute if peer in there and peer not in trips)

    async def _trips(self, also: frozenset[PeerId] = frozenset()) -> tuple[dict[PeerId, float], frozenset[PeerId]]:
        """Of some peers, and who of them could not be reached. Who takes too long is in neither."""
        views = {peer: view for peer, view in self._table.views.items() if view.state == "online"}
        chosen = {*self._random.sample(sorted(views), min(MEASURED_PEERS, len(views))), *(also & views.keys())}
        trips: dict[PeerId, float] = {}
        mute: set[PeerId] = set()

        async def measure(peer: PeerId) -> None:
            try:
                trips[peer] = await self._links.measure(peer)
            except PeerLost:
                mute.add(peer)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEASURE_AT_MOST), asyncio.TaskGroup() as tasks:
                for peer in sorted(chosen):
                    self._links.learn(peer, views[peer].addrs)
                    tasks.create_task(measure(peer))
        return trips, frozenset(mute)
