"""A swarm whose peers are far apart, as processes behind the emulator's proxies."""

from __future__ import annotations

import pytest

import swarm
from swarm.errors import UsageError
from swarm.far.line import Distance
from tests.swarm.conftest import LENGTH, PROMPT

NEAR, FAR = 0.002, 0.02

MATRIX = [[0, NEAR, FAR], [NEAR, 0, FAR], [FAR, FAR, 0]]


def test_a_cut_between_two_distant_peers_is_healed_with_the_same_tokens(model, expected):
    with (
        swarm.LocalSwarm(str(model), ["0:3", "3:6", "3:6"], threads=1, links=MATRIX, client_link=Distance(NEAR)) as local,
        swarm.Client(str(model), initial_peers=local.initial_peers) as client,
        client.session() as session,
    ):
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 20:
                second = [peer.peer_id for peer in local.peers].index(session.route.hops[1].peer_id)
                local.cut(0, second)
        assert tokens == expected
        assert session.route.reroutes >= 1
        assert session.route.hops[1].peer_id == local.peers[3 - second].peer_id
        assert {addr.split("/")[2] for peer in local.peers for addr in peer.addrs} == {"127.0.1.2", "127.0.1.3", "127.0.1.4"}, "a way around the proxies"
        with pytest.raises(UsageError, match="nothing of peer 3"):
            local.add("0:3")


def test_what_is_no_matrix_is_said_to_be_none_before_anything_starts(model):
    with pytest.raises(UsageError, match="2 rows of 2"):
        swarm.LocalSwarm(str(model), ["0:3", "3:6"], links=[[0.0, 0.1]])
