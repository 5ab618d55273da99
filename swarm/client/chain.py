"""One session's chain of hops, kept alive: opened over a route, watched, and mended or replaced while tokens come home.

The machine decides what the wire means; this shell finds routes, waits with deadlines and carries out what the machine answers. It knows token ids, not text,
and not which network carries the frames.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import msgspec

from swarm.client.audit import Auditor, Job
from swarm.client.better import Better, BetterRoutes
from swarm.client.planner import Planner, Surroundings
from swarm.client.report import RouteReport, Stopwatch
from swarm.client.setbacks import Setbacks
from swarm.client.watching import Watching
from swarm.client.whisper import MakeLine, Whisper
from swarm.core import Hop, PeerId, Sampling, SessionId
from swarm.errors import PeerLost, Refused, RemoteError
from swarm.machines.client import ClientSession
from swarm.machines.effects import Deliver, Effect, Prepared, Reroute, Send
from swarm.routing.chunks import chunk_size
from swarm.routing.route import Route
from swarm.wire import ORDER_LIFETIME, Broken, Drawn, Have, Ready, Rows, SessionMessage

log = logging.getLogger(__name__)

FIRST_TOKEN = 30.0
"""Seconds to the first token of a chain beyond four times the prediction: queues and cold caches are not predicted."""

NEXT_TOKEN = 5.0
"""Seconds to the next token at least, and ten times the usual gap: silence of processes is noticed by their links, this is for the rest."""


class Network(Surroundings, Protocol):
    """What a chain needs of its client."""

    own_addrs: tuple[str, ...]
    auditor: Auditor | None
    draft: MakeLine | None

    @property
    def vocab(self) -> int: ...

    def compresses(self, numerics: str, one: Hop, other: Hop) -> bool | None: ...

    def reach(self, length: int) -> int: ...

    def wall(self) -> float: ...

    def send(self, peer: PeerId, message: SessionMessage) -> None: ...

    def learn(self, route: Route) -> None: ...

    async def prepare(self, route: Route) -> None: ...


class Chain:
    """One turn after another: `begin`, then `follow` to the end of the answer or to its failure, then `end`. `history` is every token so far."""

    def __init__(self, network: Network, session: SessionId, revision: str, numerics: str) -> None:
        self._network, self._session, self._class = network, session, (revision, numerics)
        self._machine = ClientSession(
            session,
            network.peer,
            revision,
            numerics,
            reach=network.reach,
            expires=lambda: network.wall() + ORDER_LIFETIME,
            ahead=network.ahead,
            compresses=partial(network.compresses, numerics),
            vocab=network.vocab,
        )
        self._whisper = Whisper(self._machine, self._do, network.draft)
        self._planner = Planner(network, session, revision, numerics)
        self._stopwatch = Stopwatch()
        self._route: Route | None = None
        self._carried: Route | None = None
        """Over which the last token came home."""
        self._events: asyncio.Queue[tuple[int, Effect | Better]] = asyncio.Queue()
        self._watching = Watching(network)
        self._better = BetterRoutes(network, self._machine, self._planner, self._watching, self._prepare, self._put)
        self._setbacks = Setbacks(session)
        self._began = 0
        self._followed = False
        self._answers = False
        self._sick: str | None = None
        self._retry_after = 0.0
        """What a peer without room has said last."""

    @property
    def history(self) -> list[int]:
        return self._machine.history

    @property
    def report(self) -> RouteReport | None:
        """None before the first turn."""
        if self._route is None:
            return None
        return self._stopwatch.report(self._route, self._planner.reasons(self._route, len(self.history), self._machine.goal))

    @property
    def glance(self) -> RouteReport | None:
        """The same without its reasons, which cost a copy of the whole map: to be looked at all the time."""
        return None if self._route is None else self._stopwatch.report(self._route)

    @property
    def began(self) -> int:
        """Tokens before the answer that is given now, or was last."""
        return self._began

    @property
    def longest_gap(self) -> float:
        return self._stopwatch.longest_gap

    # --- what the network says --------------------------------------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: SessionMessage) -> None:
        if isinstance(message, Have):
            self._do(self._machine.have(sender, message))
            self._whisper.more()
        elif isinstance(message, Drawn):
            self._do(self._machine.drawn(sender, message))
            self._whisper.more()
        elif isinstance(message, Rows):
            self._do(self._machine.rows(sender, message))
        elif isinstance(message, Broken):
            self._do(self._machine.broken(sender, self._corrected(self._blamed(message))))
        elif isinstance(message, Ready):
            self._do(self._machine.ready(sender, message))

    def lost(self, peer: PeerId) -> None:
        self._do(self._machine.lost(peer))

    def _blamed(self, message: Broken) -> Broken:
        """News that the first hop is lost came by way of the first hop: it lives, and it is the last one that cannot reach it. Our own first hop is us."""
        hops = self._machine.route
        if message.hop == 0 and message.reason == "lost" and hops and hops[0].peer != self._network.peer:
            return msgspec.structs.replace(message, hop=len(hops) - 1)
        return message

    def _corrected(self, message: Broken) -> Broken:
        """A peer that says what it holds now is planned with again, without what we took it to hold. Told what we knew already, we avoid it."""
        hops, facts, news = self._machine.route, message.facts, False
        if message.reason == "overloaded" and facts is not None and message.chain == self._machine.chain and 0 <= message.hop < len(hops):
            self._retry_after = facts.retry_after
            self._network.table.correct(hops[message.hop].peer, facts, self._network.components)
        if message.reason not in ("moved", "stale") or message.chain != self._machine.chain or not 0 <= message.hop < len(hops):
            return message
        if message.reason == "moved" and facts is not None:
            news = self._network.table.correct(hops[message.hop].peer, facts, self._network.components)
        if message.reason == "stale" and facts is not None and self._route is not None and self._network.advisers is not None:
            news = self._network.advisers.stale(hops[message.hop].peer, self._route, facts.term)
        return message if news else msgspec.structs.replace(message, reason="refused")

    # --- what the session says --------------------------------------------------------------------------------------------------------------------------------

    def begin(self, keep: int, ids: Sequence[int], sampling: Sampling, max_new: int) -> None:
        """A turn that adds `ids` after the first `keep` tokens of the history. Nothing is sent before `follow`."""
        if keep < len(self.history):
            self._do(self._machine.cut(keep))
        is_first = not self.history
        self._machine.begin(ids, sampling, max_new)
        self._begins(is_first)
        self._whisper.begin(keep, sampling)

    def begin_reading(self, keep: int, ids: Sequence[int], first: int, goal: int, reply: str) -> None:
        """The same, of a turn that draws nothing: `follow` gives rows of the positions from `first` on (`wire.REPLIES`)."""
        if keep < len(self.history):
            self._do(self._machine.cut(keep))
        is_first = not self.history
        self._machine.begin_reading(ids, first, goal, reply)
        self._begins(is_first)
        self._whisper.cut(keep)

    def _begins(self, is_first: bool) -> None:
        self._began = len(self.history)
        if is_first and not self._network.own:  # own ends hide tokens anew in every session
            self._begin_as_earlier()

    def _begin_as_earlier(self) -> None:
        """What another session of this client begins with need not be computed again, where that is still held; nor is another route looked for."""
        earlier = self._network.earlier
        if (found := earlier.best(self._machine, self._network.clock())) is not None:
            self._machine.begin_as(found.machine, found.length)
            if found.route is not None and self._planner.is_there(found.route, self._machine.goal):
                self._route = found.route
        earlier.began(self._machine, found)

    async def follow(self) -> AsyncGenerator[Deliver, None]:
        """The tokens of the turn, whatever happens to the peers in between. Raises MissingLayers, PromptTooLong, PeerLost, Refused: there is no way on."""
        self._followed = True
        self._setbacks.over()
        try:
            await self._open_turn()
            while True:
                effect = await self._happens()
                if isinstance(effect, Reroute):
                    await self._reroute(effect)
                    continue
                if isinstance(effect, Prepared):
                    if (route := self._better.prepared(effect)) is not None:
                        await self._open(route)
                    continue
                if isinstance(effect, Better):
                    if (route := self._better.leave(effect, self._route, len(self.history) - self._began)) is not None:
                        await self._open(route, term=route.term)
                    continue
                self._sick = None
                self._setbacks.over()
                self._stopwatch.token(self._network.clock(), effect.micros)
                self._carries()
                slow = self._watching.add(effect.micros) if self._answers and effect.rows is None else None
                self._answers = True
                yield effect
                if effect.finish is not None:
                    return
                self._better.give_up_late(self._route)
                if slow is not None:
                    self._watching.note(slow)
                    self._better.notice_slow(slow, self._route)
        except RemoteError:
            self._sick = self._sick or "given up"  # whoever resumes plans anew
            raise
        finally:
            self._followed = False
            await self._better.seek_no_more()

    def _carries(self) -> None:
        """A token came home. Where it did not come the way of the last one, others have taken over."""
        if self._carried is not None and self._route is not None and self._places(self._carried) != self._places(self._route):
            self._stopwatch.takeovers += 1
        self._carried = self._route

    @staticmethod
    def _places(route: Route) -> list[tuple[PeerId, int, int]]:
        return [(hop.peer, hop.start, hop.stop) for hop in route.hops]

    def came_home(self) -> list[Deliver]:
        """Tokens that arrived while a way out was sought and are in the history, though `follow` did not live to say so."""
        effects = []
        while not self._events.empty():
            effects.append(self._events.get_nowait()[1])
        return [effect for effect in effects if isinstance(effect, Deliver)]

    def end(self, length: int) -> None:
        """The turn is over with `length` tokens; what overshot is dropped, and the ring halts."""
        self._stopwatch.pause()
        self._watching.remember()
        if self._network.advisers is not None:
            self._network.advisers.progress(self._session, len(self.history), ended=True)
            if self._route is not None and (gap := self._stopwatch.usual_gap):
                self._network.advisers.kept(self._route, gap)
        if self._machine.running or len(self.history) > length:
            self._do(self._machine.cut(length))
        self._have_audited()

    def _have_audited(self) -> None:
        machine, auditor = self._machine, self._network.auditor
        if auditor is not None and self._route is not None and self._sick is None:
            tokens = tuple(machine.history)
            auditor.turn(Job(self._session, machine.chain, tuple(machine.route), *self._class, tokens, self._began, machine.sampling, machine.is_clean))

    def distrust(self, peer: PeerId) -> None:
        """It computes something else than others do: what came of it is computed again, elsewhere."""
        number = next((at for at, hop in enumerate(self._machine.route) if hop.peer == peer), None)
        if number is not None:
            self._machine.distrust()
            self._do([Reroute(number, peer, "failed", "it computes something else than others do")])

    def keep(self) -> None:
        """Renew the session's lease at its hops."""
        self._do(self._machine.keep())
        if self._followed and self._network.advisers is not None:
            self._network.advisers.progress(self._session, len(self.history))

    def close(self) -> None:
        """The end. What the hops hold rests there for a while: another session of this client may begin with the same."""
        self._whisper.close()
        rests, gone = self._network.earlier.end(self._machine, self._route, self._network.clock())
        self._do([*self._machine.close(rests=rests), *(effect for other in gone for effect in other.close())])

    # --- one turn ---------------------------------------------------------------------------------------------------------------------------------------------

    async def _open_turn(self) -> None:
        """Take the route of the last turn again, unless it broke meanwhile."""
        self.came_home()  # stale
        if self._route is None or self._sick is not None:
            self._sick = None
            await self._find_route()
        else:
            await self._open(self._better.next or self._route)

    async def _happens(self) -> Deliver | Reroute | Prepared | Better:
        """The next thing that concerns the current chain, or the session. Silence beyond reason counts as a break of the chain, the same hops to be tried
        again."""
        patience = self._silence_allowed()
        try:
            async with asyncio.timeout(patience):
                while True:
                    chain, effect = await self._events.get()
                    if chain == self._machine.chain or isinstance(effect, Deliver | Better):
                        return effect  # type: ignore[return-value]
        except TimeoutError:
            return Reroute(-1, "", "silent", f"no token for {patience:.0f} s")

    def _silence_allowed(self) -> float:
        if self._answers and not self._machine.reads:  # rows come by the chunk
            return NEXT_TOKEN + 10 * self._stopwatch.usual_gap
        predicted = sum(leg.prefill + leg.carry for leg in self._route.legs) * len(self.history) if self._route else 0.0
        return FIRST_TOKEN + 4 * predicted

    # --- routes -----------------------------------------------------------------------------------------------------------------------------------------------

    async def _reroute(self, broken: Reroute) -> None:
        """Replace what failed and go on. A hop that only forgot us is opened again; a silent chain is tried once more, then planned anew."""
        self._stopwatch.reroutes += 1
        log.info("the chain broke at hop %d (%s): %s %s", broken.hop, broken.peer, broken.reason, broken.detail)
        if broken.reason == "silent":
            await self._after_silence(broken)
            return
        if broken.reason == "unknown" and self._sick != "unknown" and self._route is not None:
            self._sick = "unknown"
            await self._open(self._route)
            return
        self._sick = None
        if broken.peer == self._network.peer and (broken.reason != "lost" or self._route is None):
            raise Refused(f"this client's own hop failed: {broken.detail}", broken.reason)
        if broken.reason == "leaving":
            self._better.seek("leaving", broken.hop, self._route)
            return
        if broken.reason == "overloaded" and self._route is not None:
            await self._find_room(broken, self._route)
            return
        failure: PeerLost | Refused = PeerLost(f"peer {broken.peer} was lost again and again; try again later, or resume the session")
        if broken.reason in ("refused", "failed"):
            failure = Refused(
                f"peer {broken.peer} says no and nobody can take its place ({broken.detail}); try again later, or resume the session", broken.reason
            )
        if self._setbacks.troubled(broken.peer, self._network.clock()) > self._network.patience:
            raise failure
        if broken.peer == self._network.peer and self._route is not None:  # the last peer lost its way to our own head; we are still here
            await self._open(self._route)
            return
        await self._find_route(failure if isinstance(failure, Refused) else None)

    async def _find_room(self, broken: Reroute, route: Route) -> None:
        """A peer has none: go where there is some, or wait for as long as it says and ask again. Raises Refused when patience runs out."""
        length, setbacks, patience = len(self.history), self._setbacks, self._network.patience
        other = self._planner.elsewhere(route, length, self._machine.goal, setbacks.full(broken.peer), begun=length > self._began)
        if other is not None:
            await self._open(other)
            return
        if not setbacks.waits:
            log.warning("waiting up to %.0f s for room: peer %s says that %s", patience, broken.peer, broken.detail)
        wait = setbacks.wait(self._retry_after)
        if setbacks.waited > patience:
            raise Refused(
                f"peer {broken.peer} has no room and nobody can take its place ({broken.detail}); start another peer, try again in "
                f"{math.ceil(wait)} s or later, or resume the session",
                broken.reason,
                retry_after=wait,
            )
        await asyncio.sleep(wait)
        await self._open(route)

    async def _after_silence(self, broken: Reroute) -> None:
        """Every link lives and no token comes: some hop hangs, and nobody knows which. Try the same hops once, then others, then give up."""
        times = self._setbacks.fell_silent()
        if times == 1 and self._route is not None:
            await self._open(self._route)
            return
        if times > 2:
            raise PeerLost(f"{broken.detail}, and none from the peers tried instead; try again later, or resume the session")
        for hop in self._route.hops if self._route is not None else ():
            if hop.peer != self._network.peer:
                self._shun(hop.peer)
        self._route = None
        self._watching.forget()
        await self._find_route()

    def _shun(self, peer: PeerId) -> None:
        self._network.table.shun(peer, self._network.clock(), self._network.wall())

    async def _find_route(self, refusal: Refused | None = None) -> None:
        length = len(self.history)
        route = await self._planner.find(self._route, length, self._machine.goal, refusal, begun=length > self._began)
        await self._open(route, term=route.term)

    async def _open(self, route: Route, *, term: int = 0) -> None:
        """Raise the chain over a route. `term` is that of a coordinator that has planned it just now."""
        self._network.learn(route)
        if self._network.own:
            await self._network.prepare(route)
        self._watching.follow(route)
        self._better.opened()
        self._route = route
        self._stopwatch.opened()
        self._answers = False
        hops = self._dialled(route)
        self._do(self._machine.open(hops, term, chunk_size(route, len(self._machine.history))))
        if self._network.auditor is not None:
            self._network.auditor.reopened(self._session, hops, self._machine.kept)

    def _dialled(self, route: Route) -> list[Hop]:
        """With the addresses at which our own ends can be reached."""
        return [replace(hop, addrs=self._network.own_addrs) if hop.peer == self._network.peer else hop for hop in route.hops]

    def _prepare(self, route: Route) -> bool:
        """Have newcomers of a route fed while the chain goes on. False where that cannot be."""
        self._network.learn(route)
        effects = self._machine.prepare(self._dialled(route))
        self._do(effects)
        return bool(effects)

    def _put(self, event: Effect | Better) -> None:
        self._events.put_nowait((self._machine.chain, event))

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._network.send(effect.peer, effect.message)
                continue
            if isinstance(effect, Reroute):
                if effect.reason not in ("unknown", "silent", "moved", "stale", "overloaded") and effect.peer != self._network.peer:
                    self._shun(effect.peer)
                if not self._followed:
                    self._sick = effect.reason
            if self._followed or isinstance(effect, Deliver):  # or whoever is first could fill the memory of a session that rests
                self._put(effect)
