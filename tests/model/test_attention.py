"""Packed attention against a short reference that walks positions one by one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from swarm.errors import UnsupportedModel
from swarm.model.attention import Pack, Turn, packed_attention
from swarm.model.cache import KVCache

Q, K, D, E = 6, 2, 8, 5


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
def test_any_cut_of_packed_sessions_is_the_reference(window, softcap, sinks, scaling):
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
