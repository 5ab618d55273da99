"""The room `routing`, its memory: the newest announcements of one model, on a map for each class, and whom its owner (a client, or a coordinator) has given up
on for now. No network: records and times are handed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from swarm.core import PeerId, Span, merge_spans
from swarm.errors import ProtocolError
from swarm.routing.atlas import Atlas, Class
from swarm.routing.table import PeerView
from swarm.wire import Announcement, Facts

SHUNNED = 30.0
"""Seconds a peer that failed us is avoided. Longer than the 25 s a dead peer's record lives."""


class PeerTable:
    """`views` are the peers of all classes by peer id, `atlases` the map of each class, `mixed` that of each mixed class: where it is of a single
    class, that class's own."""

    def __init__(self) -> None:
        self.views: dict[PeerId, PeerView] = {}
        self.atlases: dict[Class, Atlas] = {}
        self.mixed: dict[Class, Atlas] = {}
        self.spoke: dict[PeerId, float] = {}
        """When each made the announcement we know, by its own clock."""
        self.passed_over: dict[PeerId, str] = {}
        """Whose announcements make no sense, and why."""
        self._told: dict[PeerId, float] = {}
        """When each made the announcement that a hop has contradicted since."""
        self._shunned: dict[PeerId, tuple[float, float]] = {}
        self._banned: dict[PeerId, float] = {}

    def update(self, records: Iterable[Announcement], components: int) -> list[str]:
        """What the directory says now of a model of so many components: who is not in it is gone. What a peer says itself counts more than what was said of it
        before; those announcements that were contradicted since do not. Returns why some are passed over that were not before: for the log."""
        views, spoke, before, self.passed_over = [], {}, self.passed_over, {}
        for record in records:
            try:
                view = PeerView.of(record, components)
            except ProtocolError as error:
                self.passed_over[record.peer] = str(error)
                continue
            views.append(self.views.get(view.peer, view) if record.time == self._told.get(view.peer) else view)
            spoke[record.peer] = record.time
        self.show(views)
        self.spoke = spoke
        self._told = {peer: time for peer, time in self._told.items() if spoke.get(peer) == time}
        return [why for peer, why in self.passed_over.items() if before.get(peer) != why]

    def show(self, views: Iterable[PeerView]) -> None:
        now = {view.peer: view for view in views}
        for peer, old in self.views.items():
            if peer not in now or now[peer].kind != old.kind:
                self.atlases[old.kind].drop(peer)
        for peer, view in now.items():
            if self.views.get(peer) != view:
                self.atlases.setdefault(view.kind, Atlas()).put(view)
        self.views = now
        self.atlases = {kind: atlas for kind, atlas in self.atlases.items() if len(atlas)}
        self._mix()

    def atlas(self, kind: Class) -> Atlas:
        """The map of a class, mixed or not; an empty one where nobody is of it."""
        return self.atlases.get(kind) or self.mixed.get(kind) or Atlas()

    def correct(self, peer: PeerId, facts: Facts, components: int) -> bool:
        """What a peer said of itself when it refused, until it announces itself again: others on the way may have made it up. False if we knew that already, or
        it is nonsense."""
        view = self.views.get(peer)
        try:
            spans = merge_spans(Span(start, stop) for start, stop in facts.spans)
        except ValueError:
            return False
        if view is None or facts.span_version < view.version or spans[-1].stop > components:
            return False
        new = replace(view, spans=spans, version=facts.span_version, free_tokens=facts.free_tokens)
        if new == view:
            return False
        self.views[peer] = new
        self.atlases[view.kind].put(new)
        self.mixed[view.mixed_kind].put(new)
        if peer in self.spoke:
            self._told[peer] = self.spoke[peer]
        return True

    def shun(self, peer: PeerId, now: float, wall: float) -> None:
        """It failed us. `now` is the time by which we wait, `wall` the one by which peers announce."""
        self._shunned[peer] = (now + SHUNNED, wall)

    def ban(self, peer: PeerId, until: float) -> None:
        """It was caught at something worse than failing: not before then, whatever it announces."""
        self._banned[peer] = until

    def shunned(self, now: float, *, forgive: bool = False) -> frozenset[PeerId]:
        """Peers to avoid. With `forgive`, those that have announced themselves since they failed us get another chance: better than no route at all. By the
        time of the announcement, since one that we had not read yet when it failed may be older than that."""
        self._shunned = {peer: entry for peer, entry in self._shunned.items() if entry[0] > now}
        self._banned = {peer: until for peer, until in self._banned.items() if until > now}
        failed = (peer for peer, (_, when) in self._shunned.items() if not forgive or self.spoke.get(peer, 0.0) <= when)
        return frozenset((*self._banned, *failed))

    def _mix(self) -> None:
        """Bring `mixed` up to date. A map of its own is kept only where there are several classes to mix: nobody else pays for one."""
        parts: dict[Class, list[Atlas]] = {}
        for atlas in self.atlases.values():
            parts.setdefault(next(iter(atlas.views.values())).mixed_kind, []).append(atlas)
        self.mixed = {kind: of[0] if len(of) == 1 else _union(of, self.mixed.get(kind)) for kind, of in parts.items()}


def _union(parts: Iterable[Atlas], before: Atlas | None) -> Atlas:
    """The map of all their peers: the one of `before`, brought up to date, if it was one."""
    there = {peer: view for part in parts for peer, view in part.views.items()}
    if before is None or not before.mixed:
        return Atlas(there.values(), mixed=True)
    for peer in [peer for peer in before.views if peer not in there]:
        before.drop(peer)
    for peer, view in there.items():
        if before.views.get(peer) != view:
            before.put(view)
    return before
