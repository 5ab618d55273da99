"""Every command that README and docs show is run: against a swarm of the demo model where that takes seconds, otherwise as far as it goes without what it
needs, for the reason that stands beside it. One that nobody thought of fails.

What is changed before it runs: the model and the address of an example, ports, and how much is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import swarm
from swarm.net.identity import is_peer_id
from tests.cli.conftest import Command
from tests.test_docs import PAGES, ROOT, fences

ADDRESS = re.compile(r"/ip4/203\.0\.113\.5/tcp/31337/p2p/\w+")
SOMEBODY = re.compile(r"(?<=(?:invite|revoke) )12D3KooW\w+")
LANGUAGES = {"sh", "python", "yaml", "text"}


def shown() -> Iterator[tuple[str, str]]:
    """Each command line once, and where it was first. A comment behind it is no part of it."""
    seen = set()
    for page in PAGES:
        for language, code in fences(page):
            assert language in LANGUAGES, f"{page.name}: say which language a block is in ({', '.join(sorted(LANGUAGES))}), {language!r} is none"
            for line in code.replace("\\\n", " ").splitlines() if language == "sh" else ():
                line = re.sub(r"\s+#.*", "", line).strip()
                if line and not line.startswith("#") and line not in seen:
                    seen.add(line)
                    yield line, page.name


LINES = list(shown())

# --- without running it to its end ------------------------------------------------------------------------------------------------------------------------


def planned(line: str) -> None:
    """make says what it would do."""
    ran = subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.strip(), ran.stderr


def rehearsed(line: str) -> None:
    """The set-up says what it would do."""
    words = shlex.split(line.removeprefix("sudo ").replace("--into /opt/swarm", "--into /nowhere/swarm").replace("swarm_llm-0.1.0-py3-none-any.whl", "."))
    ran = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and "would run:" in ran.stdout, ran.stderr


def understood(line: str) -> None:
    """The command takes these options, and says what it would run with."""
    name, *arguments = shlex.split(line)
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"swarm.cli.{name.removeprefix('swarm-')}").parser().read([*arguments, "--print-config"])
    assert end.value.code == 0


def benchmark(line: str) -> None:
    """There is such a module, and it has these options."""
    module, arguments = re.search(r"-m bench\.(\w+)(.*)", line.replace("$far", "-m bench.far")).groups()  # type: ignore[union-attr]
    source = (ROOT / "bench" / f"{module}.py").read_text()
    missing = [option for option in re.findall(r"--[a-z-]+", arguments) if f'"{option}"' not in source]
    assert "__main__" in source and not missing, f"bench.{module} has no {missing}"


def files_are_there(line: str) -> None:
    """Those of the checkout that it names."""
    for word in shlex.split(line):
        if re.match(r"(scripts|bootstrap)/", word):
            assert (ROOT / word).exists(), word
        if word in ("swarm-serve", "swarm-bootstrap") and "systemctl" in line:
            assert list(ROOT.glob(f"*/**/{word}.service")), word


def shell(line: str) -> None:
    """Parts of a loop; test_blocks_are_shell reads the whole of it."""


UNRUN: list[tuple[str, Callable[[str], None], str]] = [
    (r"make [a-z-]+", planned, "minutes each; test_demo runs the demo, CI the tests, test_docs the site"),
    (r"(sudo )?sh scripts/setup\.sh.*", rehearsed, "gigabytes; test_wheel sets an environment up"),
    (r"pip wheel --no-deps \.", files_are_there, "test_wheel makes one"),
    (r"swarm-bench .*", understood, "minutes; test_bench measures for seconds"),
    (r"(\.venv/bin/python -m bench\..*|\$far .*|far=.*)", benchmark, "minutes to hours"),
    (r"(export [A-Z_]+=\w+|for \w+ in .*; do|done)", shell, "no command of its own"),
    (r"(sudo (install|cp|systemctl|python3)|journalctl) .*", files_are_there, "root, and a machine that is meant for it"),
    (r"docker .*", files_are_there, "docker"),
]

# --- run ----------------------------------------------------------------------------------------------------------------------------------------------------

ENDS = r"swarm-(generate|status|doctor) .*"
"""These answer and end."""

SERVES = r"swarm-(bootstrap|serve)( .*)?"
"""These are there until they are told to leave."""

OVER_HTTP = r"(swarm-gateway .*|curl .*)"
PRIVATE = r"swarm-\w+ .*(our\.key|my\.key|theirs\.invitation).*"

WITHIN = {"generate": ["--max-new-tokens", "8"], "status": [], "doctor": ["--host", "127.0.0.1"], "serve": ["--host", "127.0.0.1", "--max-memory", "1GB"]}
WITHIN |= {"bootstrap": ["--host", "127.0.0.1"], "gateway": ["--host", "127.0.0.1"]}
"""What a line gets beside its own words, so that it needs seconds, and no network but this machine's."""


