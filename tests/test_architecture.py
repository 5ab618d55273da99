"""The direction of imports, kept. `docs/house.md` draws the rooms; this file reads every import of every module and says which rule one breaks.

Imports inside functions count like any other: they decide when something loads, not whether a room knows of it. Imports under TYPE_CHECKING count for the
direction, and not for what is loaded.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import swarm

ROOT = Path(__file__).parent.parent

HOMES = {"swarm": ROOT / "swarm", "swarm.cli": ROOT / "cli", "swarm.bootstrap": ROOT / "bootstrap"}
"""Where the build finds each package: `cli` and `bootstrap` stand at the top of the repository and install inside `swarm`."""

NOUNS = {"core", "errors"}
WORDS = NOUNS | {"wire"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "core": {"errors"},
    "wire": NOUNS,
    "ports": WORDS,
    "machines": WORDS,
    "routing": WORDS,
    "spawning": set(),
    "model": WORDS | {"spawning"},
    "errands": WORDS | {"machines", "routing"},
    "peer": WORDS | {"ports", "machines", "routing", "model", "errands"},
    "client": WORDS | {"ports", "machines", "routing", "errands"},
    "net": WORDS | {"ports", "spawning"},
    "host": WORDS | {"ports", "model"},
    "compose": WORDS | {"ports", "machines", "model", "peer", "net", "host"},
    "sim": WORDS | {"ports", "machines", "routing", "peer", "client", "compose"},
    "aio": {"client"},
    "causal_lm": WORDS | {"client", "model"},
    "demo": set(),
    "gateway": WORDS | {"client"},
    "far": set(),
    "local": NOUNS | {"model", "far"},
    "swarm": {"errors", "client", "aio", "causal_lm", "local", "demo"},
    "bootstrap": set(),
    "cli": WORDS | {"routing", "model", "peer", "net", "compose", "client", "aio", "local", "demo", "swarm", "bootstrap", "gateway"},
}
"""Room → rooms it may import besides itself. A room is a package in `swarm/`, or a module beside them; `swarm` is `swarm/__init__.py`."""

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("swarm.client.aio", "swarm.compose"): "Client is what a user constructs, so it asks the composition for the real adapters itself",
    ("swarm.client.aio", "swarm.peer.hops"): "one hop room serves peers and a client that keeps its own ends",
}
"""(importing module, imported module) → why it is allowed although its room may not. Each must still be in use."""

ONLY_IN: dict[str, set[str]] = {
    "hivemind": {"net"},
    "torch": {"model", "causal_lm"},
    "transformers": {"model", "causal_lm"},
    "safetensors": {"model"},
    "huggingface_hub": {"model"},
    "tokenizers": {"model"},
    "configargparse": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"cli"},
    "fastapi": {"gateway"},
    "starlette": {"gateway"},
    "pydantic": {"gateway"},
    "uvicorn": {"gateway"},
    "prometheus_client": {"gateway"},
}
"""Library → the rooms that may know it."""

ONLY_IN_EXCEPTIONS: dict[tuple[str, str], str] = {
    ("swarm.peer.rounds", "torch"): "joins the logits of several sessions, on the compute thread; inside a function, so that importing the room stays light",
}

HEAVY = {"hivemind": {"swarm.net"}, "torch": {"swarm.model", "swarm.causal_lm"}, "transformers": {"swarm.model", "swarm.causal_lm"}}
"""Library that takes seconds to load → the rooms that load it. Nobody else imports such a room but inside functions."""

PURE_ROOMS = {"errors", "core", "wire", "ports", "machines", "routing"}
PURE_MODULES = {
    "swarm.far.line",
    "swarm.peer.admission",
    "swarm.peer.courtesy",
    "swarm.peer.drafting",
    "swarm.peer.fair",
    "swarm.peer.headroom",
    "swarm.peer.hops",
    "swarm.peer.offer",
    "swarm.peer.pace",
    "swarm.peer.past",
    "swarm.peer.prefixes",
    "swarm.peer.schedule",
    "swarm.peer.slots",
    "swarm.peer.tenants",
    "swarm.client.chat",
    "swarm.client.chronicle",
    "swarm.client.report",
    "swarm.client.setbacks",
    "swarm.client.stops",
    "swarm.gateway.asked",
    "swarm.gateway.rate",
    "swarm.gateway.replies",
    "swarm.client.trust",
    "swarm.client.watching",
    "swarm.net.frames",
    "swarm.model.names",
}
IMPURE = {
    "asyncio", "concurrent", "multiprocessing", "threading", "queue", "selectors", "select", "signal", "subprocess",
    "time", "datetime", "random", "secrets", "uuid", "socket", "ssl", "os", "io", "pathlib", "shutil", "tempfile",
    "torch", "transformers", "hivemind", "huggingface_hub", "uvloop", "psutil",
}  # fmt: skip
"""What a pure module gets handed in, or leaves to its shell: waiting, the clock, randomness, files, the network, tensors."""

RUNS_CODE = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
"""Formats whose readers run code."""

STRANGERS = {"tests", "bench", "training"}
"""Beside the package: they may import it, it may not import them."""


@dataclass(frozen=True)
class Import:
    module: str
    """Who imports."""
    target: str
    """What: a module of ours, or a library's dotted name."""
    place: str
    in_function: bool
    for_types: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package, folder in HOMES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for module, path in modules().items() for found in imports_of(module, path))


