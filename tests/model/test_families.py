"""Every family, cut anywhere, answers with transformers' own tokens."""

from __future__ import annotations

import pytest
import torch

from swarm.core import Span
from tests.model.tiny import FAMILIES, LAYERS, Chain, feed, generated, prompt_of

HEAD = LAYERS + 1
CUTS = [Span(0, 1), Span(1, 3), Span(3, HEAD), Span(HEAD, HEAD + 1)]


@pytest.fixture(params=FAMILIES, scope="module")
def family(request, tiny):
    return tiny(request.param)


@pytest.fixture(scope="module")
def whole(family):
    return family.load(Span(0, HEAD + 1))


@pytest.fixture(scope="module")
def expected(family):
    return generated(family.model, prompt_of(21), 64)


def test_each_span_alone_reads_its_tensors_and_answers_alike(family, expected):
    parts = [(family.load(span), span.start, span.stop) for span in CUTS]
    assert [model.nbytes for model, _, _ in parts] == [family.checkpoint.bytes_for([span]) for span in CUTS]
    assert Chain(parts).generate(prompt_of(21), 64) == expected


def test_sub_spans_of_one_peer_entered_and_left_in_the_middle(whole, expected):
    parts = [(whole, 0, 3), (whole, 3, 4), (whole, 4, HEAD), (whole, HEAD, HEAD + 1)]
    assert Chain(parts).generate(prompt_of(21), 64) == expected


def test_chunks_of_odd_sizes(whole, expected):
    assert Chain([(whole, 0, HEAD + 1)]).generate(prompt_of(21), 64, chunks=[1, 7, 2, 5]) == expected


def test_logits_of_all_positions(family, whole):
    """Tokens can agree by luck; logits cannot."""
    prompt = prompt_of(40, seed=3)
    with torch.no_grad():
        logits_TV = family.model(torch.tensor([prompt])).logits[0]
    chain = Chain([(whole, 0, 2), (whole, 2, HEAD + 1)])
    ours_TV = torch.cat([chain.feed(prompt[:23], range(23)), chain.feed(prompt[23:], range(17))])
    torch.testing.assert_close(ours_TV, logits_TV, rtol=1e-3, atol=1e-3 * float(logits_TV.std()))
    assert len(set(logits_TV.argmax(-1).tolist())) > 3, "a model that always says the same proves little"


def test_packed_sessions_answer_as_alone(family, whole):
    """Different lengths, one of them still in its prompt, in rows of the same packed run."""
    parts = [(whole, 0, 2), (whole, 2, 5), (whole, 5, HEAD + 1)]
    prompts = [prompt_of(n, seed=n) for n in (3, 30, 14)]
    alone = [Chain(parts).generate(prompt, 12) for prompt in prompts]
    together = [Chain(parts) for _ in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    todo = [prompts[0], prompts[1][:20], prompts[2]]
    late = prompts[1][20:]
    for _ in range(13):
        logits = feed(together, todo, [None] * 3)
        todo = []
        for i, row in enumerate(logits):
            if i == 1 and late:
                todo.append(late)
                late = []
                continue
            answers[i].append(int(row[-1].argmax()))
            todo.append(answers[i][-1:])
    assert [answer[:12] for answer in answers] == alone


def test_truncating_and_running_again(whole, expected):
    chain = Chain([(whole, 0, 4), (whole, 4, HEAD + 1)])
    chain.generate(prompt_of(21), 30)
    chain.truncate(15)
    chain.feed(prompt_of(50, seed=9), [])  # another draft, longer than what was there
    chain.truncate(15)
    assert chain.generate(prompt_of(21)[15:], 64) == expected
