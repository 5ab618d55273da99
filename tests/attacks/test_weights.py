"""Weights that would run, and weights of which one byte is another: a peer that is given them ends with a sentence before it loads them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.model.checkpoint import Checkpoint
from tests.model.test_unsafe_weights import WEIGHTS, flipped, pickles, places_of
from tests.swarm.models import save_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"), layers=2, hidden=32)


def test_every_byte_of_a_header_and_a_thousand_of_the_rest(figure, model, tmp_path, monkeypatch):
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model, tmp_path / "mine")
    known = Checkpoint.open(str(model)).revision
    header, data = places_of(tmp_path / "mine", 1, 1000)
    became = flipped(tmp_path / "mine", header + data, random.Random(3), known, load_each=100)
    what = f"one byte changed: each of {len(header)} of a header, {len(data)} of the rest"
    figure(23, what, "0 taken for the model", f"0 of {len(header + data)}: {became['refused']} refused, the others another revision")
    assert became["another revision"] >= len(data) and became["refused"] > len(header) / 2


@pytest.mark.parametrize("name", ["pytorch_model.bin", WEIGHTS])
def test_a_peer_given_a_pickle(figure, model, tmp_path, name):
    """A real process, which has one in its folder that would leave a mark."""
    folder, mark, refused = tmp_path / "mine", tmp_path / "it ran", 0
    shutil.copytree(model, folder)
    (folder / WEIGHTS).unlink()
    kinds = pickles(tmp_path)
    for data in kinds.values():
        (folder / name).write_bytes(data)
        environment = os.environ | {"IT_RAN": str(mark), "PYTHONPATH": str(ROOT), "SWARM_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-P", "-m", "swarm.cli.serve", str(folder), "--layers", "0:2", "--host", "127.0.0.1"]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        refused += ran.returncode == 2 and "safetensors" in ran.stderr and not mark.exists()
    figure(23, f"swarm-serve given {name}, a pickle in 3 ways", "refused before load", f"{refused} of {len(kinds)} refused, nothing ran")
    assert refused == len(kinds) == 3
