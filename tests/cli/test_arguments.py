"""How arguments are read: precedence, what is refused, and that none of it loads torch."""

from __future__ import annotations

import argparse
import importlib
import math
import resource
import subprocess
import sys

import pytest

from swarm.cli import bootstrap, generate, serve
from swarm.cli.arguments import Parser, addresses, number, region, short_name, size
from swarm.errors import InvalidConfig

COMMANDS = ["serve", "generate", "bootstrap", "status", "doctor", "bench", "gateway"]


def own_parser(name: str) -> Parser:
    return importlib.import_module(f"swarm.cli.{name}").parser()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_flag_at_once_and_without_torch(name):
    script = f"""
import sys
from swarm.cli.{name} import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
heavy = {{"torch", "transformers", "hivemind"}} & set(sys.modules)
assert not heavy, heavy
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 0, ran.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    for action in own_parser(name)._actions:
        for option in action.option_strings if action.help != argparse.SUPPRESS else ():
            assert option in ran.stdout
    assert "--ready-fd" not in ran.stdout
    assert "examples:" in ran.stdout and "default: " in ran.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_words_of_help(name):
    assert all(action.help for action in own_parser(name)._actions)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path, monkeypatch):
    config = tmp_path / "serve.yaml"
    config.write_text("port: 1\nhost: 127.0.0.3\nlayers: 4:8\ncache-tokens: 77\n")
    monkeypatch.setenv("SWARM_PORT", "2")
    monkeypatch.setenv("SWARM_HOST", "127.0.0.2")
    args = serve.parser().read(["model", "--config", str(config), "--port", "3"])
    assert (args.port, args.host, args.cache_tokens, args.drain) == (3, "127.0.0.2", 77, serve.DRAIN)
    assert args.layers == "4:8"  # which YAML alone would read as 248


def test_several_peers_from_each_source(tmp_path, monkeypatch):
    config = tmp_path / "serve.yaml"
    config.write_text("initial-peers:\n  - /a\n  - /b\n")
    assert addresses(serve.parser().read(["model", "--config", str(config)]).initial_peers) == ["/a", "/b"]
    monkeypatch.setenv("SWARM_INITIAL_PEERS", "/c, /d /e")
    assert addresses(serve.parser().read(["model", "--config", str(config)]).initial_peers) == ["/c", "/d", "/e"]
    given = serve.parser().read(["model", "--config", str(config), "--initial-peers", "/f", "--initial-peers", "/g"])
    assert addresses(given.initial_peers) == ["/f", "/g"]


def test_what_stays_on_disk_from_each_source(tmp_path, monkeypatch):
    config = tmp_path / "serve.yaml"
    config.write_text("on-disk: embed\n")
    assert serve.parser().read(["model"]).on_disk == ()
    assert serve.parser().read(["model", "--config", str(config)]).on_disk == ("embed",)
    monkeypatch.setenv("SWARM_ON_DISK", "head, embed")
    assert serve.parser().read(["model", "--config", str(config)]).on_disk == ("embed", "head")
    assert serve.parser().read(["model", "--on-disk", "none"]).on_disk == ()


def test_switches_from_a_file_and_the_environment(tmp_path, monkeypatch):
    config = tmp_path / "generate.yaml"
    config.write_text("chat: true\nown-ends: false\nseed:\n")
    monkeypatch.setenv("SWARM_SHOW_ROUTE", "true")
    args = generate.parser().read(["hello", "--config", str(config)])
    assert (args.chat, args.own_ends, args.show_route, args.seed) == (True, False, True, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 31337\n", ["prot", "did you mean port"]),
        ("quite-unlike-anything: 1\n", ["quite-unlike-anything", "--help"]),
        ("ready-fd: 3\n", ["ready-fd"]),
        ("port: {a: 1}\n", ["port", "nested"]),
        ("port: 1\nhost: a\nport: 2\n", ["'port' twice", "keep one"]),
        ("port: [\n", ["YAML"]),
        ("just words\n", ["no settings"]),
        ("port: many\n", ["--port", "many"]),
    ],
)
def test_what_a_config_file_may_not_say(tmp_path, capsys, text, words):
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    assert bootstrap.main(["--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words), said


def test_a_missing_config_file(capsys):
    assert bootstrap.main(["--config", "/nowhere/at/all.yaml"]) == 2
    assert capsys.readouterr().err == (
        "swarm-bootstrap: cannot read the config file /nowhere/at/all.yaml: No such file or directory; name one that is there with --config\n"
    )


def test_sizes_as_people_write_them():
    assert [size(text) for text in ("20GB", "500m", "1.5GiB", "7", "2 TB")] == [20 * 10**9, 500 * 10**6, 3 * 2**29, 7, 2 * 10**12]
    for text in ("", "-1GB", "many", "1e9", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="write one like"):
            size(text)


def test_numbers_have_bounds():
    assert number(0, 10)("10") == 10
    assert number(0, 10, float)("0.5") == 0.5
    for text in ("11", "-1", "x", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError):
            number(0, 10)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="range"):
        number(0, 10, float)("nan")
    with pytest.raises(argparse.ArgumentTypeError, match="which is 1 to 1099511627776$"):
        number(1, 2**40)("0")
    with pytest.raises(argparse.ArgumentTypeError, match="0 is out of range, which is at least 1$"):
        number(1, math.inf)("0")
    with pytest.raises(argparse.ArgumentTypeError, match="which is 0.001 to 1000000000$"):
        number(0.001, 1e9, float)("0")


@pytest.mark.parametrize("text", ["0", "49kB", "49999"])
def test_an_upload_that_would_break_every_link_is_refused(text):
    with pytest.raises(InvalidConfig, match=f"--max-upload: {text} is too little to serve with; allow at least 50kB a second"):
        serve.parser().read(["model", "--max-upload", text])
    assert serve.parser().read(["model", "--max-upload", "50kB"]).max_upload == 50_000


def test_a_wrong_value_is_told_with_where_it_stands(tmp_path, monkeypatch):
    config = tmp_path / "generate.yaml"
    config.write_text("seed: x\n")
    with pytest.raises(InvalidConfig, match=f"argument --seed: 'x' is no whole number, as {config} has it; see"):
        generate.parser().read(["hello", "--config", str(config)])
    monkeypatch.setenv("SWARM_SEED", "abc")
    with pytest.raises(InvalidConfig, match="argument --seed: 'abc' is no whole number, as SWARM_SEED has it; see"):
        generate.parser().read(["hello", "--config", str(config)])
    with pytest.raises(InvalidConfig, match="argument --seed: 'y' is no whole number; see"):
        generate.parser().read(["hello", "--seed", "y"])


def test_abbreviations_are_not_guessed():
    with pytest.raises(InvalidConfig, match="--por"):
        bootstrap.parser().read(["--por", "1"])


def test_a_name_is_short_and_of_one_line():
    assert short_name("Anna's machine") == "Anna's machine"
    for text in ("x" * 65, "two\nlines"):
        with pytest.raises(argparse.ArgumentTypeError):
            short_name(text)


@pytest.mark.parametrize(
    "asked, zone, said",
    [
        (None, "Europe/Berlin", "Europe"),
        (None, "/usr/share/zoneinfo/America/Argentina/Ushuaia", "America"),
        (None, "/usr/share/zoneinfo/Etc/UTC", ""),
        (None, "UTC", ""),
        ("none", "Europe/Berlin", ""),
        ("eu-west", "Asia/Tokyo", "eu-west"),
        ("", "Asia/Tokyo", ""),
    ],
)
def test_a_peer_says_which_continent_it_is_on_unless_told_otherwise(asked, zone, said):
    assert region(asked, zone) == said


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_region_is_refused(empty):
    with pytest.raises(InvalidConfig, match="name is empty.* none to say nothing"):
        serve.parser().read(["model", "--region", empty])
    assert serve.parser().read(["model", "--region", "none"]).region == "none"
