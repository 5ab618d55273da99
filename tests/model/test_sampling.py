"""Draws: the generator against its published vectors, the draw against softmax and transformers' own filters, and sameness whatever surrounds it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swarm.core import Sampling
from swarm.model.sampling import BadLogits, Draw, DrawRequest, draw, gumbel, philox

ONES = 0xFFFFFFFF


def one(logits, sampling=None, position=0, history=()):
    return draw(torch.as_tensor(logits)[None], [DrawRequest(sampling or Sampling(), position, history)])[0]


def tokens(logits_KV, requests):
    return [d.token for d in draw(logits_KV, requests)]


def oracle_filters(logits_V, sampling, history):
    """The same filters, all of them transformers' own, over the whole vocabulary."""
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return chain(torch.tensor([list(history)], dtype=torch.int64), logits_V[None])[0]


def oracle_draw(logits_V, sampling, position, history=()):
    """The rule as it is written down: argmax over the whole vocabulary of filtered scores plus noise, in float64."""
    noise_V = torch.tensor(gumbel(sampling.seed, position, range(len(logits_V))), dtype=torch.float64)
    return int((oracle_filters(logits_V, sampling, history).double() + noise_V).argmax())


@pytest.mark.parametrize(
    "counter, key, expected",
    [  # Random123's kat_vectors, philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    assert philox(counter, key) == expected
    arrays = philox((np.array([counter[0]] * 3), *counter[1:]), key)
    assert [words.tolist() for words in arrays] == [[word] * 3 for word in expected]


@given(st.lists(st.integers(0, ONES), min_size=4, max_size=4), st.tuples(st.integers(0, ONES), st.integers(0, ONES)))
def test_philox_of_arrays_is_philox_of_unbounded_ints(counter, key):
    arrays = philox([np.array([word, word ^ 1]) for word in counter], key)
    assert tuple(int(words[0]) for words in arrays) == philox(counter, key)


def test_noise_is_pinned_for_ever():
    """Peers of different versions must draw alike: this value may never change."""
    word = philox((7 // 4, 5, 1, 0), (3, 2))[7 % 4]
    expected = -math.log(-math.log1p(-(word + 0.5) / 2**32))
    assert gumbel((2 << 32) + 3, (1 << 32) + 5, [7]) == [expected]
    assert gumbel(1, 2, [0, 1, 2, 3]) == pytest.approx([-0.8308224392116099, 2.406163597328245, 6.821337759769254, 0.8394031675569054], abs=1e-12)


def test_noise_has_the_moments_of_a_gumbel():
    noise = np.array([gumbel(seed, position, range(1000)) for seed in (0, 2**63 - 1) for position in range(50)])
    assert noise.mean() == pytest.approx(0.57722, abs=0.02)
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.03)
    by_id, by_place = noise[:, :-1].ravel(), noise[:, 1:].ravel()
    assert abs(np.corrcoef(by_id, by_place)[0, 1]) < 0.01
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize(
    "filters", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 7, "top_p": 0.9, "min_p": 0.05}], ids=str
)
def test_draws_follow_softmax_of_the_filtered_logits(filters):
    n, logits_V = 2000, torch.randn(11, generator=torch.Generator().manual_seed(3)) * 2
    choice = {"temperature": 1.0, **filters}
    plain, requests = Sampling(**choice), [DrawRequest(Sampling(seed=i % 50, **choice), i // 50, ()) for i in range(n)]
    counts = np.bincount(tokens(logits_V.expand(n, -1), requests), minlength=11)
    expected = n * oracle_filters(logits_V, plain, ()).softmax(0).double().numpy()
    assert not counts[expected == 0].any()
    alive = expected > 0
    chi2, freedom = ((counts - expected)[alive] ** 2 / expected[alive]).sum(), alive.sum() - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom) + 2  # about one in 10,000 honest generators would fail, and the seeds are fixed


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.05, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 3, 40, 10_000]),
    top_p=st.sampled_from([1.0, 1e-6, 0.3, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=150, deadline=None)
@given(samplings, st.integers(0, 2**40), st.integers(1, 700), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 8.0]))
def test_draw_is_the_written_rule(sampling, position, vocab, seed, spread):
    logits_V = torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread
    history = [i % vocab for i in range(0, 60, 7)]
    assert one(logits_V, sampling, position, history).token == oracle_draw(logits_V, sampling, position, history)


