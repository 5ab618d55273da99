"""Room: model. How much of a model fits into a machine's memory. Pure arithmetic over a model's shape, and one function that asks the machine."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterable
from typing import Any

import psutil

from swarm.core import ModelShape, Span, merge_spans, readable
from swarm.errors import DoesNotFit

ITEM_SIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

MARGIN = 512 * 2**20
"""Bytes left for the interpreter, torch, the p2p daemon and activations: a serving process without weights is at about 400 MB."""

COMPILING = 3 * 2**29
"""Bytes that must be free for the process that compiles layers, which takes 0.9 GB at its peak, for half a minute."""

CHEAP = 0.85
"""Of what could be used otherwise, what must be left if room is to be kept for that process: beyond it, more layers are worth more than faster ones."""

SHARE = 0.9
"""Of free memory, how much may be taken: the machine is somebody's, and a page cache that is squeezed out slows it down."""


def free_memory(device: str = "cpu") -> int:
    """Bytes free on the device. MPS shares the machine's memory, and takes a part of it at most."""
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu"):
        return _torch(kind).mem_get_info(device)[0]
    if kind == "mps":
        mps = _torch(kind)
        return min(mps.recommended_max_memory() - mps.driver_allocated_memory(), psutil.virtual_memory().available)
    return psutil.virtual_memory().available


def own_memory(device: str = "cpu") -> int:
    """Bytes of the device that this process would give back if it ended. Files that are mapped are not among them: they count as free already."""
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu"):
        return _torch(kind).memory_reserved(device)
    if kind == "mps":
        return _torch(kind).driver_allocated_memory()
    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)  # which only Linux tells apart


def gpu_memory(device: str) -> tuple[int, int]:
    """Bytes that may still be allocated on a GPU, those included that our allocator keeps for the next time, and bytes that we have allocated."""
    import torch

    used = torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - used, used


def gpu_temperature(device: str) -> float | None:
    """Degrees Celsius, None where the device has no sensor that torch can read: that takes a GPU, and the package nvidia-ml-py."""
    if not device.startswith("cuda"):
        return None
    import torch

    try:
        return float(torch.cuda.temperature(device))
    except Exception:  # of a library that may be missing, or not fit for the driver: torch lets its errors through, of classes nobody else knows
        return None


def gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def give_back(device: str = "cpu") -> None:
    """Return to the machine what was freed: what is in cycles (modules and their hooks know each other), and what allocators keep for the next time."""
    gc.collect()
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu", "mps"):
        _torch(kind).empty_cache()
    trim()


def trim() -> None:
    """Return to the machine what the C library's allocator keeps for the next time."""
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _torch(kind: str) -> Any:
    """What torch has to say of this kind of device. Loaded when there is one to ask."""
    import torch

    return {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.mps}[kind]


def bytes_needed(shape: ModelShape, spans: Iterable[Span], scale: float = 1.0, cache_tokens: int = 0) -> int:
    """As `ModelShape.bytes_needed`, `scale` being a `dtype_scale`."""
    return shape.bytes_needed(spans, scale, cache_tokens)


def dtype_scale(stored: str, served: str | None) -> float:
    """How much larger weights become when a checkpoint of dtype `stored` is served as `served` (None: as it is)."""
    return ITEM_SIZE[served] / ITEM_SIZE.get(stored, ITEM_SIZE[served]) if served else 1.0


def usable(free: int, *, compiles: bool = False) -> int:
    """Of what is free. Where layers are compiled there is room left for that, if it costs little."""
    whole = max(0, int(free * SHARE) - MARGIN)
    beside = free - MARGIN - COMPILING
    return min(whole, beside) if compiles and beside >= CHEAP * whole else whole


def fits(shape: ModelShape, spans: Iterable[Span], scale: float, cache_tokens: int, room: int) -> bool:
    """Whether `spans` and a cache of `cache_tokens` positions fit into `room` bytes."""
    return bytes_needed(shape, spans, scale, cache_tokens) <= room


def layers_that_fit(shape: ModelShape, scale: float, cache_tokens: int, room: int) -> int:
    """How many layers fit into `room` bytes, neither `embed` nor `head` among them. The largest are counted, so that any so many do fit."""
    count = 0
    room -= int(shape.row_bytes * cache_tokens * scale)  # of a journal
    costs = (shape.component_bytes[i] + shape.kv_bytes_per_token[i] * cache_tokens for i in range(1, shape.layers + 1))
    for cost in sorted(costs, reverse=True):
        room -= int(cost * scale)
        if room < 0:
            break
        count += 1
    return count


def check_fits(shape: ModelShape, spans: Iterable[Span], scale: float, cache_tokens: int, room: int) -> None:
    """Raises DoesNotFit, saying how many layers do fit into `room` bytes."""
    spans = merge_spans(spans)
    if fits(shape, spans, scale, cache_tokens, room):
        return
    need, possible = bytes_needed(shape, spans, scale, cache_tokens), layers_that_fit(shape, scale, cache_tokens, room)
    kept = f" and a cache of {cache_tokens} tokens" if cache_tokens else ""
    some, none = "layers do fit; name no more with --layers", "not even one layer fits; free some memory, or lower --cache-tokens"
    advice = f"{possible} of {shape.layers} {some}" if possible else none
    raise DoesNotFit(f"these layers of {shape.name}{kept} need {readable(need)}, and {readable(room)} can be used here; {advice}")
