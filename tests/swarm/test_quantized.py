"""Peers that round the weights, with real processes: a chain of their own, asked by name, or where nobody exact serves all layers."""

from __future__ import annotations

from itertools import pairwise

import pytest

import swarm
from swarm.core import Span
from swarm.errors import MissingLayers, UsageError
from swarm.model.checkpoint import Checkpoint
from swarm.model.span import Row, SpanModel
from tests.swarm.models import save_llama

PROMPT = [72, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"), hidden=128)


@pytest.fixture(scope="module")
def rounded(model):
    with swarm.LocalSwarm(str(model), layers=["0:3", "3:6"], dtype="float32-int8") as local:
        yield local


def in_one_process(model, new: int, *quantize: str | None) -> list[int]:
    """With as many equal parts as ways to round, one after the other."""
    checkpoint = Checkpoint.open(str(model))
    count = checkpoint.shape.components
    cuts = [count * at // len(quantize) for at in range(len(quantize) + 1)]
    spans = [Span(*cut) for cut in pairwise(cuts)]
    parts = [SpanModel.load(checkpoint, [span], dtype="float32", quantize=way) for span, way in zip(spans, quantize, strict=True)]
    caches = [part.new_cache(span.start, span.stop) for part, span in zip(parts, spans, strict=True)]
    tokens, fed = list(PROMPT), 0
    for _ in range(new):
        rows = None
        for part, span, cache in zip(parts, spans, caches, strict=True):
            rows = part.run(span.start, span.stop, [Row(cache, fed, tokens[fed:], rows)])[0]
        fed = len(tokens)
        tokens.append(int(rows.argmax()))
    return tokens[len(PROMPT) :]


def test_a_chain_of_rounded_peers_gives_the_tokens_of_the_rounded_model(model, rounded):
    expected = in_one_process(model, 24, "int8")
    assert expected != in_one_process(model, 24, None), "nothing is rounded"
    with swarm.Client(str(model), initial_peers=rounded.initial_peers) as client:
        assert client.generate_tokens(PROMPT, max_new_tokens=24, ignore_eos=True) == expected
    with swarm.Client(str(model), initial_peers=rounded.initial_peers, dtype="float32") as client, pytest.raises(UsageError, match="float32-int8"):
        client.generate_tokens(PROMPT, max_new_tokens=2)


def test_one_chain_mixes_both_kinds_for_a_client_that_allows_it(model):
    """No class serves all layers: half of each model answers."""
    expected = in_one_process(model, 40, None, "int4")
    assert expected not in (in_one_process(model, 40, None), in_one_process(model, 40, "int4"))
    with swarm.LocalSwarm(str(model), layers=["3:6"], dtype="float32-int4") as local:
        local.add("0:3", arguments=["--quantize", "none"])
        for own_ends in (False, True):
            with swarm.Client(str(model), initial_peers=local.initial_peers, mixed=True, own_ends=own_ends) as client, client.session() as session:
                answer = list(session.stream_tokens(PROMPT, max_new_tokens=40, ignore_eos=True))
            assert len(answer) == 40 and (own_ends or answer == expected)
        with swarm.Client(str(model), initial_peers=local.initial_peers, patience=0.0) as client, pytest.raises(MissingLayers, match="--mixed"):
            client.generate_tokens(PROMPT, max_new_tokens=2)


def test_clients_keep_their_own_ends_exact_before_rounded_layers(model, rounded):
    with swarm.Client(str(model), initial_peers=rounded.initial_peers, own_ends=True) as client:
        first, *_ = client.generate_tokens(PROMPT, max_new_tokens=4, ignore_eos=True)
    assert first in range(256)


def test_where_both_are_served_exact_peers_are_taken_unless_others_are_asked_for(model, rounded):
    exact = rounded.add("0:6", arguments=["--quantize", "none"])
    with swarm.Client(str(model), initial_peers=rounded.initial_peers) as client, client.session() as session:
        answer = list(session.stream_tokens(PROMPT, max_new_tokens=24, ignore_eos=True))
        assert [hop.peer_id for hop in session.route.hops] == [exact.peer_id] and answer == in_one_process(model, 24, None)
    with swarm.Client(str(model), initial_peers=rounded.initial_peers, dtype="float32-int8") as client:
        assert client.generate_tokens(PROMPT, max_new_tokens=24, ignore_eos=True) == in_one_process(model, 24, "int8")
