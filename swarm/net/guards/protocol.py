"""Guard: the three calls of the DHT. In the room `net`; knows hivemind's protocol, and what the other guards say.

hivemind decodes first and checks afterwards, believes what a reply says of its own size and life, and answers a failed call with its exception's text. Here
requests and replies are looked at in `swarm/wire/`'s words before anything is done with them, quotas are asked, and a stranger learns that he was refused, no
more. What a reply calls its expiry is not believed: one that said "for ever" ended the whole search with what that one peer had to tell.

hivemind hands whatever it holds to each new peer. Ours does not: owners renew within eight seconds, and a stranger that goes through identities would have
everybody send him all they hold, again and again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any

from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2PContext, PeerID
from hivemind.proto import dht_pb2
from hivemind.utils.timed_storage import ValueWithExpiration

from swarm import wire
from swarm.errors import ProtocolError
from swarm.net.guards.asking import CALL_BYTES, CALLS, CALLS_PER_SECOND, RECORDS, RECORDS_PER_SECOND, Quotas
from swarm.net.guards.placing import place_of, placed
from swarm.net.guards.storing import GuardedDictionary, GuardedStorage
from swarm.net.guards.vicinity import NEAREST, named, radius_of, size_of
from swarm.net.records import Guard

log = logging.getLogger(__name__)

MAX_ASKED = 16
"""Keys of one call. Our own name one."""

MAX_REPLY = 2 * wire.MAX_DICTIONARY
"""Bytes of one reply: what is over that is not told, since p2pd drops a reply of more than 4 MiB."""

NAME_BYTES = 64
"""Bytes of a node's place and peer id in a reply."""

MAX_BAD = 64
"""Bad records in one reply, after which the rest of it is not looked at: each may cost a signature's check."""

AT_ONCE = 64
"""Records that are looked at before others have their turn: 6 ms of signatures, where a full reply costs 0.2 s. A search that is over ends there, too."""

LOOKING = 1.0
"""Seconds for the records of one reply while others have their turns. What was looked at by then counts: a search of many full replies would else end before
any of them did, and with nothing."""

SURVEYS = 2
"""Estimates of how many nodes there are that count beside the one by our own neighbours, around whom somebody may have prepared himself. Few, so that a swarm
which grows tenfold is soon known to have."""

MAX_WAITING = 1024
"""Peers remembered beyond those for whom a bucket has room; who has not been heard of for the longest time goes first. hivemind remembers all, for ever."""

MAX_CLOCKS = 64
"""Peers whose clocks are kept, those that were asked last: all through whom a node enters at once have room, and initial peers are not crowded out."""


class Refused(Exception):
    """All that a stranger is told of what went wrong here."""


