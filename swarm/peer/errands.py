"""Room: peer. Pieces of work that somebody else does for us, each as a session of its own (`machines.probe`): sent, waited for with a deadline, and ended.

Does not know what the work is for, nor which network it is on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

import msgspec

from swarm.core import PeerId, SessionId
from swarm.machines.effects import Send
from swarm.machines.probe import Probe, Work
from swarm.ports import Links
from swarm.routing.table import PeerView
from swarm.wire import ORDER_LIFETIME, Blob, Message, Open, SessionMessage

AGAIN = 60.0
"""Seconds for a peer to do a piece of work, behind whatever else it computes."""


class Errands:
    def __init__(self, links: Links, sign: Callable[[bytes], bytes], wall: Callable[[], float], dice: random.Random) -> None:
        """Whoever owns the links hands on what they say."""
        self._links, self._sign, self._wall, self._dice = links, sign, wall, dice
        self._probes: dict[SessionId, tuple[Probe, asyncio.Event]] = {}

    def receive(self, sender: PeerId, message: Message) -> bool:
        """Whether it was about work that is done for us."""
        if not isinstance(message, SessionMessage) or message.session not in self._probes:
            return False
        probe, over = self._probes[message.session]
        if not probe.is_for_me(message):
            return False
        self._send(probe.receive(sender, message))
        if probe.over:
            over.set()
        return True

    def lost(self, peer: PeerId) -> None:
        for probe, over in self._probes.values():
            probe.lost(peer)
            if probe.over:
                over.set()

    async def run(self, view: PeerView, work: Work) -> Blob | None:
        """What a peer makes of it. None if it does not come to an end. Of room for an answer it is asked for what it has."""
        work = replace(work, room=min(work.room, view.spare(len(work.tokens))))
        session = self._dice.randbytes(16)
        probe, over = Probe(session, self._links.peer, work, self._wall() + ORDER_LIFETIME), asyncio.Event()
        self._probes[session] = probe, over
        try:
            if view.peer != self._links.peer:
                self._links.learn(view.peer, view.addrs)
            self._send(probe.begin())
            async with asyncio.timeout(AGAIN):
                await over.wait()
        except TimeoutError:
            return None
        finally:
            del self._probes[session]
            self._send(probe.end())
        return None if probe.failure else probe.rows

    def _send(self, effects: list[Send]) -> None:
        for effect in effects:
            message = effect.message
            if isinstance(message, Open):
                message = msgspec.structs.replace(message, signature=self._sign(message.order))
            self._links.send(effect.peer, message)
