"""The room `routing`, its ledger: who keeps which peers busy, and what a route through a busy peer costs, its session and those it would delay.

Pure values; it does not know the time (which is handed in), how sessions are placed, or who reports what.

The costs are marginal ones, after a simulation of batching servers made before this project (docs/routing.md): a session pays what it waits, and what others
wait because of it, so that routes chosen one by one come out good for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from swarm.core import Hop, PeerId, SessionId
from swarm.routing.route import USUAL_OUTPUT, Request, Route
from swarm.routing.table import PeerView

LEASE = 30.0
"""Seconds for which a session counts that nobody renews: as long as hops keep one that says nothing."""

BATCH = 32
"""Sessions that share one reading of the weights at a peer with more than enough to do."""

MOST_USED = 0.95
"""A peer is never taken to be busier than this, or its cost would be infinite: 20 times its unloaded step already says "anywhere but here"."""

WEIGHT_OF_NEWS = 0.05
"""Of one report in the running mean of the token cycle: about the last 20 count."""


UNUSUAL = 4.0
"""Times more than usual that is believed of a session: how fast it got its tokens, how long its prompt and answer are. One false report must not make all peers
look busy."""


Numbers = np.ndarray | float
"""One number for each of some peers, or one."""


class Share(NamedTuple):
    """What a peer has to do: for how many `sessions`, with how many `layers` for all of them together."""

    sessions: int
    layers: int


class Delays(NamedTuple):
    """What load adds at a peer, seconds per token; numbers or arrays of one shape. `queue` is the wait until a hop's step begins, `stretch` by how much every
    layer's worth takes longer, `harm` what others lose for each of ours. A hop that is entered delays others by as much as it waits itself."""

    queue: Numbers
    stretch: Numbers
    harm: Numbers

    @property
    def entry(self) -> Numbers:
        """To be weighed for each hop entered, in every round."""
        return 2 * self.queue

    @property
    def layer(self) -> Numbers:
        """To be weighed for each layer's worth, in every round."""
        return self.stretch + self.harm


@dataclass(frozen=True, slots=True)
class Load:
    """How busy peers are. `cycle` is the seconds in which a session of this swarm gets a token, None if nobody knows; `prompt_ratio` how many prompt tokens
    pass for each token that is drawn. Who is not in `shares` has nothing to do."""

    shares: Mapping[PeerId, Share] = field(default_factory=dict)
    cycle: float | None = None
    prompt_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.cycle is not None and not self.cycle > 0:
            raise ValueError(f"a token cycle takes time, not {self.cycle} s")

    def share(self, peer: PeerId) -> Share:
        return self.shares.get(peer, IDLE)

    def delays(self, decode: Numbers, prefill: Numbers, sessions: Numbers, layers: Numbers, cycle: float) -> Delays:
        """What load adds at peers of these speeds (seconds a layer and step, and a layer and prompt token) that have this share of the work. `cycle` is that of
        the swarm, or what the caller takes for it where nobody knows.

        A step reads the weights of the layers it needs, `read` seconds each, once for all tokens in it, and computes `prefill` seconds a layer and token. By
        what is asked of the peer in a cycle it is `busy` when a token comes, if it serves every token alone, and `used` if it serves BATCH at once.
        """
        read = np.maximum(decode - prefill, 0.0)
        busy = np.minimum(1.0, layers * (read + prefill) / cycle)
        used = np.minimum(MOST_USED, layers * (prefill * (1 + self.prompt_ratio) + read / BATCH) / cycle)
        slower = 1 / (1 - used)
        usual_step = layers / np.maximum(sessions, 1) * (read * slower + prefill)
        return Delays(busy * usual_step / 2, read * (slower - 1), read * slower**2 * used)


IDLE = Share(0, 0)


@dataclass(frozen=True, slots=True)
class _Placed:
    shares: Mapping[PeerId, int]
    """Layers by peer."""
    since: float
    """When it was placed, or when it last said how many tokens it had."""
    tokens: int
    until: float


def announced(views: Iterable[PeerView]) -> Load:
    """How busy peers say they are: all that is known to whoever has placed no sessions but its own."""
    return Load({view.peer: Share(view.sessions, view.busy) for view in views if view.sessions})


