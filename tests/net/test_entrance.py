"""hivemind's modules without its front door, until somebody knocks there."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from swarm.net.entrance import come_in


@pytest.fixture
def package(tmp_path, monkeypatch):
    """One whose own file says that it ran, and whose modules import one another as hivemind's do."""
    inside = tmp_path / "pretended" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "pretended" / "__init__.py").write_text("from pretended.inside import thing\nran = True\n__version__ = '7'\n")
    (inside / "__init__.py").write_text("from pretended.inside.room import thing\n")
    (inside / "room.py").write_text("import pretended.inside.other as other\nthing = other.thing\n")
    (inside / "other.py").write_text("thing = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "pretended"
    for name in [name for name in sys.modules if name.partition(".")[0] == "pretended"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["ran", "__version__"])
def test_its_own_file_runs_when_a_name_of_it_is_missed_and_not_before(package, name):
    come_in(package)
    thing = importlib.import_module("pretended.inside.room").thing
    whole = sys.modules[package]
    assert "ran" not in vars(whole) and not hasattr(whole, "__wrapped__") and "ran" not in vars(whole)
    assert getattr(whole, name) in (True, "7") and whole.thing is thing
    with pytest.raises(AttributeError):
        _ = whole.nothing


def test_one_that_is_loaded_stays_and_one_that_is_not_there_is_not_there(package):
    whole, finders = importlib.import_module(package), len(sys.meta_path)
    come_in(package)
    come_in("pretended_by_nobody")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pretended_by_nobody")
    assert sys.modules[package] is whole and len(sys.meta_path) == finders


def test_a_node_loads_no_trainers_and_whoever_wants_hivemind_gets_all_of_it():
    script = "import sys, swarm.net.node; assert 'hivemind.optim' not in sys.modules; from hivemind import DHT, Optimizer; import hivemind.moe"
    subprocess.run([sys.executable, "-P", "-c", script], check=True, timeout=120)