def imports_of(module: str, path: Path) -> Iterator[Import]:
    def walk(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            place = f"{path.relative_to(ROOT)}:{getattr(child, 'lineno', 0)}"
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, place, in_function, for_types)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{place}: a relative import; write the whole name, so that moving a file cannot change what it means"
                for alias in child.names:
                    assert alias.name != "*", f"{place}: imports *; name what is used"
                    whole = f"{child.module}.{alias.name}"
                    yield Import(module, whole if whole in modules() else str(child.module), place, in_function, for_types)
            else:
                within = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                types = for_types or (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"))
                yield from walk(child, within, types)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False, False)


def complain(broken: list[str]) -> None:
    assert not broken, "imports against the house rules (docs/house.md):\n" + "\n".join(f"  {line}" for line in broken)


def test_every_room_has_its_place():
    rooms = {room_of(module) for module in modules()}
    strange, gone = sorted(rooms - set(MAY_IMPORT)), sorted(set(MAY_IMPORT) - rooms)
    assert not strange, f"no place in the house for {', '.join(strange)}: add it to MAY_IMPORT here and to docs/house.md"
    assert not gone, f"MAY_IMPORT names {', '.join(gone)}, which is no room any more"


def test_imports_run_downward():
    broken = []
    for found in imports():
        if found.library == "swarm":
            room, target = room_of(found.module), room_of(found.target)
            if room != target and target not in MAY_IMPORT.get(room, set()) and (found.module, found.target) not in EXCEPTIONS:
                broken.append(
                    f"{found.place}: {found.module} imports {found.target}, but {room} may import only {', '.join(sorted(MAY_IMPORT[room])) or 'nothing'}"
                )
    complain(broken)


def test_machines_and_routing_never_meet():
    """A shell asks routing and hands the answer to a machine. The one rule that the table above must never lose."""
    assert "routing" not in MAY_IMPORT["machines"] and "machines" not in MAY_IMPORT["routing"]


def test_the_table_has_no_circle():
    todo = dict(MAY_IMPORT)
    while todo:
        ready = sorted(room for room, below in todo.items() if not below & set(todo))
        assert ready, f"these rooms import each other in a circle: {', '.join(sorted(todo))}"
        for room in ready:
            del todo[room]


@pytest.mark.parametrize("module, target", sorted(EXCEPTIONS))
def test_exceptions_are_still_needed(module, target):
    assert any((found.module, found.target) == (module, target) for found in imports()), f"{module} no longer imports {target}: remove the exception"


