"""The nouns every room shares. Pure values: no I/O, no clock, no torch, no wire format.

A model is an ordered list of *components*: `embed` is component 0, transformer layer i is component i + 1, and `head` (final norm, LM head, sampler) is the
last one, so a model of L layers has L + 2 components. Everything that speaks of "which part" uses component indices; only people are shown layer numbers.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import ceil
from typing import NamedTuple

from swarm.errors import InvalidSampling, LayersOutOfRange, MalformedLayers, UsageError

PeerId = str
"""Base58 text of a libp2p peer id; ours are Ed25519, so the public key is inside it."""

SessionId = bytes
"""Sixteen random bytes, drawn by the client."""

CLIENT = -1
"""The hop index that stands for the client: it is the predecessor of hop 0."""


class HopKey(NamedTuple):
    """A session's hop at one peer. The span, not the hop's number, is the key: a repair may put more hops before it without costing it its cache."""

    session: SessionId
    start: int
    stop: int


class Epoch(NamedTuple):
    """Which version of a session's past a frame belongs to. Compared as a pair: a new chain outranks any draft."""

    chain: int
    draft: int


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Contiguous components [start, stop)."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a span needs 0 <= start < stop, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, component: object) -> bool:
        return isinstance(component, int) and self.start <= component < self.stop

    def covers(self, other: Span) -> bool:
        return self.start <= other.start and other.stop <= self.stop


MOST_ADDRS, LONGEST_ADDR = 16, 256
"""Addresses of a hop, and characters of one: a way by a relay over TCP has some 150."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One peer's part of one chain: any sub-span of what it holds. `addrs` are multiaddrs at which the peer may be dialled. `version` is that of the peer's
    span (`Announcement.span_version`) when the route was planned, 0 for one that nobody knows: a peer that has moved since then says so."""

    peer: PeerId
    start: int
    stop: int
    addrs: tuple[str, ...] = ()
    version: int = 0

    def __post_init__(self) -> None:
        if len(self.addrs) > MOST_ADDRS or any(len(addr) > LONGEST_ADDR for addr in self.addrs):
            raise ValueError(f"a hop has at most {MOST_ADDRS} addresses, of {LONGEST_ADDR} characters")

    @property
    def span(self) -> Span:
        return Span(self.start, self.stop)


def base_dtype(numerics: str) -> str:
    """The dtype of activations in a numerics class: `bfloat16` of `bfloat16-int8`."""
    return numerics.partition("-")[0]


ROUNDED_BITS = {"int8": 8.0, "int4": 4.5}
"""How weights may be rounded (`--quantize`), and the bits that each then takes: those of a group of 32 in int4 share 16 more."""


def rounding(numerics: str) -> str | None:
    """How peers of this class have rounded the weights of the checkpoint: `int8` of `bfloat16-int8`."""
    method = numerics.partition("-")[2]
    return method if method in ROUNDED_BITS else None


def is_rounded(numerics: str) -> bool:
    return rounding(numerics) is not None


_MIXED = "-mixed"


def mixed(numerics: str) -> str:
    """The mixed class of whoever computes in this dtype, whatever weights they have rounded: `bfloat16-mixed` of `bfloat16` and of `bfloat16-int8`. Peers of it
    share a chain whose client allows that."""
    return base_dtype(numerics) + _MIXED


def is_mixed(numerics: str) -> bool:
    return numerics.endswith(_MIXED)


def may_serve(held: str, ordered: str) -> bool:
    """Whether a peer of the numerics `held` may be a hop of a chain of the numerics `ordered`."""
    return ordered in (held, mixed(held))


FIRST_SLAB = 64
"""Positions of the smallest slab of a cache: a short question and its answer without copying, 80 KB a layer for 5 heads of 64 in bfloat16."""


def slab_size(positions: int, limit: int | None = None) -> int:
    """Positions for which a cache has room that has grown to so many: it doubles, but not beyond the limit of its session. (A later turn may have outgrown the
    first one's.)"""
    capacity = max(FIRST_SLAB, 1 << (positions - 1).bit_length()) if positions else 0
    return min(capacity, limit) if limit is not None and positions <= limit else capacity


