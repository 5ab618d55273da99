"""Real peers elect a coordinator, which plans for a client; killed or frozen, it is replaced, and no answer stops for it."""

from __future__ import annotations

import time

import swarm
from tests.swarm.conftest import LENGTH, PROMPT

ELECTED = 60
"""Seconds to wait for an election on a loaded machine; it takes about 10, for candidates listen first."""


def planner(client: swarm.Client) -> str:
    """Who planned the route of an answer of one token."""
    with client.session() as session:
        list(session.stream_tokens(PROMPT, max_new_tokens=1))
        return session.route.planner


def elected(client: swarm.Client, other_than: str = "") -> str:
    deadline = time.monotonic() + ELECTED
    while (found := planner(client)) in ("", other_than):
        assert time.monotonic() < deadline, "nobody coordinates"
        time.sleep(1.0)
    return found


def test_a_coordinator_may_be_frozen_and_its_successor_killed_while_answers_run(model, expected):
    """Whatever else they serve: every layer is held twice without them. A peer that stays out of it never coordinates."""
    with (
        swarm.LocalSwarm(str(model), layers=["0:3", "3:6", "0:3", "3:6"]) as local,
        swarm.Client(str(model), initial_peers=local.initial_peers, patience=20) as client,
        client.session(),  # while one is open, the client reads the directory as often as peers renew what they say
    ):
        unwilling = {local.add(layers, arguments=["--coordinator", "never"]).peer_id for layers in ("0:3", "3:6")}
        seen = [elected(client)]
        for how in ("freeze", "kill"):
            peer = next(peer for peer in local.peers if peer.peer_id == seen[-1])
            with client.session() as session:
                tokens = []
                for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
                    tokens.append(token)
                    if len(tokens) == 50:
                        peer.freeze() if how == "freeze" else peer.kill()
                assert tokens == expected
            seen.append(elected(client, seen[-1]))
            peer.thaw()
        assert len(set(seen[1:])) == 2 and not unwilling & set(seen)
