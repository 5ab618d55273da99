"""A client that falls silent at a real peer: its place is free again for another, whose patience is the promised time and a little. (Who holds what it does not
use, but keeps it alive, is the business of tests/peer/test_hops.py.)"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import swarm
from tests.swarm.conftest import PROMPT
from tests.swarm.models import greedy, save_llama

ROOT = Path(__file__).parents[2]

PROMISED = 30.0
"""Seconds until the place of a silent client is free."""

NOTICED = 12.0
"""And until that is announced and read: 8 s between announcements, and then some."""

CLIENT = """
import sys, swarm
with swarm.Client(sys.argv[1], initial_peers=sys.argv[2:], audit=0) as client, client.session() as session:
    print(next(iter(session.stream_tokens([1, 2, 3], max_new_tokens=400, ignore_eos=True))), flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_the_place_of_a_client_that_falls_silent_is_free_within_half_a_minute(tmp_path, capsys):
    model = save_llama(tmp_path / "llama")
    with swarm.LocalSwarm(str(model), layers=["0:6"], arguments=["--compile", "off", "--cache-tokens", "500"]) as local:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        silent = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(model), *local.initial_peers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        try:
            assert silent.stdout is not None and silent.stdout.readline()
            os.killpg(silent.pid, signal.SIGSTOP)
            began = time.monotonic()
            with swarm.Client(str(model), initial_peers=local.initial_peers, patience=PROMISED + NOTICED) as client:
                tokens = client.generate_tokens(PROMPT, max_new_tokens=300, ignore_eos=True)  # more than is free while the other's are held
            waited = time.monotonic() - began
            assert tokens == greedy(model, PROMPT, 300)
            with capsys.disabled():
                print(f"\nsilent client: promised {PROMISED:.0f} s, its place was free and used up again after {waited:.0f} s")
        finally:
            os.killpg(silent.pid, signal.SIGKILL)
            silent.communicate()