def _discreet(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def answer(self: GuardedProtocol, request: Any, context: P2PContext) -> Any:
        try:
            return await method(self, request, context)
        except Exception as error:  # the door to strangers: hivemind would send them the text of whatever it is
            log.debug("refused a call of %s: %r", context.remote_id, error)
            raise Refused from None

    return answer


class GuardedProtocol(DHTProtocol):
    def __init__(self, *, _initialized_with_create: bool = False) -> None:
        super().__init__(_initialized_with_create=_initialized_with_create)
        self._calls, self._records = Quotas(CALLS, CALLS_PER_SECOND), Quotas(RECORDS, RECORDS_PER_SECOND)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.clock: Callable[[], float] = time.time
        self.ahead: OrderedDict[PeerID, float] = OrderedDict()
        """By how much the clocks of those whom we have pinged are ahead of this machine's."""
        self.surveys: deque[float] = deque(maxlen=SURVEYS)
        self.lot = random.Random()

    @classmethod
    async def create(cls, *args: Any, **kwargs: Any) -> GuardedProtocol:
        self = await super().create(*args, **kwargs)
        if isinstance(self.record_validator, Guard):
            self.clock = self.record_validator.clock
        self.storage = GuardedStorage(self.clock)
        return self

    @classmethod
    def _get_handle_name(cls, namespace: str | None, method_name: str) -> str:
        return DHTProtocol._get_handle_name(namespace, method_name)  # a call's name on the network contains that of its class

    async def shutdown(self) -> None:
        for task in self._tasks:
            task.cancel()
        await super().shutdown()

    # --- what others ask of us ----------------------------------------------------------------------------------------------------------------------------

    @_discreet
    async def rpc_ping(self, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        response = dht_pb2.PingResponse(peer=self.node_info, dht_time=self.clock(), available=False)
        if request.peer.node_id and self._may_call(context.remote_id):
            if request.validate:
                response.available = (await self._ping(context.remote_id))[0]
            self._met(context.remote_id, response.available or not request.validate)
        return response

    @_discreet
    async def rpc_store(self, request: dht_pb2.StoreRequest, context: P2PContext) -> dht_pb2.StoreResponse:
        sender, count = context.remote_id, len(request.keys)
        if not count == len(request.subkeys) == len(request.values) == len(request.expiration_time) == len(request.in_cache):
            raise ProtocolError("a store whose lists do not fit together")
        if not self._may_call(sender, request.ByteSize()):
            return dht_pb2.StoreResponse(store_ok=[False] * count, peer=self.node_info)
        if request.peer.node_id:
            self._met(sender)
        items = zip(request.keys, request.subkeys, request.values, request.expiration_time, request.in_cache, strict=True)
        return dht_pb2.StoreResponse(store_ok=[not cached and self._store(sender, *item) for *item, cached in items], peer=self.node_info)

    def _store(self, sender: PeerID, key: bytes, tag: bytes, value: bytes, expiry: float) -> bool:
        """Nothing is stored for strangers but signed records of their owners, and no cache is kept for them."""
        if len(key) != DHTID.HASH_NBYTES or tag == self.IS_REGULAR_VALUE:
            return False
        if tag == self.IS_DICTIONARY:
            entries, bad = wire.decode_dictionary(value)
            return all([self._store_record(sender, key, entry.subkey, entry.value, entry.expiry) for entry in entries]) and not bad
        return self._store_record(sender, key, wire.decode_subkey(tag), value, expiry)

    def _store_record(self, sender: PeerID, key: bytes, subkey: str, value: bytes, expiry: float) -> bool:
        return (
            self._records.take(sender, 1.0, time.monotonic())
            and self._validate_record(key, self.serializer.dumps(subkey), value, expiry)
            and self.storage.store_subkey(DHTID.from_bytes(key), subkey, value, expiry)
        )

    @_discreet
    async def rpc_find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        sender, response, room, looked_at = context.remote_id, dht_pb2.FindResponse(peer=self.node_info), MAX_REPLY, 0
        if len(request.keys) > MAX_ASKED or any(len(key) != DHTID.HASH_NBYTES for key in request.keys):
            raise ProtocolError("a search for too much")
        allowed = self._may_call(sender, request.ByteSize())
        if allowed and request.peer.node_id:
            self._met(sender)
        radius = self.radius
        for key in map(DHTID.from_bytes, request.keys):
            result = response.results.add(type=dht_pb2.NOT_FOUND)
            if not allowed:
                continue
            item = self.storage.get(key)
            packed = self.serializer.dumps(item.value) if item is not None else b""
            looked_at += len(packed)
            if item is not None and len(packed) <= room:
                result.type, result.value, result.expiration_time = dht_pb2.FOUND_DICTIONARY, packed, item.expiration_time
                room -= len(packed)
            for node_id, peer in self.neighbours(key, radius, place_of(sender)):
                looked_at += NAME_BYTES
                result.nearest_node_ids.append(node_id.to_bytes())
                result.nearest_peer_ids.append(peer.to_bytes())
        if allowed:
            self._calls.take(sender, looked_at / CALL_BYTES, time.monotonic())  # what found no room has cost us as much
        return response

    def keep(self, key: DHTID, subkey: str, value: bytes, expiry: float) -> bool:
        """Store what this node itself announces, if it is one that others would store."""
        return self._validate_record(key.to_bytes(), self.serializer.dumps(subkey), value, expiry) and self.storage.store_subkey(key, subkey, value, expiry)

    def _may_call(self, sender: PeerID, size: int = 0) -> bool:
        return self._calls.take(sender, 1.0 + size / CALL_BYTES, time.monotonic())

    # --- what we ask of others ----------------------------------------------------------------------------------------------------------------------------

    async def call_ping(self, peer: PeerID, validate: bool = False, strict: bool = True) -> DHTID | None:
        """Where the peer is, and what its clock says. Whether it can reach us is not asked, nor is anybody kept out whose clock is wrong."""
        responded, ahead = await self._ping(peer)
        if ahead is not None:
            self.ahead.pop(peer, None)
            self.ahead[peer] = ahead
            if len(self.ahead) > MAX_CLOCKS:
                self.ahead.popitem(last=False)
        self._met(peer, responded)
        return place_of(peer) if responded else None

    async def _ping(self, peer: PeerID) -> tuple[bool, float | None]:
        """Whether it answers, and by how much its clock is ahead. That is nobody's time yet: whom others have us ping, and who waits for a place in the routing
        table, would else choose what time it is here by coming with many names."""
        begin = time.time()
        response = await self._ask(peer, lambda stub: stub.rpc_ping(dht_pb2.PingRequest(peer=self.node_info), timeout=self.wait_timeout))
        if response is None:
            return False, None
        said = 0 < response.dht_time < math.inf
        return bool(response.peer.node_id), response.dht_time - (begin + time.time()) / 2 if said else None

    async def call_find(self, peer: PeerID, keys: Collection[DHTID]) -> dict[DHTID, Any] | None:
        keys = list(keys)
        request = dht_pb2.FindRequest(keys=[key.to_bytes() for key in keys], peer=self.node_info)
        response = await self._ask(peer, lambda stub: stub.rpc_find(request, timeout=self.wait_timeout))
        if response is None or len(response.results) != len(keys):
            self._met(peer, False)
            return None
        if response.peer.node_id:
            self._met(peer)
        return {key: (await self._found(key, result), placed(result.nearest_peer_ids)) for key, result in zip(keys, response.results, strict=True)}

    async def _found(self, key: DHTID, result: dht_pb2.FindResult) -> ValueWithExpiration[GuardedDictionary] | None:
        """The good records of a reply."""
        if result.type != dht_pb2.FOUND_DICTIONARY:
            return None
        try:
            entries, bad = wire.decode_dictionary(result.value)
        except ProtocolError as error:
            log.debug("no dictionary: %s", error)
            return None
        dictionary, key_bytes, loop = GuardedDictionary(self.clock), key.to_bytes(), asyncio.get_running_loop()
        begin = loop.time()
        if len(entries) > AT_ONCE:
            self.lot.shuffle(entries)  # if time runs out, nobody has seen to it that his come first
        for number, entry in enumerate(entries, 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
                if loop.time() - begin > LOOKING:
                    break
            if self._validate_record(key_bytes, self.serializer.dumps(entry.subkey), entry.value, entry.expiry):
                dictionary.store(entry.subkey, entry.value, entry.expiry)
            else:
                bad += 1
                if bad >= MAX_BAD:
                    break
        return ValueWithExpiration(dictionary, dictionary.latest_expiration_time) if dictionary.data else None

    async def _ask(self, peer: PeerID, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """The reply, or None. Each call has a deadline, `wait_timeout`."""
        try:
            async with self.rpc_semaphore:
                return await call(self.get_stub(peer))
        except Exception as error:  # the door to hivemind, which lets through whatever p2pd, the other side or its own decoder raises
            log.debug("%s did not answer: %r", peer, error)
            return None

    # --- who is near whom ---------------------------------------------------------------------------------------------------------------------------------

    @property
    def radius(self) -> int:
        """How far the vicinity of a key reaches."""
        own = self.routing_table.get_nearest_neighbors(self.node_id, NEAREST)
        return radius_of([size_of([self.node_id ^ place for place, _ in own]), *self.surveys])

    def neighbours(self, key: DHTID, radius: int, exclude: DHTID | None = None) -> list[tuple[DHTID, PeerID]]:
        return named(self.routing_table, key, radius, self.lot, exclude)

    # --- who is there -------------------------------------------------------------------------------------------------------------------------------------

    def _met(self, peer: PeerID, responded: bool = True) -> None:
        self._spawn(self.update_routing_table(None, peer, responded))

    async def update_routing_table(self, node_id: DHTID | None, peer_id: PeerID, responded: bool = True) -> None:
        """`node_id` is what the peer says of itself, and not looked at."""
        place, table = place_of(peer_id), self.routing_table
        if place == self.node_id:
            return
        if not responded:
            if place in table:
                del table[place]
            return
        silent = table.add_or_update_node(place, peer_id)
        waiting = table.buckets[table.get_bucket_index(place)].replacement_nodes
        if len(waiting) > MAX_WAITING:
            del table[next(iter(waiting))]
        if silent is not None:  # no room: if the one that was heard of last does not answer, it makes some
            self._spawn(self._look_for(silent[1]))

    async def _look_for(self, peer: PeerID) -> None:
        self._met(peer, (await self._ping(peer))[0])

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
