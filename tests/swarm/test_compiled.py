"""Peers whose layers are compiled, with real processes."""

from __future__ import annotations

import time

import pytest

import swarm
from swarm.core import Span
from swarm.model.checkpoint import Checkpoint
from swarm.model.recipes import WORTH
from tests.swarm.conftest import PROMPT
from tests.swarm.models import greedy, save_llama


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """What the tests of the model room have compiled."""
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path_factory.getbasetemp() / "swarm-cache"))


@pytest.mark.slow
def test_compiled_peers_give_the_tokens_of_the_model_and_hand_over_to_eager_ones(model, expected):
    with swarm.LocalSwarm(str(model), layers=["0:3", "3:6"], arguments=["--compile", "wait"]) as local:
        eager = local.add("3:6", arguments=["--compile", "off"])
        for peer in local.peers:
            log = peer.log_path.read_text()
            assert ("compiling layers" in log) == (peer is not eager) and "as fast as they are" not in log
        with swarm.Client(str(model), initial_peers=local.initial_peers) as client, client.session() as session:
            tokens = []
            for token in session.stream_tokens(PROMPT, max_new_tokens=200, ignore_eos=True):
                tokens.append(token)
                if len(tokens) == 60:
                    next(peer for peer in local.peers if peer.peer_id == session.route.hops[1].peer_id).kill()
            assert tokens == expected[:200]


@pytest.mark.slow
def test_a_peer_serves_at_once_and_compiles_meanwhile(tmp_path):
    """A layer of the least size for which that happens by itself."""
    folder = save_llama(tmp_path / "llama", hidden=384)
    checkpoint = Checkpoint.open(str(folder))
    assert checkpoint.bytes_for([Span(1, 2)]) > 4 * WORTH
    expected = greedy(folder, PROMPT, 20)
    with swarm.LocalSwarm(str(folder), layers=["0:6"]) as local, swarm.Client(str(folder), initial_peers=local.initial_peers) as client:
        deadline = time.monotonic() + 300
        while "steps of 6 layers" not in local.peers[0].log_path.read_text():
            assert client.generate_tokens(PROMPT, max_new_tokens=20, ignore_eos=True) == expected
            assert time.monotonic() < deadline
        assert client.generate_tokens(PROMPT, max_new_tokens=20, ignore_eos=True) == expected
