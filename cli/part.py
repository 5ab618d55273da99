"""Room: cli. Which part of a model this machine takes, and getting it ready: what was asked for if it fits, or what the swarm needs most; loaded and measured.

Imports of the model room stand inside functions: it loads torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from swarm.cli.screen import Screen
from swarm.core import AUTO, ROUNDED_BITS, ModelShape, Span, check_layers, format_layers, parse_layers
from swarm.errors import InvalidConfig, ModelNotFound, ProtocolError, RemoteError
from swarm.wire import RENEW_EVERY, VERSION, Announcement

if TYPE_CHECKING:
    from swarm.compose import Connection, Part
    from swarm.model.checkpoint import Checkpoint
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

    def dtype_of(self, checkpoint: Checkpoint) -> str:
        """In which it computes."""
        return self.dtype or checkpoint.dtype

    def numerics(self, checkpoint: Checkpoint) -> str:
        """The class in which it will serve."""
        return self.dtype_of(checkpoint) + (f"-{self.quantize}" if self.quantize else "")

    def shape(self, checkpoint: Checkpoint) -> ModelShape:
        """The checkpoint's as it will be held; times `_scale` it is what memory takes."""
        from swarm.model.memory import ITEM_SIZE

        item = ITEM_SIZE.get(self.dtype_of(checkpoint), 4)
        return checkpoint.shape.rounded(item, ROUNDED_BITS[self.quantize]) if self.quantize else checkpoint.shape


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
        _check_fits(wish, checkpoint, spans)
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


def _costs(wish: Wish, checkpoint: Checkpoint) -> list[int]:
    """Bytes of each component, with the cache of a conversation."""
    shape, scale, cached = wish.shape(checkpoint), _scale(wish, checkpoint), _cache_wanted(wish, checkpoint.shape)
    return [int((shape.component_bytes[i] + shape.kv_bytes_per_token[i] * cached) * scale) for i in range(shape.components)]


def _budget(wish: Wish, checkpoint: Checkpoint, ours: int = 0) -> int:
    """Bytes for components, less one journal. `ours` will be given back."""
    return max(_usable(wish, ours) - int(checkpoint.shape.row_bytes * _cache_wanted(wish, checkpoint.shape) * _scale(wish, checkpoint)), 0)


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
    """Fetch, read, measure. Blocks, for minutes where files come from far away."""
    from swarm.compose import Part
    from swarm.model.measure import measure_speed
    from swarm.model.span import SpanModel
    from swarm.peer.improving import improve

    layers = format_layers(spans, checkpoint.shape.layers)
    with shown.progress(lambda done: f"fetching layers {layers}" if done < 0.5 else f"loading layers {layers}") as progress:
        model = SpanModel.load(checkpoint, spans, dtype=wish.dtype, device=wish.device, quantize=wish.quantize, progress=progress)
    if wish.compiled:
        with shown.progress(lambda done: "compiling layers") as progress:
            progress(0.0)
            asyncio.run(improve(_Idle(model), asked=True))
    with shown.progress(lambda done: "measuring speed") as progress:
        progress(0.0)
        return Part(checkpoint, model, measure_speed(model))


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
        from swarm.model.memory import own_memory

        return min(self._first_budget, _budget(self._wish, self._checkpoint, own_memory(self._wish.device)))

    async def fetch(self, span: Span) -> None:
        await asyncio.to_thread(self._checkpoint.fetch, [span])

    async def load(self, span: Span) -> Holding:
        return await asyncio.to_thread(held, self._wish, self._checkpoint, [span], self._shown)


def held(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], shown: Screen) -> Holding:
    """Load, and say what can be served of it. Blocks."""
    from swarm.compose import holding

    part = load(wish, checkpoint, spans, shown)
    return holding(part, cache_tokens(wish, part))


def cache_tokens(wish: Wish, part: Part) -> int:
    """Positions of all sessions together: as asked, or what half of the memory that is left takes."""
    from swarm.model.memory import bytes_needed

    if wish.cache_tokens is not None:
        return wish.cache_tokens
    shape, spans = wish.shape(part.checkpoint), part.model.spans
    most = MOST_CACHE * shape.max_length
    scale = _scale(wish, part.checkpoint)
    each = bytes_needed(shape, spans, scale, 1) - bytes_needed(shape, spans, scale, 0)
    left = min(_usable(wish) // 2, math.inf if wish.max_memory is None else wish.max_memory - bytes_needed(shape, spans, scale, 0))
    return max(1, min(most, int(left // each))) if each > 0 else most


def _check_fits(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span]) -> None:
    from swarm.model.memory import check_fits

    check_fits(wish.shape(checkpoint), spans, _scale(wish, checkpoint), _cache_wanted(wish, checkpoint.shape), _usable(wish))


def _usable(wish: Wish, ours: int = 0) -> int:
    """Bytes for layers and cache."""
    from swarm.model.memory import usable

    free = usable(_free(wish) + ours)
    return free if wish.max_memory is None else min(free, wish.max_memory)


def _free(wish: Wish) -> int:
    """Bytes free on the device. Raises InvalidConfig where there is none such."""
    from swarm.model.memory import free_memory

    try:
        return free_memory(wish.device)
    except (RuntimeError, AssertionError, ValueError) as error:  # torch, about a device that this machine or this build does not have
        raise InvalidConfig(f"cannot use device {wish.device} ({str(error).splitlines()[0]}); choose cpu, or a device this machine has") from error


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
            views[0].numerics,
            ours[1],
        )
    if any(view.revision != ours[0] for view in views):
        log.warning("some peers serve another revision of this model: their files differ from those here, so they cannot share a chain with this peer")
    return [view for view in views if (view.revision, view.numerics) == ours]


def _joining(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], connection: Connection) -> Announcement:
    shape, now = wish.shape(checkpoint), time.time()
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
