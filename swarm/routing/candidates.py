"""The room `routing`, its gate: which peers may serve a request, what they would take for it, and, when they are too few, what to tell the user."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from math import inf

import numpy as np

from swarm.core import PeerId, Span, base_dtype, format_layers, merge_spans, readable, rounding
from swarm.errors import MissingLayers
from swarm.routing.atlas import Atlas
from swarm.routing.compression import packs
from swarm.routing.load import IDLE, Delays, Load
from swarm.routing.route import Request
from swarm.routing.table import PeerView

EMBED_WEIGHT = 0.05
"""Looking up rows of the embedding, in layers' worth (docs/routing.md)."""


def _too_short(view: PeerView, request: Request) -> bool:
    return view.longest < request.tokens_needed


GUESSED = 1.0
"""Usual ways between two peers that a token takes less where the first hop has a draft model: half of what a ring of two hops saves when four of five guesses
are right."""

EXACT = 1000
"""Peers up to which all are tried."""

STRIDE = 4
KEPT = 15
"""Beyond it, how many are kept of every region for every STRIDE components. Of 12 to 16 the fewest whose routes for 2000 peers are worse by less than 1 % on
average and 5 % at worst (docs/routing.md); 10,000 peers then take not much longer to plan for than 1000 without it."""

USUAL_SPAN = 20
"""Layers a hop runs, to weigh how fast a peer is against how far from others."""

DOWN = 4.0
"""How many times faster lines of homes and offices receive than they send, usually at least (docs/routing.md)."""

SHORTEST_CYCLE = 1e-6
"""Seconds. A token takes time even where everybody announces that it takes none."""

