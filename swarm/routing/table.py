"""The room `routing`: what a planner sees of a swarm. Pure values; it does not know where the announcements came from, how old they are, or what time it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.core import LONGEST_ADDR, MOST_NAME, PeerId, Span, is_mixed, merge_spans, mixed, printable
from swarm.errors import ProtocolError
from swarm.wire import STATES, Announcement

FASTEST = 1e-6
"""Seconds for a layer's step below which an announced speed is not believed: who announces to take no time could not be found out, nor be divided by."""

LIGHTEST = 1e-3
"""Layers' worth of a head, below which what is announced is not believed: what is divided among spans by their weight has to come to something."""

NARROWEST = 1.0
"""Bytes per second of a line, likewise: what a position takes to pass must stay a number."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """One announcement, reduced to what planning needs. `decode` is seconds per layer and step, `prefill` seconds per layer and prompt token, `head_weight`
    the head's share in layers' worth, `cache_tokens` the positions its whole cache holds, `free_tokens` those it can still reserve,
    `rtts` round trips in seconds to peers it measured, `version` that of its span, `sessions` how many answers run there now, and `busy` the layers they run
    there, summed over them, `upload` how many bytes per second it can send, 0 where nobody knows, `draft` the model that guesses where it comes first,
    `compresses` whether it makes and reads compressed rows."""

    peer: PeerId
    addrs: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    decode: float = 0.01
    prefill: float = 0.001
    head_weight: float = 1.0
    cache_tokens: int = 2**20
    free_tokens: int = 2**20
    max_length: int = 2**20
    state: str = "online"
    rtts: Mapping[PeerId, float] = field(default_factory=dict)
    revision: str = ""
    numerics: str = ""
    region: str = ""
    version: int = 0
    sessions: int = 0
    busy: int = 0
    upload: float = 0.0
    draft: str = ""
    compresses: bool = False

    @classmethod
    def of(cls, record: Announcement, components: int) -> PeerView:
        """Of a model of so many components, whatever the record says of it. Raises ProtocolError for an unknown state, and for spans that the model does not
        have; ranges of single fields were checked when the record was decoded. Addresses that no route can name are left out."""
        if record.components != components:
            raise ProtocolError(f"{record.peer} announces a model of {record.components} components where there are {components}")
        if record.state not in STATES:  # or readers that know two of them would take it for the third
            raise ProtocolError(f"{record.peer} announces to be {printable(record.state, MOST_NAME)!r}, which is no state that is known here")
        try:
            spans = merge_spans(Span(start, stop) for start, stop in record.spans)
        except ValueError as error:
            raise ProtocolError(f"{record.peer} announces nonsense: {error}") from error
        if spans[-1].stop > components:
            raise ProtocolError(f"{record.peer} announces component {spans[-1].stop - 1} of a model of {components}")
        if is_mixed(record.numerics):  # or clients that allow no mixing would take it for a class
            raise ProtocolError(f"{record.peer} announces to compute in {record.numerics!r}, which only chains can be")
        addrs = tuple(addr for addr in record.addrs if len(addr) <= LONGEST_ADDR)
        upload = max(record.upload, NARROWEST) if record.upload else 0.0
        return cls(
            record.peer, addrs, spans, max(record.decode, FASTEST), record.prefill, max(record.head_weight, LIGHTEST), record.cache_tokens,
            record.free_tokens, record.max_length, record.state, record.rtts, record.revision, record.numerics, record.region, record.span_version,
            record.sessions, record.busy, upload, record.draft, record.compresses,
        )  # fmt: skip

    @property
    def kind(self) -> tuple[str, str]:
        """Its class: revision and numerics."""
        return self.revision, self.numerics

    @property
    def mixed_kind(self) -> tuple[str, str]:
        """The mixed class it belongs to as well."""
        return self.revision, mixed(self.numerics)

    @property
    def longest(self) -> int:
        """The longest session it could ever take, in positions."""
        return min(self.max_length, self.cache_tokens)

    def spare(self, length: int) -> int:
        """Positions that it has room for now in a session of so many, and of one more."""
        return max(min(self.max_length, self.free_tokens) - length - 1, 0)

    def holds(self, span: Span) -> bool:
        return any(own.covers(span) for own in merge_spans(self.spans))
