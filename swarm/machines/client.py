"""The client's end of a session: it holds the truth. Token history, chain number, credit, and what of the past the hops may keep.

Knows nothing of the network, of text or of where routes come from: when a chain breaks it asks for a new one (`Reroute`) and goes on when it gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swarm.core import Hop, PeerId, Sampling, SessionId
from swarm.machines.effects import Deliver, Effect, Reroute, Send
from swarm.machines.routes import dismissed
from swarm.wire import Broken, Close, Drawn, Grant, Have, Keep, Open, Order, SessionMessage, Step, encode

FEED = 2048
"""Token ids sent to the first hop in one frame: about 8 KB."""

PAST = 32
"""Pairs (chain, start) an OPEN carries. Older ones are merged into one that keeps less, so a long conversation does not grow its OPEN."""


class ClientSession:
    """One session as its owner sees it. `credit`: tokens the ring may run ahead of what the client has acknowledged (round trip × speed, with room). `reach`
    says what of a goal the hops' keys depend on: a turn that changes it begins from nothing, at every hop alike."""

    def __init__(self, session: SessionId, me: PeerId, revision: str, numerics: str, *, credit: int = 64, reach: Callable[[int], int] = lambda goal: 1) -> None:
        self.session = session
        self.me = me
        self.history: list[int] = []
        self.chain = 0
        self.route: tuple[Hop, ...] = ()
        self.goal = 0
        self.running = False
        self._revision, self._numerics, self._credit = revision, numerics, credit
        self._sampling = Sampling()
        self._valid = 0
        self._reach_of, self._reach = reach, 1
        self._starts: list[tuple[int, int]] = []
        self._until = 0
        self._opened = False
        self._begun = False

    # --- what the caller does -------------------------------------------------------------------------------------------------------------------------------

    def begin(self, prompt: Sequence[int], sampling: Sampling, max_new_tokens: int) -> None:
        """Add a turn. Nothing is sent until `open`."""
        if not prompt and not self.history:
            raise ValueError("a session begins with at least one token")
        self.history.extend(prompt)
        self._sampling = sampling
        self.goal = len(self.history) + max_new_tokens
        if (reach := self._reach_of(self.goal)) != self._reach:
            self._reach, self._valid = reach, 0
        self.running = self._begun = True

    def open(self, route: Sequence[Hop], term: int = 0) -> list[Effect]:
        """Take a route, new or the same: raise the chain and say what of the past still holds. The shell signs it. The last token is always fed
        again, so that the head draws. `term` as in `wire.Order`."""
        dismissed = self._dismiss(route)
        self.route = tuple(route)
        self.chain += 1
        start = min(self._valid, len(self.history) - 1)
        self._starts = [*((chain, kept) for chain, kept in self._starts if kept < start), (self.chain, start)]
        if len(self._starts) > PAST:
            (_, least), (later, _), *rest = self._starts
            self._starts = [(later, least), *rest]
        self._valid = len(self.history)
        self._opened = self._begun = False
        self._until = self._credit_end()
        order = Order(
            session=self.session,
            chain=self.chain,
            client=self.me,
            revision=self._revision,
            numerics=self._numerics,
            starts=tuple(self._starts),
            emit_from=len(self.history),
            until=self._until,
            limit=self.goal,
            sampling=self._sampling,
            route=self.route,
            term=term,
        )
        return [self._to_first(Open(self.session, self.chain, 0, encode(order))), *dismissed]

    def cut(self, length: int) -> list[Effect]:
        """End the turn at `length` tokens, dropping what overshot, and halt the ring."""
        del self.history[length:]
        self._valid = min(self._valid, length)
        self.running = False
        return [self._to_first(Grant(self.session, self.chain, 0, 0))] if self.route else []

    def keep(self) -> list[Effect]:
        return [self._to_first(Keep(self.session, self.chain, 0))] if self._opened else []

    def close(self) -> list[Effect]:
        self.running = False
        return [self._to_first(Close(self.session, self.chain, 0))] if self.route else []

    # --- what the network says ------------------------------------------------------------------------------------------------------------------------------

    def have(self, sender: PeerId, message: Have) -> list[Effect]:
        """The first hop holds so much; when it asks, feed it the rest of the history."""
        if not self.route or sender != self.route[0].peer or message.chain != self.chain or not message.resend:
            return []
        self._opened = True
        return [
            self._to_first(Step(self.session, self.chain, 0, message.draft, at, tuple(self.history[at : at + FEED])))
            for at in range(message.length, len(self.history), FEED)
        ]

    def drawn(self, sender: PeerId, message: Drawn) -> list[Effect]:
        """Tokens from the ring. Exactly those that continue the history count; until a turn is opened, what arrives is the last one's overshoot."""
        if not self.running or self._begun or sender != self.route[0].peer or message.chain != self.chain:
            return []
        effects: list[Effect] = []
        for at, token in enumerate(message.tokens):
            if message.start + at != len(self.history) or not self.running:
                continue
            # Where the new token stands a hop may still hold a wrong guess, and the next OPEN may overtake the step that takes it back.
            self._valid = len(self.history)
            self.history.append(token)
            finish = message.finish if at == len(message.tokens) - 1 else None
            if len(self.history) >= self.goal:
                finish = finish or "length"
            logprobs = message.logprobs[at] if at < len(message.logprobs) else None
            self.running = finish is None
            effects.append(Deliver(message.start + at, token, logprobs, finish, message.micros))
        return effects + self._grant()

    def broken(self, sender: PeerId, message: Broken) -> list[Effect]:
        if not self.route or sender != self.route[0].peer or message.chain != self.chain or not 0 <= message.hop < len(self.route):
            return []
        self._opened &= message.reason == "leaving"  # who leaves still answers
        return [Reroute(message.hop, self.route[message.hop].peer, message.reason, message.detail)]

    def lost(self, peer: PeerId) -> list[Effect]:
        if not self.route or peer != self.route[0].peer:
            return []
        self._opened = False
        return [Reroute(0, peer, "lost", "")]

    # --- inside ---------------------------------------------------------------------------------------------------------------------------------------------

    def _dismiss(self, route: Sequence[Hop]) -> list[Effect]:
        """A first hop that is no longer needed hears it from us; every other one from its predecessor."""
        if (last := dismissed(self.route, route, 0)) is None:
            return []
        return [Send(self.route[0].peer, Close(self.session, self.chain, 0, last))]

    def _credit_end(self) -> int:
        """Positions below it may be started; the last token wanted is drawn from position goal − 2."""
        return min(len(self.history) + self._credit, self.goal - 1)

    def _grant(self) -> list[Effect]:
        """More credit once half of it is used up."""
        end = self._credit_end()
        if not self.running or end <= self._until or self._until - len(self.history) > self._credit // 2:
            return []
        self._until = end
        return [self._to_first(Grant(self.session, self.chain, 0, end))]

    def _to_first(self, message: SessionMessage) -> Effect:
        return Send(self.route[0].peer, message)
