"""Work of a client's own answers, looked at again: one hop after the other says what it received and made, and somebody else makes it again.

While it computes, a hop sees nothing of that. Afterwards it cannot say otherwise than it did: its successor has noted what came (`machines.marks`). What is to
be audited and what follows is decided by `machines.audits`; this shell asks, waits with deadlines and compares. Knows neither the network nor tensors.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from swarm.client.planner import Surroundings
from swarm.core import Hop, PeerId, Sampling, SessionId, base_dtype
from swarm.errands import ANSWER, Errands, Likeness, Redone
from swarm.errors import ProtocolError
from swarm.machines.audits import Audits
from swarm.machines.evidence import received, stated
from swarm.machines.marks import MOST_SHOWN_BYTES, token_marks
from swarm.machines.probe import USUAL_ROOM, Work, hide
from swarm.machines.redone import by_lot
from swarm.routing.table import PeerView
from swarm.wire import ITEM_SIZE, MARK, MOST_SHOWN, Accuse, Blob, Message, Show, Shown, Statement, compressed

log = logging.getLogger(__name__)

MOST_BYTES = MOST_SHOWN_BYTES
"""Of activations that one audit fetches of a hop: it looks at the beginning of a session, as far as that reaches."""

LOOKED_AT = 64
"""Positions whose outputs are compared; of those before, only the inputs are needed."""

AT_ONCE = 2
"""Audits whose hops are still to show what they made. More are left out: they are samples."""

UNDER_WAY = 8
"""The same, with those whose work others are making again. Each holds up to MOST_BYTES, and peers that never answer hold it up for minutes."""

REFEREES = 3
"""Peers asked to make a piece of work again, at most: the second says who is right where the first disagrees."""

MOST_LOGPROBS = 20

HEARING = 40.0
"""Seconds for which a session is kept open that its caller has closed, for its hops to show what they made: a few answers, the slowest of them."""


class Host(Surroundings, Protocol):
    """What audits need of their client."""

    own_addrs: tuple[str, ...]

    def wall(self) -> float: ...

    def say(self, peer: PeerId, message: Message, addrs: Sequence[str] = ()) -> None: ...

    def verify(self, peer: PeerId, data: bytes, signature: bytes) -> bool: ...

    def distrust(self, peer: PeerId, until: float) -> None:
        """Use it no more until then, not even for what runs."""


@dataclass(frozen=True, slots=True)
class Job:
    """A turn as it went: its chain, its tokens, and how they were drawn. `clean`: every hop has computed each position once, so what one sent is what the next
    one has."""

    session: SessionId
    chain: int
    route: tuple[Hop, ...]
    revision: str
    numerics: str
    tokens: tuple[int, ...]
    began: int
    sampling: Sampling
    clean: bool


@dataclass(frozen=True, slots=True)
class Made:
    """What a hop showed."""

    shown: Shown
    statement: Statement


@dataclass(frozen=True, slots=True)
class Testimony:
    """What a hop `made` of what it received for positions [0, stop): `hidden`, or tokens. Looked at is what it made of [start, stop)."""

    made: Made
    hidden: Blob | None
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Again:
    """What a referee made of the same, and, where that is something else, what it says itself of its work."""

    redone: Redone
    testimony: Testimony | None = None

    @property
    def peer(self) -> PeerId:
        return self.redone.view.peer


class Wrong(NamedTuple):
    """Who computed wrongly, and what it showed of it in its own words."""

    peer: PeerId
    testimony: Testimony | None


@dataclass(slots=True)
class Hearing:
    """A session whose hops are still to show what they made. They hold the positions below `kept`, by our own orders; `ends` is what waits for it."""

    route: tuple[Hop, ...]
    kept: float = math.inf
    ends: list[Callable[[], None]] = field(default_factory=list)


class Unclear(Exception):
    """An audit that came to nothing, and why."""


class Auditor:
    def __init__(self, host: Host, audits: Audits, likeness: Likeness, dice: random.Random) -> None:
        self.audits = audits
        self.passed = self.caught = self.unclear = 0
        """How audits ended."""
        self._host, self._likeness, self._dice = host, likeness, dice
        self._waiting: dict[tuple[SessionId, int, PeerId], tuple[asyncio.Future[Shown], bool]] = {}
        """What somebody is to show, and whether it is held against him that he does not."""
        self._errands = Errands(host, dice, likeness)
        self._tasks: set[asyncio.Task[None]] = set()
        self._hearings: dict[SessionId, Hearing] = {}

    def turn(self, job: Job) -> None:
        """A turn is over: perhaps look at some of it."""
        if len(self._hearings) >= AT_ONCE or len(self._tasks) >= UNDER_WAY or job.session in self._hearings:
            return
        out = self._host.trust.peers | {self._host.peer}
        chosen = self.audits.choose([hop.peer for hop in job.route], self._dice.random)
        numbers = [at for at in chosen if job.route[at].peer not in out and self._referees(job, job.route[at])]
        if numbers:
            self._hearings[job.session] = Hearing(job.route)
            self._spawn(self._audit_each(job, numbers))

    def receive(self, sender: PeerId, message: Message) -> bool:
        """Whether it was about an audit."""
        if isinstance(message, Shown):
            future, _ = self._waiting.get((message.session, message.hop, sender), (None, False))
            if future is not None and not future.done():
                future.set_result(message)
            return True
        return self._errands.receive(sender, message)

    def lost(self, peer: PeerId) -> None:
        doubts = False
        for (_, _, asked), (future, doubted) in self._waiting.items():
            if asked == peer and not future.done():
                future.cancel()
                doubts |= doubted
        if doubts:  # a cheat might hang up rather than show anything; one that died has refused once, however much it was asked for
            self._doubt(peer)
        self._errands.lost(peer)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for session in list(self._hearings):  # of tasks that had not begun
            self._heard(session)

    def after_hearing(self, session: SessionId, end: Callable[[], None]) -> None:
        """Call `end` once its hops have shown what they made; now, if nobody asks them. Else a hop that obeyed would seem to refuse."""
        if (hearing := self._hearings.get(session)) is None:
            end()
        else:
            hearing.ends.append(end)

    def reopened(self, session: SessionId, route: Sequence[Hop], kept: int) -> None:
        """The session goes on over a route, and hops were told to keep what they hold below `kept`."""
        if (hearing := self._hearings.get(session)) is not None:
            same = [(hop.peer, hop.span) for hop in route] == [(hop.peer, hop.span) for hop in hearing.route]
            hearing.kept = min(hearing.kept, kept if same else 0)

    async def settled(self) -> None:
        """Until no audit is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- one audit ----------------------------------------------------------------------------------------------------------------------------------------

    async def _audit_each(self, job: Job, numbers: Sequence[int]) -> None:
        """One hop after the other: first all testimonies, while they are there, then what others make of it."""
        heard: list[tuple[int, Testimony]] = []
        try:
            async with asyncio.timeout(HEARING):
                for number in numbers:
                    if (testimony := await self._hear(job, number)) is not None:
                        heard.append((number, testimony))
        except TimeoutError:
            log.info("an audit of a session took too long")
        finally:
            self._heard(job.session)
        for number, testimony in heard:
            await self._try(job, number, testimony)

    def _heard(self, session: SessionId) -> None:
        for end in self._hearings.pop(session).ends:
            end()

    async def _hear(self, job: Job, number: int) -> Testimony | None:
        try:
            return await self._testimony(job, number, *self._window(job, number))
        except Unclear as why:
            self._leave_open(job, number, why)
        return None

    async def _try(self, job: Job, number: int, testimony: Testimony) -> None:
        try:
            wrong = await self._verdict(job, number, testimony)
        except Unclear as why:
            self._leave_open(job, number, why)
        else:
            self._judge(job, job.route[number].peer, wrong, testimony)

    def _leave_open(self, job: Job, number: int, why: Unclear) -> None:
        self.unclear += 1
        log.info("an audit of %s came to nothing: %s", job.route[number].peer, why)

    def _window(self, job: Job, number: int) -> tuple[int, int]:
        """Which positions to compare: some of the beginning that can be fetched, the last token of all left out, which nobody need have computed. Of a head,
        some that it drew after."""
        item = ITEM_SIZE.get(base_dtype(job.numerics), 4)
        row = self._host.shape.hidden * item if self._host.shape is not None else 2**14
        stop = min(len(job.tokens) - 1, MOST_SHOWN, MOST_BYTES // row)
        least = job.began if number == len(job.route) - 1 else 1
        if stop < least:
            raise Unclear("there is nothing to compare so near to the beginning")
        stop = self._dice.randint(max(least, min(LOOKED_AT, stop)), stop)
        return max(stop - LOOKED_AT, 0), stop

    async def _testimony(self, job: Job, number: int, start: int, stop: int) -> Testimony:
        """What the suspect received and made. Its neighbours are asked first."""
        first, last = number == 0, number == len(job.route) - 1
        before = None if first else await self._ask(job, number - 1, 0, stop)
        behind = None if last else await self._ask(job, number + 1, stop, stop)
        hidden = before.shown.rows if before is not None else None
        made = await self._ask(job, number, stop if last else start, stop, doubts=True)
        if made.statement.received != received(job.tokens[:stop], hidden):
            self._at_odds(job, number - 1, number)
        if last and not self._drew(job, made.statement, stop):  # tokens come home through the first hop, which might have changed them
            self._at_odds(job, 0 if number else -1, number)
        if behind is not None and made.statement.made != behind.statement.received[MARK * start :]:
            self._at_odds(job, number, number + 1)
        return Testimony(made, hidden, start, stop)

    def _drew(self, job: Job, statement: Statement, stop: int) -> bool:
        """Whether a head says that it drew the tokens of this turn that came home, as far as it says anything: older peers do not."""
        count = min(len(statement.drawn) // MARK, stop + 1 - job.began)
        return not count or statement.drawn[-MARK * count :] == token_marks(job.tokens[stop + 1 - count : stop + 1])

    def _at_odds(self, job: Job, one: int, other: int) -> None:
        """Two neighbours do not say the same of what passed between them. Who lies nobody can tell; where some hop has computed again, perhaps neither."""
        peers = [job.route[number].peer for number in (one, other) if number >= 0]
        if job.clean:
            for peer, neighbour in zip(peers, reversed(peers), strict=True):
                self._doubt(peer, None if neighbour == peer else neighbour)
            if (avoided := self._dice.choice(peers)) != self._host.peer:  # so that the other meets others, with whom it is at odds too if it lies
                self._host.table.shun(avoided, self._host.clock(), self._host.wall())
        raise Unclear(f"{' and '.join(peers)} do not say the same")

    async def _ask(self, job: Job, number: int, start: int, stop: int, *, doubts: bool = False) -> Made:
        """Raises Unclear. With `doubts` it is held against a hop that it does not show what it made a moment ago."""
        hop = job.route[number]
        key = (job.session, number, hop.peer)
        future = asyncio.get_running_loop().create_future()
        self._waiting[key] = future, doubts
        try:
            self._host.say(hop.peer, Show(job.session, job.chain, number, hop.start, hop.stop, start, stop), hop.addrs)
            await asyncio.wait({future}, timeout=ANSWER)
            if doubts and not future.done():  # though its link lives; else `lost` does so
                self._doubt(hop.peer)
            if not future.done() or future.cancelled():
                raise Unclear(f"{hop.peer} does not answer")
            shown = future.result()
        finally:
            self._waiting.pop(key, None)
        try:
            statement = stated(shown, hop.peer, self._host.verify)
            about = (statement.client, statement.session, statement.first, statement.behind, statement.start, statement.stop)
            if about != (self._host.peer, job.session, hop.start, hop.stop, start, stop):
                raise ProtocolError("it speaks of something else")
            if (statement.revision, statement.numerics) != (job.revision, job.numerics) or (shown.rows is None) != (start == stop):
                raise ProtocolError("it does not show what was asked for")
        except ProtocolError as error:
            if doubts and job.clean and self._must_hold(job.session, stop):
                self._doubt(hop.peer)
            raise Unclear(f"{hop.peer} shows nothing that could be checked: {error}") from error
        return Made(shown, statement)

    def _must_hold(self, session: SessionId, stop: int) -> bool:
        """Whether hops still hold these positions, for all that we have told them since."""
        hearing = self._hearings.get(session)
        return hearing is not None and stop <= hearing.kept

    # --- verdicts -----------------------------------------------------------------------------------------------------------------------------------------

    async def _verdict(self, job: Job, number: int, testimony: Testimony) -> Wrong | None:
        """Who computed wrongly: nobody, the suspect, or a referee whom another one contradicts. Raises Unclear where that cannot be told."""
        suspect = job.route[number]
        others: list[Again] = []
        against = 0
        special = compressed(testimony.hidden, testimony.made.shown.rows)
        able = [view for view in self._referees(job, suspect) if view.compresses or not special]
        for view in able[:REFEREES]:
            again = await self._again(job, suspect, view, testimony)
            agrees = None if again is None else await self._agrees(job, again.redone, testimony)
            if again is None or (agrees is None and again.redone.rows is None):
                continue
            if agrees:
                return await self._odd_one(others, again.redone, testimony)
            others.append(again)
            against += agrees is False
            if agrees is False and (against == 2 or view.peer in self._host.trust.peers):
                return Wrong(suspect.peer, testimony)
        raise Unclear("nobody could make it again" if not others else f"{others[0].peer} makes something else of it, and there is nobody to say who is right")

    async def _odd_one(self, others: Sequence[Again], redone: Redone, testimony: Testimony) -> Wrong | None:
        """A referee who made something else than the suspect and another referee, and is contradicted by that one too."""
        for other in others:
            rows = other.redone.rows
            alike = False if rows is None else await redone.made_alike(rows[testimony.start : testimony.stop], testimony.start)
            if alike is False:
                return Wrong(other.peer, other.testimony)
        return None

    def _referees(self, job: Job, suspect: Hop) -> list[PeerView]:
        """Whom to ask to make it again: peers of exactly the suspect's class that hold the same; the trusted first, then the proven, else by lot."""
        host = self._host
        now, views = host.clock(), host.table.views
        mine = views.get(suspect.peer)
        out = host.table.shunned(now) | {host.peer, suspect.peer}
        kind = mine.kind if mine is not None else (job.revision, job.numerics)
        able = [view for view in views.values() if view.kind == kind and view.state == "online" and view.holds(suspect.span) and view.peer not in out]
        lot = {view.peer: self._dice.random() for view in sorted(able, key=lambda view: view.peer)}
        return sorted(able, key=lambda view: (view.peer not in host.trust.peers, not self.audits.proven(view.peer), lot[view.peer]))

    async def _again(self, job: Job, suspect: Hop, view: PeerView, testimony: Testimony) -> Again | None:
        """None if it does not come to an end."""
        stop, is_last = testimony.stop, suspect.stop == self._host.components
        hop = Hop(view.peer, suspect.start, suspect.stop, view.addrs, view.version)
        tokens = hide(job.tokens[:stop], self._dice.getrandbits) if suspect.start and not is_last else job.tokens[:stop]
        sampling = replace(job.sampling, logprobs=MOST_LOGPROBS) if is_last and not job.sampling.temperature else job.sampling
        emit_from = self._emit_from(job, stop) if is_last else 0
        compress = compressed(testimony.made.shown.rows)
        told, room = (tokens, testimony.hidden, sampling, emit_from), self._dice.randint(*USUAL_ROOM)
        work = Work(hop, job.revision, job.numerics, self._host.components, *told, room, compress)
        async with self._errands.redoing(view, work) as redone:
            return None if redone is None else Again(redone, await self._own_words(job, redone, testimony))

    async def _own_words(self, job: Job, redone: Redone, testimony: Testimony) -> Testimony | None:
        """What a referee that made something else signs of that, while it has it: it may be wrong itself, and then others are to hear of it. None if it shows
        something else than it has sent us."""
        rows, made, probe, (start, stop) = testimony.made.shown.rows, redone.rows, redone.probe, (testimony.start, testimony.stop)
        if rows is None or made is None or len(made) < stop:
            return None
        made = made[start:stop]
        if self._likeness.share(rows, made, redone.work.hop.stop - redone.work.hop.start) <= 1:
            return None
        try:
            said = await self._ask(replace(job, session=probe.session, chain=1, route=probe.route, clean=False), probe.to, start, stop, doubts=True)
        except Unclear:
            return None
        return Testimony(said, testimony.hidden, start, stop) if said.shown.rows == made else None

    def _emit_from(self, job: Job, stop: int) -> int:
        """The first position of those looked at whose token the head drew."""
        return max(job.began, stop - LOOKED_AT, 1)

    async def _agrees(self, job: Job, redone: Redone, testimony: Testimony) -> bool | None:
        """Whether it came out the same. None where that cannot be told."""
        rows = testimony.made.shown.rows
        if redone.work.is_last:
            return await redone.drew_alike(job.tokens)
        return None if rows is None else await redone.made_alike(rows, testimony.start)

    def _judge(self, job: Job, suspect: PeerId, wrong: Wrong | None, testimony: Testimony) -> None:
        if wrong is None or wrong.peer != suspect:
            self.passed += 1
            self.audits.passed(suspect)
        if wrong is None:
            return
        if testimony.made.shown.rows is None and by_lot(job.sampling) and not self.audits.drew_otherwise(wrong.peer):
            self.unclear += 1
            log.info("%s drew another token than others do; nobody can tell whether by chance", wrong.peer)
            return
        self.caught += 1
        until = self.audits.caught(wrong.peer, self._host.clock())
        log.warning("%s computes something else than others do; it is left alone for %.0f minutes", wrong.peer, (until - self._host.clock()) / 60)
        self._host.distrust(wrong.peer, until)
        if wrong.testimony is not None and wrong.testimony.made.shown.rows is not None:
            self._accuse(job, wrong.testimony, wrong.testimony.made.shown.rows)

    def _doubt(self, peer: PeerId, neighbour: PeerId | None = None) -> None:
        if peer == self._host.peer or peer in self._host.trust.peers:
            return
        now = self._host.clock()
        if self.audits.doubted(peer, now, neighbour):
            log.warning("%s does not account for what it computes; it is left alone for a while", peer)
            self._host.distrust(peer, self.audits.until(peer))

    def _accuse(self, job: Job, testimony: Testimony, rows: Blob) -> None:
        """Tell the coordinator, who tries for itself."""
        host, tokens, shown = self._host, job.tokens[: testimony.stop], testimony.made.shown
        if host.advisers is None or (leader := host.advisers.coordinator) is None or host.shape is None:
            return
        tokens = tokens if testimony.hidden is None else hide(tokens, self._dice.getrandbits)
        host.say(leader, Accuse(host.shape.config_hash, shown.statement, shown.signature, tokens, testimony.hidden, rows))

    def _spawn(self, life: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(life, name="audit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
