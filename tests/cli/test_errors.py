"""docs/errors.md against the code: every entry is provoked, and every sentence of an error in the code has an entry (classes: tests/test_docs.py)."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from swarm import errors
from swarm.gateway.asked import UNSUPPORTED
from tests.cli.provoking import HOW, World

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "errors.md"
CLASSES = {name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.SwarmError)}

NOT_FOR_USERS = {
    "swarm/net/link.py", "swarm/net/links.py", "swarm/net/pair.py",  # between nodes, which try again or go elsewhere
    "swarm/sim",
}  # fmt: skip

WHERE_OTHERS_FAIL = {
    "it failed … times in … seconds": "tests/net/test_node.py",
    "the libp2p daemon of … does not answer; is this machine overloaded? Start this node again": "tests/net/test_node.py",
    "the libp2p daemon of … ended and cannot be started again (…); start this node again": "tests/net/test_node.py",
    "the answer ended without saying why; ask again": "tests/gateway/test_app.py",
    "this is a bug: …": "tests/client/test_session.py",
    "this client's own hop failed: …": "tests/client/test_session.py",
    "peer … was lost again and again; try again later, or resume the session": "tests/client/test_session.py",
    "peer … says no and nobody can take its place (…); try again later, or resume the session": "tests/client/test_session.py",
    "…, and none from the peers tried instead; try again later, or resume the session": "tests/client/test_session.py",
}
"""Not what a user did. The classes are explained under Classes; these tests tell how answers go on."""

PIECED = ("…: …", "……; see … --help", "…; name one with --initial-peers (swarm-serve and swarm-bootstrap print theirs)…")
"""Sentences whose beginnings are elsewhere."""

NEEDS_A_SWARM = {"no peer took our announcement…": ("tests/attacks/test_private.py", "no peer took our announcement")}
"""Entries that real processes provoke, and the test in which they do."""


@dataclass(frozen=True)
class Entry:
    section: str
    text: str
    end: str

    @property
    def pattern(self) -> str:
        return pattern(self.text)


def pattern(text: str) -> str:
    return "(?s)" + ".*?".join(re.escape(part) for part in text.split("…"))


def entries() -> Iterator[Entry]:
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif (match := re.match(r"\| `+ ?(.+?) ?`+ \| `?(\w+)`? \|", line)) and section != "Classes":
            yield Entry(section, match[1], match[2])


ENTRIES = list(entries())


def case_of(entry: Entry) -> str | None:
    for section, cases in HOW.items():
        if entry.section.startswith(section):
            return max((begins for begins in cases if entry.text.startswith(begins)), key=len, default=None)
    return None


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.text not in NEEDS_A_SWARM], ids=lambda entry: f"{entry.section[:9]}-{entry.text[:40]}")
def test_every_entry_is_what_a_user_sees(entry, tmp_path, model, monkeypatch, capsys):
    begins = case_of(entry)
    assert begins is not None, f"tests/cli/provoking.py has no way to provoke: {entry.text}"
    (provoke,) = [cases[begins] for section, cases in HOW.items() if entry.section.startswith(section)]
    said = provoke(World(tmp_path, model, monkeypatch, capsys))
    assert re.fullmatch(entry.pattern, said.sentence), f"the page says: {entry.text}\nthe user sees: {said.sentence}"
    assert entry.end in said.ends
    assert len(said.sentence.split()) > 1 and not re.search(r"\bNone\b|Traceback|<class", said.sentence)


def test_every_case_has_an_entry_and_the_tests_named_provoke_the_rest():
    told = [(entry.section, case_of(entry)) for entry in ENTRIES if entry.text not in NEEDS_A_SWARM]
    assert len(told) == len(set(told)), "two entries for one case"
    assert {(section, begins) for section, cases in HOW.items() for begins in cases} == {
        (next(section for section in HOW if whole.startswith(section)), begins) for whole, begins in told
    }
    for file, words in NEEDS_A_SWARM.values():
        assert words in (ROOT / file).read_text()
    for file in WHERE_OTHERS_FAIL.values():
        assert (ROOT / file).exists()


def test_entries_of_a_command_are_under_its_name():
    for heading in ("swarm-serve", "swarm-generate", "swarm-bootstrap", "swarm-status", "swarm-doctor", "swarm-bench", "swarm-gateway"):
        assert any(heading in entry.section for entry in ENTRIES), heading


# --- nothing is forgotten ---------------------------------------------------------------------------------------------------------------------------------


def template(node: ast.expr | None) -> list[str]:
    """What a sentence in the code looks like; nothing for one that comes from elsewhere, which has its own place."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)]
    if isinstance(node, ast.IfExp):
        return template(node.body) + template(node.orelse)
    return []


def sentences() -> Iterator[tuple[str, str]]:
    """Every sentence with which something is raised that a user may see, and where."""
    for folder in ("swarm", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith((*NOT_FOR_USERS, "swarm/cli/", "swarm/bootstrap/")):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and node.args:
                    called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
                    if called == "ArgumentTypeError":
                        yield from ((f"argument …: {text}; see … --help", name) for text in template(node.args[0]))
                    elif called == "ApiError":
                        yield from ((text, name) for text in template(node.args[1]))
                    elif (called in CLASSES and called != "ProtocolError") or (called == "ValueError" and name == "swarm/gateway/asked.py"):
                        yield from ((text, name) for text in template(node.args[0]))
                    elif called == "__init__" and name == "swarm/errors.py":
                        yield from ((text, name) for text in template(node.args[0]))
    yield from ((f"{field}: {why}", "swarm/gateway/asked.py") for field, (why, _) in UNSUPPORTED.items())


def test_every_sentence_of_the_code_has_an_entry():
    lacking = []
    for text, where in sentences():
        shown = text.replace("…", "something")
        if text not in (*WHERE_OTHERS_FAIL, *PIECED) and not any(re.fullmatch(entry.pattern, shown) for entry in ENTRIES):
            lacking.append(f"{where}: {text}")
    assert not lacking, "docs/errors.md lacks\n" + "\n".join(lacking)


def test_a_new_sentence_would_be_missed_and_so_would_one_that_is_gone():
    assert not any(re.fullmatch(entry.pattern, "an error of tomorrow; do something") for entry in ENTRIES)
    assert {text for text in WHERE_OTHERS_FAIL} <= {text for text, _ in sentences()}
