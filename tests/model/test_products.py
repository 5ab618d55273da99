"""Every spelling of a matrix product gives the same sums; the fastest one is taken, and only if it is clearly faster; layers then use it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from swarm.model import products
from swarm.model.products import (
    EXPECTED,
    FEW,
    GAIN,
    HOPELESS,
    LEAST,
    MEASURED,
    PRODUCTS,
    ROUNDS,
    TunedLinear,
    candidates,
    choose,
    rows_by_pieces,
    tune,
    usual,
    weights_first,
    weights_in_pieces,
    widened,
)


class Stopwatch:
    """A clock under which each product takes the seconds it is told to, or one, when those of `dtypes` are timed one after the other."""

    def __init__(self, seconds: dict, *dtypes: torch.dtype, native=None) -> None:
        taken = [
            self._timed([seconds.get(product, 1.0) for product in candidates(dtype, rows, native)]) for dtype in dtypes or [torch.float32] for rows in MEASURED
        ]
        self._times = itertools.accumulate(itertools.chain.from_iterable((0.0, time) for times in taken for time in times))

    @staticmethod
    def _timed(seconds: list[float]) -> list[float]:
        """Of one number of rows: who is hopeless is timed once."""
        return seconds + (ROUNDS - 1) * [time for time in seconds if time <= HOPELESS * min(seconds)]

    def __call__(self) -> float:
        return next(self._times)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("product", [*PRODUCTS, widened])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("outputs", [48, 33, 1])
def test_every_product_gives_the_same_sums(product, rows, outputs):
    x_TI, w_OI = random(rows, 40), random(outputs, 40)
    out = product(x_TI, w_OI)
    assert out.shape == (rows, outputs)
    assert out.is_contiguous()  # families look at it with `view`
    torch.testing.assert_close(out, linear(x_TI, w_OI), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("winner", PRODUCTS)
def test_the_fastest_product_is_chosen(winner):
    chosen = choose([random(32, 32)], Stopwatch({winner: 0.5}))
    assert chosen[: FEW + 1] == (usual, *[winner] * FEW) and len(chosen) == MEASURED[-1] + 1
    assert set(chosen[FEW + 1 :]) == {usual}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_processor_multiplies_slowly_is_widened(dtype):
    weights = [random(32, 32).to(dtype)]
    chosen = choose(weights, Stopwatch({widened: 0.15, native: 0.1}, dtype, native=native), native)
    assert set(chosen) == {usual, native}
    chosen = choose(weights, Stopwatch({widened: 0.1, native: 0.15}, dtype, native=native), native)
    assert set(chosen) == {usual, widened}


def test_a_matrix_is_widened_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr(products, "WIDE", 40 * 5)
    x_TI, w_OI = random(7, 40).bfloat16(), random(33, 40).bfloat16()
    seen = []
    monkeypatch.setattr(products, "linear", lambda x, w: (seen.append(len(w)), linear(x, w))[1])
    torch.testing.assert_close(widened(x_TI, w_OI), linear(x_TI, w_OI))
    assert seen == [5] * 6 + [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_nothing_is_clearly_faster_the_expected_product_is_kept(dtype):
    """Peers that start together disturb each other's timings, and should not end up with different last bits for it."""
    for nearly in itertools.permutations((1.0, GAIN * 0.99, 1.05, 1.1)):
        chosen = choose([random(32, 32).to(dtype)], Stopwatch(dict(zip(PRODUCTS, nearly, strict=True)), dtype))
        assert [chosen[rows] for rows in MEASURED] == [EXPECTED.get(rows, usual) if dtype == torch.float32 else usual for rows in MEASURED]


def test_a_clearly_faster_one_replaces_the_expected_one():
    assert set(choose([random(32, 32)], Stopwatch({usual: 0.99 / GAIN}))) == {usual}


def big(bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(LEAST // 512, 512, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("winner", [weights_first, weights_in_pieces, rows_by_pieces])
def test_tuned_layers_answer_as_before_whatever_the_number_of_rows(bias, winner):
    model = nn.Sequential(big(bias))
    inputs = [random(1, rows, model[0].in_features) for rows in (1, 2, 5, 16, 17, 300)] + [random(0, model[0].in_features), random(model[0].in_features)]
    before = [model(x) for x in inputs]
    tune(model, Stopwatch({winner: 0.5}))
    assert type(model[0]) is TunedLinear
    assert winner in model[0].products
    for x, expected in zip(inputs, before, strict=True):
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_small_layers_and_those_the_usual_way_serves_best_stay_what_they_are():
    small, large = nn.Linear(8, 8), big(False)
    tune(nn.Sequential(small), Stopwatch({usual: 10.0}))
    tune(nn.Sequential(large), Stopwatch({usual: 0.1}))
    assert type(small) is type(large) is nn.Linear


def native(x_TI, w_OI):
    return linear(x_TI, w_OI) + 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_made_for_this_machine_is_taken_unless_another_is_clearly_faster(dtype):
    weights = [random(32, 32).to(dtype)]
    assert set(choose(weights, Stopwatch({usual: 0.9, native: 0.9 * GAIN * 0.99}, dtype, native=native), native)[1 : FEW + 1]) == {native}
    assert set(choose(weights, Stopwatch({usual: 0.9, native: 0.9 * GAIN * 1.01}, dtype, native=native), native)) == {usual}


def test_it_is_tried_only_on_large_matrices():
    tried = []

    def noted(x_TI, w_OI):
        tried.append(w_OI.shape)
        return native(x_TI, w_OI)

    tune(nn.Sequential(nn.Linear(8, 8)), native=noted)
    assert not tried
    model = nn.Sequential(big(True))
    tune(model, Stopwatch({noted: 0.1}, native=noted), native=noted)
    assert noted in model[0].products and set(tried) == {model[0].weight.shape}


def test_layers_of_several_dtypes_are_each_tuned_by_themselves():
    """Some families keep a router or a head in float32 beside bfloat16 layers."""
    model = nn.Sequential(big(False).to(torch.bfloat16), big(False))
    tune(model, Stopwatch({}, torch.bfloat16, torch.float32))
    assert type(model[0]) is nn.Linear and type(model[1]) is TunedLinear
    x = random(1, model[1].in_features)
    torch.testing.assert_close(model[1](x), linear(x, model[1].weight), rtol=1e-5, atol=1e-5)


def test_a_timing_reads_a_bounded_part_of_matrices_however_large(monkeypatch):
    monkeypatch.setattr(products, "SAMPLE", 100 * 40 * 4)
    whole, half, unread = random(40, 40), random(1000, 40), random(80, 40)
    sample = products.sample([whole, half, unread], 1)
    assert [tuple(weight.shape) for weight in sample] == [(40, 40), (64, 40)]
    assert sample[1].data_ptr() == half.data_ptr() and sample[1].is_contiguous()
    assert [tuple(weight.shape) for weight in products.sample([whole, half], 4 * products.ENOUGH)] == [(40, 40)]


def test_a_model_without_linear_layers_is_left_alone():
    tune(nn.Sequential(nn.Identity()))
