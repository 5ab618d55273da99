"""Room: wire. What two nodes say to one another about their link, and how one learns whether others can dial it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from swarm.wire.words import Count, Message, Text


class Hello(Message, frozen=True, array_like=True, tag=1):
    """First frame each way. `membership` is an encoded Signed that holds a Member, of those who belong to a private swarm; `revocations` likewise."""

    version: Count
    software: Text = ""
    membership: Annotated[bytes, Meta(max_length=512)] = b""
    revocations: Annotated[tuple[Annotated[bytes, Meta(max_length=512)], ...], Meta(max_length=64)] = ()


class Ping(Message, frozen=True, array_like=True, tag=2):
    """`padding` only takes time to send."""

    stamp: Count
    padding: Annotated[bytes, Meta(max_length=2**16)] = b""


class Pong(Message, frozen=True, array_like=True, tag=3):
    stamp: Count


class End(Message, frozen=True, array_like=True, tag=4):
    """The explicit end of a link: end of file without it is a failure."""

    reason: Text = ""


class DialBack(msgspec.Struct, frozen=True, array_like=True):
    """Under a passing name: can you dial this peer at these addresses of mine? On a stream of its own, not on a link."""

    peer: Text
    addrs: Annotated[tuple[Text, ...], Meta(max_length=4)]


class DialledBack(msgspec.Struct, frozen=True, array_like=True):
    """For each address "", or why not; the answerer's wall clock; and the host at which it sees whoever asks."""

    results: Annotated[tuple[Text, ...], Meta(max_length=4)]
    now: Annotated[float, Meta(ge=0, le=1e12)]
    seen_at: Text = ""
