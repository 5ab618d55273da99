"""What a swarm looks like from one client: who serves what and how thinly, who coordinates, which of the client's own answers run and over which route.

`overview_of` is the pure function behind every picture of it, in a browser or a terminal: directory and route reports in, one frozen value out. `overview` asks
the client for them. Knows nothing of how it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from swarm.client.chronicle import Chronicle, Event
from swarm.client.report import HopReport
from swarm.core import MOST_NAME, ROUNDED_BITS, ModelShape, PeerId, Span, base_dtype, format_layers, missing_spans, printable, readable, rounding, whole
from swarm.machines.election import Candidacy, height
from swarm.routing.table import PeerView
from swarm.wire import ITEM_SIZE, Announcement

if TYPE_CHECKING:
    from swarm.client.aio import Client
    from swarm.client.session import Session

THINKING = 2.0
"""Seconds to find out why routes are as they are; a picture without reasons is better than none, and the next one has them."""


@dataclass(frozen=True, slots=True)
class PeerOverview:
    """One peer, by what it announced `age` seconds ago. `state` is the announced one, or "silent" for a peer that just failed us or does not answer us.
    `decode` and `prefill` are milliseconds for a layer: of one step, and of one token of a prompt. `rtt` is milliseconds from us, None where not measured;
    `rtts` what it measured itself. `spans` are component indices, `layers` the same for people. `office` is "coordinator", "candidate" or ""."""

    peer: PeerId
    name: str
    state: str
    layers: str
    spans: tuple[tuple[int, int], ...]
    revision: str
    numerics: str
    decode: float
    prefill: float
    sessions: int
    busy: int
    cache_tokens: int
    free_tokens: int
    share: float
    upload: float
    region: str
    rtts: Mapping[PeerId, float]
    age: float
    office: str = ""
    rtt: float | None = None

    @property
    def serves(self) -> bool:
        return self.state == "online"


@dataclass(frozen=True, slots=True)
class CoverOverview:
    """How completely the peers of one class (revision and numerics) serve the model. For each component `holders` counts who serves it now, `coming` who is
    loading it. `missing` are layers that nobody serves, "" for none; `memory` about how many bytes it takes to serve them, None where nobody knows; `thin` are
    layers whose only holder must not fail. `sentence` says what to add."""

    revision: str
    numerics: str
    holders: tuple[int, ...]
    coming: tuple[int, ...]
    missing: str
    memory: int | None
    thin: str
    sentence: str

    @property
    def complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True, slots=True)
class CoordinatorOverview:
    """`since` is the wall-clock second from which on this client has seen it in this term; `exactly`, whether it saw it begin."""

    peer: PeerId
    term: int
    since: float = 0.0
    exactly: bool = False


@dataclass(frozen=True, slots=True)
class RequestOverview:
    """One answer of this client that runs now. Milliseconds are per token. `network` is what is not computing, as measured over whole rounds. `why` are lines
    for people: what each hop costs, and what the next best would be."""

    id: str
    prompt: int
    tokens: int
    seconds: float
    hops: tuple[HopReport, ...] = ()
    network: float = 0.0
    tokens_per_second: float = 0.0
    reroutes: int = 0
    planner: PeerId = ""
    term: int = 0
    standby: bool = False
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """`time` is the wall clock's. `covers` has one entry for each class, the most complete first; `served` says whether any class covers the model, and
    `sentence` what to tell people about that. `coordinator` is None while nobody claims to be. `events` are the newest last."""

    time: float
    model: str
    config_hash: str
    layers: int
    component_bytes: tuple[int, ...]
    served: bool
    sentence: str
    covers: tuple[CoverOverview, ...]
    peers: tuple[PeerOverview, ...]
    coordinator: CoordinatorOverview | None
    requests: tuple[RequestOverview, ...] = ()
    events: tuple[Event, ...] = ()
    problems: Mapping[PeerId, str] = field(default_factory=dict)
    """Whose announcements make no sense, and why."""

    @property
    def components(self) -> int:
        return self.layers + 2


PRIVATE = "; but peers here announce a private swarm, which answers its members alone: if you are one, say so with --swarm-key (and --identity)"


def overview_of(
    shape: ModelShape,
    records: Iterable[Announcement],
    wall: float,
    *,
    silent: Collection[PeerId] = (),
    rtts: Mapping[PeerId, float] | None = None,
    requests: Sequence[RequestOverview] = (),
    problems: Mapping[PeerId, str] | None = None,
    member: bool = True,
) -> Overview:
    """`records` are what the directory says, `silent` who failed the client since, `rtts` round trips in seconds that it measured. Announcements in `problems`
    are left out. Who is no `member` of a private swarm sees its announcements, and reaches nobody."""
    problems, trips = dict(problems or {}), rtts or {}
    records = sorted((record for record in records if record.peer not in problems), key=lambda record: record.peer)
    coordinator = _coordinator(records, shape.config_hash, wall)
    peers = tuple(sorted((_peer(record, shape, wall, record.peer in silent, trips.get(record.peer), coordinator) for record in records), key=_place))
    classes = sorted({(peer.revision, peer.numerics) for peer in peers})
    covers = tuple(sorted((_cover(shape, kind, peers) for kind in classes), key=_completeness))
    served = any(cover.complete for cover in covers)
    everything = format_layers([whole(shape.components)], shape.layers)
    sentence = (
        covers[0].sentence
        if covers
        else f"nobody serves this model; start a peer with swarm-serve --layers {everything}{_about(_bytes(shape, '', whole(shape.components)))}"
    )
    if not member and not served and any(record.membership for record in records):
        sentence += PRIVATE
    return Overview(
        wall, shape.name, shape.config_hash, shape.layers, shape.component_bytes, served, sentence, covers, peers, coordinator, tuple(requests), (), problems
    )


async def overview(client: Client) -> Overview:
    """Of the client's swarm, now: reads the directory and measures how far peers are, which takes a few seconds at most."""
    await client.look()
    running = [session for session in client.sessions if session.running]
    await _find_reasons(running)
    requests = [_request(session, client.clock()) for session in running]
    seen = overview_of(
        client.shape,
        client.records,
        client.wall(),
        silent=client.silent,
        rtts=client.pings,
        requests=requests,
        problems=client.table.passed_over,
        member=client.member,
    )
    return with_history(seen, client.chronicle)


