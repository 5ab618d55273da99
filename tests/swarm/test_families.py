"""Every family over three real peers: its folder is loaded, announced, cut and served as a user's would be, and the tokens are transformers' own."""

from __future__ import annotations

import pytest

import swarm
from tests.model.tiny import FAMILIES, build, generated, prompt_of
from tests.swarm.models import save_tokenizer

LENGTH = 64

THIRDS = ("0:2", "2:4", "4:5")
EMBED_ALONE = ("embed", "0:3,head", "3:5")
HEAD_ALONE = ("0:2", "embed,2:5", "head")
"""A range that touches an end takes it along unless an end is spelled out; the peers in the middle therefore hold the other end too, which no hop needs."""

ENDS = ("llama-tied", "gpt2", "opt-projected")
"""An end that is tied to the other, one that knows positions, and two that project."""

ALWAYS = "gemma3"
"""The one family that every run of the tests looks at."""


def case(family: str, *layers: str):
    return pytest.param(family, layers, id=f"{family}-{'-'.join(layers)}", marks=() if (family, layers) == (ALWAYS, THIRDS) else pytest.mark.slow)


CASES = [case(family, *THIRDS) for family in FAMILIES] + [case(family, *layers) for family in ENDS for layers in (EMBED_ALONE, HEAD_ALONE)]
HOPS = {THIRDS: ["0:2", "2:4", "4:5"], EMBED_ALONE: ["embed", "0:3", "3:5"], HEAD_ALONE: ["0:2", "2:5", "head"]}


@pytest.mark.parametrize(("family", "layers"), CASES)
def test_three_peers_answer_as_transformers(tmp_path, family, layers):
    known, prompt = build(family, tmp_path), prompt_of(21)
    save_tokenizer(tmp_path)
    expected = generated(known.model, prompt, LENGTH)
    with swarm.LocalSwarm(str(tmp_path), layers, dtype="float32", threads=1) as local, swarm.Client(str(tmp_path), initial_peers=local.initial_peers) as client:
        assert client.generate_tokens(prompt, max_new_tokens=LENGTH, ignore_eos=True) == expected
        with client.session() as session:
            assert list(session.stream_tokens(prompt, max_new_tokens=LENGTH, ignore_eos=True)) == expected
            hops = session.route.hops
    assert [hop.layers for hop in hops] == HOPS[layers]
    assert [hop.peer_id for hop in hops] == [peer.peer_id for peer in local.peers]
