"""How many threads compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swarm.model.threads import GAIN, SMALL, candidates, choose, fill, widened


@pytest.mark.parametrize(
    ("usual", "cores", "tried"),
    [(16, 8, [16, 8, 7]), (8, 8, [8, 7]), (2, 2, [2]), (2, 1, [2, 1]), (4, None, [4, 3]), (2, 8, [2]), (1, 1, [1])],
)
def test_one_for_each_core_is_tried_and_one_less(usual, cores, tried):
    assert candidates(usual, cores) == tried


@pytest.fixture
def threads(monkeypatch):
    """Sixteen, without disturbing those of the tests."""
    now = [16]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    return now


def model_of(cost, threads) -> tuple[nn.Module, list[float]]:
    clock = [0.0]
    layer = nn.Linear(512, 512)

    def took(module, args, out):
        clock[0] += cost(threads[0], args[0].shape[0])

    layer.register_forward_hook(took)
    return nn.Sequential(layer), clock


@pytest.mark.parametrize(
    ("cost", "chosen"),
    [
        (lambda count, rows: {16: 1.2, 8: 1.0, 7: 1.05}[count], 8),
        (lambda count, rows: {16: 1.0, 8: 0.95, 7: 0.93}[count], 16),
        (lambda count, rows: 1.0 if rows == 1 else {16: 1.0, 8: 1.0, 7: 0.7}[count], 7),
        (lambda count, rows: {16: 1.0, 8: 0.8 if rows == 1 else 1.5, 7: 0.8 if rows == 1 else 1.6}[count], 16),
    ],
    ids=["cores win", "noise", "one is left to others", "prompts count too"],
)
def test_the_fastest_is_taken_if_it_is_so_beyond_doubt(cost, chosen, threads):
    model, clock = model_of(cost, threads)
    assert choose(model, lambda: clock[0], cores=8) == chosen == threads[0]


def test_where_nothing_can_be_told_the_usual_number_stays(threads):
    model, clock = model_of(lambda count, rows: 1 / (GAIN * count), threads)
    assert choose(nn.Linear(8, 8), lambda: 0.0, cores=8) == 16, "too small"
    assert choose(model, lambda: clock[0], cores=16) in (15, 16) and threads[0] == 16


@pytest.mark.parametrize(("rows", "counts"), [(1, [1, 16]), (3, [])])
def test_few_numbers_are_converted_by_one_thread(threads, monkeypatch, rows, counts):
    """Others sleep, and would have to be woken. Afterwards there are as many as before."""
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda count: (seen.append(count), threads.__setitem__(0, count)))
    x = torch.arange(rows * SMALL // 2).view(rows, -1).bfloat16()
    assert torch.equal(widened(x), x.float()) and widened(x).dtype == torch.float32
    assert seen == 2 * counts and threads == [16]


@pytest.mark.parametrize(("cores", "filled"), [(8, True), (16, True), (20, True), (24, False), (64, False)])
def test_cores_are_kept_busy_by_about_as_many_threads(threads, cores, filled):
    assert fill(cores) is filled