def changed(line: str, initial_peers: str, **others: str) -> tuple[str, list[str]]:
    """The command and its words, as they are run here."""
    line = ADDRESS.sub(initial_peers, line.replace("Qwen/Qwen3-8B", swarm.demo_model()).replace("--local 3", "--local 1"))
    for old, new in others.items():
        line = line.replace(old.replace("_", "."), new)
    name, *words = shlex.split(line)
    name = name.removeprefix("swarm-")
    if words and words[0] in ("keygen", "invite", "revoke"):
        return name, words
    ports = ["--port", "0"] if name in ("serve", "bootstrap", "gateway") else []
    return name, [*words, *WITHIN[name], *ports]


@pytest.fixture(scope="module")
def demo() -> Iterator[swarm.LocalSwarm]:
    with swarm.LocalSwarm(swarm.demo_model(), layers=["0:12"]) as local:
        yield local


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def lines(pattern: str, but: str = r"\b\B") -> list[str]:
    return [line for line, _ in LINES if re.fullmatch(pattern, line) and not re.fullmatch(but, line)]


def until(command: Command, words: str) -> str:
    return command.read_until(words)


def leave(command: Command) -> None:
    command.signal(signal.SIGINT)
    status, _, trouble = command.end()
    assert status == 0 and "Traceback" not in trouble, trouble


def test_every_command_shown_is_run_or_says_why_not():
    ways = [*(pattern for pattern, _, _ in UNRUN), ENDS, SERVES, OVER_HTTP, PRIVATE]
    assert [f"{page}: {line}" for line, page in LINES if not any(re.fullmatch(pattern, line) for pattern in ways)] == []
    assert all(lines(pattern) for pattern in ways), "a way for what nobody shows"
    assert all(reason for _, _, reason in UNRUN)


@pytest.mark.parametrize("line", [line for pattern, _, _ in UNRUN for line in lines(pattern)])
def test_what_is_not_run_is_right_as_far_as_it_goes(line):
    next(check for pattern, check, _ in UNRUN if re.fullmatch(pattern, line))(line)


def test_blocks_are_shell():
    for page in PAGES:
        for language, code in fences(page):
            if language == "sh":
                ran = subprocess.run(["sh", "-n"], input=code, capture_output=True, text=True)
                assert ran.returncode == 0, f"{page.name}: {ran.stderr}"


@pytest.mark.parametrize("line", lines(ENDS, PRIVATE))
def test_what_answers_answers(line, demo, there, capfd):
    name, words = changed(line, demo.initial_peers[0])
    status = importlib.import_module(f"swarm.cli.{name}").main(words)
    out, trouble = capfd.readouterr()
    assert status == 0 or (name == "doctor" and status == 1 and "✗" in out), trouble
    assert out.strip() and "Traceback" not in trouble


@pytest.mark.parametrize("line", lines(SERVES, PRIVATE))
def test_what_serves_serves_until_ctrl_c(line, demo, there, command):
    name, words = changed(line, demo.initial_peers[0])
    started = command(name, *words)
    until(started, "serving layers" if name == "serve" else "Ctrl-C leaves")
    leave(started)


