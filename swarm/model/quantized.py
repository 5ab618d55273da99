"""Room: model. Weights of one byte, or of half a one (`int4.py`). Every number of a linear layer's matrix becomes one of 255 steps, which are as wide as the
largest number of its output needs: half the memory of bfloat16, and a decoding step reads half as much. Activations and sums stay what they were. Knows linear
layers; not models or spans.

Left as they are: embeddings, which are looked up and not multiplied; small matrices; and what decides which expert sees a token, since a decision that is
rounded is another one. Experts whose matrices are no linear layers of their own stay exact too.

Shapes: T = rows (tokens), I = inputs, O = outputs of a layer.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from swarm.model import int4
from swarm.model.products import FEW, MEASURED, WIDE, fastest, sample

STEPS = 127
"""To either side of zero."""

LEAST = 64
"""Inputs and outputs below which a matrix is left alone."""

DECIDING = ("gate", "router")
"""Last names of layers that choose experts."""

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""x_TI, int8 w_OI, float32 scales_O → y_TO, of x's dtype; or the two tensors that `int4.rounded` gives in their place."""


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


class RoundedLinear(nn.Module, ABC):
    """A linear layer made of an exact one, whose weights are held as two tensors: what `rounded` gives. `products[T]` multiplies T rows, the last one more than
    that."""

    NAMES: tuple[str, str]
    MULTIPLE: int = 1
    """Of what inputs must be a multiple."""

    def __init__(self, exact: nn.Linear, products: tuple[Product, ...]) -> None:
        super().__init__()
        self.out_features, self.in_features = exact.weight.shape
        self.products = products
        self.bias = exact.bias
        pieces = (self.rounded(w_oI) for w_oI in exact.weight.detach().split(_at_once(exact.weight)))
        for name, parts in zip(self.NAMES, zip(*pieces, strict=True), strict=True):
            self.register_buffer(name, torch.cat(parts))

    @staticmethod
    @abstractmethod
    def rounded(w_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of some outputs."""

    @property
    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        weights, steps = self.NAMES
        return self.get_buffer(weights), self.get_buffer(steps)

    @property
    @abstractmethod
    def weight(self) -> torch.Tensor:
        """What it stands for, in float32: for the few models that look at a layer's matrix themselves."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.numel() // self.in_features
        out = self.products[min(rows, len(self.products) - 1)](input.reshape(rows, self.in_features), *self.held)
        return (out if self.bias is None else out + self.bias).view(*input.shape[:-1], self.out_features)


class Int8Linear(RoundedLinear):
    NAMES = "weight_OI", "scales_O"

    weight_OI: torch.Tensor
    scales_O: torch.Tensor

    def __init__(self, exact: nn.Linear, products: tuple[Product, ...] = (as_given,)) -> None:
        super().__init__(exact, products)

    @staticmethod
    def rounded(w_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _rounded(w_OI)

    @property
    def weight(self) -> torch.Tensor:
        return self.weight_OI.float() * self.scales_O[:, None]


class Int4Linear(RoundedLinear):
    NAMES = "weight_OB", "widths_OG"
    MULTIPLE = int4.GROUP

    def __init__(self, exact: nn.Linear, products: tuple[Product, ...] = (int4.as_given,)) -> None:
        super().__init__(exact, products)

    @staticmethod
    def rounded(w_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return int4.rounded(w_OI)

    @property
    def weight(self) -> torch.Tensor:
        return int4.widened(*self.held)


METHODS: Mapping[str, type[RoundedLinear]] = {"int8": Int8Linear, "int4": Int4Linear}


def _rounded(w_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 steps [O, I], and how wide they are [O]."""
    w_OI = w_OI.float()
    scales_O = w_OI.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny * STEPS) / STEPS
    return (w_OI / scales_O[:, None]).round().to(torch.int8), scales_O


def quantize(model: nn.Module, method: str, clock: Callable[[], float] = time.perf_counter, native: Product | None = None) -> int:
    """Replace the linear layers of `model` by rounded ones, one after the other, and let them multiply as is fastest here (`native` is one more product);
    how many there were. Takes a pass over the weights, and about a second."""
    kind = METHODS[method]
    made: list[RoundedLinear] = []
    for parent in list(model.modules()):
        for child, module in list(parent.named_children()):
            if type(module) is nn.Linear and child not in DECIDING and min(module.weight.shape) >= LEAST and module.in_features % kind.MULTIPLE == 0:
                quantized = kind(module, ())
                setattr(parent, child, quantized)
                made.append(quantized)
    if made:
        dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
        products = choose([layer.held[0] for layer in made], dtype, clock, native)
        for layer in made:
            layer.products = products
    return len(made)


@torch.inference_mode()
def choose(weights: Sequence[torch.Tensor], dtype: torch.dtype, clock: Callable[[], float], native: Product | None = None) -> tuple[Product, ...]:
    """The best product for 0 (unused), 1, 2, … rows of this dtype, as `products.choose`."""
    given, _ = _products(weights)
    if weights[0].device.type != "cpu":
        return (given,)
    best = {rows: _fastest(weights, rows, dtype, clock, native) for rows in MEASURED}
    return (given, *(best[next(measured for measured in MEASURED if measured >= rows)] for rows in range(1, MEASURED[-1] + 1)))


def _products(weights: Sequence[torch.Tensor]) -> tuple[Product, Product]:
    """Those of torch for weights of this kind: as given, and in float32."""
    return (int4.as_given, int4.in_float32) if weights[0].dtype == torch.uint8 else (as_given, in_float32)


def _fastest(weights: Sequence[torch.Tensor], rows: int, dtype: torch.dtype, clock: Callable[[], float], native: Product | None) -> Product:
    if dtype == torch.float16:  # nothing native reads that
        native = None
    given, wide = _products(weights)
    products = (given, *((wide,) if dtype != torch.float32 else ()), *((native,) if native is not None else ()))
    read = sample(weights, rows)
    halves = given is int4.as_given
    steps = {w.shape: torch.ones(len(w), w.shape[1] // int4.HALF, dtype=torch.bfloat16) if halves else torch.ones(len(w)) for w in read}
    timed = [lambda x, w, product=product: product(x.repeat(1, 2) if halves else x, w, steps[w.shape]) for product in products]  # type: ignore[misc]
    expected = len(products) - 1 if native is not None and rows <= FEW else 0
    return products[fastest(timed, expected, read, rows, dtype, clock)]
