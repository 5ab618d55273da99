"""Room: cli. Settings of a command, wherever they came from: told as a file that gives the same again, and what somebody may have meant who misspelled one.

Works for whatever options a parser has, and names none. Knows argparse; nothing of what the settings are for.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

PREFIX = "SWARM_"

NO_SETTINGS = frozenset({"SWARM_CACHE", "SWARM_BENCH_CACHE", "SWARM_TORCH_INDEX"})
"""Variables of ours that are no setting of a command."""

SECRET = re.compile(r"(key|keys|token|password|secret)$")
"""Names of settings that may hold a secret itself; one that is a file's name is told."""

ALIKE = 0.75
"""How similar a variable of the environment must be to one of ours to be taken for a mistake: many programs have variables that begin with SWARM_."""


def as_yaml(prog: str, actions: Iterable[argparse.Action], args: argparse.Namespace, origin: Callable[[argparse.Action], str]) -> str:
    """The settings as a YAML file that `--config` takes, each with where it came from (`origin`); what is not set is there as a comment."""
    lines = [f"# {prog}, as it would run. Save this as a file for --config; what is not set stands behind a #."]
    for action in actions:
        key, value = name_of(action), getattr(args, action.dest, None)
        if value is None or value == () or value == []:
            lines.append(f"# {key}:")
        elif SECRET.search(key) and not os.path.exists(str(value)):
            lines.append(f"# {key}: (set, not shown)  # {origin(action)}")
        else:
            lines.append(_with_comment(_setting(key, _plain(value)), origin(action)))
    return "\n".join(lines)


def name_of(action: argparse.Action) -> str:
    """As a file spells it."""
    long = [option for option in action.option_strings if option.startswith("--")]
    return long[0].removeprefix("--") if long else action.dest


def variable_of(action: argparse.Action) -> str:
    return PREFIX + name_of(action).replace("-", "_").upper()


def nearest(name: str, known: Iterable[str], otherwise: str = "see --help") -> str:
    """How a sentence goes on that refuses a name."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {found[0]}?" if found else otherwise


def mistaken(environment: Mapping[str, str], known: Iterable[str], elsewhere: Callable[[], Iterable[str]]) -> str | None:
    """A variable that is so like one of the `known` ones that it was meant to be that, unless it is one of another command's; and the one that is meant."""
    known = set(known)
    for variable in sorted(set(environment) - NO_SETTINGS):
        if variable.startswith(PREFIX) and variable not in known and (near := difflib.get_close_matches(variable, sorted(known), 1, ALIKE)):
            if variable not in set(elsewhere()):
                return f"the environment sets {variable}, which is no setting; did you mean {near[0]}? Unset it if it is somebody else's"
    return None


def of_all_commands() -> set[str]:
    """Variables of every command that is installed. Loads them all, so only where somebody seems to have made a mistake."""
    import importlib
    import pkgutil

    import swarm.cli

    found: set[str] = set()
    for module in pkgutil.iter_modules(swarm.cli.__path__):
        text = importlib.import_module(f"swarm.cli.{module.name}")
        if (make := getattr(text, "parser", None)) is not None:
            found |= {variable_of(action) for action in make()._actions}
    return found


def _plain(value: Any) -> Any:
    """As a flag would be written, so that it is read again as any flag is."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return [str(each) for each in value]
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _setting(key: str, value: Any) -> str:
    """Each value on one line, so that a comment behind the first does not come to stand within a text."""
    several = value if isinstance(value, list) else [value]
    if all(not isinstance(each, str) or each.isprintable() for each in several):
        return yaml.safe_dump({key: value}, allow_unicode=True, width=10**6)
    quoted = [yaml.safe_dump(each, default_style='"', width=10**6).rstrip("\n") for each in several]
    return "\n".join([f"{key}:", *(f"- {each}" for each in quoted)]) if isinstance(value, list) else f"{key}: {quoted[0]}"


def _with_comment(text: str, comment: str) -> str:
    first, *rest = text.rstrip("\n").split("\n")
    return "\n".join([f"{first}  # {comment}", *rest])
