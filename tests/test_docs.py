"""README and docs, held against the code: links lead somewhere, commands have these flags, examples compile, messages and errors are all described."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

import swarm
from swarm import core, errors, wire
from swarm.cli.configuration import variable_of

ROOT = Path(__file__).parent.parent

ELSEWHERE = [path for path in (ROOT / "bootstrap" / "README.md", ROOT / "swarm" / "demo" / "README.md") if path.exists()]
PAGES = [*sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), *ELSEWHERE]
EXPECTED = {"index", "join", "own", "api", "gateway", "errors", "journey", "glossary", "protocol", "operations", "security", "performance", "models", "house"}

COMMAND = re.compile(r"(?<![\w-])(?:\.venv/bin/)?swarm-([a-z]+)\b")
COMMANDS = sorted(name.removeprefix("swarm-") for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")

OUR_FILES = re.compile(r"(?:swarm|cli|bootstrap|tests|bench|docs|training)/[\w./-]+")
VARIABLES_OF_OURS = {"SWARM_CACHE", "SWARM_TORCH_INDEX"}
"""Variables of the environment that are no option of a command."""

NOT_HERE = ("/work/", "/home/", "/root/", "localhost:")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fences(page: Path) -> Iterator[tuple[str, str]]:
    return ((match[1], match[2]) for match in FENCE.finditer(text_of(page)))


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def inline(page: Path) -> list[str]:
    return INLINE.findall(prose(page))


def parser_of(command: str):
    try:
        module = importlib.import_module(f"swarm.cli.{command}")
    except ModuleNotFoundError:
        pytest.fail(f"there is no command swarm-{command}")
    return module.parser()


def parser_for(command: str, arguments: list[str]):
    """Of a whole command line, whose first word may name a command of its own; and what is left of its arguments."""
    from swarm.cli.members import COMMANDS

    if command == "bootstrap" and arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]][0](), arguments[1:]
    return parser_of(command), arguments


def command_lines(page: Path) -> Iterator[list[str]]:
    """Whole command lines: those in code blocks. A backslash joins lines, a # begins a comment."""
    for language, code in fences(page):
        if language in ("", "sh", "bash", "console"):
            for line in code.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ")
                if match := COMMAND.match(line):
                    yield [match[1], *shlex.split(line[match.end() :], comments=True)]


def options(parser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_every_page_is_there():
    assert {page.stem for page in PAGES} >= EXPECTED | {"README"}
    assert "Apache License" in text_of(ROOT / "LICENSE")


def test_every_page_is_reached_from_the_readme():
    readme = text_of(ROOT / "README.md")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in readme] == []


