"""Who coordinates one model: the rule by which candidates agree on one of them, most of the time, without anybody counting votes.

Candidates write claims into the directory and read those of others; a few standbys also ping the coordinator. Nothing correct depends on there being exactly
one: a route is advice. Knows records and times that are handed in; no sockets, no clock, no directory.

Source: the hybrid of the study that docs/routing.md quotes. A claim lives as long as its sequence rises, by the reader's own clock, so clocks need not agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from math import inf
from typing import Literal

from swarm.core import PeerId
from swarm.wire import Claim

Role = Literal["candidate", "claim", "released"]
ROLES = ("candidate", "claim", "released")

AHEAD = 3600.0
"""Seconds that clocks may differ before a term is not believed."""


@dataclass(frozen=True, slots=True)
class ElectionTiming:
    """Seconds."""

    renew: float = 5.0
    """How often the claimant and the standbys write and read."""
    others: float = 30.0
    """How often everybody else does."""
    alive: float = 15.0
    """A claim whose sequence has not risen for so long is dead."""
    ping: float = 1.5
    retry: float = 0.35
    misses: int = 6
    """Pings in a row without an answer, `retry` apart, that make a standby suspect the coordinator. So many, and so close together, because a fifth of all
    messages may be lost (bench/election.py)."""
    doubt: float = 0.7
    """How often a coordinator reads that was told of another."""
    trust: float = 60.0
    """How long it does not stand aside again for being told, though it reads. Or anybody could keep it from acting."""
    suspicion: float = 30.0
    stagger: float = 2.0
    """The standby of rank k waits k times so long before it claims, and reads once more before it does."""
    standbys: int = 4


@dataclass(frozen=True, slots=True)
class Candidacy:
    """What one candidate says in the directory. `score` is quantised, so that it seldom changes; higher is better."""

    peer: PeerId
    role: Role
    term: int
    sequence: int
    score: tuple[int, ...] = ()

    @classmethod
    def of(cls, peer: PeerId, claim: Claim | None, sequence: int, now: float) -> Candidacy | None:
        """What a peer says of itself as a coordinator; None if nothing, or nothing that is to be believed: terms rise by one with every election, so one above
        the seconds of the wall clock `now` was made up to stay above all others."""
        if claim is None or claim.role not in ROLES or claim.term > now + AHEAD:
            return None
        return cls(peer, claim.role, claim.term, sequence, claim.score)  # type: ignore[arg-type]


def height(record: Candidacy, key: str) -> tuple[int, tuple[int, ...], bytes]:
    """Of two claims the higher one stays."""
    return record.term, record.score, _hash(record.peer, key)


def fitness(record: Candidacy, key: str) -> tuple[tuple[int, ...], bytes]:
    """Of two candidates the fitter one is asked, or claims, first."""
    return record.score, _hash(record.peer, key)


def _hash(peer: PeerId, key: str) -> bytes:
    return sha256(f"{peer}|{key}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Say:
    """Write this into the directory."""

    record: Candidacy


@dataclass(frozen=True, slots=True)
class Look:
    """Read the directory, and hand in what it says."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask whether it still coordinates. `claim` is ours, if we took its place: it hears so at once, not with its next look."""

    peer: PeerId
    claim: Candidacy | None = None


ElectionEffect = Say | Look | Ping


@dataclass(slots=True)
class _Heard:
    record: Candidacy
    since: float
    """When its sequence was first seen."""


@dataclass(slots=True)
class _Watch:
    """Pings of one coordinator by a standby, which go on while it suspects it, and once more after it took its place."""

    peer: PeerId
    misses: int = 0
    asked: float = -inf
    answered: bool = True


