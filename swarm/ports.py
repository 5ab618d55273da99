"""What the shells ask of the world. `swarm.net` answers with hivemind; tests answer with fakes. One verb each, and a close."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from swarm.core import PeerId
from swarm.wire import Announcement, Message

Receive = Callable[[PeerId, Message], None]
"""Called in the event loop for every message that arrives; must not block."""

Lost = Callable[[PeerId], None]
"""Called once when the link to a peer is gone: dial failed, closed, cut, or silent past its deadline."""


class Links(Protocol):
    """One long-lived two-way link per pair of peers, dialled when first needed."""

    @property
    def peer(self) -> PeerId:
        """Our own peer id. Messages to it are delivered locally."""

    def learn(self, peer: PeerId, addrs: Sequence[str]) -> None:
        """Remember multiaddrs at which a peer may be dialled."""

    def send(self, peer: PeerId, message: Message) -> None:
        """Queue a message; never blocks, never raises for the network's sake. If it cannot be delivered, `Lost` is called. Messages of one session arrive in
        the order they were sent, or not at all once the link is lost."""

    def subscribe(self, receive: Receive, lost: Lost) -> None: ...

    async def measure(self, peer: PeerId) -> float:
        """Round trip in seconds over the link (dialled if needed), the least of a few. Raises PeerLost."""

    async def gauge(self, peer: PeerId) -> float:
        """Bytes per second that we can send to a peer, at least about that; inf where it is too fast to tell. Sends some hundred kilobytes. Raises PeerLost."""

    async def close(self) -> None: ...


class Directory(Protocol):
    """The DHT, seen as a table of signed announcements."""

    async def announce(self, record: Announcement) -> None:
        """Store our own record. Raises RemoteError when no peer takes it."""

    async def read(self, config_hash: str) -> list[Announcement]:
        """Every good record under a model's key, bad ones skipped. Sorted by peer id."""

    async def close(self) -> None: ...
