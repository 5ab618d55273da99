"""The DHT, seen as a table of signed announcements. Implements `ports.Directory` over hivemind's DHTNode; knows nothing of links or routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import PeerID

from swarm import wire
from swarm.core import PeerId
from swarm.errors import ProtocolError, RemoteError
from swarm.net.addresses import Entrance, dialable
from swarm.net.guards.placing import place_of
from swarm.net.identity import Identity
from swarm.net.joining import Membership
from swarm.net.members import Members
from swarm.net.records import LIFETIME, SHARDS, BadRecords, check, key_of, seal, shard_of

READ_DEADLINE = 3.0
"""Seconds for a whole read. What was found by then counts; with frozen peers among those who should answer it is most of it."""

STORE_DEADLINE = 5.0

RPC_DEADLINE = 1.0
"""Seconds for one call to one DHT peer. hivemind's 3 s would let a single frozen peer use up a whole read. Across the world a round trip is 0.3 s."""


MAX_MET = 256
"""Peers whose addresses are kept, to enter the swarm through them another time."""


class DhtDirectory:
    def __init__(
        self,
        node: DHTNode,
        identity: Identity,
        membership: Membership,
        bad: BadRecords,
        client_mode: bool = False,
        clock: Callable[[], float] = time.time,
        members: Members | None = None,
    ) -> None:
        self._node, self._identity, self._membership, self._bad = node, identity, membership, bad
        self._client_mode, self._clock, self._members = client_mode, clock, members
        self._said: dict[str, wire.Announcement] = {}
        """What we announced last, of each model."""
        self._met: dict[PeerId, tuple[str, ...]] = {}
        """Where peers said they are, the latest news last."""

    async def stand_on(self, node: DHTNode, membership: Membership) -> None:
        """The DHT is reached through another node from now on, and what we announced is announced again. Raises RemoteError."""
        self._node, self._membership = node, membership
        for record in list(self._said.values()):
            if record.time + LIFETIME > self._clock():
                await self.announce(record)

    async def announce(self, record: wire.Announcement) -> None:
        if record.peer != self._identity.peer_id:
            raise ValueError(f"the record speaks of {record.peer}, we are {self._identity.peer_id}")
        self._said[record.config_hash] = record
        if self._members is not None:
            record = msgspec.structs.replace(record, membership=self._members.own)
        key, value = key_of(record.config_hash, shard_of(record.peer)), seal(record, self._identity)
        if self._membership.alone:
            await self._membership.look()
        try:
            async with asyncio.timeout(STORE_DEADLINE):
                stored = await self._node.store(key, value, record.time + LIFETIME, subkey=record.peer, exclude_self=self._client_mode)
        except TimeoutError:
            raise RemoteError(f"no peer took our announcement within {STORE_DEADLINE:g} seconds; is the network up?") from None
        if self._membership.alone:  # then it was stored with ourselves alone; whoever did not answer has left the routing table
            raise RemoteError("no peer took our announcement: none of the initial peers answers any more; name another with --initial-peers")
        if not stored and not await self._held(key, record.peer, record.time + LIFETIME):
            raise RemoteError(
                "no peer took our announcement; if this repeats, check that this machine's clock is right, and whether the swarm is private (--swarm-key)"
            )

    async def _held(self, key: str, subkey: PeerId, expiry: float) -> bool:
        """Whether another peer holds what we announced. hivemind's store returns what the replica that answered last made of it, and one that has been handed
        our record by a third peer, which has just met it, refuses it as not newer than its own."""
        wanted, protocol = DHTID.generate(source=key), self._node.protocol
        nearest = protocol.routing_table.get_nearest_neighbors(wanted, self._node.num_replicas)
        answers = await asyncio.gather(*(protocol.call_find(peer, [wanted]) for _, peer in nearest))  # each has a deadline, RPC_DEADLINE
        held = [answer[wanted][0] for answer in answers if answer]
        entries = [found.value.get(subkey) for found in held if found is not None and isinstance(found.value, DictionaryDHTValue)]
        return any(entry is not None and entry.expiration_time >= expiry for entry in entries)

    async def read(self, config_hash: str) -> list[wire.Announcement]:
        if self._membership.alone:
            await self._membership.look()
        keys = [key_of(config_hash, shard) for shard in range(SHARDS)]
        found = await asyncio.gather(*(self._search(key) for key in keys))
        records: dict[PeerId, wire.Announcement] = {}
        for shard, entries in enumerate(found):
            for peer, entry in entries.items():
                try:
                    value, expiry = entry
                    record = check(peer, value, expiry, self._clock(), self._members)
                    if record.config_hash != config_hash or shard_of(record.peer) != shard:
                        raise ProtocolError("lies under a key that is not its own")
                except (ProtocolError, ValueError, TypeError) as error:  # a bad record is skipped alone
                    self._bad.note(peer, str(error))
                    continue
                if record.peer not in records or records[record.peer].sequence < record.sequence:
                    records[record.peer] = record
        present = [records[peer] for peer in sorted(records) if records[peer].state != "left"]
        for record in present:
            self._met.pop(record.peer, None)
            self._met[record.peer] = record.addrs
        while len(self._met) > MAX_MET:
            del self._met[next(iter(self._met))]
        return present

    def ways_in(self) -> list[Entrance]:
        """Peers we have read of, at the most public of their addresses; those first who are in touch with us, then the latest news."""
        table = self._node.protocol.routing_table
        known = sorted(reversed(self._met.items()), key=lambda item: place_of(PeerID.from_base58(item[0])) not in table)
        found = ((peer, next((addr for text in addrs if (addr := dialable(text, peer)) is not None), None)) for peer, addrs in known)
        return [Entrance(peer, addr, f"{addr}/p2p/{peer}") for peer, addr in found if addr is not None and peer != self._identity.peer_id]

    async def _search(self, key: str) -> dict[object, tuple[object, float]]:
        """Everything under one key that the DHT tells within the deadline. A search that a frozen peer holds up ends with what the others said."""
        futures = await self._node.get_many([key], sufficient_expiration_time=float("inf"), return_futures=True)
        future = futures[key]
        try:
            await asyncio.wait({future}, timeout=READ_DEADLINE)
            if not future.done():
                for search in list(self._node.pending_get_requests[DHTID.generate(source=key)]):
                    if search.future is future:
                        search.finish_search()
            if not future.done():
                return {}
        finally:
            future.cancel()
        result = future.result()
        return result.value if result is not None and isinstance(result.value, dict) else {}

    async def close(self) -> None:
        """The node owns what is to be closed."""
