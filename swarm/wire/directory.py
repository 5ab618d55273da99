"""Room: wire. What lies in the directory: announcements, memberships, and how hivemind packs them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from swarm.wire.coordination import Claim
from swarm.wire.words import Count, Seconds, Text

MOST_DRAFT_NAME = 128
"""Characters. The name of a folder may be longer; whoever announces it cuts it."""


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """What a peer says of itself in the directory. Costs in seconds: one layer's decode step (`decode`), one layer and prompt token (`prefill`), and the
    head's share in layers' worth (`head_weight`). `rtts` are round trips in seconds to peers it measured. `sequence` rises with every announcement,
    `span_version` whenever the peer takes other layers. `busy` is the layers that answers now run here, summed over the answers. `region` is a name that peers
    near one another share, "" for none; `claim` is None for a peer that does not coordinate. `upload` is how many bytes per second it can send, 0 where it
    does not know. `draft` names the model that guesses ahead where this peer is a first hop, "" for none. `share` is the part of its time in which it
    computes, less than 1 while it makes way for its owner's other programs; the costs are what things take then. `membership` is that of `Hello`.
    `compresses`: it can make compressed rows, and read them.
    """

    version: Count
    peer: Text
    addrs: Annotated[tuple[Text, ...], Meta(max_length=16)]
    model: Text
    config_hash: Text
    revision: Text
    numerics: Text
    components: Count
    spans: Annotated[tuple[tuple[Count, Count], ...], Meta(min_length=1, max_length=64)]
    decode: Seconds
    prefill: Seconds
    cache_tokens: Count
    free_tokens: Count
    max_length: Count
    state: Text
    sequence: Count
    time: Annotated[float, Meta(ge=0, le=1e12)]
    name: Text = ""
    sessions: Count = 0
    head_weight: Annotated[float, Meta(ge=0, le=1e4)] = 1.0
    rtts: dict[Text, Seconds] = {}
    span_version: Count = 0
    busy: Count = 0
    region: Annotated[str, Meta(max_length=64)] = ""
    claim: Claim | None = None
    upload: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    draft: Annotated[str, Meta(max_length=MOST_DRAFT_NAME)] = ""
    membership: Annotated[bytes, Meta(max_length=512)] = b""
    compresses: bool = False


LIFETIME = 25.0
"""Seconds an announcement lives. Fixed: a record that replaces another must expire later."""

RENEW_EVERY = 8.0
"""Seconds between two announcements of one peer, so that two lost renewals in a row do not hide it."""

STATES = ("joining", "online", "leaving", "left")
"""`left` is a tombstone: it replaces the last record of a peer that is gone, and readers of the directory leave it out."""


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """A record and its owner's Ed25519 signature over exactly these bytes; the key is the one inside the peer id under which it is stored."""

    record: bytes
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


MAX_VALUE = 4352 + 8
"""Bytes of one stored value, in hivemind's packing."""

MAX_DICTIONARY, MAX_ENTRIES = 3 * 2**19, 2048
"""Bytes and entries of all that lies under one key of the directory: a reply must fit into the 4 MiB beyond which p2pd drops it, unnoticed by its caller."""

DICTIONARY_CODE = 0x50
"""hivemind's extension type of a dictionary of records."""

Subkey = Annotated[str, Meta(max_length=60)]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One record in hivemind's dictionary: whose it is, what it says (packed once more), until when."""

    subkey: Subkey
    value: Annotated[bytes, Meta(max_length=MAX_VALUE)]
    expiry: float


class Dictionary(msgspec.Struct, frozen=True, array_like=True):
    """hivemind's packing of all that lies under one key. What it says of its own size and life is nobody's business: entries speak for themselves."""

    size: msgspec.Raw
    latest: msgspec.Raw
    entries: Annotated[list[msgspec.Raw], Meta(max_length=MAX_ENTRIES)]


Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Time = Annotated[float, Meta(ge=0, le=1e12)]


class Member(msgspec.Struct, frozen=True, array_like=True, tag="member"):
    """A peer belongs to the private swarm with this public key, from one time to another. Signed with the swarm's key."""

    swarm: Key
    peer: Text
    issued: Time
    expires: Time


class Revocation(msgspec.Struct, frozen=True, array_like=True, tag="revoked"):
    """Memberships of a peer that were issued up to this time are void. Signed with the swarm's key."""

    swarm: Key
    peer: Text
    time: Time
