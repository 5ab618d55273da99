"""Which earlier session of this client a new one begins as, so that the same prompt is not computed twice. Pure: knows what sessions have said and where, not
what peers still hold of it: whoever holds less computes the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.core import PeerId, SessionId
from swarm.machines.client import ClientSession
from swarm.routing.route import Route

LEAST = 16
"""Positions below which sharing is not worth a word."""

KEPT = 270.0
"""Seconds for which an ended session is remembered: peers keep it for 300 at most."""

MOST = 64
"""Ended sessions remembered."""


@dataclass(eq=False, slots=True)
class Ended:
    """A session that rests at its hops. `heir` is who began as it last: hops may have handed over to that what they held."""

    machine: ClientSession
    route: Route | None
    until: float
    heir: SessionId | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a session may begin as: the first `length` positions of another one, `ended` if that is over. `route` is where it went, if that is to be taken."""

    machine: ClientSession
    length: int
    ended: Ended | None = None
    route: Route | None = None


class Earlier:
    """The sessions of one client that others may begin as: those that run, and those that have ended and rest."""

    def __init__(self, reuse: bool = True) -> None:
        """Without `reuse` there are none."""
        self._running: dict[SessionId, ClientSession] = {}
        self._ended: list[Ended] = []
        self._closed = not reuse

    def best(self, machine: ClientSession, now: float) -> Found | None:
        """The session that shares most with one that is about to begin. Of equal ones an ended one that nobody began as, the latest; then one that runs.

        Who begins as an ended one goes where that was, as if it were its next turn; but one at a time. Others are planned, or they would all crowd together.
        """
        self._ended = [ended for ended in self._ended if ended.until > now]
        known: list[tuple[ClientSession, Ended | None]] = [(ended.machine, ended) for ended in reversed(self._ended) if ended.heir is None]
        if not machine.stretches:  # or a turn that runs may change, before we begin, what we would begin with
            known += [(other, None) for session, other in self._running.items() if session != machine.session]
        known += [(ended.machine, ended) for ended in reversed(self._ended) if ended.heir is not None]
        shares = [(machine.shares(other), other, ended) for other, ended in known]
        length, other, ended = max(shares, key=lambda share: share[0], default=(0, machine, None))
        if length < LEAST:
            return None
        return Found(other, length, ended, None if ended is None or ended.heir in self._running else ended.route)

    def began(self, machine: ClientSession, found: Found | None = None) -> None:
        """A session begins, as what was `found` or with nothing."""
        if found is not None and found.ended is not None:
            found.ended.heir = machine.session
        if not self._closed:
            self._running[machine.session] = machine

    def end(self, machine: ClientSession, route: Route | None, now: float) -> tuple[bool, list[ClientSession]]:
        """A session ends: whether it is to rest at its hops, and whom that is one too many for."""
        if self._running.pop(machine.session, None) is None or self._closed or route is None or len(machine.history) <= LEAST:
            return False, []
        self._ended.append(Ended(machine, route, now + KEPT))
        gone, self._ended = self._ended[:-MOST], self._ended[-MOST:]
        return True, [ended.machine for ended in gone]

    def forsake(self, peer: PeerId) -> list[ClientSession]:
        """Nobody begins as what passed this peer any more: those whose hops are to hear of it."""
        gone = [ended for ended in self._ended if ended.route is not None and any(hop.peer == peer for hop in ended.route.hops)]
        self._ended = [ended for ended in self._ended if ended not in gone]
        return [ended.machine for ended in gone]

    def close(self) -> list[ClientSession]:
        """No session rests any more: those whose hops are to hear of it."""
        self._closed = True
        gone, self._ended = self._ended, []
        return [ended.machine for ended in gone]
