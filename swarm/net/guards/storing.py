"""Guard: a record is refused before the storage is touched, and there is an end to what is stored. In the room `net`; knows hivemind's storage, no network.

Attacks: hivemind notes the expiry of a record that it then refuses, so that replaying an owner's older record makes the newer one go when the older would have;
an expiry that is no number stops all eviction; a plain value takes the place of a dictionary; 4.5 MB under one key make a reply that p2pd drops. A search
gathers in the very dictionary that is stored here, so that whoever is asked writes into our storage, past every check of it.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from typing import Any

from hivemind.dht.routing import DHTID, BinaryDHTValue, Subkey
from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
from hivemind.utils.serializer import MSGPackSerializer
from hivemind.utils.timed_storage import TimedStorage, ValueWithExpiration

from swarm import wire
from swarm.errors import ProtocolError
from swarm.net.records import opened

MAX_KEYS = 4096
"""Keys held. A shard of a model is one."""

FEW = wire.MAX_DICTIONARY // (wire.MAX_VALUE + 128)
"""Entries of a dictionary that fit into a reply however large they are."""

MAX_GATHERED = 20_000
"""Records that one search keeps: four times a shard of a directory of 10,000 honest peers. Their signatures cost two seconds of the three of a search."""

PACKING = 80
"""Bytes that hivemind puts around a value, subkey included."""


class _ByClock(TimedStorage[Any, Any]):
    """hivemind's storage goes by the machine's clock, ours by the swarm's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock

    def _remove_outdated(self) -> None:
        now, heap = self.clock(), self.expiration_heap
        while not self.frozen and heap and heap[0].expiration_time < now:
            entry = heapq.heappop(heap)
            if self.key_to_heap.get(entry.key) == entry:
                del self.data[entry.key], self.key_to_heap[entry.key]

    def _put(self, key: Any, value: Any, expiration_time: float) -> bool:
        if expiration_time < self.clock():
            return False
        with self.freeze():  # or hivemind would look at the machine's clock
            return super().store(key, value, expiration_time)


class GuardedDictionary(_ByClock, DictionaryDHTValue):
    """All records under one key, of a peer that stores them or of a reader that gathers them. A record that is refused leaves no trace."""

    def store(self, key: Subkey, value: BinaryDHTValue, expiration_time: float) -> bool:
        held = self.data.get(key)
        if not math.isfinite(expiration_time) or (held is not None and (expiration_time <= held.expiration_time or _is_older(value, held.value))):
            return False
        return self._put(key, value, expiration_time)

    def copied(self) -> GuardedDictionary:
        copy = GuardedDictionary(self.clock)
        copy.data, copy.key_to_heap, copy.expiration_heap = dict(self.data), dict(self.key_to_heap), list(self.expiration_heap)
        copy.latest_expiration_time = self.latest_expiration_time
        return copy

    @property
    def is_full(self) -> bool:
        count = len(self)  # takes out what is over
        if count < FEW:
            return False
        return count >= wire.MAX_ENTRIES or sum(len(value) + PACKING for value, _ in self.data.values()) + wire.MAX_VALUE > wire.MAX_DICTIONARY


class Gathered(GuardedDictionary):
    """What one search has heard under a key. Where strangers tell of more than MAX_GATHERED, a newcomer takes the place of one drawn by lot: were the first to
    stay, whoever answers fast would hide all others."""

    def __init__(self, clock: Callable[[], float], lot: random.Random) -> None:
        super().__init__(clock)
        self._lot, self._row = lot, list[Subkey]()

    def store(self, key: Subkey, value: BinaryDHTValue, expiration_time: float) -> bool:
        is_new = key not in self.data
        if not super().store(key, value, expiration_time):
            return False
        if is_new and len(self._row) < MAX_GATHERED:
            self._row.append(key)
        elif is_new:
            place = self._lot.randrange(MAX_GATHERED)
            if self._row[place] in self.data:  # it may have expired meanwhile
                del self[self._row[place]]
            self._row[place] = key
        return True


MSGPackSerializer._ext_types[GuardedDictionary] = wire.DICTIONARY_CODE  # packed as hivemind's own


class GuardedStorage(_ByClock, DHTLocalStorage):
    """Holds records under subkeys alone, each of which `records.Guard` has let in."""

    def get(self, key: DHTID) -> ValueWithExpiration[GuardedDictionary] | None:
        """A copy: hivemind's searches put into what they get here whatever others answer."""
        found = super().get(key)
        return None if found is None else ValueWithExpiration(found.value.copied(), found.expiration_time)

    def store(self, key: DHTID, value: BinaryDHTValue, expiration_time: float, subkey: Subkey | None = None) -> bool:
        return subkey is not None and self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: DHTID, subkey: Subkey, value: BinaryDHTValue, expiration_time: float) -> bool:
        found = super().get(key)
        if found is None and len(self.data) >= MAX_KEYS:
            return False
        dictionary = GuardedDictionary(self.clock) if found is None else found.value
        if subkey not in dictionary.data and dictionary.is_full:
            return False
        if not dictionary.store(subkey, value, expiration_time):
            return False
        if found is None or expiration_time > found.expiration_time:
            with self.freeze():
                TimedStorage.store(self, key, dictionary, expiration_time)
        return True


def _is_older(value: bytes, held: bytes) -> bool:
    """Expiries may differ a little from what the owner said, sequences do not. Both are checked records; signatures are not looked at twice."""
    try:
        return opened(wire.decode_value(value)).sequence < opened(wire.decode_value(held)).sequence
    except ProtocolError:
        return True