class Ledger:
    """The sessions that one coordinator placed, and what peers say of others.

    Sessions live until they are released, or LEASE seconds after they were last heard of. Of the sessions that a peer announces, those that this ledger knew of
    when the news came are its own; the rest were placed by others and stay with the peer until its next news. So none counts twice, and the ledger's own
    count at once. The times handed in never fall.
    """

    def __init__(self) -> None:
        self._placed: dict[SessionId, _Placed] = {}
        """Who was heard of last comes last, and so does who expires last."""
        self._own: dict[PeerId, Share] = {}
        self._others: dict[PeerId, Share] = {}
        """Sessions placed by others, and the layers that each of them is taken to run if none of ours says better: all the peer holds."""
        self._shares: dict[PeerId, Share] = {}
        self._prompt = self._output = float(USUAL_OUTPUT)
        """Running means of what sessions ask for."""
        self._predicted: float | None = None
        self._seconds = self._tokens = 0.0
        """Running means of what sessions report: their ratio is the cycle, in which a long answer counts for more than a short one."""

    def __len__(self) -> int:
        return len(self._placed)

    def __contains__(self, session: object) -> bool:
        return session in self._placed

    def place(self, session: SessionId, route: Route, request: Request, now: float) -> None:
        """A session that takes this route from now on, be it new or repaired. The client's own ends are nobody else's load."""
        self.release(session, now)
        shares: dict[PeerId, int] = {}
        for hop in route.hops:
            if hop.peer != request.source or hop.span not in request.own:
                shares[hop.peer] = shares.get(hop.peer, 0) + _layers(hop)
        self._expect(request.prompt, max(request.output, 1))
        self._placed[session] = _Placed(shares, now, 0, now + LEASE)
        self._count(self._placed[session], +1)
        self._predicted = _blended(self._predicted, route.seconds_per_token)

    def renew(self, session: SessionId, now: float, tokens: int = 0) -> bool:
        """It still runs, and has got so many tokens since it was placed, if its client says so. False if it is not in the ledger."""
        placed = self._placed.pop(session, None)
        if placed is None:
            return False
        if tokens > placed.tokens:
            self._report(placed, now, tokens)
            placed = replace(placed, since=now, tokens=tokens)
        self._placed[session] = replace(placed, until=now + LEASE)
        return True

    def release(self, session: SessionId, now: float, tokens: int = 0) -> None:
        """It is over after so many tokens, if its client says so; or it was never known."""
        if (placed := self._placed.pop(session, None)) is not None:
            self._count(placed, -1)
            self._report(placed, now, tokens)

    def expire(self, now: float) -> None:
        """Release whom nobody renewed."""
        while self._placed and (oldest := next(iter(self._placed.items())))[1].until <= now:
            self.release(oldest[0], now)

    def news(self, view: PeerView) -> None:
        """What a peer announces. Call it whenever an announcement comes."""
        others = max(view.sessions - self._own.get(view.peer, IDLE).sessions, 0)
        each = round(view.busy / view.sessions) if view.sessions and view.busy else sum(len(span) for span in view.spans)
        self._others[view.peer] = Share(others, each)
        self._sum_up(view.peer)

    def gone(self, peer: PeerId) -> None:
        """A peer whose announcements have ended."""
        self._others.pop(peer, None)
        self._sum_up(peer)

    def load(self, now: float, but: SessionId | None = None) -> Load:
        """How busy peers are now; `but` leaves out a session whose route is about to be mended, because it does not wait for itself."""
        self.expire(now)
        shares = dict(self._shares)
        if (placed := self._placed.get(but or b"")) is not None:
            for peer, layers in placed.shares.items():
                shares[peer] = Share(shares[peer].sessions - 1, shares[peer].layers - layers)
        return Load(shares, self._cycle, self._prompt / self._output)

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    @property
    def _cycle(self) -> float | None:
        return self._seconds / self._tokens if self._tokens else self._predicted

    def _count(self, placed: _Placed, sign: int) -> None:
        """In whole layers, so that what is taken away leaves nothing behind."""
        for peer, layers in placed.shares.items():
            own = self._own.get(peer, IDLE)
            self._own[peer] = Share(own.sessions + sign, own.layers + sign * layers)
            if not self._own[peer].sessions:
                del self._own[peer]
            self._sum_up(peer)

    def _sum_up(self, peer: PeerId) -> None:
        own, others = self._own.get(peer, IDLE), self._others.get(peer, IDLE)
        each = round(own.layers / own.sessions) if own.sessions else others.layers
        share = Share(own.sessions + others.sessions, own.layers + others.sessions * each)
        if share.sessions:
            self._shares[peer] = share
        else:
            self._shares.pop(peer, None)

    def _report(self, placed: _Placed, now: float, tokens: int) -> None:
        seconds, got = now - placed.since, float(tokens - placed.tokens)
        if got > 0 and seconds > 0:
            got = min(got, UNUSUAL * seconds / self._cycle) if self._cycle else got
            self._seconds += WEIGHT_OF_NEWS * (seconds - self._seconds)
            self._tokens += WEIGHT_OF_NEWS * (got - self._tokens)

    def _expect(self, prompt: int, output: int) -> None:
        self._prompt += WEIGHT_OF_NEWS * (min(prompt, UNUSUAL * self._prompt) - self._prompt)
        self._output += WEIGHT_OF_NEWS * (min(output, UNUSUAL * self._output) - self._output)


def _layers(hop: Hop) -> int:
    """The embedding is nothing beside a layer; the head is about one."""
    return hop.stop - max(hop.start, 1)


def _blended(mean: float | None, news: float) -> float | None:
    return (news or None) if mean is None else mean + WEIGHT_OF_NEWS * (news - mean)