def with_history(seen: Overview, chronicle: Chronicle) -> Overview:
    """The same with what happened until now, which `chronicle` remembers, and hears of this."""
    leader = seen.coordinator
    chronicle.see(
        seen.time,
        {peer.peer: (peer.state, peer.layers) for peer in seen.peers},
        (leader.peer, leader.term) if leader is not None else None,
        {(cover.revision, cover.numerics): cover.missing for cover in seen.covers},
        {request.id: request.reroutes for request in seen.requests},
    )
    if leader is not None:
        since, exactly = chronicle.since
        leader = replace(leader, since=since, exactly=exactly)
    return replace(seen, coordinator=leader, events=chronicle.events)


# --- inside -----------------------------------------------------------------------------------------------------------------------------------------------


async def _find_reasons(running: Iterable[Session]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(THINKING):
            for session in running:
                await session.find_reasons()


def _request(session: Session, now: float) -> RequestOverview:
    prompt, tokens, began = session.progress
    found = RequestOverview(session.id.hex()[:8], prompt, tokens, now - began)
    if (glance := session.glance) is None:
        return found
    return replace(
        found, hops=glance.hops, network=glance.network_milliseconds, tokens_per_second=glance.tokens_per_second, reroutes=glance.reroutes,
        planner=glance.planner, term=glance.term, standby=glance.standby, why=tuple(session.reasons),
    )  # fmt: skip


def _coordinator(records: Iterable[Announcement], key: str, wall: float) -> CoordinatorOverview | None:
    """Of several claims the highest, as clients have it."""
    online = (record for record in records if record.state == "online")
    found = (Candidacy.of(record.peer, record.claim, record.sequence, wall) for record in online)
    claims = [candidacy for candidacy in found if candidacy is not None and candidacy.role == "claim"]
    best = max(claims, key=lambda claim: height(claim, key), default=None)
    return CoordinatorOverview(best.peer, best.term) if best is not None else None


def _peer(record: Announcement, shape: ModelShape, wall: float, silent: bool, rtt: float | None, coordinator: CoordinatorOverview | None) -> PeerOverview:
    view = PeerView.of(record, shape.components)
    leads = coordinator is not None and coordinator.peer == record.peer
    return PeerOverview(
        record.peer,
        printable(record.name, MOST_NAME),
        "silent" if silent else record.state,
        format_layers(view.spans, shape.layers),
        tuple((span.start, span.stop) for span in view.spans),
        record.revision,
        record.numerics,
        1000 * view.decode,
        1000 * view.prefill,
        record.sessions,
        record.busy,
        record.cache_tokens,
        record.free_tokens,
        record.share,
        record.upload,
        printable(record.region, MOST_NAME),
        {peer: 1000 * seconds for peer, seconds in sorted(record.rtts.items())},
        max(wall - record.time, 0.0),
        "coordinator" if leads else "candidate" if record.claim is not None and record.claim.role != "released" else "",
        None if rtt is None else 1000 * rtt,
    )


def _place(peer: PeerOverview) -> tuple[tuple[tuple[int, int], ...], PeerId]:
    """In the order of the model, as people look for them."""
    return peer.spans, peer.peer


def _cover(shape: ModelShape, kind: tuple[str, str], peers: Iterable[PeerOverview]) -> CoverOverview:
    mine = [peer for peer in peers if (peer.revision, peer.numerics) == kind]
    holders, coming = _count(shape, mine, "online"), _count(shape, mine, "joining")
    everything = whole(shape.components)
    holes = missing_spans([Span(start, stop) for peer in mine if peer.serves for start, stop in peer.spans], everything)
    thin = _runs([count == 1 for count in holders])
    missing, alone = format_layers(holes, shape.layers) if holes else "", format_layers(thin, shape.layers) if thin else ""
    memory = _bytes(shape, kind[1], *holes) if holes else None
    return CoverOverview(*kind, holders, coming, missing, memory, alone, _sentence(missing, memory, alone, bool(holes and _promised(holes, coming))))


def _count(shape: ModelShape, peers: Iterable[PeerOverview], state: str) -> tuple[int, ...]:
    counts = [0] * shape.components
    for peer in peers:
        if peer.state == state:
            for start, stop in peer.spans:
                for component in range(start, stop):
                    counts[component] += 1
    return tuple(counts)


def _runs(marks: Sequence[bool]) -> list[Span]:
    """Where marks are set, as spans."""
    return [Span(at, at + 1) for at, mark in enumerate(marks) if mark]


def _promised(holes: Iterable[Span], coming: Sequence[int]) -> bool:
    return all(coming[component] for hole in holes for component in range(hole.start, hole.stop))


def _bytes(shape: ModelShape, numerics: str, *spans: Span) -> int | None:
    """What serving them takes, weights alone; None where sizes are not known."""
    item = ITEM_SIZE.get(base_dtype(numerics))
    method = rounding(numerics)
    if method is not None and item:
        shape = shape.rounded(item, ROUNDED_BITS[method])
    return shape.bytes_needed(spans, shape.scale(item)) or None


def _about(memory: int | None) -> str:
    return f", about {readable(memory)} of weights on one more machine or shared by several" if memory else ""


def _sentence(missing: str, memory: int | None, thin: str, promised: bool) -> str:
    """What to tell people, and what to add."""
    if missing and promised:
        return f"{_named(missing)} served by nobody yet; peers that have joined are loading what is missing"
    if missing:
        return f"{_named(missing)} served by nobody; start a peer with swarm-serve --layers {missing}{_about(memory)}"
    if thin:
        return f"every layer is served; {_named(thin)} served by one peer alone, so one more would keep answers going if that fails"
    return "every layer is served by at least two peers"


def _named(layers: str) -> str:
    return f"layers {layers} are" if ":" in layers else f"{layers} is"


def _completeness(cover: CoverOverview) -> tuple[int, bool, int, str, str]:
    """Most complete first; of equals those that have not rounded the weights, then those with more holders."""
    return cover.holders.count(0), rounding(cover.numerics) is not None, -sum(cover.holders), cover.revision, cover.numerics
