"""Packed attention against a short reference that walks positions one by one."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import pytest
import torch

from swarm.errors import UnsupportedModel
from swarm.model.attention import Pack, Turn, packed_attention
from swarm.model.cache import KVCache
from swarm.model.native import COMPILERS, native_code
from swarm.model.sources import cache_folder

Q, K, D, E = 6, 2, 8, 5

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler on this machine")


@pytest.fixture(scope="module")
def native():
    made = native_code(cache_folder())
    assert made is not None
    return made.attention


def layer(pack):
    """A layer as the attention function meets it."""
    return SimpleNamespace(layer_idx=3, turn=Turn(pack))


def reference(q_QTD, k_KTD, v_KTE, scale, window, softcap, sinks_Q):
    """One session from position 0 on, every query by itself, in float64: [T, Q, E]."""
    out = torch.empty(q_QTD.shape[1], Q, E, dtype=torch.float64)
    for t in range(q_QTD.shape[1]):
        for h in range(Q):
            since = max(0, t + 1 - window) if window else 0
            keys, values = k_KTD[h * K // Q, since : t + 1].double(), v_KTE[h * K // Q, since : t + 1].double()
            scores = keys @ q_QTD[h, t].double() * scale
            if softcap:
                scores = torch.tanh(scores / softcap) * softcap
            if sinks_Q is not None:
                scores = torch.cat([scores, sinks_Q[h : h + 1].double()])
            weights = torch.softmax(scores, 0)[: len(keys)]
            out[t, h] = weights @ values
    return out


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("by", ["torch", pytest.param("machine code", marks=needs_compiler)])
def test_any_cut_of_packed_sessions_is_the_reference(window, softcap, sinks, scaling, by, request):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    lengths = [11, 7, 9]
    sinks_Q = random(Q) if sinks else None
    qkv = [(random(Q, n, D), random(K, n, D), random(K, n, E)) for n in lengths]
    expected = [reference(*one, scaling or 1 / math.sqrt(D), window, softcap, sinks_Q) for one in qkv]
    caches = [KVCache(4, 5) for _ in lengths]
    got = [[] for _ in lengths]
    for steps in [(6, 1, 2), (1, 1, 1), (4, 3, 1), (0, 2, 5)]:
        chosen = [i for i, n in enumerate(steps) if n]
        counts = [steps[i] for i in chosen]
        starts = [caches[i].length for i in chosen]
        parts = [[tensor[:, s : s + n] for tensor in qkv[i]] for i, s, n in zip(chosen, starts, counts, strict=True)]
        q, k, v = (torch.cat(tensors, dim=1)[None] for tensors in zip(*parts, strict=True))
        pack = Pack([caches[i] for i in chosen], starts, counts)
        if by == "machine code":
            pack.use(request.getfixturevalue("native"), 1)
            assert (pack.table is None) == (0 in starts), "from its second step on a session's shapes are known"
        out, _ = packed_attention(layer(pack), q, k, v, None, scaling=scaling, sliding_window=window, softcap=softcap, s_aux=sinks_Q)
        for i, piece in zip(chosen, out[0].split(counts), strict=True):
            caches[i].advance(len(piece))
            got[i].append(piece)
    for pieces, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.cat(pieces).double(), wanted, rtol=1e-4, atol=1e-5)


def test_scores_by_hand_are_taken_a_few_queries_at_a_time(monkeypatch):
    monkeypatch.setattr("swarm.model.attention.SCORES_AT_ONCE", Q * 10 * 3)
    q, k, v = torch.randn(1, Q, 10, D), torch.randn(1, K, 10, D), torch.randn(1, K, 10, E)
    out, _ = packed_attention(layer(Pack([KVCache(4, 5)], [0], [10])), q, k, v, softcap=2.0, sliding_window=4)
    torch.testing.assert_close(out[0].double(), reference(q[0], k[0], v[0], 1 / math.sqrt(D), 4, 2.0, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", [{"attention_mask": torch.ones(1, 1, 2, 2)}, {"position_bias": torch.zeros(1)}, {"is_causal": False}])
def test_what_it_does_not_do_is_refused(asked):
    q, k, v = torch.randn(1, Q, 2, D), torch.randn(1, K, 2, D), torch.randn(1, K, 2, E)
    with pytest.raises(UnsupportedModel, match="asks for attention that swarm does not do"):
        packed_attention(layer(Pack([KVCache(4, 5)], [0], [2])), q, k, v, **({"sliding_window": None} | asked))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_comes_out_the_same_to_the_last_bit_whatever_stands_beside_it(native, dtype):
    """Several sessions, single tokens and some at a time, one to three threads, wide heads that fill vectors: like each token alone, one after the other."""
    dice = torch.Generator().manual_seed(0)
    lengths, width = [300, 5, 64], 48
    past = [(torch.randn(K, n, width, generator=dice).to(dtype), torch.randn(K, n, width, generator=dice).to(dtype)) for n in lengths]
    new = [tuple(torch.randn(heads, 3, width, generator=dice).to(dtype) for heads in (Q, K, K)) for _ in lengths]

    def caches():
        made = [KVCache(4, 5) for _ in lengths]
        for cache, (keys, values) in zip(made, past, strict=True):
            cache.write(3, 0, keys, values)
            cache.advance(keys.shape[1])
        return made

    def attend(held, starts, parts):
        counts = [part[0].shape[1] for part in parts]
        pack = Pack(held, starts, counts)
        pack.use(native, 1)
        q, k, v = (torch.cat(tensors, dim=1)[None] for tensors in zip(*parts, strict=True))
        return packed_attention(layer(pack), q, k, v, sliding_window=None)[0][0].split(counts)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = []
        for cache, n, one in zip(caches(), lengths, new, strict=True):
            alone.append(torch.cat([attend([cache], [n + at], [[x[:, at : at + 1] for x in one]])[0] for at in range(3)]))
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for together in zip(attend(caches(), lengths, new), alone, strict=True):
                assert torch.equal(*together)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_what_machine_code_was_not_made_for_torch_attends(native):
    """A session whose shapes are not known yet, half precision, and keys of another dtype than values."""
    fresh = Pack([KVCache(4, 5)], [0], [2])
    fresh.use(native, 1)
    assert fresh.table is None
    for dtypes in ((torch.float16,) * 3, (torch.float32, torch.float32, torch.bfloat16)):
        assert not native.takes(*(torch.zeros(1, dtype=dtype) for dtype in dtypes))


@needs_compiler
@pytest.mark.parametrize("where", ["query", "key", "value", "overflow"])
def test_what_is_no_number_stays_none(native, where):
    """Broken weights must not turn into text that looks right."""
    cache = KVCache(4, 5)
    cache.write(3, 0, torch.ones(K, 40, D), torch.ones(K, 40, E))
    cache.advance(40)
    q, k, v = torch.ones(1, Q, 1, D), torch.ones(1, K, 1, D), torch.ones(1, K, 1, E)
    if where == "overflow":
        q, k = q * 1e30, k * 1e30
    else:
        {"query": q, "key": k, "value": v}[where].fill_(float("nan"))
    pack = Pack([cache], [40], [1])
    pack.use(native, 1)
    out, _ = packed_attention(layer(pack), q, k, v, sliding_window=None)
    assert out.isnan().all()
