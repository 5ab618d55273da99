"""Bad input: one clear sentence and the next step, status 2 for what the caller can mend and 1 for failures, no traceback."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.cli import bootstrap, generate, part, serve
from swarm.cli.arguments import check_addresses
from swarm.cli.wish import Wish
from swarm.core import check_layers
from swarm.errors import MalformedAddress
from swarm.net.addresses import dialable, entrance
from swarm.net.identity import Identity

NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/" + Identity.ephemeral().peer_id
"""Well-formed, and nobody is there."""


def said(capsys, main, *argv: str, status: int = 2) -> str:
    """The one sentence on stderr."""
    assert main([str(text) for text in argv]) == status
    out = capsys.readouterr()
    last = out.err.rstrip("\n").split("\n")[-1]
    assert last.startswith("swarm-") and "Traceback" not in out.err, out.err
    return last


def test_no_model_named(capsys):
    assert "MODEL" in said(capsys, serve.main)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nothing", "what is this?", "a/b/c"])
def test_unknown_model(capsys, name):
    assert name in said(capsys, serve.main, name)
    assert name in said(capsys, generate.main, "hello", "--model", name, "--local", "1")
    assert name in said(capsys, generate.main, "hello", "--model", name, "--initial-peers", NOBODY)


def test_folder_without_config(capsys, tmp_path):
    assert "config.json" in said(capsys, serve.main, tmp_path)
    assert "config.json" in said(capsys, generate.main, "hello", "--model", tmp_path, "--initial-peers", NOBODY)


def test_folder_without_safetensors(capsys, tmp_path, model):
    shutil.copy(f"{model}/config.json", tmp_path)
    assert "safetensors" in said(capsys, serve.main, tmp_path, "--layers", "0:2")
    assert "safetensors" in said(capsys, serve.main, tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin" in said(capsys, serve.main, tmp_path)
    assert "pytorch_model.bin" in said(capsys, generate.main, "hello", "--model", tmp_path, "--local", "2")


def test_a_model_that_needs_code_of_its_own(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": {"AutoConfig": "strange.Config"}}))
    assert "never run" in said(capsys, serve.main, tmp_path)


@pytest.mark.parametrize("layers", ["3", "5:2", "0:", "middle", "", "0:2,,4:6", "-1:2"])
def test_malformed_layers(capsys, layers):
    assert "0:12" in said(capsys, serve.main, "no/model-is-opened", f"--layers={layers}")


def test_layers_out_of_range(capsys, model):
    words = said(capsys, serve.main, model, "--layers", "0:7")
    assert "6 layers" in words and "0:6" in words


def test_what_can_be_said_before_every_byte_is_read_is_said_before(capsys, model, monkeypatch):
    def hashed(*_: object) -> str:
        raise AssertionError("read a file to its end for nothing")

    monkeypatch.setattr("swarm.model.sources.file_hash", hashed)
    assert "0:6" in said(capsys, serve.main, model, "--layers", "0:7")
    monkeypatch.setattr("swarm.model.memory.usable", lambda free, **_: 0)
    assert "not even one layer fits" in said(capsys, serve.main, model, "--layers", "0:2")
    assert "not even one layer fits" in said(capsys, serve.main, model)
    assert "leave head out of --on-disk" in said(capsys, serve.main, model, "--on-disk", "embed,head", "--quantize", "int8")
    if not torch.cuda.is_available():
        assert "choose cpu" in said(capsys, serve.main, model, "--device", "cuda")


def test_layers_that_do_not_fit(capsys, model, monkeypatch):
    checkpoint = part.open_checkpoint(Wish(model, "auto", None, "cpu", 64, None, None, "", ""))
    cost = checkpoint.shape.component_bytes[1] + 64 * checkpoint.shape.kv_bytes_per_token[1]
    monkeypatch.setattr("swarm.model.memory.usable", lambda free, **_: 2 * cost + 64 * checkpoint.shape.row_bytes + 1)
    words = said(capsys, serve.main, model, "--layers", "1:5", "--cache-tokens", "64")
    assert "2 of 6 layers do fit" in words
    monkeypatch.setattr("swarm.model.memory.usable", lambda free, **_: 0)
    assert "not even one layer fits" in said(capsys, serve.main, model, "--layers", "auto", "--host", "127.0.0.1")


def test_more_disk_than_allowed(capsys, model):
    assert "--max-disk" in said(capsys, serve.main, model, "--max-disk", "1KB", "--host", "127.0.0.1")


def test_devices_and_formats_that_are_not_there(capsys, model):
    assert "bfloat16" in said(capsys, serve.main, model, "--dtype", "int3")
    assert "abacus" in said(capsys, serve.main, model, "--device", "abacus", "--host", "127.0.0.1")


@pytest.mark.parametrize(
    ("main", "argv", "words"),
    [
        *((main, [*argv, "--initial-peers", "nonsense"], "'nonsense'") for main, argv in (("serve", ["model"]), ("generate", ["hello"]), ("bootstrap", []))),
        *((main, [*argv, "--announce", "/ip4/1.2.3.4/udp/5"], "'/ip4/1.2.3.4/udp/5'") for main, argv in (("serve", ["model"]), ("bootstrap", []))),
        ("serve", ["/nowhere/model"], "there is no folder /nowhere/model"),
        ("serve", ["model", "--device", "quux"], "there is no device 'quux'; write cpu, cuda or cuda:0"),
        ("serve", ["model", "--device", "cuda:0,gpu"], "there is no device 'gpu'"),
        ("serve", ["model", "--device", "auto,cpu"], "there is no device 'auto'"),
        ("serve", ["model", "--on-disk", "embed,layers"], "'embed,layers' cannot stay on disk; write embed, head, or embed,head"),
        ("generate", ["hello", "--local", "3", "--model", "./nothing"], "there is no folder ./nothing"),
        ("generate", ["hello", "--local", "3", "--stop", ""], "a stop string is a text of at least one character"),
        ("generate", ["hello", "--local", "13"], "at most 12 peers"),
    ],
)
def test_what_needs_no_model_is_refused_before_anything_heavy_is_loaded(main, argv, words):
    script = f"""
