"""Which component lies where: arithmetic over bytes."""

from __future__ import annotations

import random

import pytest

from swarm.core import Span
from swarm.errors import InvalidConfig
from swarm.model.devices import resolve, synchronize
from swarm.model.layout import BUFFERS, Layout, capacity, lay_out, mapped_components

WHOLE = Span(0, 10)
WEIGHTS = [6, *([10] * 8), 7]
CACHED = [0, *([1] * 8), 0]


def test_one_device_takes_all_or_nothing():
    assert lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 101}) == Layout(("cuda:0",), dict.fromkeys(range(10), "cuda:0"))
    assert lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 100}) is None
    assert lay_out([Span(0, 1), Span(9, 10)], WEIGHTS, CACHED, {"cuda:0": 13}).on == {0: "cuda:0", 9: "cuda:0"}


def test_devices_take_contiguous_stretches_as_large_as_their_memory():
    found = lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 100, "cuda:1": 200})
    assert "".join(found.on[i][-1] for i in range(10)) == "0001111111"
    assert found.is_spread and found.entry == "cuda:0"
    even = lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 1000, "cuda:1": 1000})
    assert "".join(even.on[i][-1] for i in range(10)) == "0000011111"


def test_what_does_not_fit_is_streamed_and_no_more_of_it():
    found = lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 80}, host=1000)
    assert len(found.streamed) == 5 and found.is_spread
    used = sum(CACHED) + sum(WEIGHTS[i] for i in range(10) if i not in found.streamed) + BUFFERS * 10
    assert used <= 80 < used + 10
    assert found.streamed == {1, 2, 4, 5, 7}
    assert lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 80}) is None
    assert lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 80}, host=49) is None
    assert lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 40}, host=1000) is None  # ends, caches and buffers alone are 41
    assert len(lay_out([WHOLE], WEIGHTS, CACHED, {"cuda:0": 100}, host=1000).streamed) == BUFFERS + 1  # fewer would never leave the buffers


def test_what_is_on_disk_is_the_processors():
    found = lay_out([WHOLE], [0, *WEIGHTS[1:]], CACHED, {"cuda:0": 100}, mapped=mapped_components(["embed"], 10))
    assert (found.on[0], found.on[1], found.entry, found.mapped) == ("cpu", "cuda:0", "cuda:0", {0})
    assert not found.is_spread
    assert Layout.alone("cuda:0", [Span(0, 1)], [0, 9]) == Layout(("cuda:0",), {0: "cpu"}, mapped=frozenset([0]))
    assert Layout.alone("cuda:0", [Span(0, 1)], [0]).entry == "cuda:0"


@pytest.mark.parametrize("host", [0, 60, 1000])
def test_whatever_a_budget_allows_can_be_laid_out(host):
    dice = random.Random(host)
    streamed = 0
    for _ in range(60):
        layers, layer, cache = dice.randint(1, 30), dice.randint(5, 20), dice.randint(0, 6)
        weights, cached = [dice.randint(0, 30), *([layer] * layers), dice.randint(0, 30)], [0, *([cache] * layers), 0]
        rooms = {f"cuda:{i}": dice.randint(20, 200) for i in range(dice.randint(1, 3))}
        budget = capacity(weights, cached, rooms, host)
        for start in range(layers + 2):
            for stop in range(start + 1, layers + 3):
                if sum(weights[start:stop]) + sum(cached[start:stop]) <= budget:
                    found = lay_out([Span(start, stop)], weights, cached, rooms, host)
                    assert found is not None, (start, stop, weights, cached, rooms, budget)
                    streamed += bool(found.streamed)
    assert (streamed > 0) == (host > 0)


def test_a_budget_of_one_device_is_what_is_free_on_it():
    assert capacity(WEIGHTS, CACHED, {"cpu": 55}) == 55
    assert capacity(WEIGHTS, CACHED, {"cuda:0": 55, "cuda:1": 55}) == 110 - 11


# --- devices ----------------------------------------------------------------------------------------------------------------------------------------------


def test_devices_by_name():
    gpus = ("cuda:0", "cuda:1", "cpu")
    assert resolve("auto", gpus) == ("cuda:0", "cuda:1")
    assert resolve("auto", ("mps", "cpu")) == ("mps",)
    assert resolve("auto", ("cpu",)) == ("cpu",)
    assert resolve("cuda", gpus) == ("cuda:0",)
    assert resolve("cuda:1,cuda:0", gpus) == ("cuda:1", "cuda:0")
    assert resolve("cpu") == resolve("cpu:0") == ("cpu",)
    synchronize(["cpu"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda:2", "cannot use device cuda:2; choose cuda:0, cuda:1, cpu, which is all"),
        ("mps", "cannot use device mps; choose cuda:0"),
        ("cuda:0,cuda", "name each GPU once"),
        ("cuda:0,cpu", "the CPU alone"),
    ],
)
def test_devices_that_are_not_there_or_do_not_go_together(text, message):
    with pytest.raises(InvalidConfig, match=message):
        resolve(text, ("cuda:0", "cuda:1", "cpu"))
