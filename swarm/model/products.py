"""Room: model. Matrix products, for the few rows of a decoding step and the many of a prompt. Knows linear layers and this machine's BLAS; not models, spans or
sessions.

A decoding step reads every weight once for a handful of tokens, so it is as fast as the weights are read, and BLAS libraries differ wildly there: asked for
the product in the usual way, MKL reads float32 weights at half to two thirds of the speed that another spelling reaches, and code of our own, made for this
processor, is faster still (`native.py`, docs/performance.md). With the many rows of a prompt multiplying outweighs reading, and a processor without
instructions for bfloat16 multiplies that at a seventh of the speed of float32. Which one wins depends on processor, library, dtype and threads, so it is
measured once at start, on weights that are really held. What is known from such measurements is taken for granted until the opposite is clear, because peers
that start together on one machine disturb each other's timings. Every spelling computes the same sums; only their order, and so the last bits, may differ.

Shapes: T = rows (tokens), I = inputs, O = outputs of a layer, P = pieces a matrix is cut into.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import cast

import torch
from torch import nn
from torch.nn.functional import linear

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""x_TI, w_OI → y_TO."""

MEASURED = (1, 2, 4, 8, 16, 64, 256)
"""Rows that are timed. Others use the choice of the next higher number here, more than that the last."""

LEAST = 2**18
"""Numbers in a matrix below which it is left alone: a megabyte of float32 is not what a step waits for. Small models stay exactly what they were."""

SAMPLE = 96 * 2**20
"""Bytes of weights read for one timing: several times a large cache, or the cache is what is timed. No more, since an output matrix can have gigabytes. From
ENOUGH rows on less, as multiplying takes longer than reading then."""

ENOUGH = 4

WIDE = 2**22
"""Numbers of a matrix that are widened at a time: 16 MiB, so that a large output matrix is not held twice."""

SLICE = 64
"""A matrix is cut to a multiple of so many outputs, so that it still falls into pieces."""

ROUNDS = 3
HOPELESS = 2.0
"""How much slower than the best one of a round a product may be to be tried again."""

GAIN = 1.15
"""How much faster than the expected product another must be to be taken instead: less may be noise."""


def usual(x_TI: torch.Tensor, w_OI: torch.Tensor) -> torch.Tensor:
    return linear(x_TI, w_OI)


def weights_first(x_TI: torch.Tensor, w_OI: torch.Tensor) -> torch.Tensor:
    """The transposed product, which walks the weights row by row."""
    return torch.mm(w_OI, x_TI.t()).t().contiguous()


