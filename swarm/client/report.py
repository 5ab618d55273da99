"""What a session can say of the route it takes: predicted when planned, measured as tokens come home. Pure values for people to look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from swarm.core import PeerId, format_layers, short_id
from swarm.routing.route import Route

RECENT = 64
"""Tokens over which a hop's milliseconds are averaged."""


@dataclass(frozen=True, slots=True)
class HopReport:
    """One hop. `start`, `stop` are component indices, `layers` as `--layers` spells them; `milliseconds` it takes per token, predicted until measured. What a
    token waits there for others (`queue_milliseconds`) and its way to the next hop (`network_milliseconds`) are always predicted."""

    peer_id: PeerId
    start: int
    stop: int
    layers: str
    milliseconds: float
    measured: bool
    queue_milliseconds: float = 0.0
    network_milliseconds: float = 0.0

    @property
    def kind(self) -> str:
        return "measured" if self.measured else "predicted"


@dataclass(frozen=True, slots=True)
class RouteReport:
    """`reroutes` is how often the chain broke or was refused, `takeovers` how often other peers then went on with the answer. `planner` is the coordinator or
    one of its `standby`s that planned the route, in this `term`; "" and 0 where the client planned it itself. `why` tells, by what is announced now, what each
    hop costs and who would be the next best; it plans a few routes for that."""

    hops: tuple[HopReport, ...]
    network_milliseconds: float
    tokens_per_second: float
    reroutes: int
    planner: PeerId = ""
    term: int = 0
    standby: bool = False
    takeovers: int = 0
    why: Callable[[], Sequence[str]] = field(default=tuple, repr=False, compare=False)

    def explain(self) -> str:
        """Some lines: each hop, the network, the speed, who planned it, and why like this."""
        wide = max(len(hop.layers) for hop in self.hops)
        lines = [f"hop {at}  {short_id(hop.peer_id)}  layers {hop.layers:<{wide}}  {hop.milliseconds:7.2f} ms {hop.kind}" for at, hop in enumerate(self.hops)]
        lines.append(f"network and waiting {self.network_milliseconds:.2f} ms per token, {self.tokens_per_second:.1f} tokens/s")
        office = "standby" if self.standby else "coordinator"
        lines.append(f"planned by {office} {short_id(self.planner)}, term {self.term}" if self.planner else "planned here: no coordinator was asked")
        if self.takeovers:
            lines.append(f"rebuilt {self.takeovers} time{'s' if self.takeovers > 1 else ''} on the way")
        reasons = self.why()
        return "\n".join([*lines, *(["predicted from what peers announce:", *reasons] if reasons else [])])


class Stopwatch:
    """Collects what tokens tell about their way round the ring. Times are handed in, in seconds."""

    def __init__(self) -> None:
        self._micros: deque[tuple[int, ...]] = deque(maxlen=RECENT)
        self._gaps: deque[float] = deque(maxlen=RECENT)
        self._last: float | None = None
        self.longest_gap = 0.0
        self.reroutes = self.takeovers = 0

    def opened(self) -> None:
        """A new chain: what earlier hops took says nothing any more."""
        self._micros.clear()

    def token(self, now: float, micros: Sequence[int]) -> None:
        if self._last is not None:
            gap = now - self._last
            self._gaps.append(gap)
            self.longest_gap = max(self.longest_gap, gap)
        self._last = now
        if micros:
            self._micros.append(tuple(micros))

    def pause(self) -> None:
        """The turn is over: the time until the next token is nobody's fault."""
        self._last = None

    @property
    def usual_gap(self) -> float:
        """The mean, since guesses bring tokens home in handfuls, of all but the longest, which may have been a repair."""
        usual = sorted(self._gaps)[: max(len(self._gaps) - 1, 1)]
        return sum(usual) / len(usual) if usual else 0.0

    def report(self, route: Route, why: Callable[[], Sequence[str]] = tuple) -> RouteReport:
        rows = [row for row in self._micros if len(row) == len(route.hops)]
        layers = route.components - 2
        hops = tuple(
            HopReport(
                leg.hop.peer,
                leg.hop.start,
                leg.hop.stop,
                format_layers([leg.hop.span], layers),
                median(row[at] for row in rows) / 1000 if rows else leg.compute * 1000,
                bool(rows),
                leg.queue * 1000,
                leg.network * 1000,
            )
            for at, leg in enumerate(route.legs)
        )
        computing = sum(hop.milliseconds for hop in hops) / 1000
        cycle = self.usual_gap or route.seconds_per_token
        network, speed = max(cycle - computing, 0.0) * 1000, 1 / cycle if cycle else 0.0
        return RouteReport(hops, network, speed, self.reroutes, route.planner, route.term, route.standby, self.takeovers, why)