class Election:
    """One candidate's view. Call `wake` at `deadline` or later, hand in what `Look` and `Ping` bring, and do what is returned."""

    def __init__(self, key: str, peer: PeerId, score: tuple[int, ...], now: float, timing: ElectionTiming = ElectionTiming(), sequence: int = 0) -> None:
        """`key` names what is coordinated; `sequence` is above every one this peer has used before (wall time in milliseconds will do)."""
        self.key, self.peer, self.timing = key, peer, timing
        self._mine = Candidacy(peer, "candidate", 0, sequence, score)
        self._heard: dict[PeerId, _Heard] = {}
        self._suspected: dict[PeerId, float] = {}
        self._term = 0
        self._write_at = self._read_at = now
        self._listened_until = now + 2 * timing.renew
        self._claim_at: float | None = None
        self._checked = False
        self._told_until = -inf
        """For so long we look whether somebody else claims our office, as it said."""
        self._doubts, self._doubts_until, self._trusts_until = False, -inf, -inf
        self._watch: _Watch | None = None

    # --- what anybody may ask ---------------------------------------------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The highest anybody has claimed."""
        return self._term

    def reign(self, now: float) -> int:
        """The term of whoever coordinates, 0 where nobody does."""
        leader = self.coordinator(now)
        return self._mine.term if leader == self.peer else self._heard[leader].record.term if leader is not None else 0

    @property
    def claims(self) -> bool:
        """Whether our claim stands, as far as we know."""
        return self._mine.role == "claim"

    @property
    def leads(self) -> bool:
        """Whether we act as coordinator: not in the moments in which we look whether another does, who has said so."""
        return self.claims and not self._doubts

    def coordinator(self, now: float) -> PeerId | None:
        """The highest claim that is alive and not suspected, our own among them."""
        claims = [heard.record for heard in self._heard.values() if heard.record.role == "claim" and self._alive(heard, now)]
        if self.claims:
            claims.append(self._mine)
        return max(claims, key=lambda record: height(record, self.key)).peer if claims else None

    def ranking(self, now: float) -> list[PeerId]:
        """Candidates that are alive, best first: standbys are the first few, the coordinator left out."""
        alive = [heard.record for heard in self._heard.values() if heard.record.role != "released" and self._alive(heard, now)]
        best = sorted([*alive, self._mine], key=lambda record: fitness(record, self.key), reverse=True)
        leader = self.coordinator(now)
        return [record.peer for record in best if record.peer != leader]

    def deadline(self, now: float) -> float:
        times = [
            self._write_at,
            self._read_at,
            *([self._doubts_until] if self._doubts else []),
            *([self._claim_at] if self._claim_at is not None and not self._checked else []),
        ]
        if self._watch is not None:
            times.append(self._watch.asked + self._pause(self._watch))
        return max(min(times), now)

    # --- what happens -----------------------------------------------------------------------------------------------------------------------------------------

    def wake(self, now: float) -> list[ElectionEffect]:
        """What is due."""
        effects: list[ElectionEffect] = []
        self._doubts = self._doubts and now < self._doubts_until
        if now >= self._read_at:
            self._read_at = now + (self.timing.doubt if self.claims and now < self._told_until else self._period(now))
            effects.append(Look())
        if now >= self._write_at:
            effects += self._say(now)
        return effects + self._ping(now) + self._claim(now)

    def records(self, found: Iterable[Candidacy], now: float) -> list[ElectionEffect]:
        """What the directory says. An older sequence than one seen before is an old copy, and no sign of life."""
        for record in sorted(found, key=lambda record: record.peer):
            if record.peer == self.peer:
                continue
            heard = self._heard.get(record.peer)
            if heard is None or record.sequence > heard.record.sequence:
                self._heard[record.peer] = _Heard(record, now)
                self._suspected.pop(record.peer, None)  # it has written since; if that was its last word, pings will tell again
            self._term = max(self._term, record.term)
        self._heard = {peer: heard for peer, heard in self._heard.items() if now - heard.since <= 2 * self.timing.others}
        return self._settle(now)

    def pong(self, peer: PeerId, leads: bool, now: float) -> list[ElectionEffect]:
        """The coordinator answered, and says whether it thinks it is one."""
        if self._watch is None or self._watch.peer != peer:
            return []
        self._watch.answered, self._watch.misses = True, 0
        if self.claims:  # it has heard of our claim, and the higher one of the two stays; until then it is told again
            self._watch = self._watch if leads else None
            return []
        if leads:
            self._suspected.pop(peer, None)
            return self._settle(now)
        return self._suspect(peer, now)

    def pinged(self, claim: Candidacy | None, now: float) -> list[ElectionEffect]:
        """Somebody asks whether we coordinate (`leads`), and perhaps says that it does. Its word alone takes the office from nobody: if that is true the
        directory says so too, now or in a moment, when what it has just written has arrived. So we read it, and some more times."""
        if claim is None or claim.role != "claim" or not self.claims or height(claim, self.key) <= height(self._mine, self.key) or now < self._told_until:
            return []
        self._told_until = now + self.timing.renew
        if now >= self._trusts_until:
            self._doubts, self._doubts_until, self._trusts_until = True, now + self.timing.stagger, now + self.timing.trust
        self._read_at = min(self._read_at, now + self.timing.doubt)
        return [Look()]

    def score(self, score: tuple[int, ...]) -> None:
        """Our own changed; others hear of it with the next renewal."""
        self._mine = replace(self._mine, score=score)

    def release(self, now: float) -> list[ElectionEffect]:
        """We stop being one, and stop being a candidate, on purpose."""
        self._mine = replace(self._mine, role="released")
        self._claim_at = None
        return self._say(now)

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> list[ElectionEffect]:
        """With the news in: give way to a higher claim, watch whoever leads, or get ready to claim."""
        leader = self.coordinator(now)
        effects: list[ElectionEffect] = []
        if self.claims and leader != self.peer:
            self._mine = replace(self._mine, role="released")
            effects = self._say(now)
            self._mine, self._doubts = replace(self._mine, role="candidate"), False
        rank = self._rank(now)
        if leader is not None:
            self._claim_at = None
            if leader == self.peer or rank >= self.timing.standbys:
                self._watch = self._watch if leader == self.peer and self._watch is not None and self._suspected.get(self._watch.peer, -inf) > now else None
            elif self._watch is None or self._watch.peer != leader:
                self._watch = _Watch(leader)
            return effects
        if self._claim_at is None and self._mine.role == "candidate":
            self._claim_at = max(now + rank * self.timing.stagger, self._listened_until)
            self._checked = False
        elif self._claim_at is not None and now >= self._claim_at and self._checked:
            self._term += 1
            self._mine = replace(self._mine, role="claim", term=self._term)
            self._claim_at = None
            self._read_at = min(self._read_at, now + self.timing.stagger)  # somebody may have claimed at the same moment
            effects += self._say(now)
            if self._watch is not None:
                self._watch = _Watch(self._watch.peer)
        return effects

    def _claim(self, now: float) -> list[ElectionEffect]:
        """Our turn has come: look once more first, and claim when the answer is in (`_settle`)."""
        if self._claim_at is None or now < self._claim_at or self._checked:
            return []
        self._checked = True
        self._read_at = now + self.timing.retry  # should the answer not come, look again
        return [Look()]

    def _ping(self, now: float) -> list[ElectionEffect]:
        watch = self._watch
        if watch is None or now < watch.asked + self._pause(watch):
            return []
        if not watch.answered:
            watch.misses += 1
        watch.asked, watch.answered = now, False
        ping = Ping(watch.peer, self._mine if self.claims else None)
        return [ping, *(self._suspect(watch.peer, now) if watch.misses == self.timing.misses and not self.claims else [])]

    def _pause(self, watch: _Watch) -> float:
        """Silence is looked into at once, until there has been enough of it to suspect."""
        return self.timing.retry if not watch.answered and watch.misses < self.timing.misses else self.timing.ping

    def _suspect(self, peer: PeerId, now: float) -> list[ElectionEffect]:
        self._suspected[peer] = now + self.timing.suspicion
        return self._settle(now)

    def _say(self, now: float) -> list[ElectionEffect]:
        self._mine = replace(self._mine, sequence=self._mine.sequence + 1)
        self._write_at = now + self._period(now)
        return [Say(self._mine)]

    def _period(self, now: float) -> float:
        return self.timing.renew if self.claims or self._rank(now) < self.timing.standbys or self.coordinator(now) is None else self.timing.others

    def _alive(self, heard: _Heard, now: float) -> bool:
        patience = self.timing.alive if heard.record.role == "claim" else self.timing.others + self.timing.alive
        return now - heard.since <= patience and self._suspected.get(heard.record.peer, -inf) <= now

    def _rank(self, now: float) -> int:
        ranking = self.ranking(now)
        return ranking.index(self.peer) if self.peer in ranking else 0
