"""Room: cli. Which part of a model this machine takes, and getting it ready: what was asked for if it fits, or what the swarm needs most; loaded and measured.

Imports of the model room stand inside functions: it loads torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from swarm.cli.memory import budget_of, cache_tokens, costs_of, layout_of, position_bytes, scale_of, sizes_of
from swarm.cli.screen import Screen
from swarm.cli.wish import Wish
from swarm.core import AUTO, ModelShape, Span, check_layers, format_layers, parse_layers
from swarm.errors import DoesNotFit, ModelNotFound, ProtocolError, RemoteError
from swarm.wire import RENEW_EVERY, VERSION, Announcement

if TYPE_CHECKING:
    from swarm.compose import Connection, Part
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.span import SpanModel
    from swarm.peer.holding import Holding
    from swarm.routing.table import PeerView

log = logging.getLogger(__name__)

T = TypeVar("T")

BANDWIDTH = 10e9
"""Bytes of weights a second, to guess a decode step before anything is loaded: what two channels of DDR4 give two cores. Only the choice of layers sees it, and
only in comparison with what others announce."""

MEASURED, REMEASURED = 2.0, 0.5
"""Seconds to time what was loaded: at first, and where it only has to be seen that the machine is still what it was."""


log = logging.getLogger(__name__)


def open_checkpoint(wish: Wish, hashing: Callable[[float], None] | None = None) -> Checkpoint:
    """Blocks, for a minute where 16 GB are read for the first time, which `hashing` hears of. What can be said without that is said before.

    Raises ModelNotFound, HubUnreachable, NotAModel, UnsupportedModel, UnsafeWeights, LayersOutOfRange, DoesNotFit, InvalidConfig.
    """
    from swarm.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(wish.model, max_disk=wish.max_disk, hashing=hashing)
    shape = checkpoint.shape
    spans = None if wish.layers == AUTO else asked(wish, shape)
    checkpoint.check_complete()
    if spans is None:
        _most_needed(wish, checkpoint, ())  # says so if not even one layer fits
    else:
        layout_of(wish, checkpoint, spans)
    _ = checkpoint.revision
    return checkpoint


def check_early(model: str, layers: str) -> None:
    """What can be said of a model and `--layers` before the model is opened. Raises ModelNotFound, NotAModel, MalformedLayers, LayersOutOfRange."""
    from swarm.model.sources import layers_of

    if not model.strip():
        raise ModelNotFound("the model's name is empty; give a hub id such as Qwen/Qwen3-8B, or a folder")
    check_layers(layers)
    check_layers(layers, layers_of(model))


def asked(wish: Wish, shape: ModelShape) -> tuple[Span, ...]:
    return parse_layers(wish.layers, shape.layers)


async def choose(wish: Wish, checkpoint: Checkpoint, connection: Connection) -> tuple[Span, ...]:
    """The layers asked for, or with `auto` the least covered ones that fit into free memory."""
    views = await _others(wish, checkpoint, connection)
    return (_most_needed(wish, checkpoint, views),) if wish.layers == AUTO else asked(wish, checkpoint.shape)


def _most_needed(wish: Wish, checkpoint: Checkpoint, views: Sequence[PeerView]) -> Span:
    """Raises DoesNotFit where not even one layer does."""
    from swarm.routing.placement import choose_spans

    shape = wish.shape(checkpoint)
    step = sum(shape.component_bytes[1:-1]) / shape.layers * scale_of(wish, checkpoint) / BANDWIDTH
    return choose_spans(views, shape.components, costs_of(wish, checkpoint), budget_of(wish, checkpoint), step, wish.region)


@dataclass(frozen=True, slots=True)
class Fitting:
    """What this machine would take of a model: `spans`, none where not even one layer fits, out of `budget` bytes, of which each layer takes `layer` on an
    average, with its share of a conversation's cache. `needs` is what the spans take, and `read` what a step reads of their layers."""

    spans: tuple[Span, ...]
    budget: int
    layer: int
    needs: int
    read: int


