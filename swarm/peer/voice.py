"""Room: peer. A name under which a coordinator has work done: its own, or that of a guise. Signs orders and sends; knows neither the work nor the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from swarm.core import PeerId
from swarm.ports import Links
from swarm.wire import Message, Open


class Voice:
    """Implements `errands.Owner`."""

    def __init__(self, links: Links, sign: Callable[[bytes], bytes], wall: Callable[[], float]) -> None:
        self._links, self._sign, self.wall = links, sign, wall

    @property
    def peer(self) -> PeerId:
        return self._links.peer

    def say(self, peer: PeerId, message: Message, addrs: Sequence[str] = ()) -> None:
        if addrs and peer != self._links.peer:
            self._links.learn(peer, addrs)
        if isinstance(message, Open):
            message = msgspec.structs.replace(message, signature=self._sign(message.order))
        self._links.send(peer, message)
