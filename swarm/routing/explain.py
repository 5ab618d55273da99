"""The room `routing`, its reasons: why a route was chosen, hop by hop, and what the next best would have been. Pure values for people to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from swarm.core import format_layers, short_id
from swarm.errors import MissingLayers
from swarm.routing.atlas import Atlas
from swarm.routing.load import Load
from swarm.routing.plan import Peers, atlas_of, plan, price
from swarm.routing.route import Leg, Request, Route


@dataclass(frozen=True, slots=True)
class Reason:
    """One hop. `alternative` is the best route without its peer, None where there is none or the hop is the client's own end; `loss` how many seconds more
    the whole answer is expected to take that way, those included by which it delays others. Below zero, a plan from scratch would leave this peer.
    `numerics` is what its peer computes in, "" where nobody knows."""

    leg: Leg
    own: bool
    alternative: Route | None
    loss: float | None
    numerics: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    route: Route
    """Priced by what is known now."""
    output: int
    """Tokens of the answer that it is priced for."""
    reasons: tuple[Reason, ...]

    def lines(self) -> list[str]:
        """For people: for each hop what it takes and what would replace it, then the ring."""
        names = [format_layers([leg.hop.span], self.route.components - 2) for leg in self.route.legs]
        wide, ways = max(map(len, names)), ["next hop"] * (len(names) - 1) + ["first hop"]
        mixed, lines = len({reason.numerics for reason in self.reasons} - {""}) > 1, []
        for at, (reason, name, way) in enumerate(zip(self.reasons, names, ways, strict=True)):
            leg = reason.leg
            takes = f"{_ms(leg.compute)} compute  {_ms(leg.queue)} queue  {_ms(leg.network)} to the {way}"
            lines.append(f"hop {at}  {short_id(leg.hop.peer)}  layers {name:<{wide}}  {takes}{f'  in {reason.numerics}' if mixed and reason.numerics else ''}")
            lines.append(f"       {self._instead(reason)}")
        return [*lines, self._ring()]

    def _instead(self, reason: Reason) -> str:
        """Of all that the peer runs here, which may be several hops."""
        if reason.own:
            return "the client's own"
        if reason.alternative is None or reason.loss is None:
            return "no way round it: others do not serve all that it runs here"
        kept = {leg.hop for leg in self.route.legs}
        layers = self.route.components - 2
        others = [f"{short_id(hop.peer)} {format_layers([hop.span], layers)}" for hop in reason.alternative.hops if hop not in kept]
        tokens = f"{self.output} token{'' if self.output == 1 else 's'}"
        share = f", {100 * abs(reason.loss) / self.route.cost:.1f} % of its time" if self.route.cost else ""
        if reason.loss < 0:
            return f"better by now, by {-reason.loss:.3f} s for {tokens}{share}: {', '.join(others)}"
        return f"without it {reason.loss:.3f} s more for {tokens}{share}: {', '.join(others)}"

    def _ring(self) -> str:
        total, harm = self.route.seconds_per_token, sum(leg.harm for leg in self.route.legs)
        speed = f", {1 / total:.1f} tokens/s" if total else ""
        others = f"; others wait {1000 * harm:.2f} ms for each" if harm else ""
        return f"ring of {len(self.reasons)}: {1000 * total:.2f} ms per token predicted{speed}{others}"


def explain(peers: Peers, request: Request, route: Route, load: Load | None = None) -> Explanation:
    """Why this route: every hop's cost, and for each peer the best route without it, all by what is known now. Takes about as long as one plan for each peer
    of the route. `load` is without the session itself, which does not wait for itself (`Ledger.load`)."""
    atlas = atlas_of(peers)
    route = price(atlas, request, route.hops, load, route)
    return Explanation(route, request.output, tuple(_reasons(atlas, request, route, load)))


def _reasons(atlas: Atlas, request: Request, route: Route, load: Load | None) -> Iterator[Reason]:
    without: dict[str, Route | None] = {}
    for leg in route.legs:
        peer, own = leg.hop.peer, leg.hop.peer == request.source and leg.hop.span in request.own
        if own:
            yield Reason(leg, True, None, None)
            continue
        if peer not in without:
            without[peer] = _plan_without(atlas, request, peer, load)
        other = without[peer]
        numerics = atlas.views[peer].numerics if peer in atlas.views else ""
        yield Reason(leg, False, other, None if other is None else other.cost - route.cost, numerics)


def _plan_without(atlas: Atlas, request: Request, peer: str, load: Load | None) -> Route | None:
    try:
        return plan(atlas, replace(request, exclude=request.exclude | {peer}), load)
    except MissingLayers:
        return None


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:8.2f} ms"
