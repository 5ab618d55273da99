"""Routes that others plan for a client: whom to ask, in which order, how long to wait, and whom to ask no more.

The elected coordinator sees what all sessions together burden its peers with, which a client that reads the directory does not. But a client believes nothing
that it can check: an answer must be signed by whoever was asked, under the newest term the client has heard of, through peers that it knows itself, and now and
then no dearer than its own plan. Whatever happens here, the client can plan for itself. Knows neither sessions nor which network it is on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import median

from swarm.core import Hop, PeerId, SessionId
from swarm.errors import MissingLayers, ProtocolError
from swarm.machines.election import Candidacy, fitness, height
from swarm.routing.atlas import Atlas, Class
from swarm.routing.load import announced
from swarm.routing.plan import appraise, plan, repair
from swarm.routing.route import Request, Route
from swarm.wire import MOST_NAMED, Announcement, Message, Progress, Routed, RouteRequest, Unrouted, decode_advice

log = logging.getLogger(__name__)

TRIES = 3
"""Candidates asked for one route. One of the first three answers in 99.7 % of cases or more (docs/routing.md)."""

ANSWER = 1.0
"""Seconds to wait for each while nothing is running: far more than a round trip across the world and a plan."""

ANSWER_RUNNING = 0.4
"""Seconds to wait for the one that is asked while an answer stands still: our own repair takes milliseconds and is hardly worse."""

SILENT = 10.0
"""Seconds for which one that did not answer is not asked again."""

BAD = 600.0
"""Seconds for which one whose advice was no good is not."""

AUDIT = 20
"""One route in so many is compared with our own plan."""

DEARER = 1.3
"""Times the cost of our own plan that an audited route may cost: the coordinator knows of load that we do not."""

PROMISES, BROKEN = 5, 1.5
"""Promises are judged once there are so many: by the median of what came to pass over what was promised."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask. `old` is the route whose holes are to be filled, None for a new one. `tentative` says that the session may stay where it is: nobody counts
    it elsewhere for having asked."""

    session: SessionId
    kind: Class
    request: Request
    old: Route | None = None
    running: bool = False
    tentative: bool = False


class Stale(Exception):
    """Advice that was good elsewhere, or at another time."""


class Advisers:
    """`verify` checks a signature, `chance` gives a number in [0, 1) for every route: below 1/AUDIT it is audited."""

    def __init__(
        self,
        me: PeerId,
        send: Callable[[PeerId, Message], None],
        learn: Callable[[PeerId, Sequence[str]], None],
        verify: Callable[[PeerId, bytes, bytes], bool],
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._me, self._send, self._learn, self._verify, self._clock, self._chance = me, send, learn, verify, clock, chance
        self._model = ""
        self._candidates: list[Candidacy] = []
        self._addrs: dict[PeerId, tuple[str, ...]] = {}
        self._shards = 1
        self._term = 0
        self._avoided: dict[PeerId, float] = {}
        self._promises: dict[PeerId, deque[float]] = {}
        self._waiting: dict[int, tuple[PeerId, asyncio.Future[Message]]] = {}
        self._planned: dict[SessionId, tuple[PeerId, int]] = {}
        """Who placed a session, and how many tokens it had then."""
        self._refuted: dict[PeerId, float] = {}
        """Hops that say there is another coordinator, and when they said so."""
        self._number = 0

    # --- what the directory says ------------------------------------------------------------------------------------------------------------------------------

    def know(self, config_hash: str, records: Sequence[Announcement], wall: float) -> None:
        """Who may be asked."""
        found = {
            record.peer: candidacy
            for record in records
            if record.state == "online" and (candidacy := Candidacy.of(record.peer, record.claim, record.sequence, wall)) is not None
        }
        self._model = config_hash
        self._candidates = [found[peer] for peer in sorted(found) if found[peer].role != "released"]
        self._addrs = {record.peer: record.addrs for record in records if record.peer in found}
        self._term = max((candidacy.term for candidacy in self._candidates if candidacy.role == "claim"), default=0)
        self._shards = next((record.claim.shards for record in records if record.claim is not None and record.peer == self.coordinator), 1)

    @property
    def coordinator(self) -> PeerId | None:
        """Who coordinates, as far as the directory says."""
        claims = [candidacy for candidacy in self._candidates if candidacy.role == "claim"]
        return max(claims, key=lambda claim: height(claim, self._model)).peer if claims else None

    def order(self, session: SessionId, exclude: frozenset[PeerId] = frozenset()) -> list[PeerId]:
        """Whom to ask, in this order: nobody before there is a coordinator. One that divides its work does so by session, between itself and its standbys."""
        leader, now = self.coordinator, self._clock()
        if leader is None:
            return []
        others = sorted((one for one in self._candidates if one.peer != leader), key=lambda one: fitness(one, self._model), reverse=True)
        ranking = [leader, *(one.peer for one in others)]
        first = int.from_bytes(hashlib.sha256(session).digest()[:4], "big") % min(self._shards, len(ranking))
        ranking = [ranking[first], *ranking[:first], *ranking[first + 1 :]]
        return [peer for peer in ranking if self._avoided.get(peer, now) <= now and peer not in exclude][:TRIES]

    # --- what the network says --------------------------------------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: Message) -> None:
        if isinstance(message, Routed | Unrouted):
            asked, future = self._waiting.get(message.number, ("", None))
            if future is not None and asked == sender and not future.done():
                future.set_result(message)

    def lost(self, peer: PeerId) -> None:
        """Whoever's link is gone will not answer."""
        for asked, future in self._waiting.values():
            if asked == peer and not future.done():
                future.cancel()

    def stale(self, hop: PeerId, route: Route, term: int) -> bool:
        """A hop refused an advised route, because it has known a higher term for a while. Its word is good for asking somebody else once; which term is the
        highest we believe signed claims alone. False if it is not to be believed."""
        now = self._clock()
        self._refuted = {peer: when for peer, when in self._refuted.items() if now - when < SILENT}
        if not route.planner or term <= route.term or hop in self._refuted:
            return False
        self._refuted[hop] = now
        self._avoid(route.planner, SILENT, f"coordinates no more, says {hop}: term {term} is known")
        return True

    # --- what planning asks -----------------------------------------------------------------------------------------------------------------------------------

    async def route(self, question: Question, atlas: Atlas) -> Route | None:
        """The advice of the first who has some that is good; None if nobody has, and then the client must plan for itself. Whoever placed the session before
        hears that it is elsewhere."""
        route = await self._advised(question, atlas)
        if not question.tentative:
            session, length = question.session, question.request.prompt
            if session in self._planned and (route is None or route.planner != self._planned[session][0]):
                self.progress(session, length, ended=True)
            if route is not None:
                self._planned[session] = route.planner, length
        return route

    def progress(self, session: SessionId, length: int, *, ended: bool = False) -> None:
        """Tell whoever placed a session how many tokens it has got since, now that it has `length`, and whether its answer still runs."""
        if (planned := self._planned.get(session)) is not None:
            adviser, before = planned
            self._send(adviser, Progress(session, max(length - before, 0), ended))
        if ended:
            self._planned.pop(session, None)

    def kept(self, route: Route, seconds: float) -> None:
        """How an advised route turned out: seconds per token. Where our own prediction is as far off as the promise, the announcements were wrong, and not
        whoever read them."""
        if not route.planner:
            return
        promises, excused = self._promises.setdefault(route.planner, deque(maxlen=PROMISES)), min(seconds, route.seconds_per_token)
        promises.append(excused / route.promise if route.promise > 0 else inf if excused > 0 else 1.0)
        if len(promises) == PROMISES and median(promises) > BROKEN:
            promises.clear()
            self._avoid(route.planner, BAD, "promises too much")

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    async def _advised(self, question: Question, atlas: Atlas) -> Route | None:
        if max(len(question.request.exclude), len(question.request.slower)) > MOST_NAMED:
            return None
        tries = self.order(question.session, question.request.exclude)[: 1 if question.running else TRIES]
        for adviser in tries:
            asked = self._clock()
            answer = await self._ask(adviser, question)
            if answer is None:
                self._avoid(adviser, SILENT, "does not answer")
            elif isinstance(answer, Routed):
                try:
                    route = self._checked(adviser, answer, asked, question, atlas)
                except (ProtocolError, ValueError) as error:
                    self._avoid(adviser, BAD, f"gives bad advice: {error}")
                except Stale as error:
                    self._avoid(adviser, SILENT, str(error))
                else:
                    return route
        return None

    async def _ask(self, adviser: PeerId, question: Question) -> Message | None:
        """What it answers, None if nothing in time."""
        self._number = number = self._number + 1
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = adviser, future
        self._learn(adviser, self._addrs.get(adviser, ()))
        self._send(adviser, self._message(number, question))
        try:
            await asyncio.wait({future}, timeout=ANSWER_RUNNING if question.running else ANSWER)
            return None if future.cancelled() or not future.done() else future.result()
        finally:
            del self._waiting[number]

    def _message(self, number: int, question: Question) -> RouteRequest:
        request, old = question.request, question.old
        return RouteRequest(
            number=number,
            session=question.session,
            config_hash=self._model,
            revision=question.kind[0],
            numerics=question.kind[1],
            tokens_needed=request.tokens_needed,
            prompt=request.prompt,
            output=request.output,
            own=tuple((span.start, span.stop) for span in request.own),
            rtts=dict(request.source_rtts) if request.own else {},
            exclude=tuple(sorted(request.exclude)),
            old=old.hops if old is not None else (),
            slower=dict(request.slower),
            row_bytes=request.row_bytes,
            tentative=question.tentative,
            packed_bytes=request.packed_bytes,
            guesses=request.guesses,
        )

    def _checked(self, adviser: PeerId, answer: Routed, asked: float, question: Question, atlas: Atlas) -> Route:
        """The route that was advised, priced by ourselves. Raises ProtocolError or ValueError for what no honest coordinator says, Stale for what one may say
        that knows less, or more, than we do."""
        advice = decode_advice(answer.advice)
        if not self._verify(adviser, answer.advice, answer.signature):
            raise ProtocolError("the signature is not its own")
        if (advice.number, advice.client, advice.coordinator) != (answer.number, self._me, adviser):
            raise ProtocolError("it answers somebody else, or something else")
        if advice.term < self._term:
            raise Stale(f"speaks under term {advice.term}, and {self._term} is known")
        if self._clock() - asked > advice.lifetime:
            raise Stale("answers when its route has expired")
        kept = question.old.hops if question.old is not None else ()
        running = {(hop.peer, hop.span): hop for hop in kept}
        hops = [running.get((hop.peer, hop.span)) or self._dialled(hop, atlas) for hop in advice.hops]
        route = appraise(atlas, question.request, hops, announced(atlas.views.values()), kept)
        if self._chance() * AUDIT < 1:
            self._audit(route, question, atlas)
        return replace(route, planner=adviser, term=advice.term, promise=advice.seconds_per_token, standby=adviser != self.coordinator)

    def _dialled(self, hop: Hop, atlas: Atlas) -> Hop:
        """With the addresses that its peer announced, whatever the coordinator says they are. Raises Stale."""
        if hop.peer == self._me:
            return hop
        view = atlas.views.get(hop.peer)
        if view is None or view.state != "online" or view.version != hop.version:
            raise Stale(f"sees {hop.peer} otherwise than we do")
        return replace(hop, addrs=view.addrs)

    @staticmethod
    def _audit(route: Route, question: Question, atlas: Atlas) -> None:
        """Raises ValueError for a route much dearer than our own."""
        try:
            request, old, load = question.request, question.old, announced(atlas.views.values())
            ours = plan(atlas, request, load) if old is None else repair(atlas, request, old, request.exclude, load)
        except MissingLayers:
            return
        if route.cost > DEARER * ours.cost:
            raise ValueError(f"a route that costs {route.cost / ours.cost:.1f} times ours")

    def _avoid(self, adviser: PeerId, seconds: float, why: str) -> None:
        now = self._clock()
        self._avoided = {peer: until for peer, until in self._avoided.items() if until > now}
        self._avoided[adviser] = now + seconds
        log.info("%s, asked for routes, %s; not asked again for %.0f s", adviser, why, seconds)
