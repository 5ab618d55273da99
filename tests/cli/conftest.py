"""What the tests of the commands share: a home of their own, a tiny model, one real swarm of it, and ways to run a command."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import swarm
from swarm import local as local_room
from tests.swarm.models import save_llama


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nobody's settings, identities or markers but the test's own, and the logging of before afterwards."""
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    root = logging.getLogger()
    before, level, ours = root.handlers[:], root.level, logging.getLogger("swarm").level
    yield tmp_path
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("swarm").setLevel(ours)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six layers, a byte for a token."""
    return str(save_llama(tmp_path_factory.mktemp("cli") / "tiny"))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same configuration with other weights: another revision."""
    return str(save_llama(tmp_path_factory.mktemp("cli") / "tiny", seed=1))


@pytest.fixture(scope="module")
def local(model: str) -> Iterator[swarm.LocalSwarm]:
    with swarm.LocalSwarm(model, layers=["0:3", "3:6"]) as local:
        yield local


class Command:
    """A command as a process of its own, ended with the test."""

    def __init__(self, name: str, arguments: Sequence[str], stdin: int | None = subprocess.DEVNULL) -> None:
        self.process = local_room.subprocess.Popen(
            [sys.executable, "-P", "-m", f"swarm.cli.{name}", *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def signal(self, number: int) -> None:
        """As a terminal does it: to everybody of the process group."""
        os.killpg(self.process.pid, number)

    def read(self, count: int) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read(count).decode(errors="replace")

    def read_until(self, word: str) -> str:
        assert self.process.stdout is not None
        said = ""
        while word not in said:
            line = self.process.stdout.readline().decode()
            assert line, f"ended before it said {word!r}: {said}"
            said += line
        return said

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        """Exit status, and what was left in stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def command() -> Iterator[Callable[..., Command]]:
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str, **options: int | None) -> Command:
            command = Command(name, arguments, **options)
            stack.callback(command.kill)
            return command

        yield start
