"""A real peer that is stopped and started again knows what it served; and a polite one lets other programs go first."""

from __future__ import annotations

import json

import psutil

import swarm
from swarm.cli.process import NICE
from tests.swarm.conftest import PROMPT


def test_what_a_peer_served_and_how_fast_survives_a_restart(started, model, tmp_path, cache):
    arguments = ["--identity", str(tmp_path / "peer.key"), "--polite", "--compile", "off"]
    with swarm.LocalSwarm(str(model), ["0:6"], dtype="float32", arguments=arguments) as local:
        with swarm.Client(str(model), initial_peers=local.initial_peers) as client:
            client.generate_tokens(PROMPT, max_new_tokens=150, ignore_eos=True)
        (peer,) = local.peers
        assert psutil.Process(peer.pid).nice() == NICE
        peer.stop()
        notes = {note["about"][0]: note for note in (json.loads(path.read_text()) for path in (cache / "measured").iterdir())}
        assert notes["peer"]["about"][1] == peer.peer_id and notes["peer"]["figures"]["tokens"] >= 150
        assert notes["speed"]["figures"]["rounds"] >= 100
        again = local.add("0:6")
        served = int(notes["peer"]["figures"]["tokens"])
        assert again.peer_id == peer.peer_id and f"so far this peer has served {served:,} tokens" in again.log_path.read_text()
