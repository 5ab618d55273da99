"""Room: model. Attention of a GPU's own for steps of few tokens, with the same interface as the CPU's (`native.NativeAttention`). Knows caches and kernels; not
layers, models, or when a step is recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from swarm.model.cache import KVCache

log = logging.getLogger(__name__)

FIRST = 2
"""Columns before the slabs, as in `kernels.py`: a token's id and its position."""

SLAB = 3
"""Columns of a layer: `cache.Slabs`."""

CLOSE = {torch.float32: 2**-16, torch.float16: 2**-9, torch.bfloat16: 2**-7}
"""How far results may be from float64's, in shares of the largest."""


class TokenTable:
    """The tokens of one row as kernels see them: `ints_TC` lies on the device. Good until one of their caches grows."""

    __slots__ = ("first_layer", "ints_TC")

    def __init__(self, ints_TC: torch.Tensor, first_layer: int) -> None:
        self.ints_TC, self.first_layer = ints_TC, first_layer


def fill(ints_TC: np.ndarray, caches: Sequence[KVCache], starts: Sequence[int], tokens: Sequence[Sequence[int]]) -> int:
    """The first rows of a table: these tokens of these sessions, whose caches must have room for them in every layer. How many there are."""
    at = 0
    for cache, start, ids in zip(caches, starts, tokens, strict=True):
        rows = ints_TC[at : at + len(ids)]
        rows[:, 0] = ids
        rows[:, 1] = range(start, start + len(ids))
        rows[:, FIRST:] = np.frombuffer(memoryview(cache.slabs()).cast("B"), dtype=np.int64)
        at += len(ids)
    return at


class GpuAttention:
    """Attention of a few new positions of some sessions to all that each may look at, and the new keys and values into the caches. Scores and sums are float32;
    a token's sums are always taken in the same order, whatever other sessions there are."""

    def __init__(self, device: str) -> None:
        """Raises ImportError where there is no Triton."""
        from swarm.model.gpu.kernels import attend

        self._attend, self.device = attend, torch.device(device)

    def table(self, caches: Sequence[KVCache], starts: Sequence[int], counts: Sequence[int]) -> TokenTable:
        ints_TC = np.empty((sum(counts), FIRST + len(caches[0].slabs()) * SLAB), dtype=np.int64)
        fill(ints_TC, caches, starts, [[0] * n for n in counts])
        return TokenTable(torch.from_numpy(ints_TC).to(self.device), caches[0].first_layer)

    def takes(self, *tensors: torch.Tensor) -> bool:
        """Whether these queries, keys and values are what it was made for."""
        return tensors[0].dtype in CLOSE and all(tensor.dtype == tensors[0].dtype and tensor.device == self.device for tensor in tensors)

    def __call__(
        self,
        table: TokenTable,
        layer: int,
        q_1QTD: torch.Tensor,
        k_1KTD: torch.Tensor,
        v_1KTE: torch.Tensor,
        scaling: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks_Q: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[1, T, Q, E], of the layer `layer` of the model."""
        q_1QTD, k_1KTD, v_1KTE = (x if x.stride(3) == 1 else x.contiguous() for x in (q_1QTD, k_1KTD, v_1KTE))
        sinks_Q = None if sinks_Q is None else sinks_Q.float().contiguous()
        return self._attend(table.ints_TC, layer - table.first_layer, q_1QTD, k_1KTD, v_1KTE, scaling, window, softcap, sinks_Q)


def gpu_attention(device: str, dtype: torch.dtype) -> GpuAttention | None:
    """For one GPU; None, and a line in the log that says why, where there is no Triton or it does not compute what torch does."""
    try:
        attention = GpuAttention(device)
        right = attends(attention, dtype)
    except Exception as error:  # of a compiler for hardware that nobody here has seen
        log.info("no attention of our own on %s, so torch's serves: %s", device, str(error).splitlines()[0] if str(error) else repr(error))
        return None
    if not right:
        log.warning("attention compiled for %s gives wrong results, so torch's serves", device)
    return attention if right else None


@torch.inference_mode()
def attends(attention: GpuAttention, dtype: torch.dtype) -> bool:
    """Whether it attends as torch does, as far as rounding lets it: two sessions, one of them with a single new token and long enough for several parts."""
    dice, held, counts, width = torch.Generator().manual_seed(0), (1500, 3), (1, 3), 64
    q_1QTD, k_1KTD, v_1KTD = (torch.randn(1, heads, sum(counts), width, generator=dice).to(attention.device, dtype) for heads in (6, 2, 2))
    caches, wanted = [], []
    for start, here in zip(held, (slice(0, 1), slice(1, 4)), strict=True):
        cache = KVCache(1, 2)
        past_KLD, past_KLV = (torch.randn(2, start, width, generator=dice).to(attention.device, dtype) for _ in range(2))
        cache.write(0, 0, past_KLD, past_KLV)
        cache.advance(start)
        cache.reserve(start + here.stop - here.start, 1)
        caches.append(cache)
        k_KLD, v_KLD = (torch.cat((past, new[0, :, here]), dim=1).double() for past, new in ((past_KLD, k_1KTD), (past_KLV, v_1KTD)))
        seen_nL = torch.ones(here.stop - here.start, k_KLD.shape[1], dtype=torch.bool, device=attention.device).tril(start)
        wanted.append(sdpa(q_1QTD[:, :, here].double(), k_KLD[None], v_KLD[None], attn_mask=seen_nL, enable_gqa=True)[0].transpose(0, 1))
    out_1TQD = attention(attention.table(caches, held, counts), 0, q_1QTD, k_1KTD, v_1KTD, width**-0.5)
    wanted_TQD = torch.cat(wanted)
    return bool((out_1TQD[0].double() - wanted_TQD).abs().max() <= CLOSE[dtype] * wanted_TQD.abs().max())  # not a number is not close
