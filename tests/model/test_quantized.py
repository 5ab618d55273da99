"""Weights of one byte and of half a one: which layers have them, how far they are from exact, and that every way of multiplying them gives the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from swarm.core import ROUNDED_BITS, Span
from swarm.errors import InvalidConfig
from swarm.model import int4, quantized
from swarm.model.checkpoint import Checkpoint
from swarm.model.native import agrees_in_int4, agrees_in_int8
from swarm.model.products import FEW, MEASURED
from swarm.model.quantized import METHODS, STEPS, Int4Linear, Int8Linear, as_given, choose, in_float32, quantize
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


@pytest.mark.parametrize("bias", [False, True])
def test_in_half_a_byte_it_is_within_half_a_step_of_its_group_or_where_that_is_full(bias):
    exact = layer(96, 70, bias)
    with torch.no_grad():
        exact.weight[3, 32:64] *= 1000.0
        exact.weight[5] = 0.0
        exact.weight[7, :32] = -exact.weight[7, :32].abs()
        exact.weight[8, :32] = exact.weight[8, :32].abs()
    rounded = Int4Linear(exact)
    assert rounded.weight_OB.nbytes + rounded.widths_OG.nbytes == 70 * 96 * ROUNDED_BITS["int4"] / 8
    groups, widths = exact.weight.unflatten(1, (3, 32)), rounded.widths_OG.float()[:, :, None].abs()
    off = (rounded.weight.unflatten(1, (3, 32)) - groups).abs()
    assert (off <= 0.5001 * widths + (groups.abs() > 6.9 * widths) * 2.0 * widths).all(), "only the largest may be further"
    assert (widths <= groups.abs().amax(dim=2, keepdim=True) / 8 * 1.004).all() and not rounded.weight[5].any()
    x = random(2, 3, 96)
    torch.testing.assert_close(rounded(x), linear(x, rounded.weight, exact.bias), rtol=1e-5, atol=1e-4)
    assert rounded(random(96)).shape == (70,) and rounded(random(0, 96)).shape == (0, 70)


def test_widths_are_sought_so_that_groups_are_nearer_and_a_large_matrix_is_rounded_a_part_at_a_time(monkeypatch):
    w_OI = random(50, 128)

    def off() -> float:
        return float((int4.widened(*int4.rounded(w_OI)) - w_OI).norm() / w_OI.norm())

    sought = off()
    whole = int4.rounded(w_OI)
    monkeypatch.setattr(int4, "ROUNDED_AT_ONCE", 128 * 7)
    assert all(map(torch.equal, whole, int4.rounded(w_OI)))
    monkeypatch.setattr(int4, "SHARES", (1.0,))
    assert sought < 0.985 * off() and sought < 0.09


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("product", [as_given, in_float32])
def test_every_product_gives_the_same_and_a_large_matrix_is_widened_a_part_at_a_time(monkeypatch, dtype, product):
    x_TI, w_OI, scales_O = random(5, 64).to(dtype), torch.randint(-127, 128, (70, 64), dtype=torch.int8), torch.rand(70) + 0.5
    exact = linear(x_TI.double(), w_OI.double()) * scales_O
    whole = product(x_TI, w_OI, scales_O)
    monkeypatch.setattr(quantized, "WIDE", 64 * 16)
    for out in (whole, product(x_TI, w_OI, scales_O)):
        assert out.dtype == dtype and ((out.double() - exact).abs().max() <= exact.abs().max() * {torch.float32: 1e-5}.get(dtype, 2**-7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("product", [int4.as_given, int4.in_float32])
def test_so_do_those_of_half_a_byte(monkeypatch, dtype, product):
    x_TI, (w_OB, widths_OG) = random(5, 64).to(dtype), int4.rounded(random(70, 64))
    exact = linear(x_TI.double(), int4.widened(w_OB, widths_OG).double())
    whole = product(x_TI, w_OB, widths_OG)
    monkeypatch.setattr(int4, "WIDE", 64 * 16)
    for out in (whole, product(x_TI, w_OB, widths_OG)):
        assert out.dtype == dtype and ((out.double() - exact).abs().max() <= exact.abs().max() * {torch.float32: 1e-5}.get(dtype, 2**-7))


def test_a_product_of_half_bytes_that_rounds_otherwise_does_not_agree():
    assert agrees_in_int4(int4.as_given)
    assert not agrees_in_int4(lambda x, w, widths: int4.as_given(x, w, widths * 1.02))
    assert not agrees_in_int4(lambda x, w, widths: int4.as_given(x, w << 4 | w >> 4, widths)), "halves the wrong way round"
    assert not agrees_in_int4(lambda x, w, widths: int4.as_given(x, w, widths.roll(1, 0)))
    assert not agrees_in_int4(lambda x, w, widths: int4.as_given(x, w, widths) * float("nan"))


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
    halves = choose([torch.ones(64, 32, dtype=torch.uint8)], torch.float32, lambda: now[0], taking_halves := lambda *held: int4.as_given(*held))
    assert halves[0] is int4.as_given and halves[FEW] is taking_halves
    assert chosen(torch.bfloat16, 1.0, 1.0, 1.0) == ("native", "usual"), "as expected"
    assert chosen(torch.bfloat16, 1.0, 0.2, 1.0) == ("wide", "wide")
    assert chosen(torch.float32, 1.0, 0.1, 0.2) == ("native", "native"), "there is nothing to widen"
    assert chosen(torch.float16, 1.0, 0.5, 0.1) == ("wide", "wide"), "nothing native reads that"


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.small, self.embed = layer(64, 64), layer(64, 128), layer(64, 8), nn.Embedding(100, 64)


def test_what_chooses_experts_is_small_or_is_looked_up_stays_exact():
    for method, kind in (("int8", Int8Linear), ("int4", Int4Linear)):
        model = Experts()
        assert quantize(model, method) == 1
        assert [type(module) for module in (model.gate, model.up, model.small, model.embed)] == [nn.Linear, kind, nn.Linear, nn.Embedding]


def test_every_way_to_round_has_a_size_that_is_planned_with():
    assert METHODS.keys() == ROUNDED_BITS.keys()


def test_layers_whose_inputs_fall_into_no_groups_stay_exact():
    model = nn.Sequential(layer(80, 64), layer(64, 80))
    assert quantize(model, "int4") == 1
    assert [type(module) for module in model] == [nn.Linear, Int4Linear]


def logits(model: SpanModel) -> torch.Tensor:
    count, tokens = model.head + 1, [5, 70, 33, 12, 9, 4, 61, 17]
    return model.run(0, count, [Row(model.new_cache(0, count), 0, tokens, None, range(len(tokens)))])[0]


@pytest.mark.parametrize(("method", "share", "off"), [("int8", 0.3, 0.1), ("int4", 0.17, 0.5)])
def test_a_part_is_rounded_says_so_takes_so_much_of_float32_and_understands_the_same(method, share, off):
    import swarm

    checkpoint = Checkpoint.open(str(swarm.demo_model()))
    whole = [Span(0, checkpoint.shape.components)]
    exact = SpanModel.load(checkpoint, whole, dtype="float32")
    rounded = SpanModel.load(checkpoint, whole, dtype="float32", quantize=method)
    assert (exact.numerics, rounded.numerics) == ("float32", f"float32-{method}") and rounded.nbytes < share * exact.nbytes
    one, other = logits(exact), logits(rounded)
    assert not torch.equal(one, other)
    assert (one.softmax(-1) - other.softmax(-1)).abs().max() < off
    with pytest.raises(InvalidConfig, match="int8, int4"):
        SpanModel.load(checkpoint, whole, quantize="int3")


@pytest.mark.parametrize("method", ROUNDED_BITS)
def test_the_bytes_that_are_planned_with_are_those_that_are_held(method):
    import swarm

    checkpoint = Checkpoint.open(str(swarm.demo_model()))
    held = SpanModel.load(checkpoint, [Span(1, 4)], dtype="float32", quantize=method).nbytes
    planned = checkpoint.shape.rounded(4, ROUNDED_BITS[method]).bytes_needed([Span(1, 4)], checkpoint.shape.scale(4))
    assert 0.95 * held < planned <= held, "all but the scales, and what stays exact"
