"""Room: cli. Which part of a model this machine takes, and getting it ready: what was asked for if it fits, or what the swarm needs most; loaded and measured.

Imports of the model room stand inside functions: it loads torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from swarm.cli.screen import Screen
from swarm.core import AUTO, ROUNDED_BITS, ModelShape, Span, check_layers, format_layers, merge_spans, parse_layers
from swarm.errors import DoesNotFit, InvalidConfig, ModelNotFound, ProtocolError, RemoteError
from swarm.wire import RENEW_EVERY, VERSION, Announcement

if TYPE_CHECKING:
    from swarm.compose import Connection, Part
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.layout import Layout
    from swarm.model.span import SpanModel
    from swarm.peer.holding import Holding
    from swarm.routing.table import PeerView

log = logging.getLogger(__name__)

T = TypeVar("T")

LEAST_CACHE = 2048
"""Positions of cache for which memory is kept free when layers are chosen: one conversation of usual length."""

MOST_CACHE = 64
"""Sessions of the model's full length that the cache holds at most: more are not served at once anyway, and the memory may be wanted elsewhere."""

BANDWIDTH = 10e9
"""Bytes of weights a second, to guess a decode step before anything is loaded: what two channels of DDR4 give two cores. Only the choice of layers sees it, and
only in comparison with what others announce."""

