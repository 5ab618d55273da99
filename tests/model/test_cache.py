"""A KV cache is a list of positions that can be cut short."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core import FIRST_SLAB
from swarm.model.cache import KVCache

moves = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 90)),
        st.tuples(st.just("half-written"), st.integers(1, 90)),
        st.tuples(st.just("truncate"), st.integers(0, 100)),
        st.tuples(st.just("free"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(moves, st.one_of(st.none(), st.integers(1, 400)))
def test_it_holds_what_a_list_would(moves, limit):
    cache, model, serial = KVCache(3, 5, limit), [], 0
    for move, amount in moves:
        if move in ("append", "half-written"):
            if limit is not None and len(model) + amount > limit:
                continue
            fresh = list(range(serial, serial + amount))
            serial += amount
            k_KnD = torch.tensor(fresh, dtype=torch.float64)[None, :, None].expand(2, -1, 3)
            for layer in (2, 3) if move == "append" else (2,):
                keys, values = cache.write(layer, cache.length, k_KnD, -k_KnD[..., :1])
                assert keys[1, :, 2].tolist() == model + fresh
                assert values[0, :, 0].tolist() == [-x for x in model + fresh]
            if move == "append":
                cache.advance(amount)
                model += fresh
        elif move == "truncate":
            keep = len(model) * amount // 100
            cache.truncate(keep)
            del model[keep:]
        else:
            cache.free()
            model = []
            assert cache.nbytes == 0
        assert cache.length == len(model)
        if limit is not None:
            assert cache.nbytes <= 2 * limit * (2 * 3 + 2 * 1) * 8


def test_views_begin_where_a_window_does():
    cache = KVCache(1, 2)
    k_KnD = torch.arange(10.0)[None, :, None]
    keys, values = cache.write(0, 0, k_KnD, k_KnD, since=6)
    assert keys[0, :, 0].tolist() == values[0, :, 0].tolist() == [6, 7, 8, 9]


def test_growth_copies_about_once_over_all():
    cache, slabs = KVCache(1, 2), set()
    for at in range(0, 4096, 64):
        keys, _ = cache.write(0, at, torch.zeros(1, 64, 1), torch.zeros(1, 64, 1))
        slabs.add(keys.untyped_storage().nbytes())
        cache.advance(64)
    assert sorted(slabs) == [4 * FIRST_SLAB * 2**i for i in range(7)]


def test_what_cannot_be():
    cache = KVCache(1, 2)
    cache.write(0, 0, torch.zeros(1, 4, 1), torch.zeros(1, 4, 1))
    cache.advance(4)
    with pytest.raises(ValueError, match="cannot truncate a cache of 4 positions to 5"):
        cache.truncate(5)
    with pytest.raises(ValueError, match=r"layer 1 is not in components \[1, 2\)"):
        cache.write(1, 4, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


def test_room_is_made_in_every_layer_and_what_was_there_stays():
    cache = KVCache(1, 3, limit=150)
    assert not cache.reserve(5, 2), "nothing is known of its heads"
    keys, values = torch.randn(2, 60, 4), torch.randn(2, 60, 3)
    for layer in range(2):
        cache.write(layer, 0, keys, values)
    cache.advance(60)
    before = [(some.keys, some.values, some.capacity) for some in cache.slabs()]
    assert [capacity for *_, capacity in before] == [64, 64]
    assert cache.reserve(64, 2) and [(some.keys, some.values, some.capacity) for some in cache.slabs()] == before
    assert cache.reserve(65, 2) and [some.capacity for some in cache.slabs()] == [128, 128]
    assert cache.reserve(129, 2) and [some.capacity for some in cache.slabs()] == [150, 150], "no further than the session may go"
    for layer in range(2):
        seen = cache.write(layer, 60, keys[:, :1], values[:, :1])
        assert torch.equal(seen[0][:, :60], keys) and torch.equal(seen[1][:, :60], values)
        assert (cache.slabs()[layer].keys, cache.slabs()[layer].values) == tuple(tensor.data_ptr() for tensor in seen)
    cache.free()
    assert not cache.reserve(1, 2)


def test_a_cache_begins_as_another_one_and_both_go_their_own_way():
    """The copy holds what was below the length, whatever happens to the other afterwards."""
    one, two = KVCache(3, 5, 300), KVCache(3, 5, 200)
    ones = torch.arange(100.0)[None, :, None].expand(2, -1, 3)
    for layer in (2, 3):
        one.write(layer, 0, ones, -ones)
    one.advance(100)
    one.compiled = True
    for _ in two.begin_as(one, 70):
        assert two.length == 0
    assert two.length == 70 and two.compiled
    one.truncate(0)
    for layer in (2, 3):
        one.write(layer, 0, torch.full((2, 5, 3), 7.0), torch.full((2, 5, 3), 7.0))
        keys, values = two.write(layer, 70, torch.full((2, 1, 3), 9.0), torch.full((2, 1, 3), 9.0))
        assert keys[1, :, 2].tolist() == [*range(70), 9.0] and values[0, :70, 0].tolist() == [-float(x) for x in range(70)]


@pytest.mark.parametrize(("start", "held", "length"), [(3, 0, 11), (2, 0, 5), (3, 1, 5)])
def test_a_cache_does_not_begin_as_one_that_does_not_fit(start, held, length):
    """It holds less, is of other components, or comes too late."""
    one, two = KVCache(3, 5), KVCache(start, 5)
    one.advance(10)
    two.advance(held)
    with pytest.raises(ValueError):
        next(two.begin_as(one, length))


def test_a_cut_gives_memory_back_and_keeps_what_counts():
    cache = KVCache(3, 5)
    ones = torch.arange(1000.0)[None, :, None].expand(2, -1, 3)
    for layer in (2, 3):
        cache.write(layer, 0, ones, -ones)
    cache.advance(1000)
    before = cache.nbytes
    cache.truncate(990)
    assert cache.nbytes == before, "a guess that is taken back costs no copy"
    cache.truncate(100)
    assert cache.nbytes == before // 8
    keys, values = cache.write(3, 100, torch.full((2, 1, 3), 9.0), torch.full((2, 1, 3), 9.0))
    assert keys[1, :, 2].tolist() == [*range(100), 9.0] and values[0, :100, 0].tolist() == [-float(x) for x in range(100)]
    cache.truncate(0)
    assert cache.nbytes == 0 and cache.length == 0
