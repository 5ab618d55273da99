"""Room: model. Tensors of activations to bytes that travel, and back. Knows nothing of who sends them; what arrives is a stranger's and is checked."""

from __future__ import annotations

import numpy
import torch

from swarm.errors import ProtocolError
from swarm.wire import COMPRESSED, GROUP, Blob, row_size

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CARRIERS = {"float32": numpy.float32, "bfloat16": numpy.int16, "float16": numpy.float16}
"""numpy has no bfloat16; sixteen-bit integers carry it."""


MOST = 127
"""Of a compressed number: a byte with its sign, the same both ways."""

LONGEST = 1e8
"""Of a row of activations, as a vector: a thousand times what the largest features of known models reach. Squared it still fits into float32. One bound for all
layers, dtypes and models: honest rows of one boundary are thousands of times as long for some tokens as for others, so that nothing learned from others would
both be safe and say more; and who scales what it hands on a little is for audits to find. A row of zeros is some models' padding."""


def to_blob(rows_nH: torch.Tensor, *, compress: bool = False) -> Blob:
    """Rows [n, H] of float32, bfloat16 or float16 as a Blob. On a CPU it shares the tensor's memory, so the tensor must not be written afterwards."""
    rows_nH = rows_nH.detach().contiguous()
    if compress:
        data = _compressed(rows_nH).cpu().numpy().reshape(-1).data
        return Blob(COMPRESSED, rows_nH.shape[1], memoryview(data))
    data = rows_nH.view(torch.uint8).cpu().numpy().reshape(-1).data
    return Blob(_NAMES[rows_nH.dtype], rows_nH.shape[1], memoryview(data))


def from_blob(blob: Blob, device: str | torch.device, dtype: torch.dtype, width: int | None = None) -> torch.Tensor:
    """The rows [n, H] of a Blob, as `dtype` on `device`; `width` is the H they must have.

    The bytes are copied once: models may write into their input, and these bytes may also stand in a journal.

    Raises ProtocolError for no rows, another width, NaN, infinity or absurdly large numbers: one such row would poison every later position of a session, and
    of no other.
    """
    if width is not None and blob.width != width:
        raise ProtocolError(f"activations have width {blob.width} where the model has {width}")
    if not len(blob):
        raise ProtocolError("activations without rows")
    if blob.dtype == COMPRESSED:
        rows_nH = torch.from_numpy(decompressed(blob))
    else:
        carried = numpy.frombuffer(blob.data, dtype=_CARRIERS[blob.dtype])
        rows_nH = torch.tensor(carried).view(_DTYPES[blob.dtype]).view(len(blob), blob.width)
    if not float(torch.linalg.vector_norm(rows_nH, dim=1, dtype=torch.float32).max()) <= LONGEST:  # NaN neither
        raise ProtocolError("activations hold " + ("a row longer than any model's" if torch.isfinite(rows_nH).all() else "a value that is not a finite number"))
    return rows_nH.to(device=device, dtype=dtype)


def decompressed(blob: Blob) -> numpy.ndarray:
    """The rows [n, H] in float32. A scale that is no number makes its numbers none, without a warning: whoever reads them checks."""
    bytes_nB = numpy.frombuffer(blob.data, dtype=numpy.uint8).reshape(len(blob), row_size(COMPRESSED, blob.width))
    rows_nH = bytes_nB[:, : blob.width].view(numpy.int8).astype(numpy.float32)
    scales_nG = (numpy.ascontiguousarray(bytes_nB[:, blob.width :]).view(numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
    with numpy.errstate(invalid="ignore", over="ignore"):
        rows_nH *= numpy.repeat(scales_nG, GROUP, axis=1)[:, : blob.width]
    return rows_nH


def _compressed(rows_nH: torch.Tensor) -> torch.Tensor:
    """Bytes of rows. Each row is rounded by itself, so it comes out the same in whatever company, and when it is made again."""
    n, width = rows_nH.shape
    padded_nP = torch.nn.functional.pad(rows_nH.float(), (0, -width % GROUP))
    groups_nGg = padded_nP.view(n, padded_nP.shape[1] // GROUP, GROUP)
    scales_nG = (groups_nGg.abs().amax(-1) / MOST).to(torch.bfloat16)
    rounded_nGg = (groups_nGg / scales_nG.float().unsqueeze(-1)).nan_to_num_().round_().clamp_(-MOST, MOST).to(torch.int8)
    return torch.cat([rounded_nGg.view(n, -1)[:, :width].view(torch.uint8), scales_nG.view(torch.uint8)], dim=1)
