"""Whose work is looked at again, and what follows: newcomers often, the proven seldom, and whoever was caught is left alone for a while. (So does BOINC, which
also never stops looking.) Pure: times and random numbers are handed in; it knows peers by their ids, and not how work is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swarm.core import PeerId

USUAL = 0.05
"""Of the hops of a proven peer, that are audited: whoever cheats always is caught within 60 hops, who does one time in ten within 600, in 95 % of cases."""

NEW = 0.5
"""Of a newcomer's."""

PROVEN = 10
"""Audits passed in a row after which only the usual share remains."""

DOUBTS = 3
"""Times that a peer would not show its work, more often than it passed, or neighbours with whom it was at odds about it (nobody can tell which of the two is
wrong, but who is at odds with many is): then it counts as caught, without proof."""

FORGIVEN = 30
"""Audits passed after which the neighbour with whom it was at odds longest ago is forgotten: identities are free, and three of them some months apart are no
reason to ban anybody. Fewer would let off who lies one time in ten."""

BAN, LONGEST = 3600.0, 86400.0
"""Seconds of a first ban, and of the longest: each is twice as long as the last."""

REMEMBERED = 4096
"""Peers of whom something is known. Identities are free, so the least proven go first."""


@dataclass(slots=True)
class Record:
    passed: int = 0
    refused: int = 0
    odds: dict[PeerId, None] = field(default_factory=dict)
    """With whom it is at odds, the latest last."""
    since: int = 0
    """Audits passed since then, or since one of them was forgotten."""
    chance: int = 0
    """Audits still to be passed until it may once more draw something else than others, by chance."""
    bans: int = 0
    banned_until: float = 0.0


class Audits:
    def __init__(self, usual: float = USUAL) -> None:
        """`usual` 0: nobody is audited."""
        self._usual = usual
        self._records: dict[PeerId, Record] = {}

    def rate(self, peer: PeerId) -> float:
        """The share of its hops that is to be audited."""
        if self._usual <= 0:
            return 0.0
        record = self._records.get(peer)
        if record is None:
            return max(NEW, self._usual)
        if record.refused or record.odds or record.chance:
            return max(NEW, self._usual)
        new = max(PROVEN - record.passed, 0) / PROVEN
        return max(NEW * new, self._usual)

    def choose(self, peers: Iterable[PeerId], chance: Callable[[], float]) -> list[int]:
        """Which of a chain's hops, by number, to audit now. `chance` gives a number in [0, 1) for each."""
        return [number for number, peer in enumerate(peers) if chance() < self.rate(peer)]

    def passed(self, peer: PeerId) -> None:
        record = self._of(peer)
        record.passed, record.refused, record.since = record.passed + 1, max(record.refused - 1, 0), record.since + 1
        record.chance = max(record.chance - 1, 0)
        if record.odds and record.since >= FORGIVEN:
            del record.odds[next(iter(record.odds))]
            record.since = 0

    def doubted(self, peer: PeerId, now: float, neighbour: PeerId | None = None) -> bool:
        """It did not show its work, or is at odds with a neighbour. Whether that is enough for a ban."""
        record = self._of(peer)
        if neighbour is None:
            record.refused += 1
        elif neighbour not in self.banned(now):
            record.odds.pop(neighbour, None)
            record.odds[neighbour], record.since = None, 0
        if max(record.refused, len(record.odds)) < DOUBTS:
            return False
        self.caught(peer, now)
        return True

    def unsure(self, peer: PeerId) -> None:
        """Somebody makes something else of its work, and nobody can say who is right: it is looked at as a newcomer is, until it passes."""
        record = self._of(peer)
        record.refused = max(record.refused, 1)

    def drew_otherwise(self, peer: PeerId) -> bool:
        """By lot it drew another token than others do, as who computes rightly may where two are nearly as likely. Whether that is too often for chance."""
        record = self._of(peer)
        again, record.chance = record.chance > 0, FORGIVEN
        return again

    def caught(self, peer: PeerId, now: float) -> float:
        """Until when it is banned; then it begins as a newcomer."""
        record = self._of(peer)
        if record.banned_until > now:  # several audits of it were under way
            return record.banned_until
        record.bans += 1
        record.passed = record.refused = record.chance = 0
        record.odds.clear()
        for other in self._records.values():  # it was not their fault
            other.odds.pop(peer, None)
        record.banned_until = now + min(BAN * 2 ** (record.bans - 1), LONGEST)
        return record.banned_until

    def until(self, peer: PeerId) -> float:
        """Until when it is banned, or was."""
        return self._records[peer].banned_until if peer in self._records else 0.0

    def banned(self, now: float) -> frozenset[PeerId]:
        return frozenset(peer for peer, record in self._records.items() if record.banned_until > now)

    def proven(self, peer: PeerId) -> int:
        """How many audits it has passed since it was last caught."""
        return self._records[peer].passed if peer in self._records else 0

    def is_new(self, peer: PeerId) -> bool:
        """Whether it is looked at more often than usual."""
        record = self._records.get(peer)
        return record is None or record.passed < PROVEN or bool(record.refused or record.odds or record.chance)

    def _of(self, peer: PeerId) -> Record:
        if peer not in self._records and len(self._records) >= REMEMBERED:
            del self._records[min(self._records, key=lambda other: (self._records[other].banned_until, self._records[other].passed))]
        return self._records.setdefault(peer, Record())