def test_the_gateway_and_what_asks_it(demo, there, command, capfd):
    (there / "keys.txt").write_text("a key that is long enough\n")
    gateways = lines(r"swarm-gateway .*")
    for line in gateways:
        name, words = changed(line, demo.initial_peers[0])
        started = command(name, *words)
        url = re.search(r"(http://\S+?)/v1", until(started, "swarm view at"))[1]  # type: ignore[index]
        if "--local" in line:
            for asks in lines(r"curl .*"):
                ran = subprocess.run([*shlex.split(asks.replace("http://127.0.0.1:8000", url)), "-fsS"], capture_output=True, text=True, timeout=120)
                assert ran.returncode == 0 and ran.stdout, f"{asks}: {ran.stderr}"
                if "/chat/" in asks:
                    assert json.loads(ran.stdout)["choices"][0]["finish_reason"] in ("stop", "length")
                if '"stream"' in asks:
                    assert ran.stdout.endswith("data: [DONE]\n\n")
            example = next(code for language, code in fences(ROOT / "docs" / "gateway.md") if "from openai import" in code)
            exec(compile(example.replace("http://127.0.0.1:8000", url), "docs/gateway.md", "exec"), {})
            assert capfd.readouterr().out.count(" 1 3 7 9") >= 1, "asked for with temperature 0"
        leave(started)
    assert any("--local" in line for line in gateways)


def test_a_private_swarm_from_its_key_to_the_end_of_a_membership(there, capfd):
    """As docs/own.md tells it, in its order; and what shows the swarm is let in with the same two files. How soon a member
    is put out, tests/attacks/test_private.py tells."""
    from swarm.cli import bootstrap, generate, status

    with contextlib.ExitStack() as stack:

        def start(name: str, *words: str) -> Command:
            started = Command(name, words)
            stack.callback(started.kill)
            return started

        def said(line: str) -> str:
            assert bootstrap.main(changed(line, "", **who)[1]) == 0
            return capfd.readouterr().out

        who: dict[str, str] = {}
        keygen, entrance, own, invite, serve, ask, revoke = lines(PRIVATE)
        said(keygen)
        door = start(*_flat(changed(entrance, "")))
        address = re.search(r"/ip4/127\.0\.0\.1/tcp/\S+", until(door, "Ctrl-C leaves"))[0]  # type: ignore[index]
        member = said(own).strip()
        assert is_peer_id(member)
        example = SOMEBODY.search(invite)[0]  # type: ignore[index]
        who = {example: member}
        assert "invites" in said(invite)
        peer = start(*_flat(changed(serve, address)))
        until(peer, "serving layers")
        leave(peer)

        until(start(*_flat(changed(f"swarm-serve Qwen/Qwen3-8B --swarm-key our.key --initial-peers {address}", ""))), "serving layers")
        _, words = changed(ask, address)
        assert generate.main(words) == 0 and capfd.readouterr().out.strip()
        let_in = ["--model", swarm.demo_model(), "--initial-peers", address, "--swarm-key", "theirs.invitation", "--identity", "my.key"]
        assert status.main([*let_in]) == 0 and "served completely" in capfd.readouterr().out
        strange = ["--model", swarm.demo_model(), "--initial-peers", address]
        assert status.main(strange) == 1
        assert "private" in capfd.readouterr().out, "whoever is no member is told why nothing is to be seen"

        gateway = start("gateway", *let_in, "--port", "0", "--patience", "5")
        url = re.search(r"(http://\S+?)/v1", until(gateway, "swarm view at"))[1]  # type: ignore[index]
        body = json.dumps({"model": "demo", "prompt": "Once upon a time", "max_tokens": 4})
        answer = ["curl", "-sS", f"{url}/v1/completions", "-H", "Content-Type: application/json", "-d", body]
        ran = subprocess.run(answer, capture_output=True, text=True, timeout=120)
        assert json.loads(ran.stdout)["usage"]["completion_tokens"] == 4, ran.stdout
        assert "is no member" in said(revoke)


def _flat(command: tuple[str, list[str]]) -> tuple[str, ...]:
    return command[0], *command[1]
