"""Every spelling of a matrix product gives the same sums; the fastest one is taken, and only if it is clearly faster; layers then use it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from swarm.model import products
from swarm.model.products import EXPECTED, GAIN, LEAST, MEASURED, PRODUCTS, TunedLinear, choose, rows_by_pieces, tune, usual, weights_first, weights_in_pieces


class Stopwatch:
    """A clock under which each product takes the seconds it is told to, in the order in which products are timed."""

    def __init__(self, *seconds: float) -> None:
        self._times = itertools.accumulate(itertools.chain.from_iterable((0.0, taken) for taken in itertools.cycle(seconds)))

    def __call__(self) -> float:
        return next(self._times)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("outputs", [48, 33, 1])
def test_every_product_gives_the_same_sums(product, rows, outputs):
    x_TI, w_OI = random(rows, 40), random(outputs, 40)
    out = product(x_TI, w_OI)
    assert out.shape == (rows, outputs)
    assert out.is_contiguous()  # families look at it with `view`
    torch.testing.assert_close(out, linear(x_TI, w_OI), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("winner", range(len(PRODUCTS)))
def test_the_fastest_product_is_chosen(winner):
    seconds = [1.0] * len(PRODUCTS)
    seconds[winner] = 0.5
    assert choose([random(32, 32)], Stopwatch(*seconds)) == (usual, *[PRODUCTS[winner]] * MEASURED[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_nothing_is_clearly_faster_the_expected_product_is_kept(dtype):
    """Peers that start together disturb each other's timings, and should not end up with different last bits for it."""
    for nearly in itertools.permutations((1.0, GAIN * 0.99, 1.05, 1.1)):
        chosen = choose([random(32, 32).to(dtype)], Stopwatch(*nearly))
        assert [chosen[rows] for rows in MEASURED] == (list(EXPECTED.values()) if dtype == torch.float32 else [usual] * len(MEASURED))


def test_a_clearly_faster_one_replaces_the_expected_one():
    assert set(choose([random(32, 32)], Stopwatch(1.0, GAIN * 1.01, GAIN * 1.01, GAIN * 1.01))) == {usual}


def big(bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(LEAST // 512, 512, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("winner", [weights_first, weights_in_pieces, rows_by_pieces])
def test_tuned_layers_answer_as_before_whatever_the_number_of_rows(bias, winner):
    model = nn.Sequential(big(bias))
    inputs = [random(1, rows, model[0].in_features) for rows in (1, 2, 5, 16, 17)] + [random(0, model[0].in_features), random(model[0].in_features)]
    before = [model(x) for x in inputs]
    tune(model, Stopwatch(*(0.5 if product is winner else 1.0 for product in PRODUCTS)))
    assert type(model[0]) is TunedLinear
    assert winner in model[0].products
    for x, expected in zip(inputs, before, strict=True):
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_small_layers_and_those_the_usual_way_serves_best_stay_what_they_are():
    small, large = nn.Linear(8, 8), big(False)
    tune(nn.Sequential(small), Stopwatch(1.0, 0.1, 0.1, 0.1))
    tune(nn.Sequential(large), Stopwatch(0.1, 1.0, 1.0, 1.0))
    assert type(small) is type(large) is nn.Linear


def native(x_TI, w_OI):
    return linear(x_TI, w_OI) + 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_made_for_this_machine_is_taken_unless_another_is_clearly_faster(dtype):
    weights = [random(32, 32).to(dtype)]
    assert set(choose(weights, Stopwatch(1.0, 1.0, 1.0, 1.0, GAIN * 0.99), native)) == {usual, native}
    assert set(choose(weights, Stopwatch(1.0, 1.0, 1.0, 1.0, GAIN * 1.01), native)) == {usual}


def test_it_is_made_only_where_there_are_large_matrices():
    made = []
    tune(nn.Sequential(nn.Linear(8, 8)), native=lambda: made.append(native))
    assert not made
    model = nn.Sequential(big(True))
    tune(model, Stopwatch(1.0, 1.0, 1.0, 1.0, 0.1), native=lambda: native)
    assert native in model[0].products


def test_layers_of_several_dtypes_are_each_tuned_by_themselves():
    """Some families keep a router or a head in float32 beside bfloat16 layers."""
    model = nn.Sequential(big(False).to(torch.bfloat16), big(False))
    tune(model, Stopwatch(1.0, 1.0, 1.0, 1.0))
    assert type(model[0]) is nn.Linear and type(model[1]) is TunedLinear
    x = random(1, model[1].in_features)
    torch.testing.assert_close(model[1](x), linear(x, model[1].weight), rtol=1e-5, atol=1e-5)


def test_a_timing_reads_a_bounded_part_of_matrices_however_large(monkeypatch):
    monkeypatch.setattr(products, "SAMPLE", 100 * 40 * 4)
    whole, half, unread = random(40, 40), random(1000, 40), random(80, 40)
    sample = products._sample([whole, half, unread])
    assert [tuple(weight.shape) for weight in sample] == [(40, 40), (64, 40)]
    assert sample[1].data_ptr() == half.data_ptr() and sample[1].is_contiguous()


def test_a_model_without_linear_layers_is_left_alone():
    tune(nn.Sequential(nn.Identity()))