def fitting(wish: Wish, checkpoint: Checkpoint, views: Sequence[PeerView]) -> Fitting:
    """Without loading anything. Raises LayersOutOfRange, InvalidConfig."""
    costs, budget = costs_of(wish, checkpoint), budget_of(wish, checkpoint)
    try:
        spans = (_most_needed(wish, checkpoint, views),) if wish.layers == AUTO else asked(wish, checkpoint.shape)
    except DoesNotFit:
        spans = ()
    weights = sizes_of(wish, checkpoint)[0]
    within = [component for span in spans for component in range(span.start, span.stop)]
    layers = [component for component in within if 0 < component < checkpoint.shape.head]
    inner = costs[1:-1]
    return Fitting(spans, budget, sum(inner) // len(inner), sum(costs[i] for i in within), sum(weights[i] for i in layers))


@contextlib.asynccontextmanager
async def announced_as_joining(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], connection: Connection) -> AsyncIterator[None]:
    """Tell others what we are about to load, so that whoever chooses meanwhile chooses something else."""

    async def keep() -> None:
        while True:
            with contextlib.suppress(RemoteError):
                await connection.directory.announce(_joining(wish, checkpoint, spans, connection))
            await asyncio.sleep(RENEW_EVERY)

    task = asyncio.create_task(keep(), name="joining")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def load(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], shown: Screen) -> Part:
    """Fetch, read, measure: shortly, where it is known what rounds took before. Blocks, for minutes where files come from far away."""
    from swarm.compose import Part, open_notes, speed_of
    from swarm.model.measure import measure_speed
    from swarm.model.span import SpanModel
    from swarm.peer.improving import improve
    from swarm.peer.past import known_fit

    layers = format_layers(spans, checkpoint.shape.layers)
    with shown.progress(lambda done: f"fetching and checking layers {layers}" if done < 0.5 else f"loading layers {layers}") as progress:
        layout = layout_of(wish, checkpoint, spans, loading=True)
        model = SpanModel.load(checkpoint, spans, dtype=wish.dtype, quantize=wish.quantize, on_disk=wish.on_disk, layout=layout, progress=progress)
    if layout.streamed:
        shown.say(f"{len(layout.streamed)} of these layers do not fit into {', '.join(layout.devices)}: they are copied in whenever they run, which takes time")
    if wish.threads is None:
        log.info("computing on %d threads, which is fastest here", model.choose_threads())
    if wish.compiled:
        with shown.progress(lambda done: "compiling layers") as progress:
            progress(0.0)
            asyncio.run(improve(_Idle(model), asked=True))
    with shown.progress(lambda done: "measuring speed") as progress:
        progress(0.0)
        about = speed_of(checkpoint, model, compiles=not wish.eager, on_disk=wish.on_disk)
        known = known_fit(open_notes(), about)
        return Part(checkpoint, model, measure_speed(model, MEASURED if known is None else REMEASURED), about, known)


@dataclass(frozen=True, slots=True)
class _Idle:
    """Implements `peer.improving.Workshop`: a model that nothing runs yet."""

    model: SpanModel

    async def alone(self, act: Callable[[SpanModel], T]) -> T:
        return act(self.model)


class Loading:
    """Implements `peer.holding.Loader`: other layers of the same model, as the first ones were asked for."""

    def __init__(self, wish: Wish, checkpoint: Checkpoint, shown: Screen) -> None:
        """Before anything is loaded: what is free then is what there is to move in."""
        self.costs = costs_of(wish, checkpoint)
        self._wish, self._checkpoint, self._shown = wish, checkpoint, shown
        self._first_budget = budget_of(wish, checkpoint)

    def budget(self, held: Span) -> int:
        """What there was at first, or less if the machine's other programs have grown since."""
        return min(self._first_budget, budget_of(self._wish, self._checkpoint, moving=True))

    async def fetch(self, span: Span) -> None:
        await asyncio.to_thread(self._checkpoint.fetch, [span])

    async def load(self, span: Span) -> Holding:
        from swarm.model.measure import threads

        wish = replace(self._wish, threads=threads())  # as measured with the first layers
        return await asyncio.to_thread(held, wish, self._checkpoint, [span], self._shown)


def held(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], shown: Screen) -> Holding:
    """Load, and say what can be served of it. Blocks."""
    from swarm.compose import holding

    part = load(wish, checkpoint, spans, shown)
    return holding(part, cache_tokens(wish, part), position_bytes(wish, part))


async def _others(wish: Wish, checkpoint: Checkpoint, connection: Connection) -> list[PeerView]:
    """Peers we could share a chain with. Those who serve the same configuration otherwise are mentioned: usually somebody forgot a flag."""
    from swarm.routing.table import PeerView

    try:
        records = await connection.directory.read(checkpoint.config_hash)
    except RemoteError as error:
        log.warning("cannot read who serves what: %s", error)
        return []
    views = []
    for record in records:
        if record.peer != connection.links.peer:
            with contextlib.suppress(ProtocolError):
                views.append(PeerView.of(record, checkpoint.shape.components))
    ours = (checkpoint.revision, wish.numerics(checkpoint))
    if views and not any(view.numerics == ours[1] for view in views):
        log.warning(
            "every other peer of this model serves it as %s, this one as %s: they share a chain only where a client lets them (--mixed), or never if "
            "the dtypes differ; --dtype and --quantize change it",
            " or ".join(sorted({view.numerics for view in views})),
            ours[1],
        )
    if any(view.revision != ours[0] for view in views):
        log.warning("some peers serve another revision of this model: their files differ from those here, so they cannot share a chain with this peer")
    return [view for view in views if (view.revision, view.numerics) == ours]


def _joining(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], connection: Connection) -> Announcement:
    shape, now = wish.shape(checkpoint), connection.wall()
    step = sum(shape.component_bytes[1:-1]) / shape.layers * scale_of(wish, checkpoint) / BANDWIDTH
    return Announcement(
        version=VERSION,
        peer=connection.links.peer,
        addrs=connection.addrs,
        model=shape.name,
        config_hash=shape.config_hash,
        revision=checkpoint.revision or "",
        numerics=wish.numerics(checkpoint),
        components=shape.components,
        spans=tuple((span.start, span.stop) for span in spans),
        decode=step,
        prefill=step,
        cache_tokens=0,
        free_tokens=0,
        max_length=shape.max_length,
        state="joining",
        sequence=int(now * 1000),
        time=now,
        name=wish.name,
        region=wish.region,
        span_version=int(now * 1000),  # rises across restarts too: whoever remembers us as we were a moment ago must not prefer that
    )
