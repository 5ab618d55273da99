"""Announcements as they lie in the DHT: where, signed how, and which of them are worth believing. No I/O; the time is handed in or asked of one clock.

::

    key     "swarm.1.<config hash>.<shard>"     a few shards for each model, so that one storing peer never holds (or sends) all announcements of a large swarm
    subkey  the peer id of the owner
    value   wire.Signed: the encoded Announcement and the owner's signature, checked with the key inside that peer id
    expiry  the announcement's own time + LIFETIME: a replayed record cannot be given a longer life than its owner gave it
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import time
from collections.abc import Callable

from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord, RecordValidatorBase

from swarm import wire
from swarm.core import PeerId
from swarm.errors import ProtocolError
from swarm.net.identity import Identity, verify
from swarm.net.members import Members

log = logging.getLogger(__name__)

SHARDS = 2

LIFETIME = wire.LIFETIME

MAX_AHEAD = 60.0
"""Seconds from now that an expiry may lie ahead. Above LIFETIME by what honest clocks differ."""

MAX_ANNOUNCEMENT = 4096
"""Bytes of an announcement: what `wire` decodes."""

ROUNDING = 1e-3
"""Seconds by which sums may differ from what the owner reckoned."""

MAX_NOTED = 1024
"""Bad records remembered so as to be logged once each."""


def key_of(config_hash: str, shard: int) -> str:
    return f"swarm.1.{config_hash}.{shard}"


def shard_of(peer: PeerId) -> int:
    return hashlib.sha256(peer.encode()).digest()[0] % SHARDS


@functools.lru_cache(maxsize=1024)
def _key_id(config_hash: str, shard: int) -> bytes:
    return DHTID.generate(source=key_of(config_hash, shard)).to_bytes()


def seal(record: wire.Announcement, identity: Identity) -> bytes:
    data = wire.encode(record)
    if len(data) > MAX_ANNOUNCEMENT:
        raise ValueError(f"an announcement of {len(data)} bytes is over the limit of {MAX_ANNOUNCEMENT}; announce fewer round trips or addresses")
    return wire.encode(wire.Signed(data, identity.sign(data)))


@functools.lru_cache(maxsize=4096)
def opened(value: bytes) -> wire.Announcement:
    """What a record says that `Guard` has let in: a stranger may send so many that `unseal` has forgotten them by the time they are read."""
    return wire.decode_announcement(wire.decode_signed(value).record)


@functools.lru_cache(maxsize=4096)
def unseal(peer: PeerId, value: bytes) -> wire.Announcement:
    """What `peer` announced. Raises ProtocolError if it did not. Cached, since a signature costs 0.1 ms and every record is met many times in its life."""
    signed = wire.decode_signed(value)
    if not verify(peer, signed.record, signed.signature):
        raise ProtocolError("not signed by the peer under whose id it is stored")
    record = opened(value)
    if record.peer != peer:
        raise ProtocolError(f"speaks of another peer, {record.peer[:60]!r}")
    if record.version < 1:
        raise ProtocolError("has no version")
    if not all(start < stop <= record.components for start, stop in record.spans):
        raise ProtocolError("announces components that its model does not have")
    return record


def check(peer: object, value: object, expiry: float, now: float, members: Members | None = None, is_signed: bool = False) -> wire.Announcement:
    """Everything that can be said of one record wherever it is met; `is_signed` if its signature has been checked already. Raises ProtocolError, in words that
    do not change from one read to the next: whoever logs them does so once."""
    if not isinstance(peer, str) or not isinstance(value, bytes):
        raise ProtocolError("no signed value under a peer id")
    if len(value) > wire.MAX_VALUE:
        raise ProtocolError(f"{len(value)} bytes are too many")
    if not math.isfinite(expiry) or expiry > now + MAX_AHEAD:
        raise ProtocolError("expires too far in the future; is its owner's clock right, or ours?")
    if expiry <= now:
        raise ProtocolError("has expired")
    record = opened(value) if is_signed else unseal(peer, value)
    if expiry > record.time + LIFETIME + ROUNDING:
        raise ProtocolError("expires later than its owner said")
    if record.time + LIFETIME > now + MAX_AHEAD:  # else whoever has it could bring it back, with ever later expiries, until then
        raise ProtocolError("comes from the future; is its owner's clock right, or ours?")
    if members is not None:
        members.check(peer, record.membership)
    return record


class BadRecords:
    """Logs what is wrong with whose record, once each: a bad record comes back with every read for as long as it lives."""

    def __init__(self) -> None:
        self._noted: set[tuple[str, str]] = set()

    def note(self, subkey: object, why: str) -> None:
        about = (str(subkey)[:64], why[:200])
        if about not in self._noted:
            if len(self._noted) >= MAX_NOTED:
                self._noted.clear()
            self._noted.add(about)
            log.info("skipped a bad record of %s: %s", *about)


class Guard(RecordValidatorBase):
    """hivemind asks it about every record that others want stored here or send us in answer to a search. In a private swarm those of its `members` count."""

    def __init__(self, bad: BadRecords | None = None, clock: Callable[[], float] = time.time, members: Members | None = None) -> None:
        self.bad = bad or BadRecords()
        self.clock, self._members = clock, members

    def validate(self, record: DHTRecord) -> bool:
        if len(record.value) > wire.MAX_VALUE or len(record.subkey) > 64:
            self.bad.note(record.subkey, "too large")
            return False
        subkey: object = None
        try:
            subkey, value = wire.decode_subkey(record.subkey), wire.decode_value(record.value)
            announcement = check(subkey, value, record.expiration_time, self.clock(), self._members)
            if record.key != _key_id(announcement.config_hash, shard_of(announcement.peer)):
                raise ProtocolError("lies under a key that is not its own")
        except ProtocolError as error:
            self.bad.note(subkey, str(error))
            return False
        return True
