"""Whom a client lets serve it: anybody, or only peers that it names. Pure: knows peer ids; not what routes are, nor whether anybody is worth the trust."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarm.core import PeerId
from swarm.errors import MissingLayers, UsageError
from swarm.wire import Announcement


@dataclass(frozen=True, slots=True)
class Trust:
    """`peers` are trusted. If these `only` may serve, the announcements of others are not even looked at, so that no route, repair or newcomer can be one of
    them, whoever proposes it."""

    peers: frozenset[PeerId] = frozenset()
    only: bool = False

    @classmethod
    def of(cls, peers: Iterable[PeerId], only: bool | None) -> Trust:
        """Who names somebody means only those, unless it says otherwise. Raises UsageError."""
        named = frozenset(peers)
        if only and not named:
            raise UsageError("trusted_only needs somebody to trust: name peers with trust=[…], by the ids that swarm-serve prints")
        return cls(named, bool(named) if only is None else only)

    def admitted(self, records: Iterable[Announcement]) -> list[Announcement]:
        return [record for record in records if not self.only or record.peer in self.peers]

    def explained(self, missing: MissingLayers) -> MissingLayers:
        """The same, where it may be that others would have served."""
        if not self.only:
            return missing
        sentence = f"{missing}; only the {len(self.peers)} peers that you trust are asked: trust somebody who serves these layers (trust=[…], --trust)"
        return MissingLayers(sentence, missing.spans, missing.layers, missing.partial, missing.longest, missing.memory)
