"""What sets swarm up elsewhere: scripts, containers and units, held against the commands they run. Nothing is installed here (tests/cli/test_wheel.py does)."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "scripts" / "setup.sh"
UNITS = sorted([*(ROOT / "scripts" / "systemd").glob("*.service"), *(ROOT / "bootstrap").glob("*.service")])
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "bootstrap" / "Dockerfile"]
INSTALLED = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


def setup(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(SETUP), *options], capture_output=True, text=True, env={**os.environ, **environment})


def understood(words: list[str]) -> None:
    """Options that this command has."""
    command, *options = words
    assert command in INSTALLED, f"there is no command {command}"
    known = {option for action in importlib.import_module(f"swarm.cli.{command.removeprefix('swarm-')}").parser()._actions for option in action.option_strings}
    assert {option for option in options if option.startswith("--")} <= known, f"{command} {options}"


def test_the_set_up_says_what_it_would_do_and_takes_the_cpu_build_of_torch_first(tmp_path):
    said = setup("--dry-run", "--into", str(tmp_path / "venv"), "--extra", "plot")
    assert said.returncode == 0, said.stderr
    steps = [line for line in said.stdout.splitlines() if line.startswith("would run:")]
    torch, package = (next(at for at, line in enumerate(steps) if re.search(words, line)) for words in (r" torch$", rf"--editable {ROOT}\[plot\]$"))
    assert torch < package and "whl/cpu" in steps[torch] and not (tmp_path / "venv").exists()
    assert "whl/cpu" not in setup("--dry-run", "--gpu", "--into", str(tmp_path / "venv")).stdout
    assert "https://example.org/simple" in setup("--dry-run", "--into", str(tmp_path / "venv"), SWARM_TORCH_INDEX="https://example.org/simple").stdout


def test_folders_with_blanks_are_one_word(tmp_path):
    """Programs that only note how they were called stand for Python."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >> "$NOTED"\n')
    python.chmod(0o755)
    (into := tmp_path / "my venv" / "bin").mkdir(parents=True)
    for name in ("python", "swarm-serve"):
        (into / name).symlink_to(python)
    (wheel := tmp_path / "a wheel.whl").touch()
    said = setup("--into", str(into.parent), "--from", str(wheel), PYTHON=str(python), NOTED=str(tmp_path / "noted"))
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "noted").read_text().splitlines().count(str(wheel)) == 1


def test_what_units_run_is_not_a_link_into_somebodys_home():
    """They see no home directories, and of a folder the set-up makes a link to it."""
    commands = re.findall(r"^sudo sh scripts/setup.sh .*$", (ROOT / "docs" / "setup.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands and all(shlex.split(line)[shlex.split(line).index("--from") + 1].endswith(".whl") for line in commands)


def fake(folder: Path, **programs: str) -> str:
    """A PATH on which these programs say what they are told to, and nothing else is but what the script itself needs."""
    folder.mkdir()
    for name in ("sh", "dirname", "sed", "cat", "env"):
        (folder / name).symlink_to(shutil.which(name))
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_what_is_missing_is_named_with_how_to_get_it(tmp_path):
    no_python = setup("--dry-run", PATH=fake(tmp_path / "1", uname='[ "$1" = -s ] && echo Linux || echo x86_64', python3="exit 1"))
    assert no_python.returncode == 2 and "Python 3.11 or newer is needed" in no_python.stderr and "apt install" in no_python.stderr
    mac = setup("--dry-run", PATH=fake(tmp_path / "2", uname='[ "$1" = -s ] && echo Darwin || echo arm64', python3="exit 0"))
    assert mac.returncode == 2 and "needs Go: brew install go" in mac.stderr
    ready = setup("--dry-run", PATH=fake(tmp_path / "3", uname='[ "$1" = -s ] && echo Darwin || echo arm64', python3="exit 0", go="", **{"c++": ""}))
    assert ready.returncode == 0 and "whl/cpu" not in ready.stdout and "C++" not in ready.stdout, "PyPI's torch for macOS is a CPU build"
    bare = setup("--dry-run", PATH=fake(tmp_path / "4", uname='[ "$1" = -s ] && echo Linux || echo x86_64', python3="exit 0"))
    assert bare.returncode == 0 and "no C++ compiler" in bare.stdout
    windows = setup("--dry-run", PATH=fake(tmp_path / "5", uname="echo MINGW64_NT", python3="exit 0"))
    assert windows.returncode == 2 and "setup.ps1" in windows.stderr


@pytest.mark.parametrize(
    ("options", "words"), [(["--gpus"], "no option --gpus"), (["--into"], "needs a folder"), (["--from", "/nowhere.whl"], "no /nowhere.whl")]
)
def test_a_mistake_is_told(options, words):
    said = setup(*options)
    assert said.returncode == 2 and words in said.stderr and not said.stdout
    assert "--into FOLDER" in setup("--help").stdout


def test_windows_goes_through_wsl_and_runs_the_same_script():
    text = (ROOT / "scripts" / "setup.ps1").read_text()
    assert "Why not on Windows itself" in text and "scripts/setup.sh" in text and "wsl.exe --install" in text
    assert text.count("{") == text.count("}") and text.count("(") == text.count(")")
    for option in re.findall(r'"(--[a-z]+)"', text):
        assert f"{option})" in SETUP.read_text() or option in ("--install",), option


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_run_commands_that_there_are(unit):
    text = unit.read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, *options = shlex.split(line)
    understood([Path(program).name, *options])
    for wanted in ("DynamicUser=yes", "KillSignal=SIGINT", "RestartPreventExitStatus=2", "NoNewPrivileges=yes", "WantedBy=multi-user.target"):
        assert wanted in text, wanted


def test_the_services_of_the_compose_file():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"bootstrap", "peer", "gateway"}
    for name, service in services.items():
        understood(service["command"])
        assert service["volumes"] == [f"{name}:/state"], "what a peer is called must outlive its container"
        for option in service["command"]:
            assert not option.startswith("/") or option.startswith("/state/"), option


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name or "top")
def test_images_take_the_cpu_build_of_torch_first_and_stop_politely(dockerfile):
    text = dockerfile.read_text()
    assert text.index("whl/cpu") < text.index("/src \\\n") or text.index("whl/cpu") < text.index("/src\n")
    assert "STOPSIGNAL SIGINT" in text and re.search(r"^USER swarm$", text, re.MULTILINE) and "VOLUME /state" in text


def test_the_image_holds_what_the_build_needs():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().split() if line]
    assert not {"swarm", "cli", "bootstrap", "pyproject.toml", "README.md", "constraints.txt", "LICENSE"} & set(ignored)


def test_containers_do_not_start_for_ever_with_a_mistake_in_their_settings():
    for service in yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values():
        assert re.fullmatch(r"on-failure:\d+", service["restart"])


def test_keys_of_a_gateway_need_not_be_for_all_to_read():
    assert re.search(r"^#?LoadCredential=api-keys:/etc/swarm/", (ROOT / "scripts" / "systemd" / "swarm-gateway.service").read_text(), re.MULTILINE)
