"""`--layers auto` after the first choice: a real peer moves to where it is needed more, while answers run through it. The rest is in virtual time,
in `tests/sim/test_moving.py`."""

from __future__ import annotations

import time

import pytest

import swarm
from swarm.model.checkpoint import Checkpoint
from tests.swarm.conftest import LENGTH, PROMPT

PATIENCE = 120
"""Seconds to wait for a move on a loaded machine; it takes 20 to 40: an election, a call, and the time that news takes."""

CACHED = 1024


def half(model) -> int:
    """Bytes in which half of the layers and either end fit, with a cache, and no more than that."""
    shape = Checkpoint.open(str(model)).shape
    layer = shape.component_bytes[1] + CACHED * shape.kv_bytes_per_token[1]
    return shape.layers // 2 * layer + max(shape.component_bytes[0], shape.component_bytes[-1]) + CACHED * shape.row_bytes + layer // 2


@pytest.mark.slow
def test_a_peer_moves_where_it_is_needed_more_and_answers_go_on(model, expected):
    """Three serve one half and one serves the other, until somebody moves there: then that one can be spared."""
    with (
        swarm.LocalSwarm(str(model), layers=["0:3", "3:6"]) as local,
        swarm.Client(str(model), initial_peers=local.initial_peers, patience=30) as client,
    ):
        mover = local.add("auto", arguments=["--max-memory", str(half(model)), "--cache-tokens", str(CACHED)])
        assert mover.layers in ("0:3", "3:6")
        elsewhere = {"0:3": "3:6", "3:6": "0:3"}[mover.layers]
        local.add(mover.layers)
        deadline = time.monotonic() + PATIENCE

        def route() -> list[str]:
            with client.session() as session:
                assert list(session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True)) == expected
                return [hop.peer_id for hop in session.route.hops]

        with client.session():  # while one is open, the client reads the directory as often as peers renew what they say
            while f"serving layers {elsewhere} from now on" not in mover.log_path.read_text():
                assert time.monotonic() < deadline, mover.log_path.read_text()
                route()
            next(peer for peer in local.peers if peer.layers == elsewhere).kill()
            assert mover.peer_id in route()
