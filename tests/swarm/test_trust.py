"""Real processes, some of them trusted: an answer passes those alone, and ends rather than pass a stranger."""

from __future__ import annotations

import pytest

import swarm
from swarm.errors import MissingLayers
from tests.swarm.conftest import PROMPT


@pytest.fixture(scope="module")
def local(model):
    with swarm.LocalSwarm(str(model), layers=["0:3", "3:6", "0:3", "3:6"]) as local:
        yield local


def test_a_client_with_layers_of_its_own_gets_the_same_tokens(model, local, expected):
    with swarm.Client(str(model), initial_peers=local.initial_peers, own_layers="0:1,4:6") as client, client.session() as session:
        assert list(session.stream_tokens(PROMPT, max_new_tokens=24, ignore_eos=True)) == expected[:24]
        first, *_, last = session.route.hops
        assert (first.peer_id, first.stop, last.start) == (last.peer_id, 2, 5)


def test_an_answer_passes_trusted_peers_alone_until_there_is_none(model, local, expected):
    friends = local.peers[2:]
    trust = [peer.peer_id for peer in friends]
    with swarm.Client(str(model), initial_peers=local.initial_peers, trust=trust, trusted_only=True, patience=2) as client, client.session() as session:
        tokens = []
        with pytest.raises(MissingLayers, match="that you trust") as caught:
            for token in session.stream_tokens(PROMPT, max_new_tokens=400, ignore_eos=True):
                tokens.append(token)
                assert [hop.peer_id for hop in session.route.hops] == trust
                if len(tokens) == 20:
                    friends[1].kill()  # and a stranger who holds the same lives on
        assert caught.value.layers.startswith("3:6")
        assert tokens == expected[: len(tokens)] and len(tokens) >= 20
