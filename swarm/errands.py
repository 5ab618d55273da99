"""Room: errands. Pieces of work that somebody else does for us, each as a session of its own (`machines.probe`): sent, waited for with a deadline, and ended.

For the shells, `client` and `peer` alike. Does not know what the work is for, nor which network it is on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from swarm.core import PeerId, SessionId
from swarm.machines.effects import Send
from swarm.machines.probe import Probe, Work
from swarm.routing.table import PeerView
from swarm.wire import ORDER_LIFETIME, Blob, Message, SessionMessage

AGAIN = 60.0
"""Seconds for a peer to do a piece of work, behind whatever else it computes."""


class Owner(Protocol):
    """Whose errands they are."""

    @property
    def peer(self) -> PeerId: ...

    def wall(self) -> float: ...

    def say(self, peer: PeerId, message: Message, addrs: Sequence[str] = ()) -> None:
        """To a peer, at these addresses if it is new; orders are signed."""


class Errands:
    def __init__(self, owner: Owner, dice: random.Random) -> None:
        """Whoever owns the links hands on what they say."""
        self._owner, self._dice = owner, dice
        self._probes: dict[SessionId, tuple[Probe, asyncio.Event]] = {}

    def receive(self, sender: PeerId, message: Message) -> bool:
        """Whether it was about work that is done for us."""
        if not isinstance(message, SessionMessage) or message.session not in self._probes:
            return False
        probe, over = self._probes[message.session]
        if not probe.is_for_me(message):
            return False
        self._say(probe.receive(sender, message))
        if probe.over:
            over.set()
        return True

    def lost(self, peer: PeerId) -> None:
        for probe, over in self._probes.values():
            probe.lost(peer)
            if probe.over:
                over.set()

    async def run(self, view: PeerView, work: Work) -> Blob | None:
        """What a peer makes of it. None if it does not come to an end."""
        probe = await self.probe(view, work)
        return None if probe is None else probe.rows

    async def probe(self, view: PeerView, work: Work) -> Probe | None:
        """The same with all that came of it, tokens too. Of room for an answer a peer is asked for what it has."""
        work = replace(work, room=min(work.room, view.spare(len(work.tokens))))
        session = self._dice.randbytes(16)
        probe, over = Probe(session, self._owner.peer, work, self._owner.wall() + ORDER_LIFETIME), asyncio.Event()
        self._probes[session] = probe, over
        try:
            self._say(probe.begin(), view.addrs)
            async with asyncio.timeout(AGAIN):
                await over.wait()
        except TimeoutError:
            return None
        finally:
            del self._probes[session]
            self._say(probe.end())
        return None if probe.failure else probe

    def _say(self, effects: list[Send], addrs: Sequence[str] = ()) -> None:
        for effect in effects:
            self._owner.say(effect.peer, effect.message, addrs)