import sys
from swarm.cli.{main} import main
assert main({argv!r}) == 2
heavy = {{"torch", "transformers", "hivemind"}} & set(sys.modules)
assert not heavy, heavy
"""
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0 and words in ran.stderr.rstrip().split("\n")[-1] and not ran.stdout, (ran.stdout, ran.stderr)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from([*"abc/", "/ip4/", "127.0.0.1", "300.1.1.1", "/ip6/", "::1", "/dns4/", "/tcp/", "/udp/", "9", "70000", "/p2p/", NOBODY, NOBODY[-52:]]),
        max_size=7,
    ).map("".join)
)
def test_an_address_refused_at_once_is_one_the_network_room_refuses(text):
    try:
        check_addresses([text])
    except MalformedAddress:
        with pytest.raises(MalformedAddress):
            entrance(text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["/ip4/1.2.3.4", "/ip6/2001:db8::1", "/dns/a.org", "/dns4/a.org", "/dns6/a.org"]), st.integers(1, 65535))
def test_addresses_that_can_be_dialled_pass(host, port):
    text = f"{host}/tcp/{port}"
    check_addresses([f"{text}{NOBODY[-57:]}"], [text, f"{text}/ws"])
    assert dialable(text, NOBODY[-52:]) is not None and entrance(f"{text}{NOBODY[-57:]}").text


@pytest.mark.parametrize("addr", ["nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/300.0.0.1/tcp/1/p2p/12D3KooW"])
def test_malformed_initial_peers(capsys, model, addr):
    for main, argv in ((serve.main, [model]), (generate.main, ["hello", "--model", model]), (bootstrap.main, [])):
        words = said(capsys, main, *argv, "--initial-peers", addr)
        assert addr in words and "/ip4/203.0.113.5" in words


@pytest.mark.parametrize("addr", ["foo", "/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/5/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"])
def test_malformed_addresses_to_announce(capsys, model, addr):
    for main, argv in ((serve.main, [model]), (bootstrap.main, [])):
        words = said(capsys, main, *argv, "--announce", addr)
        assert f"{addr!r} as an address to announce" in words and "without /p2p/" in words and "12D3Koo" not in words.replace(addr, "")


def test_unreachable_initial_peers(capsys, model):
    for main, argv in ((serve.main, [model, "--host", "127.0.0.1"]), (generate.main, ["hello", "--model", model])):
        words = said(capsys, main, *argv, "--initial-peers", NOBODY, status=1)
        assert NOBODY in words and "swarm-bootstrap" in words


def test_nobody_to_ask(capsys):
    words = said(capsys, generate.main, "hello")
    assert "no public peers yet" in words and "--initial-peers" in words and "--local" in words


def test_local_and_elsewhere_at_once(capsys):
    assert "leave out one" in said(capsys, generate.main, "hello", "--local", "2", "--initial-peers", NOBODY)


def test_more_local_peers_than_layers(capsys, model):
    assert "at most 6" in said(capsys, generate.main, "hello", "--model", model, "--local", "7")


def test_what_a_model_cannot_take_is_said_before_local_peers_start(capsys, model, monkeypatch):
    def start(*_: object, **__: object) -> None:
        raise AssertionError("started peers for nothing")

    monkeypatch.setattr("swarm.local.LocalSwarm", start)
    for words in (("x" * 1024,), ("x" * 1020, "--max-new-tokens", "5")):
        assert "need 1025 positions, but this model allows 1024" in said(capsys, generate.main, *words, "--model", model, "--local", "2")
    assert "no chat template" in said(capsys, generate.main, "hello", "--chat", "--model", model, "--local", "2")
    assert "not valid Unicode" in said(capsys, generate.main, "caf\udce9", "--model", model, "--local", "2")


def test_empty_prompt(capsys, monkeypatch):
    assert "empty" in said(capsys, generate.main, "", "--local", "2")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "empty" in said(capsys, generate.main, "-", "--local", "2")


def test_a_prompt_that_is_no_text(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    assert "UTF-8" in said(capsys, generate.main, "-", "--local", "2")


@pytest.mark.parametrize(
    "option",
    [
        *(("--temperature", "-1"), ("--temperature", "nan"), ("--temperature", "hot"), ("--top-p", "0"), ("--top-p", "2"), ("--top-k", "-1")),
        *(("--min-p", "2"), ("--seed", "-5"), ("--repetition-penalty", "0"), ("--max-new-tokens", "0"), ("--timeout", "0"), ("--local", "0")),
    ],
)
def test_invalid_sampling(capsys, option):
    name, value = option
    words = said(capsys, generate.main, "hello", f"{name}={value}")
    assert name.removeprefix("--").replace("-", "_") in words.replace("-", "_")


def test_how_many_tokens_at_least(capsys):
    assert "--max-new-tokens: 0 is out of range, which is at least 1;" in said(capsys, generate.main, "hello", "--max-new-tokens", "0")


def test_port_in_use(capsys, home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = said(capsys, bootstrap.main, "--host", "127.0.0.1", "--port", port)
    assert port in words and "--port" in words


def test_no_such_port_or_host(capsys):
    assert "65535" in said(capsys, bootstrap.main, "--port", "70000")
    assert "--port" in said(capsys, bootstrap.main, "--port", "http")
    assert "over-there" in said(capsys, bootstrap.main, "--host", "over-there")


def test_a_bad_identity_file(capsys, tmp_path, model):
    file = tmp_path / "peer.key"
    file.write_text("no key at all")
    assert str(file) in said(capsys, serve.main, model, "--identity", file, "--host", "127.0.0.1")
    assert str(file) in said(capsys, bootstrap.main, "--identity", file, "--host", "127.0.0.1")
    assert "no folder" in said(capsys, bootstrap.main, "--identity", tmp_path / "mistyped" / "peer.key", "--host", "127.0.0.1")


def test_a_home_where_no_key_can_be_made(capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nowhere")
    assert "/proc/nowhere" in said(capsys, bootstrap.main, "--host", "127.0.0.1")


def test_debug_shows_where(capsys, tmp_path):
    assert bootstrap.main(["--port", "70000", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    for debug in (True, False):
        (tmp_path / "settings.yaml").write_text(f"debug: {str(debug).lower()}\nidentity: {tmp_path}/mistyped/peer.key\nhost: 127.0.0.1\n")
        assert bootstrap.main(["--config", str(tmp_path / "settings.yaml")]) == 2
        assert ("Traceback" in capsys.readouterr().err) == debug


def test_more_layers_than_anything_has_and_no_model_at_all(capsys, model):
    many = "0:99999999999999999999"
    check_layers(many)
    assert "2147483648" not in said(capsys, serve.main, model, "--layers", many)
    assert "name is empty" in said(capsys, serve.main, "")
