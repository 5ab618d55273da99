"""Weights of one byte: which layers have them, how far they are from exact, and that every way of multiplying them gives the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from swarm.core import Span
from swarm.errors import InvalidConfig
from swarm.model import quantized
from swarm.model.checkpoint import Checkpoint
from swarm.model.native import agrees_in_int8
from swarm.model.products import FEW, MEASURED
from swarm.model.quantized import STEPS, Int8Linear, as_given, choose, in_float32, quantize
from swarm.model.span import Row, SpanModel


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def layer(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    torch.manual_seed(inputs * outputs)
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
def test_every_number_is_within_half_a_step_of_the_exact_one(bias):
    exact = layer(80, 70, bias)
    with torch.no_grad():
        exact.weight[3] *= 1000.0
        exact.weight[5] = 0.0
    rounded = Int8Linear(exact)
    steps_O1 = exact.weight.abs().amax(dim=1, keepdim=True) / STEPS
    assert ((rounded.weight - exact.weight).abs() <= 0.5001 * steps_O1).all() and rounded.weight_OI.abs().max() == STEPS
    x = random(2, 3, 80)
    torch.testing.assert_close(rounded(x), linear(x, rounded.weight, exact.bias), rtol=1e-5, atol=1e-4)
    assert rounded(random(80)).shape == (70,) and rounded(random(0, 80)).shape == (0, 70)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("product", [as_given, in_float32])
def test_every_product_gives_the_same_and_a_large_matrix_is_widened_a_part_at_a_time(monkeypatch, dtype, product):
    x_TI, w_OI, scales_O = random(5, 64).to(dtype), torch.randint(-127, 128, (70, 64), dtype=torch.int8), torch.rand(70) + 0.5
    exact = linear(x_TI.double(), w_OI.double()) * scales_O
    whole = product(x_TI, w_OI, scales_O)
    monkeypatch.setattr(quantized, "WIDE", 64 * 16)
    for out in (whole, product(x_TI, w_OI, scales_O)):
        assert out.dtype == dtype and ((out.double() - exact).abs().max() <= exact.abs().max() * {torch.float32: 1e-5}.get(dtype, 2**-7))


def test_a_product_that_rounds_otherwise_does_not_agree():
    assert agrees_in_int8(as_given)
    assert not agrees_in_int8(lambda x, w, scales: as_given(x, w, scales * 1.02))
    assert not agrees_in_int8(lambda x, w, scales: as_given(x, w, scales) * float("nan"))


def test_the_fastest_product_is_chosen_and_the_native_one_where_nothing_is_clearly_faster(monkeypatch):
    now = [0.0]

    def taking(seconds: float):
        def product(x_TI, w_OI, scales_O):
            now[0] += seconds
            return as_given(x_TI, w_OI, scales_O)

        return product

    def chosen(dtype: torch.dtype, usual: float, wide: float, native: float) -> tuple[str, str]:
        products = {"usual": taking(usual), "wide": taking(wide), "native": taking(native)}
        monkeypatch.setattr(quantized, "as_given", products["usual"])
        monkeypatch.setattr(quantized, "in_float32", products["wide"])
        found = choose([torch.ones(64, 64, dtype=torch.int8)], dtype, lambda: now[0], products["native"])
        assert len(found) == MEASURED[-1] + 1
        names = {product: name for name, product in products.items()}
        return names[found[FEW]], names[found[-1]]

    as_given = quantized.as_given
    assert chosen(torch.bfloat16, 1.0, 1.0, 1.0) == ("native", "usual"), "as expected"
    assert chosen(torch.bfloat16, 1.0, 0.2, 1.0) == ("wide", "wide")
    assert chosen(torch.float32, 1.0, 0.1, 0.2) == ("native", "native"), "there is nothing to widen"
    assert chosen(torch.float16, 1.0, 0.5, 0.1) == ("wide", "wide"), "nothing native reads that"


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.small, self.embed = layer(64, 64), layer(64, 128), layer(64, 8), nn.Embedding(100, 64)


def test_what_chooses_experts_is_small_or_is_looked_up_stays_exact():
    model = Experts()
    assert quantize(model) == 1
    assert [type(module) for module in (model.gate, model.up, model.small, model.embed)] == [nn.Linear, Int8Linear, nn.Linear, nn.Embedding]


def logits(model: SpanModel) -> torch.Tensor:
    count, tokens = model.head + 1, [5, 70, 33, 12, 9, 4, 61, 17]
    return model.run(0, count, [Row(model.new_cache(0, count), 0, tokens, None, range(len(tokens)))])[0]


def test_a_part_is_rounded_says_so_takes_a_quarter_of_float32_and_understands_the_same():
    import swarm

    checkpoint = Checkpoint.open(str(swarm.demo_model()))
    whole = [Span(0, checkpoint.shape.components)]
    exact = SpanModel.load(checkpoint, whole, dtype="float32")
    rounded = SpanModel.load(checkpoint, whole, dtype="float32", quantize="int8")
    assert (exact.numerics, rounded.numerics) == ("float32", "float32-int8") and rounded.nbytes < 0.3 * exact.nbytes
    one, other = logits(exact), logits(rounded)
    assert not torch.equal(one, other)
    assert (one.softmax(-1) - other.softmax(-1)).abs().max() < 0.1
    with pytest.raises(InvalidConfig, match="int8"):
        SpanModel.load(checkpoint, whole, quantize="int3")


def test_the_bytes_that_are_planned_with_are_those_that_are_held():
    import swarm

    checkpoint = Checkpoint.open(str(swarm.demo_model()))
    held = SpanModel.load(checkpoint, [Span(1, 4)], dtype="float32", quantize="int8").nbytes
    planned = checkpoint.shape.rounded(4).bytes_needed([Span(1, 4)], checkpoint.shape.scale(4))
    assert 0.95 * held < planned <= held, "all but the scales"
