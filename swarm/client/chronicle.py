"""What happened in a swarm, told from one look to the next: who joined, left, died or moved, who coordinates since when, holes and repairs. Pure: looks and
times are handed in. It knows only what somebody has looked at; what came and went between two looks is not in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from swarm.core import PeerId, short_id

KEPT = 200
"""Events remembered: an afternoon of a small swarm, and a few minutes of a very restless one."""

MOST_REQUESTS = 1024
"""Answers of which it is remembered how often they were repaired."""


@dataclass(frozen=True, slots=True)
class Event:
    """`time` is the wall clock's. `kind` is one of KINDS, `peer` who it is about, if anybody; `text` says it to people."""

    time: float
    kind: str
    text: str
    peer: PeerId = ""


KINDS = ("joined", "left", "silent", "back", "moved", "coordinator", "hole", "covered", "repaired")

Seen = Mapping[PeerId, tuple[str, str]]
"""Peer → its state and layers."""


class Chronicle:
    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._peers: Seen | None = None
        self._leader: tuple[PeerId, int] | None = None
        self._holes: Mapping[tuple[str, str], str] = {}
        self._deserted = False
        """Whether all who were seen to serve had gone at the last look."""
        self._repairs: dict[str, int] = {}
        self.since: tuple[float, bool] = (0.0, False)
        """From when on the one who coordinates now was seen to, and whether it was seen to begin."""

    @property
    def events(self) -> tuple[Event, ...]:
        """The newest last."""
        return tuple(self._events)

    def see(
        self, now: float, peers: Seen, leader: tuple[PeerId, int] | None, holes: Mapping[tuple[str, str], str], repairs: Mapping[str, int] | None = None
    ) -> None:
        """A look. `leader` is who coordinates and in which term, `holes` the missing layers of each class, `repairs` how often each running answer was."""
        first, before = self._peers is None, self._peers or {}
        if not first:
            self._tell_peers(now, before, peers)
            self._tell_holes(now, holes)
        self._tell_leader(now, leader, first)
        for request, count in (repairs or {}).items():
            self.repaired(now, request, count)
        self._peers, self._holes = dict(peers), dict(holes)

    def repaired(self, now: float, request: str, count: int) -> None:
        """An answer has lost its way so often."""
        new = count - self._repairs.pop(request, 0)
        self._repairs[request] = max(count, 0)
        if len(self._repairs) > MOST_REQUESTS:
            del self._repairs[next(iter(self._repairs))]
        if new > 0:
            self._tell(now, "repaired", f"answer {request} lost a hop{f' {new} times' if new > 1 else ''} and goes on as soon as there is another way")

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    def _tell(self, now: float, kind: str, text: str, peer: PeerId = "") -> None:
        self._events.append(Event(now, kind, text, peer))

    def _tell_peers(self, now: float, before: Seen, peers: Seen) -> None:
        for peer, (state, layers) in sorted(before.items()):
            if peer not in peers and state != "silent":
                leaves = state == "leaving"
                self._tell(
                    now, "left" if leaves else "silent", f"{short_id(peer)}, layers {layers}, {'has left' if leaves else 'is gone without a word'}", peer
                )
        for peer, (state, layers) in sorted(peers.items()):
            was = before.get(peer)
            if was is None:
                self._tell(now, "joined", f"{short_id(peer)} joined for layers {layers}{' and is loading them' if state == 'joining' else ''}", peer)
            elif (state == "silent") != (was[0] == "silent"):
                silent = state == "silent"
                self._tell(now, "silent" if silent else "back", f"{short_id(peer)}, layers {layers}, {'does not answer' if silent else 'answers again'}", peer)
            elif was[1] != layers:
                self._tell(now, "moved", f"{short_id(peer)} moved from layers {was[1]} to {layers}", peer)
            elif state == "leaving" != was[0]:
                self._tell(now, "left", f"{short_id(peer)}, layers {layers}, is leaving", peer)

    def _tell_holes(self, now: float, holes: Mapping[tuple[str, str], str]) -> None:
        if self._holes and not holes:
            self._tell(now, "hole", "every layer is served by nobody: all who served have gone")
            self._deserted = True
        elif holes and self._deserted:
            self._deserted = False
            if not all(holes.values()):
                self._tell(now, "covered", "every layer is served again")
        for kind in sorted({*self._holes, *holes}):
            was, missing, which = self._holes.get(kind, ""), holes.get(kind, ""), f" ({kind[1]})" if len(holes) > 1 else ""
            if missing and missing != was:
                self._tell(now, "hole", f"layers {missing} are served by nobody{which}")
            elif was and not missing and kind in holes:
                self._tell(now, "covered", f"every layer is served again{which}")

    def _tell_leader(self, now: float, leader: tuple[PeerId, int] | None, first: bool) -> None:
        if leader == self._leader:
            return
        self._leader, self.since = leader, (now, not first)
        if leader is not None and not first:
            self._tell(now, "coordinator", f"{short_id(leader[0])} coordinates now, term {leader[1]}", leader[0])
