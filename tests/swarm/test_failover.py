"""Kill, freeze and stop real peers in mid-answer: the answer goes on, with the tokens of an undisturbed run."""

from __future__ import annotations

import signal

import psutil
import pytest

import swarm
from swarm.errors import MissingLayers
from tests.swarm.conftest import LENGTH, PROMPT
from tests.swarm.models import greedy


@pytest.fixture
def local(model):
    with swarm.LocalSwarm(str(model), layers=["0:2", "2:4", "4:6"]) as local:
        yield local


@pytest.fixture
def client(model, local):
    with swarm.Client(str(model), initial_peers=local.initial_peers, patience=20) as client:
        yield client


def peer_of(local: swarm.LocalSwarm, hop) -> swarm.LocalPeer:
    return next(peer for peer in local.peers if peer.peer_id == hop.peer_id)


def test_each_hop_in_turn_may_be_killed(model, local, client, expected):
    """The first, the middle and the last hop of one answer, one after the other, each with a spare alive."""
    for layers in ("0:2", "2:4", "4:6"):
        local.add(layers)
    killed = []
    with client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) in (40, 150, 260):
                peer = peer_of(local, session.route.hops[len(killed)])
                peer.kill()
                killed.append(peer.peer_id)
        assert tokens == expected
        assert len(killed) == 3 and not {hop.peer_id for hop in session.route.hops} & set(killed)
        assert session.route.reroutes >= 3


def test_two_neighbours_may_be_killed_at_once(model, local, client, expected):
    for layers in ("0:2", "2:4"):
        local.add(layers)
    killed = []
    with client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 60:
                killed = [peer_of(local, hop) for hop in session.route.hops[:2]]
                for peer in killed:
                    peer.kill()
        assert tokens == expected
        assert [hop.layers for hop in session.route.hops] == ["0:2", "2:4", "4:6"]
        assert not {hop.peer_id for hop in session.route.hops} & {peer.peer_id for peer in killed}
        assert session.route.reroutes >= 1


@pytest.mark.parametrize(
    ("hop", "layers"),
    [pytest.param(0, "0:2", marks=pytest.mark.slow), (1, "2:4"), pytest.param(2, "4:6", marks=pytest.mark.slow)],
    ids=["first", "middle", "last"],
)
def test_a_frozen_hop_is_replaced_and_changes_nothing_when_it_is_thawed(model, local, client, expected, hop, layers):
    local.add(layers)
    with client.session() as session:
        tokens, frozen = [], None
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 60:
                frozen = peer_of(local, session.route.hops[hop])
                frozen.freeze()
            elif frozen is not None and session.route.reroutes and frozen._frozen:
                assert session.route.hops[hop].peer_id != frozen.peer_id
                frozen.thaw()
        assert tokens == expected
        assert session.route.reroutes >= 1 and not frozen._frozen
        assert list(session.stream_tokens([7], max_new_tokens=20, ignore_eos=True)) == greedy(model, [*PROMPT, *expected, 7], 20)


def test_with_nobody_to_take_the_place_the_error_names_the_layers_and_the_session_can_go_on(model, local, expected):
    with swarm.Client(str(model), initial_peers=local.initial_peers, patience=1) as client, client.session() as session:
        tokens = []
        with pytest.raises(MissingLayers, match="2:4") as caught:
            for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
                tokens.append(token)
                if len(tokens) == 60:
                    local.peers[1].kill()
        assert caught.value.partial == tuple(tokens) == tuple(expected[: len(tokens)])
        local.add("2:4")
        client._client.patience = 20
        for piece in session.resume(max_new_tokens=LENGTH - len(tokens)):
            assert isinstance(piece, str)
        assert session.tokens == (*PROMPT, *expected)


def test_a_peer_that_is_asked_to_stop_hands_over_and_leaves(model, local, client, expected):
    local.add("2:4")
    with client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 60:
                leaver = peer_of(local, session.route.hops[1])
                leaver.stop()
                assert not leaver.is_alive() and leaver._process.returncode == 0
        assert tokens == expected
        assert leaver.peer_id not in {hop.peer_id for hop in session.route.hops}


def test_an_answer_outlives_the_death_of_the_clients_own_daemon(model, local, expected):
    with swarm.Client(str(model), initial_peers=local.initial_peers) as client, client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 30:
                (daemon,) = [child for child in psutil.Process().children() if "p2pd" in child.name()]
                daemon.kill()
        assert tokens == expected


def test_a_peer_whose_daemon_dies_serves_on(model, local, expected):
    """Where nobody else holds its layers, its answers wait until it is back."""
    peer = local.peers[1]
    with swarm.Client(str(model), initial_peers=local.initial_peers, patience=60) as client, client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 30:
                (daemon,) = [child for child in psutil.Process(peer.pid).children() if "p2pd" in child.name()]
                daemon.kill()
        assert tokens == expected and peer.is_alive()


def test_a_leaving_peer_that_nobody_can_replace_finishes_what_it_does(model, local, expected):
    with swarm.Client(str(model), initial_peers=local.initial_peers, patience=1) as client, client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 30:
                local.peers[1]._process.send_signal(signal.SIGINT)
    assert tokens == expected
    assert local.peers[1]._process.wait(20) == 0