MEASURED, REMEASURED = 2.0, 0.5
"""Seconds to time what was loaded: at first, and where it only has to be seen that the machine is still what it was."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asks for."""

    model: str
    layers: str
    dtype: str | None
    device: str
    cache_tokens: int | None
    max_memory: int | None
    max_disk: int | None
    name: str
    region: str
    quantize: str | None = None
    compiled: bool = False
    """Before it serves."""
    eager: bool = False
    """Never compiled."""
    offload: str = "auto"
    on_disk: tuple[str, ...] = ()
    threads: int | None = None
    """None: as many as are fastest."""

    def __post_init__(self) -> None:
        if self.quantize and "head" in self.on_disk:
            raise InvalidConfig("a head that is rounded is none that is in the model's files; leave head out of --on-disk, or --quantize")

    @property
    def streams(self) -> bool:
        """Whether layers that a GPU has no room for may wait in the machine's memory. Unless told to, we choose no layers that will be slow."""
        return self.offload == "yes" or (self.offload == "auto" and self.layers != AUTO)

    def dtype_of(self, checkpoint: Checkpoint) -> str:
        """In which it computes."""
        return self.dtype or checkpoint.dtype

    def numerics(self, checkpoint: Checkpoint) -> str:
        """The class in which it will serve."""
        return self.dtype_of(checkpoint) + (f"-{self.quantize}" if self.quantize else "")

    def shape(self, checkpoint: Checkpoint) -> ModelShape:
        """The checkpoint's as it will be held; times `_scale` it is what memory takes."""
        from swarm.model.layout import mapped_components
        from swarm.model.memory import ITEM_SIZE

        item = ITEM_SIZE.get(self.dtype_of(checkpoint), 4)
        shape = checkpoint.shape.rounded(item, ROUNDED_BITS[self.quantize]) if self.quantize else checkpoint.shape
        mapped = mapped_components(self.on_disk, shape.components)
        return replace(shape, component_bytes=tuple(0 if i in mapped else size for i, size in enumerate(shape.component_bytes))) if mapped else shape


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
        _layout(wish, checkpoint, spans)
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
    step = sum(shape.component_bytes[1:-1]) / shape.layers * _scale(wish, checkpoint) / BANDWIDTH
    return choose_spans(views, shape.components, _costs(wish, checkpoint), _budget(wish, checkpoint), step, wish.region)


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
    costs, budget = _costs(wish, checkpoint), _budget(wish, checkpoint)
    try:
        spans = (_most_needed(wish, checkpoint, views),) if wish.layers == AUTO else asked(wish, checkpoint.shape)
    except DoesNotFit:
        spans = ()
    weights = _sizes(wish, checkpoint)[0]
    within = [component for span in spans for component in range(span.start, span.stop)]
    layers = [component for component in within if 0 < component < checkpoint.shape.head]
    inner = costs[1:-1]
    return Fitting(spans, budget, sum(inner) // len(inner), sum(costs[i] for i in within), sum(weights[i] for i in layers))


def _costs(wish: Wish, checkpoint: Checkpoint) -> list[int]:
    """Bytes of each component, with the cache of a conversation."""
    return [sum(each) for each in zip(*_sizes(wish, checkpoint), strict=True)]


def _sizes(wish: Wish, checkpoint: Checkpoint) -> tuple[list[int], list[int]]:
    """Bytes of weights, and of the cache of a conversation, of each component."""
    shape, scale, cached = wish.shape(checkpoint), _scale(wish, checkpoint), _cache_wanted(wish, checkpoint.shape)
    return [int(size * scale) for size in shape.component_bytes], [int(size * cached * scale) for size in shape.kv_bytes_per_token]


def _budget(wish: Wish, checkpoint: Checkpoint, moving: bool = False) -> int:
    """Bytes for components. What this process holds will be given back where it is `moving`."""
    from swarm.model.layout import capacity

    rooms, host = _rooms(wish, checkpoint, moving)
    return capacity(*_sizes(wish, checkpoint), rooms, host)


def _rooms(wish: Wish, checkpoint: Checkpoint, moving: bool = False, journals: int = 1) -> tuple[dict[str, int], int]:
    """Bytes for components on each device, less the journals, and bytes of the machine for streamed layers."""
    from swarm.model.layout import HOST
    from swarm.model.memory import own_memory, usable

    compiles = wish.layers == AUTO and not wish.eager
    rooms = {device: usable(each + (own_memory(device) if moving else 0), compiles=compiles and device == HOST) for device, each in _free(wish).items()}
    if wish.max_memory is not None and (whole := sum(rooms.values())) > wish.max_memory:
        rooms = {device: room * wish.max_memory // whole for device, room in rooms.items()}
    journal = journals * int(checkpoint.shape.row_bytes * _cache_wanted(wish, checkpoint.shape) * _scale(wish, checkpoint))
    rooms = {device: max(room - journal // len(rooms), 0) for device, room in rooms.items()}
    return rooms, _host_room(wish, rooms, moving)


def _host_room(wish: Wish, devices: Collection[str], moving: bool) -> int:
    """Raises InvalidConfig where memory of the machine is asked for that no device could be fed from."""
    from swarm.model.layout import HOST
    from swarm.model.memory import free_memory, own_memory, usable

    if not all(device.startswith("cuda") for device in devices):
        if wish.offload == "yes":
            raise InvalidConfig(f"layers are streamed to CUDA and ROCm devices only, not to {', '.join(devices)}; leave out --offload yes")
        return 0
    return usable(free_memory(HOST) + (own_memory(HOST) if moving else 0)) if wish.streams else 0


def _layout(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], loading: bool = False) -> Layout:
    """What will lie where. Raises DoesNotFit where there is no room for all of it; of a CPU, where nothing is to be shared out, not once it is `loading`."""
    from swarm.model.layout import HOST, Layout, lay_out, mapped_components
    from swarm.model.memory import check_fits

    mapped = mapped_components(wish.on_disk, checkpoint.shape.components)
    if loading and tuple(_free(wish)) == (HOST,):
        return Layout.alone(HOST, spans, mapped)
    weights, cached = _sizes(wish, checkpoint)
    rooms, host = _rooms(wish, checkpoint, journals=sum(span.start < checkpoint.shape.head for span in merge_spans(spans)))
    found = lay_out(spans, weights, cached, rooms, host, mapped)
    if found is None:
        shape, scale, tokens = wish.shape(checkpoint), _scale(wish, checkpoint), _cache_wanted(wish, checkpoint.shape)
        check_fits(shape, spans, scale, tokens, _usable(wish))
        raise DoesNotFit(
            f"these layers of {shape.name} fit into what {' and '.join(rooms)} have free together, but not when every layer lies on one of them, with room for "
            "those that are streamed; name fewer layers, or let --layers auto choose"
        )
    return found


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
    with shown.progress(lambda done: f"fetching layers {layers}" if done < 0.5 else f"loading layers {layers}") as progress:
        layout = _layout(wish, checkpoint, spans, loading=True)
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
        self.costs = _costs(wish, checkpoint)
        self._wish, self._checkpoint, self._shown = wish, checkpoint, shown
        self._first_budget = _budget(wish, checkpoint)

    def budget(self, held: Span) -> int:
        """What there was at first, or less if the machine's other programs have grown since."""
        return min(self._first_budget, _budget(self._wish, self._checkpoint, moving=True))

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


def position_bytes(wish: Wish, part: Part) -> int:
    """Of a session that runs everything that was loaded."""
    from swarm.model.memory import bytes_needed

    shape, spans, scale = wish.shape(part.checkpoint), part.model.spans, _scale(wish, part.checkpoint)
    return bytes_needed(shape, spans, scale, 1) - bytes_needed(shape, spans, scale, 0)


def cache_tokens(wish: Wish, part: Part) -> int:
    """Positions of all sessions together: as asked, or what half of the memory that is left takes."""
    from swarm.model.memory import bytes_needed, usable

    if wish.cache_tokens is not None:
        return wish.cache_tokens
    shape, spans, layout = wish.shape(part.checkpoint), part.model.spans, part.model.layout
    most = MOST_CACHE * shape.max_length
    scale, each = _scale(wish, part.checkpoint), position_bytes(wish, part)
    held = bytes_needed(shape, spans, scale, 0) - int(sum(shape.component_bytes[i] for i in layout.streamed) * scale)
    left = min(_usable(wish) // 2, math.inf if wish.max_memory is None else wish.max_memory - held)
    most = min(most, *(int(usable(free) // 2 // kept) for free, kept in _cached_on(layout, shape, scale, _free(wish)) if kept))
    return max(1, min(most, int(left // each))) if each > 0 else most


def _cached_on(layout: Layout, shape: ModelShape, scale: float, free: Mapping[str, int]) -> list[tuple[int, float]]:
    """Of each device what is free, and what a position takes there."""
    return [(free[device], scale * sum(shape.kv_bytes_per_token[i] for i, on in layout.on.items() if on == device)) for device in free]


def _usable(wish: Wish) -> int:
    """Bytes for layers and cache."""
    from swarm.model.memory import usable

    free = sum(map(usable, _free(wish).values()))
    return free if wish.max_memory is None else min(free, wish.max_memory)


def _free(wish: Wish) -> dict[str, int]:
    """Bytes free on each device. Raises InvalidConfig where there is none such."""
    from swarm.model.devices import resolve
    from swarm.model.memory import free_memory

    return {device: free_memory(device) for device in resolve(wish.device)}


def _cache_wanted(wish: Wish, shape: ModelShape) -> int:
    return wish.cache_tokens or min(shape.max_length, LEAST_CACHE)


def _scale(wish: Wish, checkpoint: Checkpoint) -> float:
    from swarm.model.memory import dtype_scale

    return dtype_scale(checkpoint.dtype, wish.dtype)


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
    step = sum(shape.component_bytes[1:-1]) / shape.layers * _scale(wish, checkpoint) / BANDWIDTH
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
