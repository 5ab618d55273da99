"""The room `routing`, its decisions: `plan` a route, `repair` one, and `choose_class` of peers that may share a chain. Pure functions of what they are given;
they do not know who asks (a client or a coordinator), and a route they return is advice: every hop checks what it is asked to run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from swarm.core import Hop, PeerId, Span, check_cover, is_rounded
from swarm.errors import MissingLayers, UsageError
from swarm.routing.atlas import Atlas, Class
from swarm.routing.candidates import DOWN, EMBED_WEIGHT, Candidates, missing, seconds
from swarm.routing.compression import compresses
from swarm.routing.cover import cheapest_chain, cheapest_ring
from swarm.routing.load import Load
from swarm.routing.route import Leg, Request, Route
from swarm.routing.table import PeerView

Peers = Atlas | Iterable[PeerView]
"""Announcements of one class: an atlas that somebody keeps, or the views themselves."""


def plan(peers: Peers, request: Request, load: Load | None = None) -> Route:
    """The cheapest route for a request, over the whole ring: a span may be entered and left anywhere, and a peer may be several hops. With `load` what it
    waits, and what others wait for it, belong to its cost.

    A client that keeps ends of its own is both what comes before the free components and what follows them, however many ends it keeps: the ring has no
    beginning. Raises MissingLayers.
    """
    free = range(request.first, request.last)
    candidates = Candidates(atlas_of(peers), request, free, [request.source] if request.own and request.source is not None else [], load)
    candidates.require(free)
    own = [Hop(request.source or "", span.start, span.stop) for span in request.own]
    if not free:
        return _price(own, candidates)
    work_KP = candidates.work_NP[free.start : free.stop]
    if own:
        client = candidates.number(own[0].peer)
        path = cheapest_chain(work_KP, candidates.link_PP, candidates.entry_P, client, client)
    else:
        path = cheapest_ring(work_KP, candidates.link_PP, candidates.entry_P)
    return _price(sorted([*own, *_hops(free, path, candidates)], key=lambda hop: hop.start), candidates)


def repair(peers: Peers, request: Request, route: Route, lost: Iterable[PeerId], load: Load | None = None) -> Route:
    """The cheapest way to fill the holes that lost peers leave, every other hop kept exactly as it is, so that only the holes are computed again.

    A hole is a maximal run of lost hops round the ring: what is lost at both ends is one hole, across the seam. Peers that the request excludes, and
    survivors that announce that they no longer hold their part, count as lost. Survivors need no free space: their share is reserved already. With no survivor
    left it is a plan from scratch; in no other case would that find what this does not, because whoever may serve in a plan may fill a hole. Raises
    MissingLayers.
    """
    atlas = atlas_of(peers)
    views = atlas.views
    own = _own_hops(route, request)
    moved = (hop.peer for hop in route.hops if hop not in own and hop.peer in views and not _still_serves(views[hop.peer], hop))
    gone = {*lost, *request.exclude, *moved}
    kept = [hop for hop in route.hops if hop in own or hop.peer not in gone]
    request = replace(request, exclude=frozenset(gone))
    if not kept:
        return plan(atlas, request, load)
    holes = list(_holes(kept, route.components))
    missed = [component for _, stages, _ in holes for component in stages]
    candidates = Candidates(atlas, request, missed, [hop.peer for hop in kept], load)
    candidates.require(missed)
    new = [hop for before, stages, after in holes for hop in _fill(candidates, before, stages, after)]
    return _price(sorted([*kept, *new], key=lambda hop: hop.start), candidates, route)


def _still_serves(view: PeerView, hop: Hop) -> bool:
    """One that is about to move announces where to, and under the old version serves on meanwhile those whom it serves already."""
    return view.holds(hop.span) or (view.state == "joining" and 0 < hop.version == view.version)


def appraise(peers: Peers, request: Request, hops: Sequence[Hop], load: Load | None = None, kept: Iterable[Hop] = ()) -> Route:
    """Somebody else's route for a request, with our own predictions. Raises ValueError for one that cannot be gone: a hop, but for those `kept`, by a peer that
    is not there, or does not announce that it holds its part; one by a peer that is excluded; own ends that are not the client's; components left out or served
    twice."""
    running = {(hop.peer, hop.span) for hop in kept}
    atlas = atlas_of(peers)
    own = [Hop(request.source or "", span.start, span.stop) for span in request.own]
    if [hop.span for hop in hops if hop.peer == request.source] != [hop.span for hop in own]:
        raise ValueError("the route does not leave the client the ends it keeps")
    for hop in hops:
        view = atlas.views.get(hop.peer)
        if hop.peer == request.source:
            continue
        if hop.peer not in request.exclude and (hop.peer, hop.span) in running:
            continue
        if view is None or hop.peer in request.exclude or view.state != "online" or not view.holds(hop.span):
            raise ValueError(f"{hop.peer} cannot serve components [{hop.start}, {hop.stop})")
    return price(atlas, request, hops, load)


def price(peers: Peers, request: Request, hops: Sequence[Hop], load: Load | None = None, old: Route | None = None) -> Route:
    """What hops are predicted to take by what is known now; those of peers that are not there what they took in the `old` route, or nothing. Raises
    ValueError for hops that do not cover the model in order."""
    check_cover(hops, request.components)
    return _price(hops, Candidates(atlas_of(peers), request, [], [hop.peer for hop in hops], load), old)


def choose_class(atlases: Mapping[Class, Atlas], revision: str | None, components: int, numerics: str | None = None, request: Request | None = None) -> Class:
    """The (revision, numerics) whose peers serve the request with the cheapest route: peers of different ones never share a chain. Those that have rounded the
    weights come last unless they are asked for.

    `revision` is the client's own if it knows it, `numerics` what it asks for. Raises UsageError when others are served but not those, MissingLayers when no
    class covers the model (the one for the class that lacks least).
    """
    request = request or Request(components)
    classes = sorted(atlases)
    wanted = [pair for pair in classes if revision in (None, pair[0])]
    if classes and not wanted:
        served = ", ".join(sorted({pair[0][:12] for pair in classes}))
        raise UsageError(f"peers serve another revision of this model ({served}) than yours ({(revision or '')[:12]}); use the same files as they do")
    matching = [pair for pair in wanted if numerics in (None, pair[1])]
    if wanted and not matching:
        served = ", ".join(sorted({pair[1] for pair in wanted}))
        raise UsageError(f"no peer serves this model in {numerics}; ask for one of these: {served} (--dtype, or dtype= in Python)")
    if not matching:
        raise missing([], replace(request, numerics=numerics or ""), [Span(0, components)])
    failures, costs = [], []
    for pair in matching:
        try:
            costs.append((plan(atlases[pair], replace(request, numerics=pair[1])).cost, pair))
        except MissingLayers as error:
            failures.append((sum(map(len, error.spans)), pair, error))  # type: ignore[arg-type]
    if not costs:
        raise _or_as(min(failures, key=lambda failure: failure[:2])[2], [pair for pair in wanted if pair not in matching], atlases, request)
    return min(costs, key=lambda found: (is_rounded(found[1][1]), found))[1]


def _or_as(error: MissingLayers, others: Sequence[Class], atlases: Mapping[Class, Atlas], request: Request) -> MissingLayers:
    """The same, where peers of another format than the one that is asked for serve all layers."""
    formats = []
    for pair in others:
        with contextlib.suppress(MissingLayers):
            plan(atlases[pair], request)
            formats.append(pair[1])
    if not formats:
        return error
    sentence = f"{error}; or ask for a format in which all layers are served: {', '.join(sorted(formats))} (--dtype, or dtype= in Python)"
    return MissingLayers(sentence, error.spans, error.layers, error.partial, error.longest, error.memory)


def or_mix(error: MissingLayers) -> MissingLayers:
    """The same, where peers of several classes together could serve what those of one cannot."""
    sentence = f"{error}; or let one chain mix peers that round the weights with others, who together serve all: swarm-generate --mixed, Client(mixed=True)"
    return MissingLayers(sentence, error.spans, error.layers, error.partial, error.longest, error.memory)


def atlas_of(peers: Peers) -> Atlas:
    """A ValueError for what is always a mistake of the caller: views of several classes, or several of one peer."""
    if isinstance(peers, Atlas):
        return peers
    views = list(peers)
    if len({view.peer for view in views}) < len(views):
        raise ValueError("two views of one peer; keep the newest")
    return Atlas(views)


def _own_hops(route: Route, request: Request) -> list[Hop]:
    return [hop for hop in route.hops if hop.peer == request.source and hop.span in request.own]


def _holes(kept: Sequence[Hop], components: int) -> Iterable[tuple[PeerId, list[int], PeerId]]:
    """What is between each kept hop and the next one round the ring: who comes before, the components in the order in which they are run, who follows."""
    for before, after in zip(kept, [*kept[1:], kept[0]], strict=True):
        if after is kept[0]:
            stages = [*range(before.stop, components), *range(after.start)]
        else:
            stages = list(range(before.stop, after.start))
        if stages:
            yield before.peer, stages, after.peer


def _fill(candidates: Candidates, before: PeerId, stages: list[int], after: PeerId) -> list[Hop]:
    source, target = candidates.number(before), candidates.number(after)
    seam = stages.index(0) if 0 in stages else 0
    path = cheapest_chain(candidates.work_NP[stages], candidates.link_PP, candidates.entry_P, source, target, seam)
    return _hops(stages, path, candidates)


def _hops(stages: Iterable[int], path: Iterable[int], candidates: Candidates) -> list[Hop]:
    """Runs of one node and of components that follow one another, as hops. At the seam of the ring a hop ends even where the peer goes on."""
    steps = [(node, component - at, component) for at, (component, node) in enumerate(zip(stages, path, strict=True))]
    hops = []
    for (node, _), run in groupby(steps, key=lambda step: step[:2]):
        parts = [component for _, _, component in run]
        peer = candidates.nodes[node]
        view = candidates.atlas.views[peer]
        hops.append(Hop(peer, parts[0], parts[-1] + 1, view.addrs, view.version))
    return hops


def _price(hops: Sequence[Hop], candidates: Candidates, old: Route | None = None) -> Route:
    """Predict every hop anew, in plain sums, whatever the arrays said. A survivor whose announcement has run out keeps the prediction it had."""
    request, atlas = candidates.request, candidates.atlas
    before = {leg.hop: leg for leg in old.legs} if old else {}
    legs = []
    for hop, following in zip(hops, [*hops[1:], *hops[:1]], strict=True):
        carry = _carry(hop, following, candidates)
        network = _way(hop.peer, following.peer, candidates) + carry
        view = None if hop.peer == request.source and hop.span in request.own else atlas.views.get(hop.peer)
        if view is not None:
            legs.append(_predict(hop, candidates.seen(view), network, carry, candidates))
        else:
            legs.append(replace(before[hop], network=network, carry=carry) if hop in before else Leg(hop, 0.0, network, 0.0, 0.0, carry=carry))
    first = hops[0].peer
    approach = 0.0 if request.first else 2 * atlas.distance(request.source, request.source_rtts, first) + candidates.unguessed(first)
    cost = approach + sum(leg.work + (request.prompt - 1) * leg.carry + request.rounds * (leg.network + leg.queue + leg.harm) for leg in legs)
    return Route(request.components, tuple(legs), cost, approach)


def _way(one: PeerId, other: PeerId, candidates: Candidates) -> float:
    """One way between two hops, either of which may be the client."""
    request = candidates.request
    if request.source in (one, other):
        return candidates.atlas.distance(request.source, request.source_rtts, other if one == request.source else one)
    return candidates.atlas.between(one, other)


def _carry(hop: Hop, following: Hop, candidates: Candidates) -> float:
    """Seconds for the bytes of one position to leave a hop and enter the next. The head sends tokens, which take none to speak of; and what the client's own
    line takes is the same for all routes."""
    request, views = candidates.request, candidates.atlas.views
    if hop.stop == request.components:
        return 0.0

    size = request.packed_bytes if compresses(hop, following, views, request.row_bytes, request.packed_bytes) else request.row_bytes

    def sends(at: Hop) -> float:
        upload = views[at.peer].upload if at.peer in views and at.peer != request.source else 0.0
        return size / upload if upload else 0.0

    return sends(hop) + sends(following) / DOWN


def _predict(hop: Hop, view: PeerView, network: float, carry: float, candidates: Candidates) -> Leg:
    request, body, delays = candidates.request, Span(hop.start, hop.stop), candidates.delays(view)
    layers = len(body) - (hop.start == 0) - (hop.stop == request.components) + EMBED_WEIGHT * (hop.start == 0)
    head = view.head_weight * (hop.stop == request.components)
    work = sum(seconds(view, component, request) for component in range(hop.start, hop.stop))
    leg = Leg(hop, (layers + head) * view.decode, network, layers * view.prefill, work, carry=carry)
    if delays is None:
        return leg
    worth = layers + head
    return replace(leg, queue=float(delays.queue + worth * delays.stretch), harm=float(delays.queue + worth * delays.harm))