def digest_of(tokens: Sequence[int]) -> bytes:
    """Sixteen bytes that only these token ids have."""
    numbers = array("I", tokens)
    if sys.byteorder == "big":
        numbers.byteswap()
    return blake2b(numbers, digest_size=16).digest()


def slab_after_cut(capacity: int, positions: int) -> int:
    """Of a cache with room for `capacity` positions that is cut to so many: far less than half of it full, it gives memory back."""
    return min(capacity, needed) if capacity > 2 * (needed := slab_size(positions)) else capacity


def longest_after_cut(longest: int, positions: int) -> int:
    """How long a cache that had grown to `longest` positions counts as having been, once it is cut to so many: `slab_after_cut` leaves no more room than that,
    whatever limit it grew under, since a limit leaves out less than half of a slab."""
    return positions if slab_size(longest) >= 4 * slab_size(positions) else longest


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the head draws a token. `temperature` 0 is greedy. Draws are keyed by (seed, position), so one seed gives one answer.

    `stop_ids` end the generation with the token that stops included in neither text nor count; an empty tuple goes on to the end. `logprobs` is how many
    alternatives are reported beside each drawn token, None for no report at all. `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 mean "off".
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Raises InvalidSampling, also when it comes from the wire. Written as `not (inside)` so that NaN fails too."""
        for name in ("top_k", "seed", *(() if self.logprobs is None else ("logprobs",))):
            if not isinstance(getattr(self, name), int):
                raise InvalidSampling(f"{name} must be a whole number, not {getattr(self, name)!r}")
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            if not isinstance(getattr(self, name), int | float):
                raise InvalidSampling(f"{name} must be a number, not {getattr(self, name)!r}")
        if not all(isinstance(token, int) and token >= 0 for token in self.stop_ids):
            raise InvalidSampling(f"stop token ids are whole numbers from 0 on, not {list(self.stop_ids)!r:.80}")
        if not 0 <= self.temperature <= 100:
            raise InvalidSampling(f"temperature must be between 0 (greedy) and 100, not {self.temperature}")
        if not 0 <= self.top_k <= 2**31:
            raise InvalidSampling(f"top_k must be 0 (off) or a positive number of tokens, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InvalidSampling(f"top_p must be above 0 and at most 1 (off), not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise InvalidSampling(f"min_p must be between 0 (off) and 1, not {self.min_p}")
        if not 0 < self.repetition_penalty <= 100:
            raise InvalidSampling(f"repetition_penalty must be above 0 and at most 100 (1 is off), not {self.repetition_penalty}")
        if not 0 <= self.seed < 2**63:
            raise InvalidSampling(f"seed must be between 0 and 2**63 - 1, not {self.seed}")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise InvalidSampling(f"logprobs must be between 0 and 20 alternatives, not {self.logprobs}")
        if len(self.stop_ids) > 256:
            raise InvalidSampling(f"at most 256 stop token ids are possible, not {len(self.stop_ids)}")


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


def readable(size: float) -> str:
    """An amount of memory as people are told it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 0.1):.1f} MB" if size > 0 else "0 MB"


def short_id(peer: PeerId) -> str:
    """A peer id as people are shown it: enough to find it among others, and to see that it is one."""
    return f"{peer[:8]}…{peer[-6:]}"


MOST_NAME = 64
"""Characters of what a peer calls itself, and of where it says it is."""


def printable(text: str, most: int | None = None) -> str:
    """What a stranger says of itself, as it may be shown: one line of at most `most` characters, without any that move a terminal's cursor, change its title or
    turn the direction of writing."""
    return "".join(letter for letter in text if letter.isprintable())[:most]


def harmless(text: str) -> str:
    """Text that may hold strangers' words, in several lines: what moves a terminal's cursor or turns the direction of writing stands there spelled out."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def texts(given: Iterable[str] | str, what: str) -> tuple[str, ...]:
    """One text or several, as a caller may give them. `what` they are opens the sentence of the UsageError about anything else."""
    several = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    for one in several:
        if not isinstance(one, str):
            raise UsageError(f"{what}, and cannot be {given!r:.80}")
    return several


def whole(components: int) -> Span:
    return Span(0, components)


_RANGE = re.compile(r"(\d+):(\d+)")


def parse_layers(text: str, layers: int) -> tuple[Span, ...]:
    """Read what `--layers` accepts: `0:12`, `embed`, `head`, or several joined by commas, into sorted, merged spans of components.

    A range of layers takes `embed` along where it begins at layer 0 and `head` where it ends at the last layer, unless either is spelled out anywhere in
    the text, in which case it is taken literally.

    Raises MalformedLayers for text that is none of this, LayersOutOfRange for layers the model does not have.
    """
    parts = [part.strip() for part in text.split(",")]
    spelled_out = "embed" in parts or "head" in parts
    spans = []
    for part in parts:
        if part == "embed":
            spans.append(Span(0, 1))
        elif part == "head":
            spans.append(Span(layers + 1, layers + 2))
        elif match := _RANGE.fullmatch(part):
            start, stop = int(match[1]), int(match[2])
            if start >= stop:
                raise MalformedLayers(part)
            if stop > layers:
                raise LayersOutOfRange(part, layers)
            first = 0 if start == 0 and not spelled_out else start + 1
            last = layers + 2 if stop == layers and not spelled_out else stop + 1
            spans.append(Span(first, last))
        else:
            raise MalformedLayers(part)
    return merge_spans(spans)


ENDLESS = 10**100
"""Layers of a model of which nothing is known yet."""

AUTO = "auto"
"""What `--layers` accepts instead of layers: let the peer choose."""


def check_layers(text: str, layers: int | None = None) -> None:
    """What can be said of `--layers` before a model is opened; `layers` is how many it has, where that is known. Raises what `parse_layers` does."""
    if text == AUTO:
        return
    try:
        parse_layers(text, layers or ENDLESS)
    except MalformedLayers as error:
        raise MalformedLayers(text) from error


def format_layers(spans: Iterable[Span], layers: int) -> str:
    """Spell spans as `--layers` does, so that `parse_layers` gives them back. (The one part that cannot be spelled: layers that reach an end of the model
    alone, without `embed` or `head`. Read again, they take that end along.)"""
    merged = merge_spans(spans)
    parts = [_format_span(span, layers) for span in merged]
    short = ",".join(text for text in (_short(span, layers) for span in merged) if text)
    if short and "," not in short and parse_layers(short, layers) == merged:
        return short
    return ",".join(parts)


def _short(span: Span, layers: int) -> str:
    start, stop = max(span.start - 1, 0), min(span.stop - 1, layers)
    return f"{start}:{stop}" if start < stop else ""


def _format_span(span: Span, layers: int) -> str:
    parts = []
    if 0 in span:
        parts.append("embed")
    if short := _short(span, layers):
        parts.append(short)
    if layers + 1 in span:
        parts.append("head")
    return ",".join(parts)


def merge_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Sort spans and join those that touch or overlap."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].stop:
            merged[-1] = Span(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return tuple(merged)


def missing_spans(spans: Iterable[Span], wanted: Span) -> tuple[Span, ...]:
    """The parts of `wanted` that no span covers, in order."""
    holes, at = [], wanted.start
    for span in merge_spans(spans):
        if span.stop <= at:
            continue
        if span.start >= wanted.stop:
            break
        if span.start > at:
            holes.append(Span(at, span.start))
        at = span.stop
    if at < wanted.stop:
        holes.append(Span(at, wanted.stop))
    return tuple(holes)


def on_one_machine(route: Sequence[Hop]) -> bool:
    """Whether several peers say that they are reached at exactly the same hosts. One host in common proves nothing: every machine has a loopback address, and
    most with containers have the same bridge; machines behind one router share its public address."""
    if len({hop.peer for hop in route}) < 2:
        return False
    hosts = {frozenset(addr.split("/")[2] for addr in hop.addrs if addr.count("/") > 2) for hop in route}
    return len(hosts) == 1 and hosts != {frozenset()}


def check_cover(hops: Sequence[Hop], components: int) -> None:
    """Raise ValueError unless the hops cover every component once, in order."""
    at = 0
    for hop in hops:
        if hop.start != at or hop.stop <= hop.start:
            raise ValueError(f"hop of {hop.peer} covers [{hop.start}, {hop.stop}) where {at} comes next")
        at = hop.stop
    if at != components:
        raise ValueError(f"the hops end at component {at} of {components}")