OBSTACLES: tuple[tuple[Callable[[PeerView, Request], bool], str], ...] = (
    (lambda view, request: view.state == "leaving", "that are leaving"),
    (lambda view, request: view.state != "online", "that are still joining"),
    (_too_short, "whose limit is below the {needed} positions needed"),
    (lambda view, request: view.peer in request.exclude, "that have just failed or refused"),
    (lambda view, request: view.free_tokens < request.tokens_needed and not request.crowded, "without free cache space for {needed} positions"),
)
"""What keeps a peer out, and how that reads after "peers". The first that applies is the reason given: what lasts longest comes first.

Free space is counted once a peer, not once a hop: what a peer announces holds for any hops that one session may have there (`Offer.whole_weight`)."""


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
    """One planning decision: the peers that may serve some components of a request, as the arrays that `cover` works on. `anchors` are
    peers that stay in the chain whatever is planned; they are nodes as well, so that links to them have a price, but run nothing unless they may serve too.

    Under load every hop is entered at a price, `entry_P`, and every layer's worth takes longer."""

    def __init__(self, atlas: Atlas, request: Request, components: Sequence[int], anchors: Sequence[PeerId] = (), load: Load | None = None) -> None:
        self.request, self.atlas, self.load = request, atlas, load
        wanted = np.array(components, int)
        held_AN = atlas.holds(request.components)
        able = np.flatnonzero(self._able() & held_AN[:, wanted].any(axis=1))
        held_AN, (entry_A, layer_A) = held_AN[able], self._loaded(able)
        if len(able) > EXACT:
            kept = self._shortlist(able, held_AN, entry_A, layer_A)
            able, held_AN, entry_A, layer_A = able[kept], held_AN[kept], entry_A[kept], layer_A[kept]
        columns = self._number(able, anchors)
        self.entry_P = np.zeros(len(self.nodes))
        send_A, receive_A = self._carrying(able)
        self.entry_P[columns] = request.rounds * entry_A + send_A + receive_A
        self.link_PP *= request.rounds
        self._drafted = False
        self.work_NP = self._work(able, columns, wanted, held_AN[:, wanted].T, layer_A)
        self._spare_ends(columns, send_A, receive_A)

    def number(self, peer: PeerId) -> int:
        """The node that an anchor, or anybody able, is."""
        return bisect_left(self.nodes, peer)

    def _number(self, able: np.ndarray, anchors: Iterable[PeerId]) -> np.ndarray:
        """Number nodes by peer id, those who are able and those who only stay; how far apart they are. Returns the nodes of the able. (Peers of the atlas are
        sorted already, and there may be a thousand, of whom a repair has one millisecond to speak.)"""
        peers, among = self.atlas.peers, set(able.tolist())
        self.nodes, row_P, columns = [peers[at] for at in able.tolist()], self.atlas.order[able], np.arange(len(able))
        for peer in sorted(set(anchors)):
            at = bisect_left(peers, peer)
            if at in among and peers[at] == peer:
                continue
            node = self.number(peer)
            self.nodes.insert(node, peer)
            row_P = np.insert(row_P, node, self.atlas.rows([peer]))
            columns[np.searchsorted(able, at) :] += 1
        self.link_PP = self._distances(row_P)
        return columns

    def _able(self) -> np.ndarray:
        """As `obstacle` is None, for all of the atlas at once."""
        atlas, needed = self.atlas, self.request.tokens_needed
        able = atlas.online & (atlas.facts("longest") >= needed) & ((atlas.facts("free_tokens") >= needed) | self.request.crowded)
        for peer in self.request.exclude & atlas.views.keys():
            able[bisect_left(atlas.peers, peer)] = False
        return able

    def seen(self, view: PeerView) -> PeerView:
        """A peer as whoever asks has measured it, not as it announces itself."""
        factor = self.request.slower.get(view.peer, 1.0)
        return view if factor == 1.0 else replace(view, decode=factor * view.decode, prefill=factor * view.prefill)

    def _fact(self, name: str) -> np.ndarray:
        facts_P = self.atlas.facts(name)
        if name in ("decode", "prefill"):
            for peer in self.request.slower.keys() & self.atlas.views.keys():
                facts_P[bisect_left(self.atlas.peers, peer)] *= self.request.slower[peer]
        return facts_P

    def delays(self, view: PeerView) -> Delays | None:
        """What load adds at one peer, None if there is none to speak of."""
        if self.load is None:
            return None
        sessions, layers = self.load.share(view.peer)
        return self.load.delays(view.decode, view.prefill, sessions, layers, self._cycle)

    @cached_property
    def _cycle(self) -> float:
        """What a token takes; if nobody knows, about what one takes that waits for nobody: the usual layer, as often as there are components."""
        known = self.load.cycle if self.load is not None else None
        return known or max(self.request.components * float(np.median(self.atlas.facts("decode"))), SHORTEST_CYCLE)

    def _loaded(self, able: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds per round that load adds for each hop entered and for each layer's worth, of those who are able."""
        if self.load is None or not len(able):
            return np.zeros(len(able)), np.zeros(len(able))
        peers, shares = self.atlas.peers, self.load.shares
        found = chain.from_iterable([shares.get(peers[at], IDLE) for at in able.tolist()])
        sessions_A, layers_A = np.fromiter(found, float, 2 * len(able)).reshape(-1, 2).T
        decode_A, prefill_A = self._fact("decode")[able], self._fact("prefill")[able]
        delays = self.load.delays(decode_A, prefill_A, sessions_A, layers_A, self._cycle)
        return np.asarray(delays.entry), np.asarray(delays.layer)

    def _carrying(self, able: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds in which these peers send all activations that pass between two hops, compressed where that pays, and receive them: as they are, for nobody
        knows yet from whom. Nothing for those whose line nobody knows."""
        request, upload_A = self.request, self.atlas.facts("upload")[able]
        rows_A = np.divide(request.prompt + request.output, upload_A, out=np.zeros(len(able)), where=upload_A > 0)
        packs_A = (self.atlas.facts("compresses")[able] > 0) & packs(upload_A, request.row_bytes, request.packed_bytes)
        return rows_A * np.where(packs_A, request.packed_bytes, request.row_bytes), rows_A * request.row_bytes / DOWN

    def _shortlist(self, able: np.ndarray, held_AN: np.ndarray, entry_A: np.ndarray, layer_A: np.ndarray) -> np.ndarray:
        """Which of too many to try: of every region, and for every few components, those who are fastest and nearest to others among the ones whose span begins
        there. Indices into `able`, rising."""
        request, atlas = self.request, self.atlas
        region_A = atlas.regions[able]
        work_A = request.prompt * self._fact("prefill")[able] + request.output * self._fact("decode")[able]
        send_A, receive_A = self._carrying(able)
        merit_A = USUAL_SPAN * work_A + request.rounds * (atlas.remoteness[able] + entry_A + USUAL_SPAN * layer_A) + send_A + receive_A
        place_A = np.argmax(held_AN, axis=1) // STRIDE * (region_A.max() + 2) + region_A
        order = np.lexsort((np.arange(len(able)), merit_A, place_A))
        ranked_A = np.arange(len(able)) - np.searchsorted(place_A[order], place_A[order])
        return np.sort(order[ranked_A < KEPT])

    def _distances(self, row_P: np.ndarray) -> np.ndarray:
        """Between nodes, and between nodes and the client if it is one of them."""
        request = self.request
        table_PP = self.atlas.matrix(row_P)
        client = self.number(request.source or "")
        if self.nodes[client : client + 1] == [request.source]:
            table_PP[client] = table_PP[:, client] = self.atlas.distances(request.source, request.source_rtts, self.nodes)
        return table_PP

    def _work(self, able: np.ndarray, columns: np.ndarray, wanted: np.ndarray, held_KA: np.ndarray, extra_A: np.ndarray) -> np.ndarray:
        """Components × nodes, inf but for those wanted. The first component also bears the client's distance, once for the prompt and once for the answer:
        it is paid by whoever comes first, and never per token."""
        request, atlas = self.request, self.atlas
        decode_A, prefill_A, head_A = (self._fact(name)[able] for name in ("decode", "prefill", "head_weight"))
        layer_A = request.prompt * prefill_A + request.output * decode_A + request.rounds * extra_A
        seconds_KA = np.broadcast_to(layer_A, (len(wanted), len(able))).copy()
        seconds_KA[wanted == 0] *= EMBED_WEIGHT
        if request.first == 0 and (wanted == 0).any():
            firsts = np.flatnonzero(held_KA[wanted == 0][0])
            ways = atlas.distances(request.source, request.source_rtts, [atlas.peers[able[at]] for at in firsts])
            seconds_KA[np.ix_(wanted == 0, firsts)] += 2 * ways
            self._drafted = request.guesses and any(atlas.views[atlas.peers[able[at]]].draft for at in firsts)
            seconds_KA[np.ix_(wanted == 0, firsts)] += [self.unguessed(atlas.peers[able[at]]) for at in firsts]
        seconds_KA[wanted == request.components - 1] = head_A * (decode_A + extra_A) * request.rounds
        work_NP = np.full((request.components, len(self.nodes)), inf)
        work_NP[wanted[:, None], columns] = np.where(held_KA, seconds_KA, inf)
        return work_NP

    def unguessed(self, first: PeerId) -> float:
        """Seconds that an answer takes longer over this first hop, because it has no draft model and another could be had that has one."""
        view = self.atlas.views.get(first)
        return GUESSED * self.atlas.default * self.request.output if self._drafted and view is not None and not view.draft else 0.0

    def _spare_ends(self, columns: np.ndarray, send_A: np.ndarray, receive_A: np.ndarray) -> None:
        """Every hop was charged with receiving and sending activations as it is entered, but one that begins with `embed` gets tokens, and one that ends with
        `head` sends some. They are not given their share back, which might be more than their work: all others pay it there, which comes to the same."""
        for component, share_A in ((0, receive_A), (self.request.components - 1, send_A)):
            self.work_NP[component, columns] += share_A.max(initial=0.0) - share_A

    def require(self, components: Iterable[int]) -> None:
        """Raises MissingLayers unless every one of these components has a peer. That is all it takes: any peer can hand over to any other."""
        holes = merge_spans(Span(c, c + 1) for c in components if not (self.work_NP[c] < inf).any())
        if holes:
            raise missing(self.atlas.views.values(), self.request, holes)


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
    memory = request.shape.bytes_needed(holes, request.scale, request.tokens_needed) if request.shape else 0
    sentence = f"{'; '.join(clauses)}; {step} (swarm-serve with --layers {layers}{_flags(request.numerics)})"
    return MissingLayers(sentence + _memory(memory, request.tokens_needed), merge_spans(holes), layers, longest=longest, memory=memory or None)


def _flags(numerics: str) -> str:
    """What a newcomer types beside its layers to serve in the same format: its own files may be in another."""
    if not numerics:
        return ""
    return f" --dtype {base_dtype(numerics)}" + (f" --quantize {method}" if (method := rounding(numerics)) else "")


def _memory(size: int, positions: int) -> str:
    """How a sentence goes on that asks for peers."""
    if not size:
        return ""
    cache = f" and a cache of {positions} positions" if positions else ""
    return f": weights{cache} take about {readable(size)} of memory, on one more machine or shared by several"


def _clause(why: tuple[str, ...], spans: list[Span], layers: int) -> str:
    name = format_layers(spans, layers)
    subject = f"layers {name} are" if name[-1].isdigit() or ":" in name else f"{name} is"
    return f"{subject} served only by peers {' or '.join(why)}" if why else f"{subject} served by nobody"
