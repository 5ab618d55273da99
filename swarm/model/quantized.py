"""Room: model. Weights of one byte. Every number of a linear layer's matrix becomes one of 255 steps, which are as wide as the largest number of its output
needs: half the memory of bfloat16, and a decoding step reads half as much. Activations and sums stay what they were. Knows linear layers; not models or spans.

Left as they are: embeddings, which are looked up and not multiplied; small matrices; and what decides which expert sees a token, since a decision that is
rounded is another one. Experts whose matrices are no linear layers of their own stay exact too.

Shapes: T = rows (tokens), I = inputs, O = outputs of a layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from swarm.model.products import FEW, MEASURED, WIDE, fastest, sample

METHODS = ("int8",)

STEPS = 127
"""To either side of zero."""

LEAST = 64
"""Inputs and outputs below which a matrix is left alone."""

DECIDING = ("gate", "router")
"""Last names of layers that choose experts."""

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""x_TI, int8 w_OI, float32 scales_O → y_TO, of x's dtype."""


def as_given(x_TI: torch.Tensor, w_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
    """The usual product, in the dtype of the rows, which holds every step exactly."""
    outputs = _at_once(w_OI)
    parts = zip(w_OI.split(outputs), scales_O.split(outputs), strict=True)
    return torch.cat([(linear(x_TI, w_oI.to(x_TI.dtype)) * scales_o).to(x_TI.dtype) for w_oI, scales_o in parts], dim=1)


def in_float32(x_TI: torch.Tensor, w_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
    """The same in float32, which some processors multiply several times as fast."""
    return as_given(x_TI.float(), w_OI, scales_O).to(x_TI.dtype)


def _at_once(w_OI: torch.Tensor) -> int:
    """Outputs whose weights are widened at a time, so that a large matrix is not held twice."""
    return max(WIDE // w_OI.shape[1], 1)


class Int8Linear(nn.Module):
    """A linear layer with weights of one byte, made of an exact one. `products[T]` multiplies T rows, the last one more than that."""

    def __init__(self, exact: nn.Linear, products: tuple[Product, ...] = (as_given,)) -> None:
        super().__init__()
        self.out_features, self.in_features = exact.weight.shape
        self.products = products
        self.bias = exact.bias
        weights, scales = zip(*(_rounded(w_oI) for w_oI in exact.weight.detach().split(_at_once(exact.weight))), strict=True)
        self.register_buffer("weight_OI", torch.cat(weights))
        self.register_buffer("scales_O", torch.cat(scales))
        self.weight_OI: torch.Tensor
        self.scales_O: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        """What it stands for, in float32: for the few models that look at a layer's matrix themselves."""
        return self.weight_OI.float() * self.scales_O[:, None]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.numel() // self.in_features
        out = self.products[min(rows, len(self.products) - 1)](input.reshape(rows, self.in_features), self.weight_OI, self.scales_O)
        return (out if self.bias is None else out + self.bias).view(*input.shape[:-1], self.out_features)


def _rounded(w_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 steps [O, I], and how wide they are [O]."""
    w_OI = w_OI.float()
    scales_O = w_OI.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny * STEPS) / STEPS
    return (w_OI / scales_O[:, None]).round().to(torch.int8), scales_O


def quantize(model: nn.Module, clock: Callable[[], float] = time.perf_counter, native: Product | None = None) -> int:
    """Replace the linear layers of `model` by such of one byte, one after the other, and let them multiply as is fastest here (`native` is one more product);
    how many there were. Takes a pass over the weights, and about a second."""
    made: list[Int8Linear] = []
    for parent in list(model.modules()):
        for child, module in list(parent.named_children()):
            if type(module) is nn.Linear and child not in DECIDING and min(module.weight.shape) >= LEAST:
                quantized = Int8Linear(module)
                setattr(parent, child, quantized)
                made.append(quantized)
    if made:
        dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
        products = choose([layer.weight_OI for layer in made], dtype, clock, native)
        for layer in made:
            layer.products = products
    return len(made)


@torch.inference_mode()
def choose(weights: Sequence[torch.Tensor], dtype: torch.dtype, clock: Callable[[], float], native: Product | None = None) -> tuple[Product, ...]:
    """The best product for 0 (unused), 1, 2, … rows of this dtype, as `products.choose`."""
    if weights[0].device.type != "cpu":
        return (as_given,)
    best = {rows: _fastest(weights, rows, dtype, clock, native) for rows in MEASURED}
    return (as_given, *(best[next(measured for measured in MEASURED if measured >= rows)] for rows in range(1, MEASURED[-1] + 1)))


def _fastest(weights: Sequence[torch.Tensor], rows: int, dtype: torch.dtype, clock: Callable[[], float], native: Product | None) -> Product:
    if dtype == torch.float16:  # nothing native reads that
        native = None
    products = (as_given, *((in_float32,) if dtype != torch.float32 else ()), *((native,) if native is not None else ()))
    read = sample(weights, rows)
    scales_O = torch.ones(max(map(len, read)))
    timed = [lambda x_TI, w_OI, product=product: product(x_TI, w_OI, scales_O[: len(w_OI)]) for product in products]  # type: ignore[misc]
    expected = len(products) - 1 if native is not None and rows <= FEW else 0
    return products[fastest(timed, expected, read, rows, dtype, clock)]