def test_libraries_stay_in_their_rooms():
    broken = []
    for found in imports():
        rooms = ONLY_IN.get(found.library)
        if rooms is None or room_of(found.module) in rooms:
            continue
        if (found.module, found.library) in ONLY_IN_EXCEPTIONS and found.in_function:
            continue
        broken.append(f"{found.place}: {found.module} imports {found.target}, which only {', '.join(sorted(rooms))} may know")
    complain(broken)


def test_rooms_that_load_slowly_are_imported_inside_functions():
    broken = []
    for found in imports():
        if found.in_function or found.for_types:
            continue
        for library, rooms in HEAVY.items():
            for room in rooms:
                if found.target.startswith(room) and not found.module.startswith(room):
                    broken.append(
                        f"{found.place}: {found.module} imports {found.target} at the top, which loads {library}; do it in the function that needs it"
                    )
    complain(sorted(set(broken)))


def test_pure_rooms_are_pure():
    gone = sorted(PURE_MODULES - set(modules()))
    assert not gone, f"PURE_MODULES names {', '.join(gone)}, which is no module any more"
    complain(
        [
            f"{found.place}: {found.module} is pure, so it may not import {found.target}; have it handed in, or leave it to the shell"
            for found in imports()
            if (room_of(found.module) in PURE_ROOMS or found.module in PURE_MODULES) and found.library in IMPURE
        ]
    )


def test_nothing_reads_a_format_that_runs_code():
    complain([f"{found.place}: {found.module} imports {found.target}" for found in imports() if found.library in RUNS_CODE])


def test_the_package_does_not_import_what_stands_beside_it():
    complain([f"{found.place}: {found.module} imports {found.target}" for found in imports() if found.library in STRANGERS])


def test_one_door_starts_processes_from_a_loop():
    """Two loops of a program that start one at the same time are in each other's way, but for `swarm.spawning`."""
    for module, path in modules().items():
        named = {node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)}
        found = sorted(named & {"create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell"})
        assert found == (["create_subprocess_exec"] if module == "swarm.spawning" else []), f"{module} uses {', '.join(found)}: call swarm.spawning.spawn"


def test_public_names():
    import swarm.aio

    assert set(swarm.__all__) == {"Client", "LocalPeer", "LocalSwarm", "Session", "SwarmError", "SwarmForCausalLM", "aio", "demo_model"}
    assert set(swarm.aio.__all__) == {"Client", "Session", "Token"}
    for owner in (swarm, swarm.aio):
        for name in owner.__all__:
            assert getattr(owner, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = swarm.Clinet


PUBLIC_METHODS = {
    "Client": {"generate", "stream", "generate_tokens", "session", "close"},
    "Session": {"generate", "stream", "stream_tokens", "stream_details", "resume", "tokens", "route", "longest_gap", "close"},
}


@pytest.mark.parametrize("name", PUBLIC_METHODS)
def test_both_faces_have_the_promised_methods(name):
    for face in (getattr(swarm, name), getattr(swarm.aio, name)):
        missing = {method for method in PUBLIC_METHODS[name] if not hasattr(face, method)}
        assert not missing, f"{face.__module__}.{name} lacks {', '.join(sorted(missing))}"


def test_a_local_swarm_has_the_promised_names():
    assert {"add", "close"} <= set(dir(swarm.LocalSwarm))
    assert {"peer_id", "layers", "addrs", "is_alive", "kill", "stop", "freeze", "thaw"} <= set(dir(swarm.LocalPeer))


@pytest.mark.parametrize(
    "module", ["swarm", "swarm.aio", "swarm.local", "swarm.cli.serve", "swarm.cli.generate", "swarm.cli.bootstrap", "swarm.cli.gateway", "swarm.peer.server"]
)
def test_importing_stays_light(module):
    script = f"import sys, {module}\nprint(*sorted(set(sys.modules) & {{'torch', 'transformers', 'hivemind'}}))"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"cannot import {module}:\n{done.stderr}"
    assert not done.stdout.split(), f"import {module} loads {done.stdout.strip()}; import it inside the function that needs it"
