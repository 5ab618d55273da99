"""What a peer remembers of itself across restarts: how long its identity has served and how many tokens, and how fast it runs what it holds.

Two notes, since they depend on different things: one under the peer's own name, one under all that a speed depends on, which several names may share. Does not
know where notes are kept. How fit the peer is to coordinate counts from its start alone: whoever comes back again and again stays for short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarm.core import PeerId
from swarm.peer.holding import Holding
from swarm.peer.pace import Fit, Pace
from swarm.ports import Notes

KEEP_EVERY = 60.0
"""Seconds between two times that it is written down, and so what a crash can cost."""


PEER = "peer"
"""What a note about an identity begins with."""


class Past:
    def __init__(self, notes: Notes, peer: PeerId | None, clock: Callable[[], float]) -> None:
        """`peer` is None where nobody will ever be called so again."""
        self._notes, self._clock, self._began = notes, clock, clock()
        self._name = None if peer is None else (PEER, peer)
        before: Mapping[str, float] = {} if self._name is None else notes.read(self._name)
        self._uptime, self._tokens = before.get("uptime", 0.0), int(before.get("tokens", 0))

    @property
    def uptime(self) -> float:
        """Seconds, of all times together."""
        return self._uptime + self._clock() - self._began

    def tokens(self, now: int) -> int:
        """Served in all, `now` of them since the start."""
        return self._tokens + now

    def page(self, tokens: int, holding: Holding, pace: Pace) -> list[tuple[tuple[str, ...], dict[str, float]]]:
        """What there is to write down."""
        page: list[tuple[tuple[str, ...], dict[str, float]]] = []
        if self._name is not None:
            page.append((self._name, {"uptime": self.uptime, "tokens": self.tokens(tokens)}))
        if holding.speed_of and (fit := pace.fit) is not None:
            page.append((holding.speed_of, {"read": fit.read, "row": fit.row, "rounds": fit.rounds}))
        return page

    def keep(self, page: list[tuple[tuple[str, ...], dict[str, float]]]) -> None:
        """Writes files, so not in the event loop but at the very end."""
        for about, figures in page:
            self._notes.write(about, figures)


def known_fit(notes: Notes, speed_of: tuple[str, ...]) -> Fit | None:
    """What rounds took before the last restart, if anybody wrote it down."""
    figures = notes.read(speed_of)
    if not {"read", "row", "rounds"} <= figures.keys():
        return None
    return Fit(figures["read"], figures["row"], int(figures["rounds"]))
