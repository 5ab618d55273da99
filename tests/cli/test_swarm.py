"""The commands among themselves: real processes over loopback, one swarm of a tiny model for the whole file."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time

import psutil
import pytest

import swarm
from swarm.aio import Client
from swarm.cli import bootstrap, generate, serve
from swarm.local import LocalProcess
from swarm.model.checkpoint import Checkpoint
from tests.cli.test_bad_input import said
from tests.swarm.models import save_llama


@pytest.fixture
def ask(model, local):
    """The arguments of a swarm-generate that reaches our swarm."""
    return ["--model", model, *(text for addr in local.initial_peers for text in ("--initial-peers", addr))]


def test_an_answer_and_its_route(capsys, ask):
    assert generate.main(["hello", *ask, "--max-new-tokens", "12", "--show-route"]) == 0
    first = capsys.readouterr()
    assert first.out.endswith("\n") and len(first.out) > 1
    assert "pass through other people's machines" in first.err
    assert "layers 0:3" in first.err and "layers 3:6" in first.err and "tokens/s" in first.err and "ms measured" in first.err
    assert generate.main(["hello", *ask, "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr() == (first.out, "")  # the same answer, and the notice is said once


def test_a_prompt_from_standard_input(ask, capsys, monkeypatch):
    assert generate.main(["two\nlines", *ask, "--max-new-tokens", "8"]) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    assert generate.main(["-", *ask, "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out == expected


def test_prompt_too_long(capsys, ask):
    words = said(capsys, generate.main, "x" * 1020, *ask, "--max-new-tokens", "10")
    assert "1030" in words and "1024" in words


def test_a_format_that_nobody_serves(capsys, ask):
    assert "float32" in said(capsys, generate.main, "hello", *ask, "--dtype", "float16")


def test_another_revision(capsys, ask, other_model):
    assert "another revision" in said(capsys, generate.main, "hello", *ask, "--model", other_model)


def test_layers_that_nobody_serves_are_named_with_the_memory_they_take(capsys, ask, tmp_path, monkeypatch):
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "patience", 0.5)
    deeper = save_llama(tmp_path / "deeper", layers=7)
    words = said(capsys, generate.main, "hello", *ask, "--model", str(deeper), status=1)
    size = sum(Checkpoint.open(str(deeper)).shape.component_bytes) / 1e6
    assert words.startswith("swarm-generate: layers 0:7 are served by nobody") and "--layers 0:7" in words
    assert f"weights take about {size:.1f} MB of memory, on one more machine" in words


def test_a_peer_of_another_revision_never_shares_the_chain_and_ctrl_c_drains_it(capsys, local, ask, other_model, command):
    peers = [text for addr in local.initial_peers for text in ("--initial-peers", addr)]
    serving = command("serve", other_model, "--layers", "0:6", "--host", "127.0.0.1", *peers)
    serving.read_until("serving layers 0:6")
    assert generate.main(["hello", *ask, "--max-new-tokens", "4", "--show-route"]) == 0
    assert "layers 0:3" in capsys.readouterr().err
    serving.signal(signal.SIGINT)
    status, out, err = serving.end()
    assert (status, "another revision" in err, "left" in out) == (0, True, True)


def test_identity_in_use(capsys, local, model):
    words = said(
        capsys, serve.main, model, "--host", "127.0.0.1", "--identity", str(local.folder / "bootstrap.key"), "--initial-peers", local.peers[0].addrs[0]
    )
    assert "already used" in words and "--identity" in words


def test_a_time_limit(capsys, ask):
    assert "within 0.001 s" in said(capsys, generate.main, "hello", *ask, "--timeout", "0.001", status=1)


def test_ctrl_c_keeps_the_text(ask, command):
    asking = command("generate", "hello", *ask, "--max-new-tokens", "1000")
    begin = asking.read(10)
    asking.signal(signal.SIGINT)
    status, rest, err = asking.end()
    assert status == 130 and "Traceback" not in err
    assert begin and (begin + rest).endswith("\n")


def test_a_second_ctrl_c_stops_at_once(model, command):
    serving = command("serve", model, "--layers", "0:6", "--host", "127.0.0.1", "--drain", "60")
    addr = serving.read_until("a new swarm begins here, at ").split()[-1]
    with swarm.Client(model, initial_peers=[addr]) as client, client.session() as session:
        session.generate("hello", max_new_tokens=4)  # and the session stays: draining waits for it
        serving.signal(signal.SIGINT)  # as a terminal does, to everybody: p2pd must not hear it, since what drains needs its network
        serving.read_until("leaving")
        time.sleep(1.0)
        assert [child.name() for child in psutil.Process(serving.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE] == ["p2pd"]
        began = time.monotonic()
        serving.signal(signal.SIGINT)
        status, _, _ = serving.end()
    assert status == 130 and time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["serve", "bootstrap"])
def test_whoever_has_left_is_not_interrupted_any_more(started, model, command, name):
    leaving = command(name, *([model] if name == "serve" else ["--port", "0"]), "--host", "127.0.0.1")
    leaving.read_until("swarm-generate PROMPT")
    leaving.signal(signal.SIGINT)
    leaving.read_until("left")
    while leaving.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            leaving.signal(signal.SIGINT)
    status, _, err = leaving.end()
    assert status == 0 and "Traceback" not in err


def test_ctrl_c_while_starting(started, model, command):
    serving = command("serve", model, "--layers", "0:6", "--host", "127.0.0.1")
    serving.read_until("opening")
    serving.signal(signal.SIGINT)
    status, out, err = serving.end()
    assert status == 130 and "Traceback" not in err and "serving" not in out


def _bootstrap(folder, *arguments: str) -> LocalProcess:
    with (folder / "log").open("wb") as log:
        process = LocalProcess("swarm.cli.bootstrap", ["--host", "127.0.0.1", "--identity", str(folder / "key"), *arguments], log, {})
    try:
        process.wait_ready(60, folder / "log")
    except BaseException:
        process.kill()
        raise
    return process


def test_whoever_is_started_ends_with_its_parent_and_comes_back_under_its_address(tmp_path, capsys):
    process = _bootstrap(tmp_path, "--port", "0")
    try:
        assert set(process.facts) == {"peer_id", "addrs", "layers"}
        assert process.facts["addrs"][0].endswith(process.facts["peer_id"])
        words = said(capsys, bootstrap.main, "--host", "127.0.0.1", "--port", "0", "--identity", str(tmp_path / "key"))  # without anybody to ask
        assert process.facts["peer_id"] in words and "already used" in words
        tree = process._tree()
        assert len(tree) > 1  # it and its p2pd
        os.close(process._hold)
        process._hold = None
        process._process.wait(10)
        assert not psutil.wait_procs(tree, timeout=10)[1]
    finally:
        process.kill()
    port = process.facts["addrs"][0].split("/")[4]
    again = _bootstrap(tmp_path, "--port", port)
    try:
        assert again.facts == process.facts
        assert again.facts["addrs"][0] in (tmp_path / "log").read_text()
        again.stop()
        assert again._process.returncode == 0
    finally:
        again.kill()


def test_layers_that_go_missing_on_the_way(ask, local, command):
    """Last: it kills half of the swarm."""
    asking = command("generate", "hello", *ask, "--max-new-tokens", "1000")
    begin = asking.read(10)
    local.peers[1].kill()
    status, rest, err = asking.end()
    assert status == 1 and (begin + rest).endswith("\n")
    assert err.strip().split("\n")[-1].startswith("swarm-generate: ") and "3:6" in err and "--layers" in err and "Traceback" not in err
