"""The attention of prompts in machine code against scores and weights by hand, in float64."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise

import pytest
import torch

from swarm.model import prompts as room
from swarm.model.attention import Pack, packed_attention
from swarm.model.cache import KVCache
from swarm.model.native import COMPILERS, native_code
from swarm.model.prompts import CLOSE, NativePrompts
from swarm.model.sources import cache_folder
from tests.model.test_attention import layer

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler on this machine")


@pytest.fixture(scope="module")
def prompts() -> NativePrompts:
    native = native_code(cache_folder())
    assert native is not None
    if native.prompts is None:
        pytest.skip("this processor does not multiply pairs of bfloat16")
    return native.prompts


def by_hand(q_QnD, k_KLD, v_KLE, start, since, scaling, window=0, softcap=0.0, sinks_Q=None) -> torch.Tensor:
    """[n, Q, E]"""
    queries, n, _ = q_QnD.shape
    k_QLD, v_QLE = (x.double().repeat_interleave(queries // len(x), 0) for x in (k_KLD, v_KLE))
    scores_QnL = q_QnD.double() @ k_QLD.transpose(1, 2) * scaling
    if softcap:
        scores_QnL = torch.tanh(scores_QnL / softcap) * softcap
    at_n1, at_1L = torch.arange(start, start + n)[:, None], torch.arange(since, since + k_KLD.shape[1])[None]
    sees_nL = (at_1L <= at_n1) & (at_1L > at_n1 - (window or 10**9))
    scores_QnL = scores_QnL.masked_fill(~sees_nL, float("-inf"))
    if sinks_Q is not None:
        scores_QnL = torch.cat((scores_QnL, sinks_Q.double().view(-1, 1, 1).expand(-1, n, 1)), dim=2)
    return (scores_QnL.softmax(-1)[..., : k_KLD.shape[1]] @ v_QLE).transpose(0, 1)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("seed", range(60))
def test_any_prompt_is_attended_to_as_by_hand(prompts, seed):
    """Heads that share keys or do not, widths that fill vectors or do not, windows, caps and sinks, anywhere in a session; on one thread the very same."""
    dice = random.Random(seed)
    heads, shared, width = dice.choice([1, 2, 5]), dice.choice([1, 2, 3, 7]), dice.choice([64, 128, 80, 33, 20, 9])
    wide, n, start = dice.choice([width, 64, 17]), dice.choice([1, 2, 17, 63, 64, 65, 130, 200]), dice.choice([0, 0, 1, 37, 127, 128, 300, 513])
    window, softcap = dice.choice([0, 0, 5, 100, 257]), dice.choice([0.0, 0.0, 5.0])
    since = max(0, start + 1 - window) if window else 0
    held = start + n - since
    q_QnD = drawn(n, heads * shared, width).transpose(0, 1)
    k_KLD, v_KLE = drawn(heads, held + 13, width)[:, :held], drawn(heads, held + 13, wide)[:, :held]  # as a slab that has room for more
    how = (start, since, width**-0.5, window, softcap, torch.randn(heads * shared) if dice.random() < 0.3 else None)
    made_nQE, wanted_nQE = prompts(q_QnD, k_KLD, v_KLE, *how), by_hand(q_QnD, k_KLD, v_KLE, *how)
    assert (made_nQE.double() - wanted_nQE).abs().max() <= CLOSE * wanted_nQE.abs().max()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(prompts(q_QnD, k_KLD, v_KLE, *how), made_nQE)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("window", [0, 90])
def test_a_token_comes_out_the_same_to_the_last_bit_in_whatever_pieces_its_prompt_came(prompts, window):
    """So an answer does not depend on how a prompt was cut, which hangs on who else is served."""
    q_QnD, k_KLD, v_KLE = drawn(700, 6, 64).transpose(0, 1), drawn(2, 700, 64), drawn(2, 700, 64)

    def piece(begin: int, end: int) -> torch.Tensor:
        since = max(0, begin + 1 - window) if window else 0
        return prompts(q_QnD[:, begin:end], k_KLD[:, since:end], v_KLE[:, since:end], begin, since, 0.125, window)

    whole = piece(0, 700)
    for cuts in ((0, 100, 333, 700), (0, 17, 18, 640, 700)):
        assert torch.equal(torch.cat([piece(*cut) for cut in pairwise(cuts)]), whole)


@pytest.mark.parametrize("where", range(3))
def test_what_is_no_number_stays_none(prompts, where):
    given = [drawn(2, 40, 64), drawn(1, 40, 64), drawn(1, 40, 64)]
    given[where][0, 3] = float("nan")
    made_nQE = prompts(*given, 0, 0, 0.125)
    assert made_nQE[3:, 0].isnan().any(dim=1).all() if where else made_nQE[3, 0].isnan().all()


def test_rows_of_a_prompt_go_to_it_and_others_do_not(prompts, monkeypatch):
    """Into the session's cache first, as everything."""
    counts = (40, 3)
    caches = [KVCache(4, 5), KVCache(4, 5)]
    pack = Pack(caches, (0, 0), counts, prompts)
    q_1QTD, k_1KTD, v_1KTE = drawn(1, 6, 43, 64), drawn(1, 2, 43, 64), drawn(1, 2, 43, 64)
    called: list[int] = []
    call = NativePrompts.__call__
    monkeypatch.setattr(NativePrompts, "__call__", lambda self, q, *rest: (called.append(q.shape[1]), call(self, q, *rest))[1])
    out_1TQE, _ = packed_attention(layer(pack), q_1QTD, k_1KTD, v_1KTE, scaling=0.125, sliding_window=None)
    assert called == [40]
    for here in (slice(0, 40), slice(40, 43)):
        wanted = by_hand(q_1QTD[0, :, here], k_1KTD[0, :, here], v_1KTE[0, :, here], 0, 0, 0.125)
        assert (out_1TQE[0, here].double() - wanted).abs().max() <= CLOSE * wanted.abs().max()
    called.clear()
    float32 = [x.float() for x in (q_1QTD, k_1KTD, v_1KTE)]
    packed_attention(layer(Pack([KVCache(4, 5)], (0,), (43,), prompts)), *float32, scaling=0.125, sliding_window=None)
    assert not called, "float32 torch does as fast"


def test_code_that_attends_otherwise_does_not_agree(prompts, monkeypatch):
    assert room.agrees(prompts)
    for wrong in (lambda out: out * 1.1, lambda out: out * float("nan")):
        with monkeypatch.context() as patch:
            call = NativePrompts.__call__
            patch.setattr(NativePrompts, "__call__", lambda *args, call=call, wrong=wrong: wrong(call(*args)))
            assert not room.agrees(prompts)
