"""The DHT, seen as a table of signed announcements. Implements `ports.Directory` over hivemind's DHTNode; knows nothing of links or routes."""

from __future__ import annotations

import asyncio
import contextlib
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
from swarm.net.guards.protocol import AT_ONCE
from swarm.net.guards.storing import Gathered
from swarm.net.identity import Identity
from swarm.net.joining import Membership
from swarm.net.members import Members
from swarm.net.records import LIFETIME, SHARDS, BadRecords, check, key_of, seal, shard_of
from swarm.net.seeking import seek

REPLICAS = 5
"""With so many a record is stored where fewer stand in the vicinity of its key."""

STORE_DEADLINE = 2.0
"""Seconds to store what somebody has been found for: one round of calls, and another to others if some did not answer."""

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
        stored = await self._store(DHTID.generate(source=key), record.peer, value, record.time + LIFETIME)
        if self._membership.alone:  # then it was stored with ourselves alone; whoever did not answer has left the routing table
            raise RemoteError("no peer took our announcement: none of the initial peers answers any more; name another with --initial-peers")
        if not stored and not await self._held(key, record.peer, record.time + LIFETIME):
            raise RemoteError(
                "no peer took our announcement; if this repeats, check that this machine's clock is right, and whether the swarm is private (--swarm-key)"
            )

    async def _held(self, key: str, subkey: PeerId, expiry: float) -> bool:
        """Whether another peer holds what we announced: one that has it from a third peer refuses ours as not newer."""
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
            for number, (peer, entry) in enumerate(entries.items(), 1):
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
                try:
                    value, expiry = entry
                    record = check(peer, value, expiry, self._clock(), self._members, is_signed=True)  # by `Guard`, when it was stored here or told
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

    async def _store(self, key: DHTID, subkey: PeerId, record: bytes, expiry: float) -> bool:
        """With everybody in the key's vicinity, REPLICAS at the least. Whether anybody took it: others, if there are any. Searched is beside the key, where
        nothing lies: those who hold announcements would send us them all."""
        protocol = self._node.protocol
        value, radius = protocol.serializer.dumps(record), protocol.radius
        search = await seek(self._node, DHTID(key ^ 1), radius)
        row = search.nearest() + ([] if self._client_mode else [(key ^ self._node.node_id, self._node.peer_id)])
        row.sort(key=lambda one: one[0])
        left, alone, taken = max(REPLICAS, sum(distance < radius for distance, _ in row)), not search.answered, False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORE_DEADLINE):
                while row and left:
                    batch, row = row[:left], row[left:]
                    others = [peer for _, peer in batch if peer != self._node.peer_id]
                    if len(others) < len(batch):
                        taken = (protocol.keep(key, subkey, value, expiry) and alone) or taken
                    replies = await asyncio.gather(*(protocol.call_store(peer, [key], [value], expiry, [subkey]) for peer in others))
                    left -= len(batch) - replies.count(None)
                    taken = taken or any(reply and reply[0] for reply in replies)
        return taken

    async def _search(self, key: str) -> dict[str, tuple[bytes, float]]:
        """Everything under one key that the nodes of its vicinity tell within the deadline."""
        place, protocol = DHTID.generate(source=key), self._node.protocol
        gathered = Gathered(self._clock, protocol.lot)

        def found(held: DictionaryDHTValue) -> None:
            for subkey, (value, expiry) in held.items():
                gathered.store(subkey, value, expiry)

        own = protocol.storage.get(place)
        if own is not None:
            found(own.value)
        await seek(self._node, place, protocol.radius, found)
        return {subkey: (wire.decode_value(value), expiry) for subkey, (value, expiry) in gathered.items()}

    async def close(self) -> None:
        """The node owns what is to be closed."""
