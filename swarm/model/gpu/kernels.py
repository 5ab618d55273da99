"""Room: model. Attention of new tokens to their sessions' caches as kernels for GPUs, in Triton. Knows tables of addresses, not caches or sessions.

Every new token is a row of the table [T, 2 + 3 * layers] of int64: its id, its position, and for each layer where its session's keys and values lie and
how many positions they have room for (`cache.Slabs`). So nothing but the numbers in the table changes from step to step, and a step can be recorded once as a
graph.

A token's positions are read in PARTS parts by as many programs, and the parts put together after (Flash-Decoding, Dao et al., 2023). How they are cut depends
on the token's own position alone: sums are taken in the same order whoever else is in the step.

Shapes: T = tokens, Q = query heads, K = key/value heads, G = Q / K, D = width of a query or key head, E = of a value head, L = positions read at once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

PARTS = 16
"""Enough for one session of few key/value heads to keep a large GPU busy."""

LENGTHS = 64
"""Positions that a program reads at once."""

HEADS = 16
"""Query heads of a program at least: what the smallest matrix product takes."""


VARYING = ("columns", "layer")
"""Numbers that no code is made for: it would be made anew for layer 1 and for every sixteenth."""


@triton.jit(do_not_specialize=VARYING)
def _keep(table, columns, layer, k, v, k_head, k_token, v_head, v_token, D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr):  # type: ignore[no-untyped-def]
    """New keys and values into the slabs. Programs: tokens, key/value heads."""
    token, head = tl.program_id(0), tl.program_id(1)
    row = table + token * columns
    position, slab = tl.load(row + 1), row + 2 + layer * 3
    keys, values = tl.load(slab).to(tl.pointer_type(k.dtype.element_ty)), tl.load(slab + 1).to(tl.pointer_type(v.dtype.element_ty))
    at = head * tl.load(slab + 2) + position
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    tl.store(keys + at * D + d, tl.load(k + head * k_head + token * k_token + d, mask=d < D), mask=d < D)
    tl.store(values + at * E + e, tl.load(v + head * v_head + token * v_token + e, mask=e < E), mask=e < E)


@triton.jit(do_not_specialize=VARYING)
def _attend(  # type: ignore[no-untyped-def]
    table, columns, layer, q, q_head, q_token, sums, peaks, scaling, softcap, window,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, E: tl.constexpr, PARTS: tl.constexpr,
    CAPPED: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """A part of one token's positions for the query heads of one key/value head: `sums` [T, Q, PARTS, E] of weighted values, not yet divided by the sum of
    weights, and `peaks` [T, Q, PARTS, 2] of the largest score and that sum. Programs: tokens, key/value heads, parts."""
    token, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = table + token * columns
    stop, slab = tl.load(row + 1) + 1, row + 2 + layer * 3
    since = tl.where(window > 0, tl.maximum(stop - window, 0), 0)
    each = tl.cdiv(tl.cdiv(stop - since, PARTS), BLOCK_L) * BLOCK_L
    begin = since + part * each
    end = tl.minimum(begin + each, stop)
    keys, values = tl.load(slab).to(tl.pointer_type(q.dtype.element_ty)), tl.load(slab + 1).to(tl.pointer_type(q.dtype.element_ty))
    at = head * tl.load(slab + 2)
    g, d, e = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    queries = q + (head * GROUP + g)[:, None] * q_head + token * q_token + d[None, :]
    q_GD = tl.load(queries, mask=(g < GROUP)[:, None] & (d < D)[None, :], other=0.0)
    peak_G = tl.full([BLOCK_G], float("-inf"), tl.float32)
    sum_G = tl.zeros([BLOCK_G], tl.float32)
    out_GE = tl.zeros([BLOCK_G, BLOCK_E], tl.float32)
    for first in range(begin, end, BLOCK_L):
        n = first + tl.arange(0, BLOCK_L)
        k_DL = tl.load(keys + (at + n)[None, :] * D + d[:, None], mask=(n < end)[None, :] & (d < D)[:, None], other=0.0)
        v_LE = tl.load(values + (at + n)[:, None] * E + e[None, :], mask=(n < end)[:, None] & (e < E)[None, :], other=0.0)
        scores_GL = tl.dot(q_GD, k_DL, input_precision="ieee") * scaling
        if CAPPED:
            scores_GL = (2 * tl.sigmoid(2 * scores_GL / softcap) - 1) * softcap
        scores_GL = tl.where((n < end)[None, :], scores_GL, float("-inf"))
        higher_G = tl.maximum(peak_G, tl.max(scores_GL, 1))
        weights_GL, faded_G = tl.exp(scores_GL - higher_G[:, None]), tl.exp(peak_G - higher_G)
        sum_G = sum_G * faded_G + tl.sum(weights_GL, 1)
        out_GE = out_GE * faded_G[:, None] + tl.dot(weights_GL.to(q.dtype.element_ty), v_LE, input_precision="ieee")
        peak_G = higher_G
    query = ((token * HEADS + head * GROUP + g) * PARTS + part).to(tl.int64)
    tl.store(peaks + query * 2, peak_G, mask=g < GROUP)
    tl.store(peaks + query * 2 + 1, sum_G, mask=g < GROUP)
    if begin < end:
        tl.store(sums + query[:, None] * E + e[None, :], out_GE, mask=(g < GROUP)[:, None] & (e < E)[None, :])


@triton.jit
def _gather(sums, peaks, sinks, out, HEADS: tl.constexpr, E: tl.constexpr, PARTS: tl.constexpr, SINKS: tl.constexpr, BLOCK_E: tl.constexpr):  # type: ignore[no-untyped-def]
    """The parts of one query head put together, into `out` [T, Q, E]. Programs: tokens, query heads."""
    head = tl.program_id(1)
    query = (tl.program_id(0) * HEADS + head).to(tl.int64)
    p, e = tl.arange(0, PARTS), tl.arange(0, BLOCK_E)
    peaks_P, sums_P = tl.load(peaks + (query * PARTS + p) * 2), tl.load(peaks + (query * PARTS + p) * 2 + 1)
    peak = tl.max(peaks_P, 0)
    if SINKS:
        peak = tl.maximum(peak, tl.load(sinks + head))
    weights_P = tl.exp(peaks_P - peak)
    whole = tl.sum(sums_P * weights_P, 0)
    if SINKS:
        whole += tl.exp(tl.load(sinks + head) - peak)
    there = (sums_P > 0)[:, None] & (e < E)[None, :]
    parts_PE = tl.load(sums + (query * PARTS + p)[:, None] * E + e[None, :], mask=there, other=0.0)
    tl.store(out + query * E + e, (tl.sum(parts_PE * weights_P[:, None], 0) / whole).to(out.dtype.element_ty), mask=e < E)


def attend(
    table_TC: torch.Tensor,
    layer: int,
    q_1QTD: torch.Tensor,
    k_1KTD: torch.Tensor,
    v_1KTE: torch.Tensor,
    scaling: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks_Q: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keep the new keys and values, and attend: [1, T, Q, E]. `layer` counts among those of the table. Widths lie side by side in memory."""
    _, heads, tokens, width = q_1QTD.shape
    groups, wide = k_1KTD.shape[1], v_1KTE.shape[3]
    out_1TQE = q_1QTD.new_empty((1, tokens, heads, wide))
    sums_TQPE = q_1QTD.new_empty((tokens, heads, PARTS, wide), dtype=torch.float32)
    peaks_TQP2 = q_1QTD.new_empty((tokens, heads, PARTS, 2), dtype=torch.float32)
    blocks: dict[str, Any] = {"BLOCK_D": max(16, triton.next_power_of_2(width)), "BLOCK_E": max(16, triton.next_power_of_2(wide))}
    columns = table_TC.shape[1]
    keys = (k_1KTD, v_1KTE, k_1KTD.stride(1), k_1KTD.stride(2), v_1KTE.stride(1), v_1KTE.stride(2))
    _keep[(tokens, groups)](table_TC, columns, layer, *keys, D=width, E=wide, **blocks)
    _attend[(tokens, groups, PARTS)](
        *(table_TC, columns, layer, q_1QTD, q_1QTD.stride(1), q_1QTD.stride(2), sums_TQPE, peaks_TQP2, scaling, softcap, window),
        HEADS=heads, GROUP=heads // groups, D=width, E=wide, PARTS=PARTS, CAPPED=softcap > 0,
        BLOCK_G=max(HEADS, triton.next_power_of_2(heads // groups)), BLOCK_L=LENGTHS, **blocks,
    )  # fmt: skip
    _gather[(tokens, heads)](
        *(sums_TQPE, peaks_TQP2, peaks_TQP2 if sinks_Q is None else sinks_Q, out_1TQE),
        HEADS=heads, E=wide, PARTS=PARTS, SINKS=sinks_Q is not None, BLOCK_E=blocks["BLOCK_E"],
    )  # fmt: skip
    return out_1TQE
