"""swarm-gateway as a command: what it refuses before anything is started, and how it leaves."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request

import pytest

from swarm.cli import gateway
from swarm.errors import InvalidConfig
from tests.cli.test_bad_input import said

PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def test_nobody_to_ask(capsys):
    assert "no public peers yet; name one with --initial-peers" in said(capsys, gateway.main)
    assert "cannot join --initial-peers" in said(capsys, gateway.main, "--local", "1", "--initial-peers", PEER)
    assert "cannot read 'x' as a peer address" in said(capsys, gateway.main, "--initial-peers", "x")


def test_whom_to_ask_is_read_as_by_every_command_that_asks(capsys):
    assert "leave out --swarm-key" in said(capsys, gateway.main, "--local", "1", "--swarm-key", "our.key")
    assert "leave out one of the two" in said(capsys, gateway.main, "--local", "1", "--trust", PEER.rpartition("/")[2])
    assert "say --own-ends too" in said(capsys, gateway.main, "--initial-peers", PEER, "--own-layers", "0:2")


def test_what_cannot_be_is_said_before_anything_is_started(capsys, tmp_path):
    assert "cannot read the keys in /nowhere" in said(capsys, gateway.main, "--initial-peers", PEER, "--api-keys", "/nowhere")
    (tmp_path / "keys").write_text("abc\n")
    assert "at least 8" in said(capsys, gateway.main, "--initial-peers", PEER, "--api-keys", tmp_path / "keys")
    assert "cannot listen on 203.0.113.5" in said(capsys, gateway.main, "--local", "1", "--host", "203.0.113.5")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "already in use" in said(capsys, gateway.main, "--local", "1", "--port", taken.getsockname()[1])
    assert "/nowhere/model" in said(capsys, gateway.main, "--local", "1", "--model", "/nowhere/model")
    assert "at most 12 peers" in said(capsys, gateway.main, "--local", "13", "--port", "0")


def test_settings_from_a_file_and_a_misspelt_one(tmp_path):
    path = tmp_path / "gateway.yaml"
    path.write_text("max-answers: 5\ncors: [https://a.example, https://b.example]\n")
    args = gateway.parser().read(["--config", str(path)])
    assert args.max_answers == 5 and args.cors == ["https://a.example", "https://b.example"]
    path.write_text("max-answer: 5\n")
    with pytest.raises(InvalidConfig, match="did you mean max-answers"):
        gateway.parser().read(["--config", str(path)])


def test_ctrl_c_lets_an_answer_finish_and_leaves(local, model, command):
    peers = [text for addr in local.initial_peers for text in ("--initial-peers", addr)]
    serving = command("gateway", "--model", model, "--name", "tiny", "--port", "0", *peers)
    url = serving.read_until("the swarm view at").partition("serving tiny at ")[2].partition("/v1")[0]
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        first = answer.readline()
        serving.signal(signal.SIGINT)
        rest = answer.read()
    assert first.startswith(b"data: ") and rest.endswith(b"data: [DONE]\n\n") and b'"completion_tokens":200' in rest
    status, out, err = serving.end()
    assert (status, "left" in out) == (0, True), err


def test_a_model_without_a_chat_format_says_so(local, model, command):
    peers = [text for addr in local.initial_peers for text in ("--initial-peers", addr)]
    serving = command("gateway", "--model", model, "--name", "tiny", "--port", "0", *peers)
    url = serving.read_until("the swarm view at").partition("serving tiny at ")[2].partition("/v1")[0]
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == 400 and "no chat template; give it a plain prompt" in json.loads(caught.value.read())["error"]["message"]
