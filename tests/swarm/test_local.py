"""How a process of a local swarm comes up, or does not: with commands that only pretend, and with the real one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import swarm
from swarm.cli import bootstrap, serve
from swarm.errors import SwarmError, UsageError
from swarm.local import SETTINGS, LocalProcess, LocalSwarm
from tests.swarm.models import save_llama

Wait = Callable[..., LocalProcess]


@pytest.fixture
def pretend(tmp_path: Path) -> Iterator[Wait]:
    """Starts a module of these lines as a local process, and waits for it. `tell` writes to whoever waits."""
    started: list[LocalProcess] = []

    def start(lines: str, patience: float = 60.0) -> LocalProcess:
        head = "import os, sys, time\ntell = lambda text: os.write(int(sys.argv[sys.argv.index('--ready-fd') + 1]), text)\n"
        (tmp_path / "pretender.py").write_text(head + lines)
        with (tmp_path / "log").open("wb") as log:
            started.append(LocalProcess("pretender", [], log, {"PYTHONPATH": str(tmp_path)}))
        started[-1].wait_ready(patience, tmp_path / "log")
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_what_it_says_when_it_is_ready(pretend):
    facts = {"peer_id": "x"}
    process = pretend(f"tell(b{json.dumps(facts)[:5]!r}); time.sleep(0.05); tell(b{json.dumps(facts)[5:] + chr(10)!r}); time.sleep(600)")
    assert process.facts == facts and process.is_alive()


def test_settings_of_this_process_are_not_those_of_its_peers_but_its_cache_is(pretend, monkeypatch):
    kept = {"SWARM_CACHE": "/somewhere", "SWARM_OF_SOMEBODY_ELSE": "1"}
    for name, value in {**dict.fromkeys(SETTINGS, "1"), **kept}.items():
        monkeypatch.setenv(name, value)
    process = pretend("import json; tell(json.dumps({name: os.environ[name] for name in os.environ if name.startswith('SWARM_')}).encode() + b'\\n')")
    assert process.facts == kept


def test_every_setting_that_a_started_command_reads_is_known(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)
    found = set()
    for parser, argv in ((serve.parser(), ["model"]), (bootstrap.parser(), [])):
        parser.read(argv)  # which gives every option its variable
        found |= {action.env_var for action in parser._actions if getattr(action, "env_var", None)}
    assert found == SETTINGS


@pytest.mark.parametrize(("status", "kind"), [(2, UsageError), (1, SwarmError)])
def test_its_own_sentence_and_status(pretend, status, kind):
    with pytest.raises(SwarmError) as caught:
        pretend(f"print('opening'); sys.exit(print('swarm-serve: mend this so') or {status})")
    assert (str(caught.value), type(caught.value), caught.value.exit_status) == ("mend this so", kind, status)


@pytest.mark.parametrize(
    "lines",
    [
        "print('opening'); raise ZeroDivisionError('oh')",
        "print('opening'); sys.exit(print('swarm-serve: this is a bug: ZeroDivisionError: oh') or 1)",
        "print('opening ZeroDivisionError: oh', flush=True); os.kill(os.getpid(), 9)",
    ],
)
def test_a_crash_shows_the_end_of_its_log(pretend, lines):
    with pytest.raises(SwarmError, match=r"(?s)ended.*opening.*ZeroDivisionError: oh") as caught:
        pretend(lines)
    assert caught.value.exit_status == 1


def test_one_that_is_silent_is_given_up(pretend):
    with pytest.raises(SwarmError, match=r"said nothing for 0\.2 s"):
        pretend("time.sleep(600)", patience=0.2)


def test_one_that_says_something_may_take_its_time(pretend):
    lines = "began = time.monotonic()\nwhile time.monotonic() < began + 3:\n    print('still', flush=True); time.sleep(0.02)\ntell(b'{}\\n'); time.sleep(600)"
    assert pretend(lines, patience=1.5).is_alive()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (5, 'layers are those of each peer, such as ["0:6", "6:12"], and cannot be 5'),
        ([5], "and cannot be [5]"),
        ([], "needs at least one peer"),
        (["x"], "cannot read 'x' as layers"),
        (["0:6", "0:99"], "0:99 is out of range: this model has 6 layers"),
        ("0:7", "0:7 is out of range"),
    ],
)
def test_layers_that_no_peer_could_take_are_refused_before_a_process_starts(layers, words, tmp_path, monkeypatch):
    monkeypatch.setattr("swarm.local.LocalSwarm._spawn", None)
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 6}')
    with pytest.raises(UsageError) as caught:
        LocalSwarm(str(tmp_path), layers)
    assert words in str(caught.value)


def test_a_single_text_is_the_layers_of_one_peer(monkeypatch):
    started, counted = [], []

    def spawn(self, kind, module, arguments):
        started.append(arguments)
        return SimpleNamespace(facts={"addrs": []})

    monkeypatch.setattr("swarm.local.LocalSwarm._spawn", spawn)
    monkeypatch.setattr("swarm.local.LocalSwarm._wait", lambda self, process: None)
    with LocalSwarm(swarm.demo_model(), "0:12", ready=counted.append) as local:
        assert len(local.peers) == 1 and "0:12" in started[-1] and counted == [1]
        with pytest.raises(UsageError, match="0:13 is out of range"):
            local.add("0:13")


def test_a_folder_without_weights_is_the_callers_to_mend(started, tmp_path):
    shutil.copy(save_llama(tmp_path / "whole") / "config.json", tmp_path)
    with pytest.raises(UsageError, match=r"has no model\.safetensors") as caught:
        LocalSwarm(str(tmp_path), ["0:6"])
    assert "\n" not in str(caught.value)
