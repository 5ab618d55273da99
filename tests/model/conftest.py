"""What the tests of the model room share: one tiny checkpoint per family and per run, one thread."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pathlib import Path

import pytest
import torch
import transformers

from tests.model.tiny import Tiny, build

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="package")
def _patient():
    """The compiler has its ten seconds of a processor, however many others want it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swarm.model.native.PATIENCE", 600.0)
        yield


@pytest.fixture(scope="session")
def compiled_here(tmp_path_factory) -> Path:
    """What is compiled once for all tests of a process."""
    return tmp_path_factory.getbasetemp() / "swarm-cache"


@pytest.fixture(autouse=True)
def _cache(compiled_here, monkeypatch):
    """Hashes of files are remembered in a folder of the run, never in the home of whoever runs the tests."""
    monkeypatch.setenv("SWARM_CACHE", str(compiled_here))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny(family)`: folder, transformers' own model and the checkpoint of a family, built once."""
    made: dict[str, Tiny] = {}

    def get(family: str) -> Tiny:
        if family not in made:
            made[family] = build(family, Path(tmp_path_factory.mktemp(family)))
        return made[family]

    return get
