"""A private swarm of real processes, and strangers at its door: they are let in neither to ask nor to serve, and who is revoked is put out."""

from __future__ import annotations

import time

import pytest

import swarm
from swarm.cli.bootstrap import main as bootstrap
from swarm.errors import SwarmError
from swarm.net.identity import Identity
from tests.swarm.conftest import PROMPT
from tests.swarm.models import greedy, save_llama

TOKENS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def model(folder):
    return save_llama(folder / "llama")


@pytest.fixture(scope="module")
def key(folder):
    assert bootstrap(["keygen", str(folder / "our.key")]) == 0
    return folder / "our.key"


@pytest.fixture(scope="module")
def local(model, key):
    with swarm.LocalSwarm(str(model), layers=["0:3", "3:6"], swarm_key=key) as local:
        yield local


def ask(model, local, **options) -> list[int]:
    with swarm.Client(str(model), initial_peers=local.initial_peers, patience=3.0, **options) as client:
        return client.generate_tokens(PROMPT, max_new_tokens=TOKENS, ignore_eos=True)


def test_members_answer_the_owner_and_no_stranger(model, local, key):
    assert ask(model, local, swarm_key=str(key)) == greedy(model, PROMPT, TOKENS)
    with pytest.raises(SwarmError):
        ask(model, local)


def test_a_stranger_who_would_serve_finds_nobody_who_announces_it(model, local, key):
    options, local._arguments = local._arguments, []
    try:
        with pytest.raises(SwarmError, match="no peer took our announcement.*private"):
            local.add("0:6")
    finally:
        local._arguments = options
    with swarm.Client(str(model), initial_peers=local.initial_peers, swarm_key=str(key)) as client:
        assert set(client._client.table.views) == {peer.peer_id for peer in local.peers[:2]}


def test_an_invited_client_is_let_in_until_it_is_revoked(model, local, key, folder, capsys):
    assert bootstrap(["keygen", "--identity", str(folder / "guest.key")]) == 0
    guest = capsys.readouterr().out.strip()
    assert guest == Identity.load_or_create(folder / "guest.key").peer_id
    invitation = folder / "guest.invitation"
    assert bootstrap(["invite", guest, "--swarm-key", str(key), "--out", str(invitation)]) == 0
    options = {"swarm_key": str(invitation), "identity": str(folder / "guest.key")}
    with swarm.Client(str(model), initial_peers=local.initial_peers, patience=3.0, **options) as client:
        assert client.generate_tokens(PROMPT, max_new_tokens=TOKENS, ignore_eos=True) == greedy(model, PROMPT, TOKENS)
        assert bootstrap(["revoke", guest, "--swarm-key", str(key)]) == 0
        began = time.monotonic()
        with pytest.raises(SwarmError):
            while time.monotonic() - began < 60:
                client.generate_tokens(PROMPT, max_new_tokens=TOKENS, ignore_eos=True)
        with capsys.disabled():
            print(f"\nrevoked, and put out after {time.monotonic() - began:.0f} s")
    assert ask(model, local, swarm_key=str(key)) == greedy(model, PROMPT, TOKENS), "and nobody else is"
