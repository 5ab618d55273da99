"""Room: errands. Pieces of work that somebody else does for us, each as a session of its own (`machines.probe`): sent, waited for with a deadline, and ended.
And whether what another has made can be the same.

For the shells, `client` and `peer` alike. Does not know what the work is for, nor which network it is on, nor tensors: how rows are compared is handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isinf
from typing import Protocol

from swarm.core import Hop, PeerId, SessionId
from swarm.machines.effects import Send
from swarm.machines.probe import Probe, Work
from swarm.machines.redone import by_lot, can_be, drawn_alike
from swarm.routing.table import PeerView
from swarm.wire import ORDER_LIFETIME, Blob, Message, SessionMessage, Show, Shown

ANSWER = 15.0
"""Seconds for a hop to show what it made: some megabytes, behind whatever else it sends."""

AGAIN = 60.0
"""Seconds for a peer to do a piece of work, behind whatever else it computes."""


class Likeness(Protocol):
    """How rows are compared, by somebody who knows tensors."""

    def share(self, one: Blob, other: Blob, components: int) -> float:
        """How far they are apart, in parts of what is allowed of what so many components make of the same."""

    def nudged(self, rows: Blob, numerics: str, dice: Callable[[int], bytes]) -> Blob:
        """The same rows rounded otherwise, by lot."""


class Owner(Protocol):
    """Whose errands they are."""

    @property
    def peer(self) -> PeerId: ...

    def wall(self) -> float: ...

    def say(self, peer: PeerId, message: Message, addrs: Sequence[str] = ()) -> None:
        """To a peer, at these addresses if it is new; orders are signed."""


class Errands:
    def __init__(self, owner: Owner, dice: random.Random, likeness: Likeness) -> None:
        """Whoever owns the links hands on what they say."""
        self.likeness, self.dice = likeness, dice
        self._owner = owner
        self._probes: dict[SessionId, tuple[Probe, asyncio.Event]] = {}
        self._waiting: dict[tuple[SessionId, int, PeerId], asyncio.Future[Shown]] = {}

    def receive(self, sender: PeerId, message: Message) -> bool:
        """Whether it was about work that is done for us."""
        if not isinstance(message, SessionMessage) or message.session not in self._probes:
            return False
        if isinstance(message, Shown):
            future = self._waiting.get((message.session, message.hop, sender))
            if future is not None and not future.done():
                future.set_result(message)
            return True
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
        for (_, _, asked), future in self._waiting.items():
            if asked == peer:
                future.cancel()

    async def run(self, view: PeerView, work: Work) -> Blob | None:
        """What a peer makes of it. None if it does not come to an end."""
        redone = await self.redo(view, work)
        return None if redone is None else redone.rows

    async def redo(self, view: PeerView, work: Work) -> Redone | None:
        """The same, to be compared."""
        async with self.redoing(view, work) as redone:
            return redone

    @contextlib.asynccontextmanager
    async def redoing(self, view: PeerView, work: Work) -> AsyncIterator[Redone | None]:
        """The same, while the peer still has it. Of room for an answer it is asked for what it has; and where nothing is drawn by lot, with some seed or other,
        as clients ask."""
        sampling = work.sampling if by_lot(work.sampling) else replace(work.sampling, seed=self.dice.getrandbits(63))
        work = replace(work, room=min(work.room, view.spare(len(work.tokens))), sampling=sampling)
        session = self.dice.randbytes(16)
        probe, over = Probe(session, self._owner.peer, work, self._owner.wall() + ORDER_LIFETIME), asyncio.Event()
        self._probes[session] = probe, over
        try:
            self._say(probe.begin(), view.addrs)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    await over.wait()
            yield Redone(self, view, probe) if probe.over and not probe.failure else None
        finally:
            del self._probes[session]
            self._say(probe.end())

    async def show(self, redone: Redone, hop: Hop, number: int, start: int, stop: int) -> Shown | None:
        """What a hop of work that is done just now says of its part. None if nothing comes."""
        key = redone.probe.session, number, hop.peer
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            self._owner.say(hop.peer, Show(redone.probe.session, 1, number, hop.start, hop.stop, start, stop), hop.addrs)
            await asyncio.wait({future}, timeout=ANSWER)
            return future.result() if future.done() and not future.cancelled() else None
        finally:
            del self._waiting[key]

    def _say(self, effects: list[Send], addrs: Sequence[str] = ()) -> None:
        for effect in effects:
            self._owner.say(effect.peer, effect.message, addrs)


@dataclass(slots=True)
class Redone:
    """What a peer has made of a piece of work, and what it makes of the same once more with what goes in rounded otherwise. It is asked for that where others
    made something else: who contradicts somebody has to show that it is not this model that carries a rounding so far. It gains nothing by saying so wrongly:
    who wants to acquit need only agree, and who wants to accuse could do so before."""

    errands: Errands
    view: PeerView
    probe: Probe
    _moved: list[Redone | None] = field(default_factory=list)

    @property
    def work(self) -> Work:
        return self.probe.work

    @property
    def rows(self) -> Blob | None:
        return self.probe.rows

    async def made_alike(self, rows: Blob, start: int = 0) -> bool | None:
        """Whether these can be the rows from position `start` on. None where that cannot be told."""
        stop, components = start + len(rows), self.work.hop.stop - self.work.hop.start
        if self.rows is None or len(self.rows) < stop:
            return None
        made = self.rows[start:stop]
        if (found := self.errands.likeness.share(rows, made, components)) <= 1 or isinf(found):  # those have nothing in common
            return found <= 1
        moved = await self._carried()
        if moved is None or moved.rows is None or len(moved.rows) < stop:
            return None
        return can_be(found, self.errands.likeness.share(moved.rows[start:stop], made, components))

    async def drew_alike(self, tokens: Sequence[int]) -> bool | None:
        """Whether these can be the tokens that were drawn."""
        about = tokens, self.work.sampling, self.work.numerics, self.probe.drawn
        if (alike := drawn_alike(*about)) is not False or not self.probe.drawn[0].logprobs:
            return alike
        moved = await self._carried()
        return None if moved is None else drawn_alike(*about, moved.probe.drawn)

    async def _carried(self) -> Redone | None:
        """Asked for once."""
        if not self._moved:
            self._moved.append(await self._redo_nudged())
        return self._moved[0]

    async def _redo_nudged(self) -> Redone | None:
        """Tokens cannot be nudged; what a first hop makes of them before its layers can."""
        work, errands = self.work, self.errands
        if work.is_first:
            if work.hop.stop == 1:
                return self
            embedding = replace(work, hop=replace(work.hop, stop=1), emit_from=0, compress=False)
            hidden = await errands.run(self.view, embedding)
            work = replace(work, hop=replace(work.hop, start=1))
        else:
            hidden = work.hidden
        if hidden is None or len(hidden) != len(work.tokens):
            return None
        return await errands.redo(self.view, replace(work, hidden=errands.likeness.nudged(hidden, work.numerics, errands.dice.randbytes)))
