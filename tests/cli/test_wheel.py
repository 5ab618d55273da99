"""The wheel as somebody else installs it: everything that is needed is in it, and its commands work where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMANDS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def run(*command: object, cwd: Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Without whatever leads back to this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SWARM_", "VIRTUAL_ENV"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing that lies about here gets into it."""
    source, folder = tmp_path_factory.mktemp("source") / "checkout", tmp_path_factory.mktemp("wheel")
    left = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "tests", "bench", "training", "docs")
    wanted = ["swarm", "cli", "bootstrap", "pyproject.toml", "README.md", "LICENSE"]
    source.mkdir()
    for name in wanted:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=lambda folder, names: {*left(folder, names), *_links(folder, names)})
        else:
            shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


def _links(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(folder) / name).is_symlink()}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` of an environment that holds the wheel alone, and finds what it depends on where it is installed already."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    run(sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_everything_that_is_read_is_in_it(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, prefix in ((ROOT / "swarm", "swarm"), (ROOT / "cli", "swarm/cli"), (ROOT / "bootstrap", "swarm/bootstrap")):
        for path in folder.rglob("*"):
            name = f"{prefix}/{path.relative_to(folder).as_posix()}"
            if path.is_file() and "__pycache__" not in name and path.suffix not in (".service",) and path.name != "Dockerfile":
                assert name in inside, f"{name} is not in the wheel"
    assert not [name for name in inside if name.startswith(("tests/", "bench/", "cli/"))], "what is no part of the package would lie about beside it"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work_where_there_is_no_checkout(installed, tmp_path, command):
    said = run(installed / command, "--help", cwd=tmp_path).stdout
    assert said.startswith(f"usage: {command}") and "examples:" in said


def test_it_is_the_wheel_that_runs(installed, tmp_path):
    said = run(installed / "python", "-P", "-c", "import swarm, swarm.cli; print(swarm.__file__, swarm.cli.__file__, swarm.demo_model())", cwd=tmp_path).stdout
    assert all(part.startswith(str(installed.parent)) for part in said.split()), said


@pytest.mark.slow
def test_a_swarm_from_the_wheel_in_an_empty_environment(wheel, tmp_path):
    """As a newcomer without a checkout: scripts/setup.sh with the wheel, everything downloaded, and an answer from peers on this machine."""
    run("sh", ROOT / "scripts" / "setup.sh", "--into", tmp_path / "venv", "--from", wheel, cwd=tmp_path, timeout=3000)
    answer = run(tmp_path / "venv" / "bin" / "swarm-generate", "Q: sort 7 3 9 1\nA:", "--local", "2", "--max-new-tokens", "20", cwd=tmp_path, timeout=300)
    assert answer.stdout.strip() == "1 3 7 9"