def weights_in_pieces(x_TI: torch.Tensor, w_OI: torch.Tensor) -> torch.Tensor:
    """The transposed product of a batch of pieces, which even a BLAS that runs one product on one thread spreads over several."""
    pieces, (rows, inputs), outputs = _pieces(w_OI), x_TI.shape, w_OI.shape[0]
    y_PoT = torch.bmm(w_OI.view(pieces, outputs // pieces, inputs), x_TI.t()[None].expand(pieces, inputs, rows))
    return y_PoT.view(outputs, rows).t().contiguous()


def rows_by_pieces(x_TI: torch.Tensor, w_OI: torch.Tensor) -> torch.Tensor:
    """The usual product with each piece."""
    pieces, (rows, inputs), outputs = _pieces(w_OI), x_TI.shape, w_OI.shape[0]
    y_PTo = torch.bmm(x_TI[None].expand(pieces, rows, inputs), w_OI.view(pieces, outputs // pieces, inputs).transpose(1, 2))
    return y_PTo.transpose(0, 1).reshape(rows, outputs)


def widened(x_TI: torch.Tensor, w_OI: torch.Tensor) -> torch.Tensor:
    """The usual product in float32, of numbers that have fewer bits."""
    x_TI, outputs = x_TI.float(), max(WIDE // w_OI.shape[1], 1)
    return torch.cat([linear(x_TI, some_oI.float()).to(some_oI.dtype) for some_oI in w_OI.split(outputs)], dim=1)


PRODUCTS: tuple[Product, ...] = (usual, weights_first, weights_in_pieces, rows_by_pieces)

EXPECTED: dict[int, Product] = {1: weights_in_pieces, 2: weights_first, 4: weights_first, 8: rows_by_pieces, 16: rows_by_pieces}
"""What won for float32 with MKL on two threads of an AMD EPYC, by rows, where there was no native product. Other dtypes have kernels of their own behind the
usual one, and more rows are what those are made for."""

FEW = 16
"""Rows up to which reading counts, and a native product is expected to win."""


def _pieces(w_OI: torch.Tensor) -> int:
    """As many pieces as threads, if the outputs can be shared out evenly; two at least, since batched products have kernels of their own."""
    wanted = max(torch.get_num_threads(), 2)
    return next((pieces for pieces in (wanted, 2) if w_OI.shape[0] % pieces == 0), 1)


class TunedLinear(nn.Linear):
    """A linear layer that knows how it is best multiplied: `products[T]` for T rows, the last one beyond. Made by `tune`, from an ordinary one."""

    products: tuple[Product, ...]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.numel() // self.in_features
        product = self.products[min(rows, len(self.products) - 1)]
        if product is usual:
            return linear(input, self.weight, self.bias)
        out = product(input.reshape(rows, self.in_features), self.weight)
        return (out if self.bias is None else out + self.bias).view(*input.shape[:-1], self.out_features)


def tune(model: nn.Module, clock: Callable[[], float] = time.perf_counter, native: Product | None = None) -> None:
    """Time the products on some of the model's own weights and let its large linear layers use what wins, each dtype by itself (some families keep a few
    layers in float32). `native` is one more product. Takes about a second; does nothing where the model has no large matrices, or does not live
    on a CPU."""
    large: dict[torch.dtype, list[nn.Linear]] = {}
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= LEAST and module.weight.device.type == "cpu":
            large.setdefault(module.weight.dtype, []).append(module)
    for layers in large.values():
        products = choose([layer.weight for layer in layers], clock, native)
        if any(product is not usual for product in products):
            for layer in layers:
                layer.__class__ = TunedLinear
                cast(TunedLinear, layer).products = products


def sample(weights: Sequence[torch.Tensor], rows: int) -> list[torch.Tensor]:
    """The first outputs that make up the bytes to be read, or all."""
    chosen, room = [], SAMPLE * ENOUGH // max(rows, ENOUGH)
    for weight in weights:
        if room <= 0:
            break
        outputs = max(room // weight[0].nbytes, SLICE)
        chosen.append(weight if outputs >= len(weight) else weight[: outputs // SLICE * SLICE])
        room -= chosen[-1].nbytes
    return chosen


@torch.inference_mode()
def choose(weights: Sequence[torch.Tensor], clock: Callable[[], float], native: Product | None = None) -> tuple[Product, ...]:
    """The best product for 0 (unused), 1, 2, … 256 and more rows of these weights, which are of one dtype."""
    best = {rows: _fastest(sample(weights, rows), rows, clock, native) for rows in MEASURED}
    return (usual, *(best[next(measured for measured in MEASURED if measured >= rows)] for rows in range(1, MEASURED[-1] + 1)))


def candidates(dtype: torch.dtype, rows: int, native: Product | None) -> tuple[Product, ...]:
    """What is timed, in this order. Another spelling of a product of many rows is no faster."""
    return (*(PRODUCTS if rows <= FEW else (usual,)), *((widened,) if dtype != torch.float32 else ()), *((native,) if native is not None else ()))


def _fastest(weights: Sequence[torch.Tensor], rows: int, clock: Callable[[], float], native: Product | None) -> Product:
    dtype = weights[0].dtype
    products = candidates(dtype, rows, native)
    expected = products.index(native if native is not None and rows <= FEW else EXPECTED.get(rows, usual) if dtype == torch.float32 else usual)
    return products[fastest(products, expected, weights, rows, dtype, clock)]


def fastest(products: Sequence[Product], expected: int, weights: Sequence[torch.Tensor], rows: int, dtype: torch.dtype, clock: Callable[[], float]) -> int:
    """Which of these products to take for rows of this dtype. The shortest of a few rounds counts for each: noise only makes longer."""
    inputs = {weight.shape[1]: torch.ones(rows, weight.shape[1], dtype=dtype) for weight in weights}
    times: list[float] = [inf] * len(products)
    for _ in range(ROUNDS):
        best = min(times)
        for at, product in enumerate(products):
            if HOPELESS * best < times[at] < inf:
                continue
            began = clock()
            for weight in weights:
                product(inputs[weight.shape[1]], weight)
            times[at] = min(times[at], clock() - began)
    winner = min(range(len(products)), key=times.__getitem__)
    return winner if times[expected] > GAIN * times[winner] else expected
