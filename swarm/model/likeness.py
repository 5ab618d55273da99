"""Room: model. How far rows of activations are apart that should be the same. Sums taken in another order (another batch, split, number of threads or backend)
make honest ones differ a little; how little depends on the dtype, and on how far a model carries a rounding. Knows nothing of who computed them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy

from swarm.core import base_dtype
from swarm.model.blobs import decompressed
from swarm.wire import COMPRESSED, Blob

ALLOWED = {"float32": (1e-4, 1e-4), "float16": (4e-3, 1e-3), "bfloat16": (0.02, 4e-3), COMPRESSED: (0.02, 4e-3)}
"""Most that honest rows are apart, with room: so much, and so much more for each layer (docs/security.md has what was measured).
Rows that travel compressed say nothing of their dtype: as much as of bfloat16, since rounding both to eight bits adds next to nothing to what they were apart.
(Measured, 400 hops of the demo model that were sent compressed rows and made some, packed or alone, on one thread or two: at most 0.0023 in float32; in
bfloat16 0.012 of 4 layers, 0.020 of 8, 0.026 of 12. A copy in four bits is 0.11 off over 4 layers and 0.27 over 12.)"""


STEP = {"float32": 1, "float16": 2**13, "bfloat16": 2**16}
"""From one number of a dtype to the next, in the bits of a float32."""

LARGEST = {"float16": 65504.0}
"""Numbers of a dtype, where rows may come near to it."""


def share(one: Blob, other: Blob, layers: int) -> float:
    """How far they are apart, in parts of what is allowed if both are to be what so many layers make of the same."""
    base, each = ALLOWED.get(one.dtype, (0.0, 0.0))
    found, allowed = apart(one, other), base + each * layers
    return found / allowed if allowed else float("inf")


def nudged(rows: Blob, numerics: str, dice: Callable[[int], bytes]) -> Blob:
    """The same rows rounded otherwise: each number is the next one up or down, by lot. Compressed ones come out as they are computed with; `dice` gives so many
    bytes by chance."""
    dtype = base_dtype(numerics) if rows.dtype == COMPRESSED else rows.dtype
    bits = _floats(rows).view(numpy.uint32)
    step = numpy.uint32(STEP[dtype])
    up = numpy.unpackbits(numpy.frombuffer(dice(-(-bits.size // 8)), dtype=numpy.uint8), count=bits.size).astype(bool)
    moved = numpy.where(up, bits + step, bits - step)  # one step further from zero, or nearer to it, whatever the sign
    moved = numpy.where(bits & 0x7FFFFFFF > step, moved, bits).view(numpy.float32)
    if dtype == "bfloat16":
        made = (moved.view(numpy.uint32) >> 16).astype(numpy.uint16)
    else:
        most = LARGEST.get(dtype, numpy.inf)
        made = numpy.clip(moved, -most, most).astype(dtype)
    return Blob(dtype, rows.width, memoryview(made.tobytes()))


def _floats(blob: Blob) -> numpy.ndarray:
    """Flat, in float32; bfloat16 is the upper half of one."""
    if blob.dtype == COMPRESSED:
        return decompressed(blob).reshape(-1)
    if blob.dtype == "bfloat16":
        wide = numpy.frombuffer(blob.data, dtype=numpy.uint16).astype(numpy.uint32) << 16
        return wide.view(numpy.float32)
    return numpy.frombuffer(blob.data, dtype=blob.dtype).astype(numpy.float32)


def numbers(blob: Blob) -> numpy.ndarray:
    """Rows as float64."""
    return _floats(blob).reshape(len(blob), blob.width).astype(numpy.float64)


def apart(one: Blob, other: Blob) -> float:
    """The worst row's distance, in parts of its length; infinite where they cannot be compared."""
    if (one.dtype, one.width, len(one)) != (other.dtype, other.width, len(other)):
        return float("inf")
    x_TH, y_TH = numbers(one), numbers(other)
    if not (numpy.isfinite(x_TH).all() and numpy.isfinite(y_TH).all()):
        return float("inf")
    # A few features of some models are a thousand times as large as the rest and would drown it: each counts up to eight times the usual. As they are, they
    # count as well, or whoever changes nothing but them goes unseen.
    most_T1 = 8 * (numpy.median(numpy.abs(y_TH), axis=1, keepdims=True) + 1e-12)
    return max(_parted(x_TH, y_TH), _parted(numpy.clip(x_TH, -most_T1, most_T1), numpy.clip(y_TH, -most_T1, most_T1)))


def _parted(x_TH: numpy.ndarray, y_TH: numpy.ndarray) -> float:
    lengths_T = numpy.maximum(numpy.linalg.norm(x_TH, axis=1), numpy.linalg.norm(y_TH, axis=1)) + 1e-12
    return float((numpy.linalg.norm(x_TH - y_TH, axis=1) / lengths_T).max())
