"""Room: model. The attention of prompts in machine code (`cpp/prompts.cpp`), for bfloat16 on processors that multiply pairs of it: half of torch's time. Knows
the queries, keys and values of one session; not caches, rows or models.

Shapes: n = tokens of a piece of a prompt, L = positions at hand, Q = query heads, K = key/value heads, D = width of a query or key head, E = of a value head.
"""

from __future__ import annotations

import ctypes

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

CLOSE = 2**-7
"""How far results may be from exact ones, in shares of the largest: a rounding of bfloat16."""


class _Prompt(ctypes.Structure):
    """As in `attention.h`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values")),
        ("query_strides", ctypes.c_int64 * 2),
        *((name, ctypes.c_int64) for name in ("key_stride", "value_stride")),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "start", "since", "query_heads", "heads", "key_width", "value_width", "window")),
        ("scaling", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("sinks", ctypes.c_void_p),
    )


class NativePrompts:
    """Attention of new positions of one session to all that each may look at. A token's result depends neither on the pieces in which its prompt came nor on
    the number of threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._attend = library.attend_to_prompt
        self._attend.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._attend.restype = None

    @staticmethod
    def of(library: ctypes.CDLL) -> NativePrompts | None:
        """None on a processor for which torch's is as good."""
        return NativePrompts(library) if library.attends_to_prompts() else None

    @staticmethod
    def takes(*tensors: torch.Tensor) -> bool:
        """Whether these queries, keys and values are what it was made for: numbers of a head lie side by side, and the positions of a key or value head."""
        _, *held = tensors
        return all(x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.stride(2) == 1 for x in tensors) and all(x.stride(1) == x.shape[2] for x in held)

    def __call__(
        self,
        q_QnD: torch.Tensor,
        k_KLD: torch.Tensor,
        v_KLE: torch.Tensor,
        start: int,
        since: int,
        scaling: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks_Q: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[n, Q, E]. Queries begin at position `start`, keys and values at `since`; L = start + n - since."""
        heads, n, width = q_QnD.shape
        out_nQE = q_QnD.new_empty((n, heads, v_KLE.shape[2]))
        sinks_Q = None if sinks_Q is None else sinks_Q.float().contiguous()
        call = _Prompt(
            *(x.data_ptr() for x in (q_QnD, k_KLD, v_KLE)),
            (ctypes.c_int64 * 2)(q_QnD.stride(1), q_QnD.stride(0)),
            *(x.stride(0) for x in (k_KLD, v_KLE)),
            out_nQE.data_ptr(),
            *(n, start, since, heads, k_KLD.shape[0], width, v_KLE.shape[2], window),
            scaling,
            softcap,
            None if sinks_Q is None else sinks_Q.data_ptr(),
        )
        self._attend(ctypes.addressof(call), torch.get_num_threads())
        return out_nQE


@torch.inference_mode()
def agrees(prompts: NativePrompts) -> bool:
    """Whether it attends as torch does, as far as rounding lets it: grouped heads, widths that fill a vector and such that do not, pieces that end anywhere."""
    dice = torch.Generator().manual_seed(0)
    for queries, heads, width, wide, start, n in ((6, 2, 64, 64, 130, 70), (3, 3, 20, 9, 0, 17)):
        q_QnD, k_KLD, v_KLE = (
            torch.randn(some, count, size, generator=dice).bfloat16()
            for some, count, size in ((queries, n, width), (heads, start + n, width), (heads, start + n, wide))
        )
        seen_nL = torch.ones(n, start + n, dtype=torch.bool).tril(start)
        exact = [x[None].double() for x in (q_QnD, k_KLD, v_KLE)]
        wanted_nQE = sdpa(exact[0], exact[1], exact[2], attn_mask=seen_nL, enable_gqa=True)[0].transpose(0, 1)
        if not (prompts(q_QnD, k_KLD, v_KLE, start, 0, width**-0.5).double() - wanted_nQE).abs().max() <= CLOSE * wanted_nQE.abs().max():
            return False  # not a number is not close
    return True
