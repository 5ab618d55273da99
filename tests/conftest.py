"""What all tests share: how processes of commands come to be."""

from __future__ import annotations

import sys
from collections.abc import Iterator

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
