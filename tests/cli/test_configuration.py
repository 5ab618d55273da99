"""Settings from files, the environment and flags: told as they would run, read again as they were told, and refused with the nearest name. Of every command
that is installed, whatever options it has."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from swarm.cli import configuration, generate, serve
from swarm.cli.arguments import Parser
from swarm.cli.configuration import name_of, variable_of
from swarm.errors import InvalidConfig

ROOT = Path(__file__).parent.parent.parent
COMMANDS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
EXAMPLE = re.compile(r"^```yaml\n# (\S+\.yaml), for: (swarm-[^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [match for page in sorted((ROOT / "docs").glob("*.md")) for match in EXAMPLE.findall(page.read_text(encoding="utf-8"))]


def own_parser(command: str) -> Parser:
    return importlib.import_module(f"swarm.cli.{command.removeprefix('swarm-')}").parser()


def printed(parser: Parser, argv: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as left:
        parser.read([*argv, "--print-config"])
    assert left.value.code == 0
    return capsys.readouterr().out


def positionals(parser: Parser) -> list[str]:
    return ["something" for action in parser._actions if not action.option_strings and action.nargs is None]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_printed_gives_the_same_again(command, capsys, tmp_path):
    argv = positionals(own_parser(command))
    text = printed(own_parser(command), argv, capsys)
    (tmp_path / "all.yaml").write_text(text)
    expected, again = vars(own_parser(command).read(argv)), vars(own_parser(command).read(["--config", str(tmp_path / "all.yaml")]))
    assert {**again, "config": None} == {**expected, "config": None}
    for action in own_parser(command)._actions:
        if action.help != argparse.SUPPRESS and action.dest not in ("help", "config", "print_config"):
            assert re.search(rf"^(# )?{name_of(action)}:", text, re.MULTILINE), f"{name_of(action)} is not told"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_it_takes(command, tmp_path):
    found = [(line, body) for _, line, body in EXAMPLES if shlex.split(line)[0] == command]
    assert found, f"no example of a file for {command} in docs; write one that opens with `# name.yaml, for: {command} --config name.yaml`"
    for line, body in found:
        words = shlex.split(line)[1:]
        (tmp_path / words[words.index("--config") + 1]).write_text(body)
        words[words.index("--config") + 1] = str(tmp_path / words[words.index("--config") + 1])
        parser = own_parser(command)
        args = parser.read(words)
        for key in re.findall(r"^([a-z-]+):", body, re.MULTILINE):
            assert getattr(args, key.replace("-", "_")) is not None, key


def test_each_setting_says_where_it_comes_from(capsys, tmp_path, monkeypatch):
    (tmp_path / "peer.yaml").write_text("model: from/file\npolite: true\ninitial-peers: [/a, /b]\nport: 1\n")
    monkeypatch.setenv("SWARM_PORT", "2")
    text = printed(serve.parser(), ["--config", str(tmp_path / "peer.yaml"), "--on-disk", "embed", "--max-memory", "6GB"], capsys)
    for line in (
        f"model: from/file  # {tmp_path}/peer.yaml", "port: 2  # SWARM_PORT", "on-disk: embed  # command line", "max-memory: 6000000000  # command line",
        "layers: auto  # default", f"polite: true  # {tmp_path}/peer.yaml", f"initial-peers:  # {tmp_path}/peer.yaml\n- /a\n- /b", "# threads:",
    ):  # fmt: skip
        assert f"\n{line}\n" in text, line


def test_what_has_no_flag_comes_from_the_command_line_then_the_environment_then_the_file(tmp_path, monkeypatch):
    (tmp_path / "peer.yaml").write_text("model: from/file\n")
    file = ["--config", str(tmp_path / "peer.yaml")]
    assert serve.parser().read(file).model == "from/file"
    monkeypatch.setenv("SWARM_MODEL", "from/environment")
    assert serve.parser().read(file).model == "from/environment"
    assert serve.parser().read(["from/line", *file]).model == "from/line"
    monkeypatch.delenv("SWARM_MODEL")
    with pytest.raises(InvalidConfig, match="required: MODEL; see swarm-serve --help"):
        serve.parser().read([])


@pytest.mark.parametrize("prompt", ["Q: sort 7 3 9 1\nA:", "tab\there", "# no comment", 'it\'s "said"\n\n', "ü\u2028\x85\U0001f600\n"])
def test_a_text_of_several_lines_is_printed_so_that_it_is_read_again(prompt, capsys, tmp_path):
    (tmp_path / "ask.yaml").write_text(printed(generate.parser(), [prompt, "--stop", prompt], capsys), encoding="utf-8")
    again = generate.parser().read(["--config", str(tmp_path / "ask.yaml")])
    assert (again.prompt, again.stop) == (prompt, [prompt])


def test_secrets_are_not_shown_but_files_that_hold_them_are(capsys, tmp_path):
    def command() -> Parser:
        it = Parser("swarm-example", "An example.", "none")
        it.add_argument("--api-key")
        it.add_argument("--swarm-key")
        it.common()
        return it

    (tmp_path / "swarm.key").write_text("secret")
    text = printed(command(), ["--api-key", "hush", "--swarm-key", str(tmp_path / "swarm.key")], capsys)
    assert "hush" not in text and "# api-key: (set, not shown)  # command line" in text and f"swarm-key: {tmp_path}/swarm.key" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["m", "--prot", "3"], "there is no option --prot; did you mean --port[?]"),
        (["m", "--cache-token=3"], "there is no option --cache-token; did you mean --cache-tokens[?]"),
        (["m", "--zzzzzz"], "there is no option --zzzzzz; see swarm-serve --help"),
        (["--model", "m"], "there is no option --model; give the model without a flag before it"),
    ],
)
def test_an_unknown_option_names_the_nearest(given, words):
    with pytest.raises(InvalidConfig, match=words):
        serve.parser().read(given)


@pytest.mark.parametrize(("key", "nearest"), [("prot", "port"), ("cache_tokens", "cache-tokens"), ("modle", "model")])
def test_an_unknown_key_of_a_file_names_the_nearest(tmp_path, key, nearest):
    (tmp_path / "bad.yaml").write_text(f"{key}: 3\n")
    with pytest.raises(InvalidConfig, match=rf"bad.yaml sets '{key}', which is no setting of this command; did you mean {nearest}\?"):
        serve.parser().read(["m", "--config", str(tmp_path / "bad.yaml")])


def test_an_unknown_key_without_a_value_is_refused_as_well(tmp_path):
    (tmp_path / "bad.yaml").write_text("prot:\nlayers:\n")
    with pytest.raises(InvalidConfig, match=r"'prot'.* did you mean port\?"):
        serve.parser().read(["m", "--config", str(tmp_path / "bad.yaml")])


def test_a_variable_that_is_nearly_ours_is_refused_and_those_of_others_are_not(monkeypatch):
    monkeypatch.setenv("SWARM_TOP_P", "0.5")  # of swarm-generate
    monkeypatch.setenv("SWARM_CACHE", "/tmp/cache")
    monkeypatch.setenv("SWARM_AGENTS_OF_ANOTHER_PROGRAM", "7")
    serve.parser().read(["m"])
    monkeypatch.setenv("SWARM_INITIAL_PEER", "/a")
    with pytest.raises(InvalidConfig, match="the environment sets SWARM_INITIAL_PEER, which is no setting; did you mean SWARM_INITIAL_PEERS[?]"):
        serve.parser().read(["m"])


def test_variables_of_all_commands_are_known():
    known = configuration.of_all_commands()
    assert {variable_of(action) for action in generate.parser()._actions} | {variable_of(action) for action in serve.parser()._actions} <= known
