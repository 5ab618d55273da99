"""Peers that round the weights, with real processes: a chain of their own, asked by name, or where nobody exact serves all layers."""

from __future__ import annotations

import pytest

import swarm
from swarm.core import Span
from swarm.errors import UsageError
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


def in_one_process(model, new: int, quantize: str | None) -> list[int]:
    checkpoint = Checkpoint.open(str(model))
    count = checkpoint.shape.components
    part = SpanModel.load(checkpoint, [Span(0, count)], dtype="float32", quantize=quantize)
    cache, tokens, fed = part.new_cache(0, count), list(PROMPT), 0
    for _ in range(new):
        logits_1V = part.run(0, count, [Row(cache, fed, tokens[fed:])])[0]
        fed = len(tokens)
        tokens.append(int(logits_1V.argmax()))
    return tokens[len(PROMPT) :]


def test_a_chain_of_rounded_peers_gives_the_tokens_of_the_rounded_model(model, rounded):
    expected = in_one_process(model, 24, "int8")
    assert expected != in_one_process(model, 24, None), "nothing is rounded"
    with swarm.Client(str(model), initial_peers=rounded.initial_peers) as client:
        assert client.generate_tokens(PROMPT, max_new_tokens=24, ignore_eos=True) == expected
    with swarm.Client(str(model), initial_peers=rounded.initial_peers, dtype="float32") as client, pytest.raises(UsageError, match="float32-int8"):
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
