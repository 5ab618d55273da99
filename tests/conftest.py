"""What all tests share: how processes of commands come to be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forks import Nursery


@pytest.fixture(scope="session", autouse=True)
def nursery() -> Iterator[Nursery]:
    """Peers of local swarms are forked, for loading all that they load takes several seconds of a processor each."""
    nursery = Nursery()
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform.startswith("linux"):
            patch.setattr("swarm.local.subprocess", nursery.subprocess())
        yield nursery
    nursery.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start as they do for everybody else."""
    import subprocess

    monkeypatch.setattr("swarm.local.subprocess", subprocess)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own for what is remembered, with machine code that everybody's has, or gets: it takes ten seconds to compile."""
    from swarm.model.native import native_code
    from swarm.model.sources import cache_folder

    (folder := tmp_path / "cache").mkdir()
    native_code(cache_folder())
    for library in cache_folder().glob("*.so"):
        (folder / library.name).symlink_to(library)
    monkeypatch.setenv("SWARM_CACHE", str(folder))
    return folder
