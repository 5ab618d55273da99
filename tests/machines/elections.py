"""A stage for elections in virtual time: candidates, a directory of five replicas, pings, losses, deaths, a partition, clocks that disagree.

Every candidate runs the real machine. The directory is simpler than a real one: reads and writes always find the five replicas of the key, if they get through.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from swarm.machines.election import Candidacy, Election, ElectionEffect, Look, Ping, Say

EXPIRY = 45.0
"""Seconds a record lives, by the writer's clock at its start and the reader's at its end."""

REPLICAS = 5


@dataclass
class Candidate:
    name: str
    skew: float
    side: int = 0
    machine: Election | None = None
    born: int = 0
    """How often it was started: what an earlier life has under way is not for this one."""


@dataclass
class Outcome:
    seconds: float = 0.0
    alone: float = 0.0
    """Seconds without a coordinator."""
    doubled: float = 0.0
    """Seconds with two on one side."""
    gaps: list[float] = field(default_factory=list)
    first_try: int = 0
    three_tries: int = 0
    clients: int = 0
    changes: int = 0

    @property
    def mean_gap(self) -> float:
        return sum(self.gaps) / len(self.gaps) if self.gaps else 0.0


class Stage:
    def __init__(self, seed: int, candidates: int, *, loss: float, skew: float) -> None:
        self.random = random.Random(seed)
        self.loss, self.now, self.outcome = loss, 0.0, Outcome()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.replicas: list[dict[str, tuple[Candidacy, float]]] = [{} for _ in range(REPLICAS)]
        self.sides = [0] * REPLICAS
        self.all = {f"peer{at:02}": Candidate(f"peer{at:02}", self.random.uniform(-skew, skew)) for at in range(candidates)}
        for candidate in self.all.values():
            self.after(self.random.uniform(0, 20), lambda candidate=candidate: self.start(candidate))

    # --- the world --------------------------------------------------------------------------------------------------------------------------------------------

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, act))

    def run(self, until: float, *, count: bool = True) -> Outcome:
        while self._queue and self._queue[0][0] <= until:
            when, _, act = heapq.heappop(self._queue)
            if count:
                self._observe(when - self.now)
            self.now = when
            act()
        self.now = until
        return self.outcome

    def _observe(self, seconds: float) -> None:
        outcome, leaders = self.outcome, self.leaders()
        outcome.seconds += seconds
        if not leaders:
            outcome.alone += seconds
            if not self._alone:
                outcome.gaps.append(0.0)
            outcome.gaps[-1] += seconds
        self._alone = not leaders
        outcome.doubled += seconds * (len(leaders) > len({leader.side for leader in leaders}))

    _alone = False

    def leaders(self) -> list[Candidate]:
        return [candidate for candidate in self.all.values() if candidate.machine is not None and candidate.machine.leads]

    def lost(self) -> bool:
        return self.random.random() < self.loss

    # --- lives ------------------------------------------------------------------------------------------------------------------------------------------------

    def start(self, candidate: Candidate) -> None:
        candidate.born += 1
        score = (self.random.randint(1, 3), self.random.randint(0, 3))
        candidate.machine = Election("model/0", candidate.name, score, self.now, sequence=round(1000 * (self.now + 1000)))
        self._wake(candidate, candidate.born)

    def kill(self, candidate: Candidate, back_after: float) -> None:
        candidate.machine = None
        self.after(back_after, lambda: self.start(candidate))

    def _wake(self, candidate: Candidate, life: int) -> None:
        if candidate.machine is None or candidate.born != life:
            return
        if candidate.machine.deadline(self.now) <= self.now:
            self._do(candidate, candidate.machine.wake(self.now))
        self.after(max(candidate.machine.deadline(self.now) - self.now, 0.01), lambda: self._wake(candidate, life))

    def _do(self, candidate: Candidate, effects: list[ElectionEffect]) -> None:
        life = candidate.born
        for effect in effects:
            if isinstance(effect, Say):
                self.outcome.changes += effect.record.role == "claim" and effect.record.term > self._terms
                self._terms = max(self._terms, effect.record.term)
                expires = self.now + candidate.skew + EXPIRY
                self.after(self.random.uniform(0.2, 1.0), partial(self._store, candidate, effect.record, expires))
            elif isinstance(effect, Look):
                self.after(self.random.uniform(0.3, 1.5), lambda: self._answer(candidate, life))
            elif isinstance(effect, Ping):
                self._ping(candidate, effect, life)

    _terms = 0

    def _store(self, writer: Candidate, record: Candidacy, expires: float) -> None:
        for at, replica in enumerate(self.replicas):
            if self.sides[at] == writer.side and not self.lost() and (record.peer not in replica or replica[record.peer][1] < expires):
                replica[record.peer] = record, expires

    def read(self, reader: Candidate) -> list[Candidacy]:
        newest: dict[str, Candidacy] = {}
        for at, replica in enumerate(self.replicas):
            if self.sides[at] != reader.side or self.lost():
                continue
            for peer, (record, expires) in replica.items():
                if expires > self.now + reader.skew and (peer not in newest or record.sequence > newest[peer].sequence):
                    newest[peer] = record
        return list(newest.values())

    def _answer(self, reader: Candidate, life: int) -> None:
        if reader.machine is not None and reader.born == life:
            self._do(reader, reader.machine.records(self.read(reader), self.now))
            self._wake_soon(reader, life)

    def _ping(self, one: Candidate, ping: Ping, life: int) -> None:
        other = self.all[ping.peer]
        if other.side != one.side or self.lost():
            return

        def arrive() -> None:
            if other.machine is None:
                return
            self._do(other, other.machine.pinged(ping.claim, self.now))
            leads = other.machine.claims
            if not self.lost():
                self.after(self.random.uniform(0.02, 0.2), lambda: answer(leads))

        def answer(leads: bool) -> None:
            if one.machine is not None and one.born == life:
                self._do(one, one.machine.pong(ping.peer, leads, self.now))
                self._wake_soon(one, life)

        self.after(self.random.uniform(0.02, 0.2), arrive)

    def _wake_soon(self, candidate: Candidate, life: int) -> None:
        self.after(0.01, lambda: candidate.machine is not None and candidate.born == life and self._do(candidate, candidate.machine.wake(self.now)))

    # --- a client ---------------------------------------------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """A client looks up who coordinates and tries the claim first, then the best of the others: any candidate that lives can answer."""
        client = Candidate("client", 0.0, self.random.choice([0, 0, 0, 1]) if len(set(self.sides)) > 1 else 0)
        records = sorted(self.read(client), key=lambda record: (record.role == "claim", record.term, record.score, record.peer), reverse=True)
        listed = [self.all[record.peer] for record in records if record.role != "released"][:3]
        good = [candidate.machine is not None and candidate.side == client.side for candidate in listed]
        self.outcome.clients += 1
        self.outcome.first_try += bool(good[:1] and good[0])
        self.outcome.three_tries += any(good)


def hour(seed: int, *, candidates: int = 50, loss: float, skew: float, seconds: float = 3600.0, partition: bool = True) -> Outcome:
    """As in the study: the coordinator killed every 300 s and back after 120, somebody else killed about every minute, one partition of 300 s."""
    stage = Stage(seed, candidates, loss=loss, skew=skew)
    stage.run(90.0, count=False)

    def kill_leader() -> None:
        for leader in stage.leaders():
            stage.kill(leader, 120.0)
        stage.after(300.0, kill_leader)

    def kill_somebody() -> None:
        living = [candidate for candidate in stage.all.values() if candidate.machine is not None and not candidate.machine.leads]
        if living:
            stage.kill(stage.random.choice(living), stage.random.uniform(20, 200))
        stage.after(stage.random.expovariate(1 / 60), kill_somebody)

    def part(apart: bool) -> None:
        for candidate in list(stage.all.values())[: candidates * 2 // 5]:
            candidate.side = int(apart)
        stage.sides = [0, 0, 0, int(apart), int(apart)]

    def client() -> None:
        stage.ask()
        stage.after(stage.random.expovariate(1.0), client)

    stage.after(300.0, kill_leader)
    stage.after(30.0, kill_somebody)
    stage.after(1.0, client)
    if partition:
        stage.after(seconds / 2, lambda: part(True))
        stage.after(seconds / 2 + 300.0, lambda: part(False))
    return stage.run(90.0 + seconds)
