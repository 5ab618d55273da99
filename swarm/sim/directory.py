"""The room `sim`, its directory: implements `ports.Directory` as a table that everybody sees a little late, each by a clock of its own.

A record takes a moment to be found and lives LIFETIME by the clock of whoever reads it. One stored on one side of a partition is found on that side alone until
the partition heals; what was stored before is found on both. A store that reaches nobody fails after its deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass

from swarm.core import PeerId
from swarm.errors import RemoteError
from swarm.sim.clock import START
from swarm.sim.network import Links, Network
from swarm.wire import LIFETIME, Announcement

STORE_DEADLINE = 5.0
"""Seconds until a store that reaches nobody fails, as in `swarm/net/directory.py`."""

MAX_AHEAD = 60.0
"""Seconds by the reader's clock that an expiry may lie ahead, as in `swarm/net/records.py`."""

WALK, SPREAD = (0.05, 0.4), (0.0, 0.5)
"""Seconds that a store or a search takes, and after which a record is found by everybody: some round trips each."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One record as it lies in the table. `side` is who could reach it when it was stored, None for everybody."""

    record: Announcement
    found_from: float
    side: frozenset[PeerId] | None


class Table:
    """What all directories of one network share."""

    def __init__(self, network: Network, generator: random.Random) -> None:
        self.network, self.random = network, generator
        self._copies: dict[PeerId, list[Copy]] = defaultdict(list)
        """The newest first."""

    def store(self, peer: PeerId, record: Announcement) -> None:
        now, network = self.network.loop.now, self.network
        side = None if network.side is None else frozenset(node for node in network.nodes if network.reaches(peer, node))
        fresh = [copy for copy in self._copies[peer] if copy.record.time + LIFETIME + MAX_AHEAD > START + now]
        self._copies[peer] = sorted([Copy(record, now + self.random.uniform(*SPREAD), side), *fresh], key=lambda copy: -copy.record.sequence)

    def find(self, reader: PeerId, config_hash: str, wall: float) -> list[Announcement]:
        newest = (next((copy.record for copy in self._copies[peer] if self._finds(reader, copy, wall)), None) for peer in sorted(self._copies))
        return [record for record in newest if record is not None and record.config_hash == config_hash and record.state != "left"]

    def _finds(self, reader: PeerId, copy: Copy, wall: float) -> bool:
        alive = wall < copy.record.time + LIFETIME <= wall + MAX_AHEAD
        return alive and copy.found_from <= self.network.loop.now and (copy.side is None or self.network.side is None or reader in copy.side)


class Directory:
    """One process's view of the table."""

    def __init__(self, table: Table, links: Links) -> None:
        self._table, self._links = table, links

    def wall(self) -> float:
        return START + self._table.network.loop.now + self._links.process.skew

    async def announce(self, record: Announcement) -> None:
        network = self._table.network
        await asyncio.sleep(self._table.random.uniform(*WALK))
        if not any(node != self._links.peer and network.reaches(self._links.peer, node) for node in network.nodes):
            await asyncio.sleep(STORE_DEADLINE)
            raise RemoteError("no peer took our announcement")
        if not self._links.gone:
            self._table.store(self._links.peer, record)

    async def read(self, config_hash: str) -> list[Announcement]:
        await asyncio.sleep(self._table.random.uniform(*WALK))
        return self._table.find(self._links.peer, config_hash, self.wall())

    async def close(self) -> None:
        """Nothing is open."""
