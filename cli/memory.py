"""Room: cli. How much of a model fits here: bytes of its parts as they are wished for, beside what this machine has free.

Imports of the model room stand inside functions: it loads torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.cli.wish import Wish
from swarm.core import AUTO, ModelShape, Span, merge_spans
from swarm.errors import DoesNotFit, InvalidConfig

if TYPE_CHECKING:
    from swarm.compose import Part
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.layout import Layout

LEAST_CACHE = 2048
"""Positions of cache for which memory is kept free when layers are chosen: one conversation of usual length."""


MOST_CACHE = 64
"""Sessions of the model's full length that the cache holds at most: more are not served at once anyway, and the memory may be wanted elsewhere."""


def costs_of(wish: Wish, checkpoint: Checkpoint) -> list[int]:
    """Bytes of each component, with the cache of a conversation."""
    return [sum(each) for each in zip(*sizes_of(wish, checkpoint), strict=True)]


def sizes_of(wish: Wish, checkpoint: Checkpoint) -> tuple[list[int], list[int]]:
    """Bytes of weights, and of the cache of a conversation, of each component."""
    shape, scale, cached = wish.shape(checkpoint), scale_of(wish, checkpoint), _cache_wanted(wish, checkpoint.shape)
    return [int(size * scale) for size in shape.component_bytes], [int(size * cached * scale) for size in shape.kv_bytes_per_token]


def budget_of(wish: Wish, checkpoint: Checkpoint, moving: bool = False) -> int:
    """Bytes for components. What this process holds will be given back where it is `moving`."""
    from swarm.model.layout import capacity

    rooms, host = _rooms(wish, checkpoint, moving)
    return capacity(*sizes_of(wish, checkpoint), rooms, host)


def layout_of(wish: Wish, checkpoint: Checkpoint, spans: Sequence[Span], loading: bool = False) -> Layout:
    """What will lie where. Raises DoesNotFit where there is no room for all of it; of a CPU, where nothing is to be shared out, not once it is `loading`."""
    from swarm.model.layout import HOST, Layout, lay_out, mapped_components
    from swarm.model.memory import check_fits

    mapped = mapped_components(wish.on_disk, checkpoint.shape.components)
    if loading and tuple(free_of(wish)) == (HOST,):
        return Layout.alone(HOST, spans, mapped)
    weights, cached = sizes_of(wish, checkpoint)
    rooms, host = _rooms(wish, checkpoint, journals=sum(span.start < checkpoint.shape.head for span in merge_spans(spans)))
    found = lay_out(spans, weights, cached, rooms, host, mapped)
    if found is None:
        shape, scale, tokens = wish.shape(checkpoint), scale_of(wish, checkpoint), _cache_wanted(wish, checkpoint.shape)
        check_fits(shape, spans, scale, tokens, _usable(wish))
        raise DoesNotFit(
            f"these layers of {shape.name} fit into what {' and '.join(rooms)} have free together, but not when every layer lies on one of them, with room for "
            "those that are streamed; name fewer layers, or let --layers auto choose"
        )
    return found


def _rooms(wish: Wish, checkpoint: Checkpoint, moving: bool = False, journals: int = 1) -> tuple[dict[str, int], int]:
    """Bytes for components on each device, less the journals, and bytes of the machine for streamed layers."""
    from swarm.model.layout import HOST
    from swarm.model.memory import own_memory, usable

    compiles = wish.layers == AUTO and not wish.eager
    rooms = {device: usable(each + (own_memory(device) if moving else 0), compiles=compiles and device == HOST) for device, each in free_of(wish).items()}
    if wish.max_memory is not None and (whole := sum(rooms.values())) > wish.max_memory:
        rooms = {device: room * wish.max_memory // whole for device, room in rooms.items()}
    journal = journals * int(checkpoint.shape.row_bytes * _cache_wanted(wish, checkpoint.shape) * scale_of(wish, checkpoint))
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


def position_bytes(wish: Wish, part: Part) -> int:
    """Of a session that runs everything that was loaded."""
    from swarm.model.memory import bytes_needed

    shape, spans, scale = wish.shape(part.checkpoint), part.model.spans, scale_of(wish, part.checkpoint)
    return bytes_needed(shape, spans, scale, 1) - bytes_needed(shape, spans, scale, 0)


def cache_tokens(wish: Wish, part: Part) -> int:
    """Positions of all sessions together: as asked, or what half of the memory that is left takes."""
    from swarm.model.memory import bytes_needed, usable

    if wish.cache_tokens is not None:
        return wish.cache_tokens
    shape, spans, layout = wish.shape(part.checkpoint), part.model.spans, part.model.layout
    most = MOST_CACHE * shape.max_length
    scale, each = scale_of(wish, part.checkpoint), position_bytes(wish, part)
    held = bytes_needed(shape, spans, scale, 0) - int(sum(shape.component_bytes[i] for i in layout.streamed) * scale)
    left = min(_usable(wish) // 2, math.inf if wish.max_memory is None else wish.max_memory - held)
    most = min(most, *(int(usable(free) // 2 // kept) for free, kept in _cached_on(layout, shape, scale, free_of(wish)) if kept))
    return max(1, min(most, int(left // each))) if each > 0 else most


def _cached_on(layout: Layout, shape: ModelShape, scale: float, free: Mapping[str, int]) -> list[tuple[int, float]]:
    """Of each device what is free, and what a position takes there."""
    return [(free[device], scale * sum(shape.kv_bytes_per_token[i] for i, on in layout.on.items() if on == device)) for device in free]


def _usable(wish: Wish) -> int:
    """Bytes for layers and cache."""
    from swarm.model.memory import usable

    free = sum(map(usable, free_of(wish).values()))
    return free if wish.max_memory is None else min(free, wish.max_memory)


def free_of(wish: Wish) -> dict[str, int]:
    """Bytes free on each device. Raises InvalidConfig where there is none such."""
    from swarm.model.devices import resolve
    from swarm.model.memory import free_memory

    return {device: free_memory(device) for device in resolve(wish.device)}


def _cache_wanted(wish: Wish, shape: ModelShape) -> int:
    return wish.cache_tokens or min(shape.max_length, LEAST_CACHE)


def scale_of(wish: Wish, checkpoint: Checkpoint) -> float:
    from swarm.model.memory import dtype_scale

    return dtype_scale(checkpoint.dtype, wish.dtype)
