"""The way of somebody new, timed: clone, `make demo`, a prompt of their own; and a second machine that joins by the one line which the first one prints.

The second machine is a network namespace at the other end of a virtual cable, which has no other way to the first. Needs root and `ip`. Packages are those of
the environment that runs the test: what installing them takes, tests/cli/test_wheel.py goes through.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import swarm

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[str, str]]:
    """Names of two namespaces with a cable between them."""
    names = tuple(f"swarm{os.getpid()}{end}" for end in "ab")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable0", "netns", names[0], "type", "veth", "peer", "name", "cable0", "netns", names[1])
        for at, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{at}/24", "dev", "cable0")
            for device in ("lo", "cable0"):
                ip("-n", name, "link", "set", device, "up")
        yield names  # type: ignore[misc]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root and ip, for network namespaces")
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(two_machines())
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield names


class Steps:
    def __init__(self) -> None:
        self.told: list[str] = []

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.told.append(f"{name:<60} {time.monotonic() - began:6.1f} s")


@contextlib.contextmanager
def typed(machine: str, line: str, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A printed line, typed there; nothing of it is changed but where the command lies."""
    name, *words = shlex.split(line)
    command = ["ip", "netns", "exec", machine, sys.executable, "-P", "-m", name.replace("swarm-", "swarm.cli."), *words]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def read_until(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> re.Match[str]:
    give_up = time.monotonic() + 180
    while (found := re.search(pattern, log.read_text(errors="replace"))) is None:
        assert process.poll() is None and time.monotonic() < give_up, log.read_text(errors="replace")
        time.sleep(0.1)
    return found


def test_from_a_clone_to_a_second_machine(machines, tmp_path, capsys):
    steps, clone = Steps(), tmp_path / "swarm"
    here, there = machines
    with steps.step("git clone"):
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    for name in ("cli", "bootstrap"):  # where the install would put them
        (clone / "swarm" / name).symlink_to(f"../{name}")
    environment = {**os.environ, "PYTHONPATH": str(clone), "XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    with steps.step("make demo, with the packages there"):
        ready = f"{sys.prefix}/.ready"
        ran = subprocess.run(["make", "demo", f"VENV={sys.prefix}", "-o", ready], cwd=clone, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0 and "Everything as it should be" in ran.stdout, ran.stdout + ran.stderr
    with steps.step("a prompt of one's own: swarm-generate … --local 3"):
        words = [sys.executable, "-P", "-m", "swarm.cli.generate", "Once upon a time", "--local", "3", "--max-new-tokens", "20"]
        ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0 and ran.stdout.strip(), ran.stderr
    model = swarm.demo_model()
    first, second = tmp_path / "first", tmp_path / "second"
    with contextlib.ExitStack() as stack:
        with steps.step("the first machine: swarm-serve, until it prints its lines"):
            serving = stack.enter_context(typed(here, f"swarm-serve {model} --layers 0:6", environment, first))
            serve = read_until(first, r"swarm-serve .* --layers auto --initial-peers \S+", serving)[0]
            ask = read_until(first, r"swarm-generate PROMPT .* --initial-peers \S+", serving)[0]
        assert "/ip4/10.77.0.1/tcp/" in serve, f"an address that others can reach: {serve}"
        with steps.step("the second machine: the printed line, until it serves"):
            joining = stack.enter_context(typed(there, serve, environment, second))
            layers = read_until(second, r"serving layers (\S+)", joining)[1]
        assert layers.endswith(":12")
        with steps.step("and asks, with the other printed line"):
            third = tmp_path / "third"
            asking = stack.enter_context(typed(there, ask.replace("PROMPT", "'Once upon a time'"), environment, third))
            assert asking.wait(180) == 0, third.read_text()
        assert len(third.read_text().strip()) > 20
    with capsys.disabled():
        print("", *steps.told, sep="\n")


def test_the_line_of_an_entrance_works_from_elsewhere(machines, tmp_path):
    here, there = machines
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    with typed(here, "swarm-bootstrap", environment, tmp_path / "door") as door:
        line = read_until(tmp_path / "door", r"swarm-serve MODEL --layers auto --initial-peers \S+", door)[0]
        with typed(there, line.replace("MODEL", swarm.demo_model()), environment, tmp_path / "peer") as peer:
            read_until(tmp_path / "peer", r"serving layers 0:12", peer)