@settings(max_examples=25, deadline=None)
@given(st.lists(samplings | st.builds(Sampling, repetition_penalty=st.sampled_from([1.0, 1.2])), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_rest_of_the_batch_does_not_matter(settings_, random):
    logits_KV = torch.randn(len(settings_), 501, generator=torch.Generator().manual_seed(random.randrange(2**31))) * 3
    requests = [DrawRequest(sampling, random.randrange(2**40), [1, 2, 3]) for sampling in settings_]
    alone = [tokens(row[None], [request])[0] for row, request in zip(logits_KV, requests, strict=True)]
    assert tokens(logits_KV, requests) == alone
    assert tokens(logits_KV.flip(0), requests[::-1]) == alone[::-1]


def test_a_large_vocabulary_draws_by_the_written_rule_whatever_the_threads():
    logits_V = torch.randn(151_936, generator=torch.Generator().manual_seed(1)) * 2
    chosen = [Sampling(temperature=1.0, seed=9), Sampling(temperature=0.8, top_k=50, seed=9), Sampling(temperature=0.8, top_p=0.95, seed=9)]
    expected = [oracle_draw(logits_V, sampling, 4) for sampling in chosen]
    threads = torch.get_num_threads()
    try:
        for torch_threads in (1, 2):
            torch.set_num_threads(torch_threads)
            assert [one(logits_V, sampling, 4).token for sampling in chosen] == expected
    finally:
        torch.set_num_threads(threads)


def test_padding_the_vocabulary_does_not_move_a_draw():
    logits_V = torch.randn(1003, generator=torch.Generator().manual_seed(2))
    padded_V = torch.cat([logits_V, torch.full((21,), -math.inf)])
    warm = Sampling(temperature=1.2, seed=5)
    assert [one(padded_V, warm, p).token for p in range(20)] == [one(logits_V, warm, p).token for p in range(20)]


def test_greedy_takes_the_lowest_of_equals():
    assert one([0.0, 2.0, 1.0, 2.0]) == Draw(1)
    assert one([-math.inf, -5.0]).token == 1
    assert one(torch.ones(60_000)).token == 0


def test_greedy_with_a_penalty():
    sampling = Sampling(repetition_penalty=2.0)
    assert one([1.0, 3.0, 2.0], sampling, 2, [1]).token == 2
    assert one([-1.0, -3.0, -1.5], sampling, 2, np.array([0, 0])).token == 2
    assert one([1.0, 3.0, 2.0], sampling).token == 1


def test_equals_at_the_edge_of_a_filter_stay_together():
    drawn = {one([1.0, 1.0, 1.0, -9.0], Sampling(temperature=1.0, top_p=0.4), position).token for position in range(50)}
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-6])
def test_the_coldest_temperatures_are_greedy_in_effect(temperature):
    logits_V = torch.randn(300, generator=torch.Generator().manual_seed(4)) * 50
    for filters in ({}, {"top_k": 9}, {"top_p": 0.5}, {"min_p": 0.5}):
        assert one(logits_V, Sampling(temperature=temperature, seed=1, **filters)).token == int(logits_V.argmax())


def test_huge_logits_are_no_trouble():
    assert one([3e38, -3e38, 1e38], Sampling(temperature=0.01)).token == 0


def test_logits_keep_their_values_and_may_be_of_any_float_type():
    logits_KV = torch.randn(2, 50, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    before = logits_KV.clone()
    requests = [DrawRequest(Sampling(temperature=1.0, top_k=4, repetition_penalty=1.5), 0, [1, 2])] * 2
    assert tokens(logits_KV, requests) == tokens(logits_KV.float(), requests)
    assert torch.equal(logits_KV, before)
    floats_KV = before.float()
    draw(floats_KV, requests)
    assert torch.equal(floats_KV, before.float())


def test_logprobs_are_the_models_own():
    logits_V = torch.tensor([1.0, 3.0, 3.0, -math.inf, 0.0])
    expected = logits_V.log_softmax(0)
    drawn = one(logits_V, Sampling(temperature=0.3, top_k=1, repetition_penalty=9.0, logprobs=5), 3, [1, 2])
    assert drawn.token == 0
    assert drawn.logprobs.drawn == pytest.approx(float(expected[0]))
    assert [token for token, _ in drawn.logprobs.top] == [1, 2, 0, 4]
    assert [value for _, value in drawn.logprobs.top] == pytest.approx(expected[[1, 2, 0, 4]].tolist())
    assert one(logits_V, Sampling(logprobs=0)).logprobs.top == ()
    assert one(logits_V).logprobs is None


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.9), Sampling(repetition_penalty=1.1)], ids=str)
@pytest.mark.parametrize("bad", [[0.0, math.nan, 9.0], [-math.inf] * 3, [0.0, math.inf, 1.0]], ids=str)
def test_broken_logits_are_named(bad, sampling):
    rows = torch.tensor([[1.0, 2.0, 3.0], bad])
    with pytest.raises(BadLogits, match=r"position 8 .*NaN or infinite.*--dtype float32") as caught:
        draw(rows, [DrawRequest(Sampling(), 7, ()), DrawRequest(sampling, 8, (0,))])
    assert caught.value.rows == (1,)
    assert isinstance(caught.value, ValueError)


def test_rows_and_requests_must_match():
    assert draw(torch.zeros(0, 5), []) == []
    for logits in (torch.zeros(2, 5), torch.zeros(5), torch.zeros(1, 0)):
        with pytest.raises(ValueError, match="1 requests need as many rows"):
            draw(logits, [DrawRequest(Sampling(), 0, ())])
