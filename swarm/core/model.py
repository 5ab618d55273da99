"""Room: core. What a model is made of, and what its parts take of memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

from swarm.core.spans import Span, merge_spans


@dataclass(frozen=True, slots=True)
class LengthScaling:
    """Rotary scaling that depends on how long a sequence is: "longrope" has other factors beyond `original` positions, "dynamic" others for every length."""

    kind: str
    original: int

    def reach(self, length: int) -> int:
        """What the factors of a session that may grow to `length` positions go by. Keys of one reach are no use at another."""
        if length <= self.original:
            return 1
        return self.original + 1 if self.kind == "longrope" else length


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What planning and reserving need to know of a model, without its weights. Sizes in bytes are those of the checkpoint's tensors as served."""

    name: str
    layers: int
    hidden: int
    vocab: int
    max_length: int
    config_hash: str
    component_bytes: tuple[int, ...] = ()
    kv_bytes_per_token: tuple[int, ...] = ()
    row_bytes: int = 0
    """One position's activations between two components: what a hop that has a successor keeps in its journal."""
    scaling: LengthScaling | None = None

    @property
    def components(self) -> int:
        return self.layers + 2

    @property
    def head(self) -> int:
        return self.layers + 1

    def reach(self, length: int) -> int:
        """As `LengthScaling.reach`; 1 where length does not matter."""
        return self.scaling.reach(length) if self.scaling else 1

    def scale(self, item: int | None) -> float:
        """How much larger everything becomes when numbers of the checkpoint are served as ones of `item` bytes; 1 where that is not known."""
        stored = self.row_bytes // self.hidden if self.hidden else 0
        return item / stored if item and stored else 1.0

    def rounded(self, item: int, bits: float = 8) -> ModelShape:
        """As of peers whose layers and head have weights of so many bits and that compute in numbers of `item` bytes: what then is multiplied by `scale(item)`
        are the bytes that they hold."""
        if not self.component_bytes:
            return self
        embed, *others = self.component_bytes
        return replace(self, component_bytes=(embed, *(ceil(each * bits / (8 * item)) for each in others)))

    def bytes_needed(self, spans: Iterable[Span], scale: float = 1.0, cache_tokens: int = 0) -> int:
        """Weights, cache and journals of `spans`. `scale` is bytes per number as served over bytes per number as stored; `cache_tokens` are positions of all
        sessions together. 0 where the sizes of weights are not known."""
        if not self.component_bytes:
            return 0
        spans = merge_spans(spans)
        components = [component for span in spans for component in range(span.start, span.stop)]
        stored = sum(self.component_bytes[i] + self.kv_bytes_per_token[i] * cache_tokens for i in components)
        # also of spans that reach the head: a session may leave one before it
        journals = sum(self.row_bytes * cache_tokens for span in spans if span.start < self.components - 1)
        return int((stored + journals) * scale)