def test_the_site_builds_without_a_warning(tmp_path):
    """Its own check of links and anchors, and that no page is left out of the navigation."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; it comes with the extra dev")
    config = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))
    assert config["validation"] == {"links": {"anchors": "warn", "not_found": "warn"}, "nav": {"omitted_files": "warn"}}
    ran = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not (apart := {page.stem for page in (ROOT / "docs").glob("*.md")} ^ {page.stem for page in tmp_path.glob("*.html")} - {"404", "search"}), apart
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', text_of(tmp_path / "index.html"))
    assert not fetched, f"the site loads {fetched}, and is to work offline"


@pages
def test_links_lead_somewhere(page):
    dead = []
    for target in LINK.findall(prose(page)):
        if "://" not in target and not target.startswith("mailto:"):
            path = target.partition("#")[0]
            if path and not (page.parent / path).exists():
                dead.append(target)
    assert not dead, f"{page.name} links to what is not there: {', '.join(dead)}"


@pages
def test_named_files_and_what_is_named_in_them_exist(page):
    """`swarm/peer/hops.py`, `swarm/net/` and `swarm/peer/hops.py: HopRoom._open`."""
    wrong = []
    for said in inline(page):
        name, _, inside = said.partition(": ")
        if not OUR_FILES.fullmatch(name):
            continue
        path = ROOT / name
        if not path.exists():
            wrong.append(f"there is no {name}")
        elif inside and path.suffix == ".py":
            wrong += [f"{name} has no {part}" for part in inside.split(".") if not re.search(rf"\b{re.escape(part)}\b", text_of(path))]
    assert not wrong, f"{page.name}: {'; '.join(wrong)}"


@pytest.fixture(scope="module")
def members() -> dict[str, set[str]]:
    """What each class of ours has."""
    members: dict[str, set[str]] = {}
    for folder in ("swarm", "cli", "bootstrap"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(text_of(path))):
                if isinstance(node, ast.ClassDef):
                    found = members.setdefault(node.name, set())
                    found.update(child.name for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))
                    found.update(child.target.id for child in node.body if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name))
    return members


@pages
def test_names_of_functions_and_classes_exist(page, members):
    """`HopSession.step`, wherever it is: a class of ours with that attribute."""
    wrong = []
    for said in inline(page):
        if match := re.fullmatch(r"([A-Z]\w+)\.(\w+)", said):
            owner, name = match.groups()
            if owner in members and name not in members[owner]:
                wrong.append(said)
            elif owner not in members and owner[0].isupper() and not said.endswith((".md", ".txt")):
                wrong.append(said)
    assert not wrong, f"{page.name} names what is not there: {', '.join(wrong)}"


@pages
def test_command_lines_are_understood(page):
    for command, *arguments in command_lines(page):
        try:
            parser, rest = parser_for(command, arguments)
            parser.read(rest)
        except errors.SwarmError as error:
            pytest.fail(f"{page.name}: swarm-{command} {shlex.join(arguments)}\n{error}")


@pages
def test_every_flag_is_a_flag_of_some_command(page):
    """Inline: `--layers 0:12` must be an option of a command, `swarm-serve --drain 5` one of that command."""
    ours = {name: options(parser_of(name)) for name in COMMANDS}
    ours["bootstrap"] |= {option for name in ("keygen", "invite", "revoke") for option in options(parser_for("bootstrap", [name])[0])}
    every = set().union(*ours.values(), re.findall(r"^ +(--[a-z-]+)\)", text_of(ROOT / "scripts" / "setup.sh"), re.MULTILINE))
    wrong = []
    for said in inline(page):
        command = COMMAND.match(said)
        known = every if command is None else ours[command[1]]
        if command is None and not said.startswith("--"):
            continue
        wrong += [f"{said} ({flag})" for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", said) if flag not in known | {"--help", "--json"}]
    assert not wrong, f"{page.name} names options that do not exist: {', '.join(wrong)}"


@pages
def test_commands_exist(page):
    for name in sorted(set(COMMAND.findall(text_of(page)))):
        parser_of(name)


@pages
def test_variables_of_the_environment_exist(page):
    known = set(VARIABLES_OF_OURS)
    for name in COMMANDS:
        known |= {variable_of(action) for action in parser_of(name)._actions}
    named = {name for name in re.findall(r"\bSWARM_[A-Z_]+\b", text_of(page)) if not name.endswith("_")}
    assert named <= known, f"{page.name} names {', '.join(sorted(named - known))}, which nothing reads"


@pages
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {target for said in inline(page) if (match := re.fullmatch(r"make ([a-z-]+)", said)) for target in (match[1],)}
    for language, code in fences(page):
        if language == "sh":
            named |= set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE))
    assert named <= targets, f"{page.name} says make {', '.join(sorted(named - targets))}"


@pages
def test_python_examples_compile(page):
    for language, code in fences(page):
        if language == "python":
            compile(code, str(page), "exec")
            for name in re.findall(r"\bswarm\.([a-zA-Z_]+)", code):
                assert hasattr(swarm, name), f"{page.name} uses swarm.{name}"


def test_yaml_examples_are_understood(tmp_path):
    seen = 0
    for page in PAGES:
        for language, code in fences(page):
            if language == "yaml":
                command = COMMAND.search(code)
                assert command is not None, f"{page.name}: say in a comment for which command this file is"
                (tmp_path / "file.yaml").write_text(code)
                parser = parser_of(command[1])
                words = ["SOMETHING" for action in parser._actions if not action.option_strings and action.nargs is None]
                parser.read([*words, "--config", str(tmp_path / "file.yaml")])
                seen += 1
    assert seen


@pages
def test_nothing_but_the_project_is_spoken_of(page):
    found = [word for word in NOT_HERE if word in text_of(page)]
    assert not found, f"{page.name} names a place on somebody's machine: {', '.join(found)}"


# --- completeness -----------------------------------------------------------------------------------------------------------------------------------------

PROTOCOL = ROOT / "docs" / "protocol.md"
MESSAGES = typing.get_args(wire.AnyMessage)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_message_is_described_with_its_number_and_fields(message):
    number, name = message.__struct_config__.tag, message.__name__
    row = next((line for line in text_of(PROTOCOL).splitlines() if line.startswith(f"| {number} | `{name}` |")), None)
    assert row is not None, f"docs/protocol.md has no row `| {number} | `{name}` | …`"
    shared = set(wire.SessionMessage.__struct_fields__) if issubclass(message, wire.SessionMessage) else set()
    missing = [field for field in message.__struct_fields__ if field not in shared and f"`{field}`" not in row]
    assert not missing, f"docs/protocol.md: the row of {name} lacks {', '.join(missing)}"
    said = re.findall(r"`(\w+)`", row)
    assert set(said) <= {name, *message.__struct_fields__}, f"docs/protocol.md: {name} has no {sorted(set(said) - {name, *message.__struct_fields__})}"


@pytest.mark.parametrize(
    "struct",
    [
        wire.Order,
        wire.Prefix,
        wire.Blob,
        wire.Logprobs,
        wire.Announcement,
        wire.Signed,
        wire.SessionMessage,
        wire.Facts,
        wire.Claim,
        wire.Advice,
        wire.DialBack,
        wire.DialledBack,
        wire.Statement,
        wire.Member,
        wire.Revocation,
        core.Hop,
        core.Sampling,
    ],
    ids=lambda s: s.__name__,
)
def test_every_field_of_what_travels_is_named(struct):
    fields = struct.__struct_fields__ if issubclass(struct, msgspec.Struct) else [field.name for field in dataclasses.fields(struct)]
    missing = [field for field in fields if f"`{field}`" not in text_of(PROTOCOL)]
    assert not missing and f"`{struct.__name__}" in text_of(PROTOCOL), f"docs/protocol.md does not name {struct.__name__}: {', '.join(missing)}"


@pytest.mark.parametrize("reason", wire.REASONS)
def test_every_reason_is_described(reason):
    assert f"| `{reason}` |" in text_of(PROTOCOL)


def test_no_struct_of_the_wire_is_forgotten():
    structs = {
        struct for _, struct in inspect.getmembers(wire, inspect.isclass) if issubclass(struct, msgspec.Struct) and struct.__module__.startswith(wire.__name__)
    }
    inside = {
        wire.Order,
        wire.Prefix,
        wire.Blob,
        wire.Logprobs,
        wire.Facts,
        wire.Claim,
        wire.Advice,
        wire.Announcement,
        wire.Signed,
        wire.DialBack,
        wire.DialledBack,
        wire.Statement,
        wire.Member,
        wire.Revocation,
    }
    stored = {wire.Dictionary, wire.Entry}  # hivemind's packing of what lies in the DHT
    assert structs == {*MESSAGES, wire.Message, wire.SessionMessage, wire.Coordination, *inside, *stored}


ERRORS = [error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, errors.SwarmError)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_says_what_to_do(error):
    assert f"| `{error.__name__}` |" in text_of(ROOT / "docs" / "errors.md"), f"docs/errors.md has no row for {error.__name__}"
    assert re.search(rf"\b{error.__name__}\b", errors.__doc__ or ""), f"{error.__name__} is not in the tree that opens swarm/errors.py"


def test_every_benchmark_is_listed():
    page = text_of(ROOT / "docs" / "performance.md")
    assert [path.name for path in sorted((ROOT / "bench").glob("*.py")) if path.name != "__init__.py" and f"`bench/{path.name}`" not in page] == []


def test_every_family_called_tested_is_tested():
    from tests.model.tiny import FAMILIES

    page = text_of(ROOT / "docs" / "models.md")
    said = re.findall(r"`(\w+)`", page.partition("(`tests/model/test_families.py`):")[2].partition("tied and untied")[0])
    assert said and set(said) <= set(FAMILIES), f"docs/models.md calls {', '.join(sorted(set(said) - set(FAMILIES)))} tested"


def test_the_house_names_every_room():
    from tests.test_architecture import modules, room_of

    page = text_of(ROOT / "docs" / "house.md")
    rooms = {room_of(module) for module in modules()} - {"swarm", "aio"}
    assert {room for room in rooms if f"`{room}`" not in page} == set()
