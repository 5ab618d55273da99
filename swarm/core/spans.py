"""Room: core. Spans of components, the hops that cover them, and what may be said of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.core.ids import PeerId


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


def whole(components: int) -> Span:
    return Span(0, components)


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
