"""Real processes, one of which cheats: it is found out within the promised number of hops, nobody else is, and the answers are right from then on."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import swarm
from swarm.local import LocalPeer
from tests.swarm.conftest import PROMPT
from tests.swarm.models import greedy, save_llama

ROOT = Path(__file__).parents[2]

TOKENS = 24

PROMISED = {"tenth": 600}
"""Hops within which the others are caught as well: 60."""

FOUND = 600.0
"""Seconds in which a coordinator should have looked at a newcomer several times."""

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def local(model):
    """Two honest peers for each half, and room for one that is not."""
    with swarm.LocalSwarm(str(model), layers=["0:3", "3:6", "0:3", "3:6"], arguments=["--compile", "off"]) as local:
        yield local


@pytest.mark.parametrize("layers", ["0:3", pytest.param("3:6", marks=SLOW)])
@pytest.mark.parametrize("kind", ["noise", *(pytest.param(kind, marks=SLOW) for kind in ("zeros", "weights", "int4", "skip", "tenth", "mute"))])
def test_a_cheat_is_caught(model, local, kind, layers, monkeypatch, capsys):
    if (kind, layers) == ("mute", "3:6"):
        pytest.skip("a head's work is in its tokens")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CHEAT", kind)
    cheat = local._spawn(LocalPeer, "tests.attacks.cheating_peer", local._serve(layers))
    try:
        local._wait(cheat)
        with swarm.Client(str(model), initial_peers=local.initial_peers, dtype="float32") as client:
            auditor, hops = client._client.auditor, 0
            while hops < PROMISED.get(kind, 60) and not auditor.audits.until(cheat.peer_id):
                with client.session() as session:
                    tokens = session.stream_tokens(PROMPT, max_new_tokens=TOKENS, ignore_eos=True)
                    next(tokens)
                    hops += cheat.peer_id in {hop.peer_id for hop in session.route.hops}
                    list(tokens)
                client._loop.call(auditor.settled())
            caught = {peer for peer, record in auditor.audits._records.items() if record.bans}
            assert caught == {cheat.peer_id}, f"{caught} after {hops} hops of the cheat"
            with capsys.disabled():
                print(f"\ncheat {kind} over layers {layers}: promised {PROMISED.get(kind, 60)} hops, caught after {hops}")
            with client.session() as session:
                assert list(session.stream_tokens(PROMPT, max_new_tokens=TOKENS, ignore_eos=True)) == greedy(model, PROMPT, TOKENS)
                assert cheat.peer_id not in {hop.peer_id for hop in session.route.hops}
    finally:
        cheat.kill()


def test_nobody_honest_is_caught_though_every_hop_is_audited(model, local):
    with swarm.Client(str(model), initial_peers=local.initial_peers, audit=1.0) as client:
        auditor = client._client.auditor
        for count in range(8):
            client.generate_tokens([*PROMPT, count], max_new_tokens=TOKENS, ignore_eos=True, temperature=float(count % 2), seed=count)
            client._loop.call(auditor.settled())
        assert auditor.passed >= 12 and not auditor.caught and not auditor.audits._records.keys() & auditor.audits.banned(0.0)
        assert all(not (record.bans or record.refused or record.odds) for record in auditor.audits._records.values())


def planned_without(local: swarm.LocalSwarm) -> set[str]:
    """Whom coordinators have convicted so far."""
    logs = "".join(path.read_text(errors="replace") for path in local.folder.glob("*.log"))
    return set(re.findall(r"(\w+) computes something else than others do; planning without it", logs))


@pytest.mark.parametrize(("kind", "layers"), [("noise", "0:3"), ("head", "3:6")])
def test_a_cheat_that_no_client_audits_is_found_by_the_coordinator(model, local, kind, layers, monkeypatch, capsys):
    """Nobody asks anything at all."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CHEAT", kind)
    cheat = local._spawn(LocalPeer, "tests.attacks.cheating_peer", local._serve(layers))
    try:
        local._wait(cheat)
        began, known, found = time.monotonic(), planned_without(local), set()
        while not found and time.monotonic() - began < FOUND:
            time.sleep(1)
            found = planned_without(local) - known
        assert found == {cheat.peer_id}
        with capsys.disabled():
            print(f"\ncheat {kind}, asked by nobody: planned without after {time.monotonic() - began:.0f} s")
    finally:
        cheat.kill()
