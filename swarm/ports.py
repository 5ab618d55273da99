"""What the shells ask of the world. `swarm.net` answers with hivemind, `swarm.host` with psutil and files; tests answer with fakes. One verb each, and a
close where there is something to close."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Guise:
    """An identity for a few minutes: its links, and its signature. Nobody can tell by its name whose it is."""

    links: Links
    sign: Callable[[bytes], bytes]


class Directory(Protocol):
    """The DHT, seen as a table of signed announcements."""

    async def announce(self, record: Announcement) -> None:
        """Store our own record. Raises RemoteError when no peer takes it."""

    async def read(self, config_hash: str) -> list[Announcement]:
        """Every good record under a model's key, bad ones skipped. Sorted by peer id."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Readings:
    """What this machine's meters say. Shares are of all its processors together, 0 to 1; memory in bytes; temperatures in degrees Celsius, None where there is
    no sensor. `others` is the processor time of programs that are not ours, `ours` that of this process and its children, both since the last reading. `free`
    is what programs could still take where the cache lies (on the GPU of a peer that computes there), `own` what this process holds there; `host_free` is what
    could still be taken of the machine's own memory, which a peer needs wherever it computes."""

    others: float = 0.0
    ours: float = 0.0
    free: int = 0
    own: int = 0
    host_free: int = 0
    temperature: float | None = None
    hot: bool = False
    """Whether a sensor of the processor is at the mark that it calls high itself."""
    gpu_temperature: float | None = None


class Meters(Protocol):
    """The machine below us."""

    def read(self) -> Readings:
        """Takes some milliseconds, so not in the event loop; never fails: what cannot be read is left out."""


class Notes(Protocol):
    """What was measured, kept for the next start: figures, each set under the texts that name all it depends on."""

    def read(self, about: Sequence[str]) -> Mapping[str, float]:
        """Nothing where nothing was noted, or not in one piece."""

    def write(self, about: Sequence[str], figures: Mapping[str, float]) -> None:
        """Instead of what was noted about the same. Never fails: where nothing can be written, the next start begins anew."""
