"""The room `routing`, its question and its answer: what a client asks for, and the hops it gets. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.core import Hop, ModelShape, PeerId, Span, check_cover

USUAL_OUTPUT = 200
"""New tokens expected of an answer of unknown length (docs/routing.md)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one generation needs of a route.

    `tokens_needed` is how many positions every hop must be able to reserve; `prompt` and `output` are how many tokens are expected to pass, and weigh prefill
    against decoding. `source` is the client's peer id, if it has one, and `source_rtts` the round trips it measured. `exclude` are peers it will not have,
    `slower` by which factors peers were measured to take longer than they announce.
    `own` are the ends that a client keeps for itself, which makes it the first hop, the last, or both: spans that begin at component 0 or end at the last.
    `crowded` counts in peers that say they have no room for so many now.
    `row_bytes` are those of a position's activations between two hops; 0 leaves bandwidth out of the price. `packed_bytes` are those of one that is compressed;
    0 where the client wants none so. Who wants no `guesses` has nothing of a first hop's draft model.
    `shape`, where it is known, is only there to say how much memory would fill a hole; `scale` as in `ModelShape.bytes_needed`; `numerics` only to say in which
    format.
    """

    components: int
    tokens_needed: int = 0
    prompt: int = 1
    output: int = USUAL_OUTPUT
    source: PeerId | None = None
    source_rtts: Mapping[PeerId, float] = field(default_factory=dict)
    exclude: frozenset[PeerId] = frozenset()
    slower: Mapping[PeerId, float] = field(default_factory=dict)
    own: tuple[Span, ...] = ()
    shape: ModelShape | None = None
    scale: float = 1.0
    row_bytes: int = 0
    crowded: bool = False
    numerics: str = ""
    packed_bytes: int = 0
    guesses: bool = True

    def __post_init__(self) -> None:
        if self.own and self.source is None:
            raise ValueError("a client that keeps its own ends needs a peer id, because it is a hop")
        ends = [span for span in self.own if span.start == 0 or span.stop == self.components]
        disjoint = all(one.stop <= other.start for one, other in zip(self.own, self.own[1:], strict=False))
        if len(self.own) > 2 or len(ends) < len(self.own) or not disjoint or any(span.stop > self.components for span in self.own):
            raise ValueError(f"{self.own} are not the ends, in order, of a model of {self.components} components")

    @property
    def first(self) -> int:
        """The first component that is not the client's own."""
        return max((span.stop for span in self.own if span.start == 0), default=0)

    @property
    def last(self) -> int:
        """One past the last component that is not the client's own."""
        return min((span.start for span in self.own if span.stop == self.components), default=self.components)

    @property
    def rounds(self) -> int:
        """How often the ring is gone round: once for the prompt, once for each token."""
        return 1 + self.output


@dataclass(frozen=True, slots=True)
class Leg:
    """One hop and what it is predicted to take, in seconds: `compute` for a token, `network` for the way of a token to the next hop (from the last hop: back
    to the first), `prefill` for one token of a prompt, `work` for everything the request lets this hop compute. `carry` is the part of `network` that goes to
    bytes instead of distance; each token of a prompt takes it as well.

    Where load is known: `queue` is what a token waits here for others, and `harm` what others wait for it; the one is felt, both are weighed."""

    hop: Hop
    compute: float
    network: float
    prefill: float
    work: float
    queue: float = 0.0
    harm: float = 0.0
    carry: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """Hops that cover every component once, in order, with the predictions that chose them. `cost` is the expected seconds of the whole answer; `approach` the
    part of them for the client's prompt to reach the first hop and the last token to come back, and what others with a draft model there would save. Both only
    compare routes for the same request. `planner` is the coordinator that advised it, in which `term`, and `promise` the seconds per token it spoke of; "" and
    0 for one that the client planned itself. `standby`: it was one of the coordinator's standbys."""

    components: int
    legs: tuple[Leg, ...]
    cost: float
    approach: float = 0.0
    planner: PeerId = ""
    term: int = 0
    promise: float = 0.0
    standby: bool = False

    def __post_init__(self) -> None:
        check_cover(self.hops, self.components)

    @property
    def hops(self) -> tuple[Hop, ...]:
        return tuple(leg.hop for leg in self.legs)

    @property
    def compute(self) -> tuple[float, ...]:
        return tuple(leg.compute for leg in self.legs)

    @property
    def network(self) -> tuple[float, ...]:
        return tuple(leg.network for leg in self.legs)

    @property
    def queue(self) -> tuple[float, ...]:
        return tuple(leg.queue for leg in self.legs)

    @property
    def seconds_per_token(self) -> float:
        return sum(self.compute) + sum(self.network) + sum(self.queue)
