"""What fits, and the sentence when it does not; how fast a span is."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest

from swarm.core import ModelShape, Span
from swarm.errors import DoesNotFit
from swarm.model.measure import measure_speed
from swarm.model.memory import COMPILING, MARGIN, bytes_needed, check_fits, dtype_scale, fits, free_memory, layers_that_fit, own_memory, usable
from tests.model.tiny import LAYERS

GB = 10**9
SHAPE = ModelShape("m", 4, 8, 100, 1000, "x", (GB, 2 * GB, 2 * GB, 3 * GB, 2 * GB, GB), (0, 1000, 1000, 1000, 1000, 0))


def room(usable: float) -> int:
    return round((usable + MARGIN) / 0.9) + 1


def test_weights_and_cache_are_added_up():
    assert bytes_needed(SHAPE, [Span(0, 2)]) == 3 * GB
    assert bytes_needed(SHAPE, [Span(0, 2), Span(1, 3)], cache_tokens=1000) == 5 * GB + 2 * 10**6
    rows = replace(SHAPE, row_bytes=16)
    assert bytes_needed(rows, [Span(0, 2), Span(3, 4)], cache_tokens=1000) == 6 * GB + 2 * 10**6 + 2 * 16 * 1000
    assert bytes_needed(rows, [Span(3, 6)], cache_tokens=1000) == bytes_needed(SHAPE, [Span(3, 6)], cache_tokens=1000) + 16 * 1000
    assert bytes_needed(rows, [Span(5, 6)], cache_tokens=1000) == bytes_needed(SHAPE, [Span(5, 6)], cache_tokens=1000)
    assert bytes_needed(SHAPE, [Span(0, 2)], scale=dtype_scale("bfloat16", "float32")) == 6 * GB
    assert dtype_scale("bfloat16", None) == 1


def test_the_margin_decides():
    assert 4 * GB <= usable(room(4 * GB)) <= 4 * GB + 2 and usable(0) == 0
    assert fits(SHAPE, [Span(1, 3)], 1.0, 0, 4 * GB)
    assert not fits(SHAPE, [Span(1, 3)], 1.0, 0, 4 * GB - 10)
    assert layers_that_fit(SHAPE, 1.0, 0, 5 * GB) == 2
    assert layers_that_fit(SHAPE, 2.0, 0, 5 * GB) == 0
    assert layers_that_fit(replace(SHAPE, row_bytes=10**6), 1.0, 1000, 5 * GB) == 1, "a gigabyte goes to the journal"


def test_room_is_left_for_compiling_where_it_costs_little():
    assert usable(8 * GB, compiles=True) == 8 * GB - MARGIN - COMPILING < usable(8 * GB)
    assert usable(64 * GB, compiles=True) == usable(64 * GB), "there is enough in any case"
    assert usable(3 * GB, compiles=True) == usable(3 * GB), "more layers are worth more than faster ones"


def test_the_sentence_says_how_many_do():
    with pytest.raises(DoesNotFit, match=r"these layers of m and a cache of 1000 tokens need 11.0 GB, and 5.1 GB can be used here; 2 of 4 layers do fit"):
        check_fits(SHAPE, [Span(0, 6)], 1.0, 1000, int(5.1 * GB))
    with pytest.raises(DoesNotFit, match="not even one layer fits"):
        check_fits(SHAPE, [Span(1, 2)], 1.0, 0, GB)
    check_fits(SHAPE, [Span(0, 6)], 1.0, 0, 11 * GB)


def test_this_machine_has_memory():
    assert free_memory() > 10**7 and 10**7 < own_memory() < psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("spans", "parts"),
    [([Span(0, LAYERS + 2)], "all"), ([Span(1, 3)], "layers"), ([Span(0, 1)], "embed"), ([Span(0, 1), Span(LAYERS + 1, LAYERS + 2)], "ends")],
)
def test_speed_of_whatever_is_held(tiny, spans, parts):
    speed = measure_speed(tiny("llama").load(*spans), budget=0.05)
    assert 0 < speed.decode < 1
    assert 0 < speed.prefill < 1
    assert (speed.head_weight == 1.0) == (parts != "all")


def test_speed_is_a_median_by_the_clock_it_is_given(tiny):
    now = iter(range(10**6))
    speed = measure_speed(tiny("llama").load(Span(1, 3)), budget=20.0, clock=lambda: float(next(now)))
    assert speed.decode == 0.5
    assert speed.prefill == 0.5 / 64
