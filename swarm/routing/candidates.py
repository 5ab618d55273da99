"""The room `routing`, its gate: which peers may serve a request, what they would take for it, and, when they are too few, what to tell the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

import numpy as np

from swarm.core import PeerId, Span, format_layers, merge_spans
from swarm.errors import MissingLayers
from swarm.routing.route import Request
from swarm.routing.table import Latencies, PeerView

EMBED_WEIGHT = 0.05
"""Looking up rows of the embedding, in layers' worth (docs/routing.md)."""


def _too_short(view: PeerView, request: Request) -> bool:
    return view.longest < request.tokens_needed


OBSTACLES: tuple[tuple[Callable[[PeerView, Request], bool], str], ...] = (
    (lambda view, request: view.state == "leaving", "that are leaving"),
    (lambda view, request: view.state != "online", "that are still joining"),
    (_too_short, "whose limit is below the {needed} positions needed"),
    (lambda view, request: view.peer in request.exclude, "that have just failed or refused"),
    (lambda view, request: view.free_tokens < request.tokens_needed, "without free cache space for {needed} positions"),
)
"""What keeps a peer out, and how that reads after "peers". The first that applies is the reason given: what lasts longest comes first.

Free space is counted once a peer, not once a hop: two hops of one session at one peer are disjoint components, so together they never fill more than the
announced positions of the whole span."""


def obstacle(view: PeerView, request: Request) -> str | None:
    for applies, words in OBSTACLES:
        if applies(view, request):
            return words.format(needed=request.tokens_needed)
    return None


def seconds(view: PeerView, component: int, request: Request) -> float:
    """What a peer computes for one component over the whole request: the prompt once, then every token. The head sees only the rows it draws from."""
    if component == request.components - 1:
        return view.head_weight * view.decode * request.rounds
    weight = EMBED_WEIGHT if component == 0 else 1.0
    return weight * (request.prompt * view.prefill + request.output * view.decode)


class Candidates:
    """One planning decision: the peers that may serve a request, as the arrays that `cover` works on. `anchors` are peers that stay in the chain whatever is
    planned; they are nodes as well, so that links to them have a price, but run nothing unless they may serve too."""

    def __init__(self, peers: Iterable[PeerView], request: Request, anchors: Sequence[PeerId] = ()) -> None:
        self.request = request
        self.latencies = latencies = Latencies(peers, request.source, request.source_rtts)
        self.all = {view.peer: view for view in peers}
        self.able = {view.peer: view for view in peers if obstacle(view, request) is None}
        # Sorted by identity before anything is decided: ties fall to the lowest number in `cover`, and must not depend on the order of reading.
        self.nodes = sorted({*self.able, *anchors})
        self.number = {peer: at for at, peer in enumerate(self.nodes)}
        self.link_PP = request.rounds * latencies.matrix(self.nodes)
        self.work_NP = self._work()

    def _work(self) -> np.ndarray:
        """Components × nodes. The first component also bears the client's distance, once for the prompt and once for the answer: it is paid by whoever
        comes first, and never per token."""
        request = self.request
        work_PN = np.full((len(self.nodes), request.components), inf)
        for peer, view in self.able.items():
            row = work_PN[self.number[peer]]
            for span in view.spans:
                row[span.start : span.stop] = seconds(view, 1, request)
            for end in {0, request.components - 1}:
                if row[end] < inf:
                    row[end] = seconds(view, end, request)
        if request.first == 0:
            work_PN[:, 0] += [2 * self.latencies.between(request.source, peer) for peer in self.nodes]
        return np.ascontiguousarray(work_PN.T)

    def require(self, components: Iterable[int]) -> None:
        """Raises MissingLayers unless every one of these components has a peer. That is all it takes: any peer can hand over to any other."""
        holes = merge_spans(Span(c, c + 1) for c in components if not (self.work_NP[c] < inf).any())
        if holes:
            raise missing(self.all.values(), self.request, holes)


def missing(peers: Iterable[PeerView], request: Request, holes: Sequence[Span]) -> MissingLayers:
    """The error for components that no peer may serve: which they are, and why those who hold them are out."""
    peers = list(peers)
    layers = format_layers(holes, request.components - 2)
    runs: dict[tuple[str, ...], list[Span]] = {}
    limits: list[int | None] = []
    for hole in holes:
        for component in range(hole.start, hole.stop):
            holders = [view for view in peers if view.holds(Span(component, component + 1))]
            forever = all(view.state == "online" and _too_short(view, request) for view in holders)
            limits.append(max((view.longest for view in holders), default=None) if forever else None)
            why = {obstacle(view, request) or "" for view in holders}
            runs.setdefault(tuple(sorted(why)), []).append(Span(component, component + 1))
    longest = None if None in limits else min(limit for limit in limits if limit is not None)
    clauses = [_clause(why, spans, request.components - 2) for why, spans in sorted(runs.items(), key=lambda run: run[1])]
    step = "start a peer for them" if () in runs else "try again later, or start another peer for them"
    return MissingLayers(f"{'; '.join(clauses)}; {step} (swarm-serve with --layers {layers})", merge_spans(holes), layers, longest=longest)


def _clause(why: tuple[str, ...], spans: list[Span], layers: int) -> str:
    name = format_layers(spans, layers)
    subject = f"layers {name} are" if name[-1].isdigit() or ":" in name else f"{name} is"
    return f"{subject} served only by peers {' or '.join(why)}" if why else f"{subject} served by nobody"
