"""Room: cli. How every command reads its arguments: flags over SWARM_* variables over a YAML file. Knows argparse; nothing of what the arguments are for.

Nothing here, and nothing that is imported before arguments are read, may load torch: a mistyped flag is answered in a quarter of a second.
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import configargparse
import yaml

from swarm.cli.configuration import as_yaml, mistaken, name_of, nearest, of_all_commands, variable_of
from swarm.core import MOST_NAME, printable
from swarm.errors import InvalidConfig, MalformedAddress

NOTHING = ("", "~", "null")
"""How YAML spells "no value"."""


class _Once(yaml.BaseLoader):
    """Refuses what is set twice: YAML itself would take the last, and drop the other without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for at, key in enumerate(keys) if key in keys[:at]), None):
            raise InvalidConfig(f"{node.start_mark.name} sets {twice!r} twice; keep one of the two (a list where several values are meant)")
        return super().construct_mapping(node, deep)


class YamlFile(configargparse.ConfigFileParser):
    """A YAML mapping of flag names. Every scalar is taken as it is written: YAML itself would read `layers: 4:8` as 248, a number in base 60."""

    def __init__(self, known: Callable[[], Sequence[str]], plain: Callable[[], Collection[str]] = tuple) -> None:
        """`plain` are settings that have no flag; they are put aside, in `positionals`."""
        self._known, self._plain = known, plain
        self.positionals: dict[str, tuple[str, str]] = {}

    def get_syntax_description(self) -> str:
        return "YAML"

    def parse(self, stream: Any) -> dict[str, Any]:
        name = getattr(stream, "name", "the config file")
        try:
            found = yaml.load(stream, Loader=_Once)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"cannot read {name} as YAML ({_one_line(error)}); write one `key: value` a line") from error
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise InvalidConfig(f"{name} holds no settings; write one `key: value` a line, such as `port: 31337`")
        values = {key: value for key, value in ((key, self._value(name, key, value)) for key, value in found.items()) if value not in NOTHING}
        self.positionals |= {key: (values.pop(key), name) for key in self._plain() if key in values}
        return values

    def _value(self, name: str, key: str, value: Any) -> Any:
        known = self._known()
        if key not in known:
            raise InvalidConfig(f"{name} sets {key!r}, which is no setting of this command; {nearest(key, known)}")
        if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise InvalidConfig(f"{name} gives {key} a nested value; write a plain value, or a list of them")
        return value


class Parser(configargparse.ArgumentParser):
    """An ArgumentParser of ours: errors are UsageErrors in the end, `--config` and the environment count, names are never guessed from abbreviations."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="Every option can also be set in the environment (the name in brackets) or in a YAML file (--config).\n"
            f"Flags win over the environment, the environment over the file.\n\nexamples:\n{examples}",
            formatter_class=Formatter,
            auto_env_var_prefix="SWARM_",
            config_file_parser_class=configargparse.YAMLConfigFileParser,
            add_config_file_help=False,
            add_env_var_help=False,
            ignore_unknown_config_file_keys=False,
            allow_abbrev=False,
        )
        self._config_file_parser = YamlFile(self._settable, lambda: self._unflagged)
        self._from_files: dict[str, tuple[str, str]] = {}
        """What files say of what the command line names without a flag: the value, and which file."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: ") and (unknown := message.split()[2]).startswith("--"):
            known = [f"--{name}" for name in self._settable() if name not in self._unflagged]
            if unknown.partition("=")[0].removeprefix("--") in self._unflagged:
                raise InvalidConfig(f"there is no option {unknown.partition('=')[0]}; give the {unknown[2:].partition('=')[0]} without a flag before it")
            raise InvalidConfig(f"there is no option {unknown.partition('=')[0]}; {nearest(unknown.partition('=')[0], known, f'see {self.prog} --help')}")
        if isinstance(unopened := sys.exception(), OSError):  # nothing but the config file is opened while arguments are read
            raise InvalidConfig(f"cannot read the config file {unopened.filename}: {unopened.strerror}; name one that is there with --config")
        raise InvalidConfig(f"{message}{self._origin(message)}; see {self.prog} --help")

    def _origin(self, message: str) -> str:
        """The variable or file behind a message of argparse's, which speaks of flags whoever set them."""
        flag = message.removeprefix("argument ").partition(":")[0]
        for source, settings in self.get_source_to_settings_dict().items():
            for name, (action, _) in settings.items():
                if action is not None and flag in action.option_strings and source.startswith(("environment_variables", "config_file")):
                    return f", as {source.partition('|')[2] or name} has it"
        return ""

    def _settable(self) -> list[str]:
        """Names of options as a config file may spell them, hidden ones left out."""
        return [name_of(action) for action in self._told]

    @property
    def _told(self) -> list[argparse.Action]:
        return [action for action in self._actions if action.help != argparse.SUPPRESS and action.dest not in ("help", "config", "print_config")]

    @property
    def _unflagged(self) -> dict[str, argparse.Action]:
        return {action.dest: action for action in self._actions if not action.option_strings}

    def common(self, *, hidden: bool = True) -> None:
        """What every command takes, and, `hidden`, what `swarm.local` says to those it starts."""
        group = self.add_argument_group("general")
        group.add_argument("--config", metavar="FILE", is_config_file_arg=True, help="read further settings from this YAML file")
        group.add_argument(
            "--print-config", action="store_true", help="show all settings, and where each comes from, as a file for --config, and do nothing else"
        )
        group.add_argument("--debug", action="store_true", help="log everything, and show tracebacks of errors")
        for name in ("--ready-fd", "--lifeline-fd") if hidden else ():
            self.add_argument(name, type=int, help=argparse.SUPPRESS)

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Raises InvalidConfig for anything that cannot be understood; `--help` and `--print-config` leave by SystemExit."""
        needed = [action for action in self._unflagged.values() if action.nargs is None]
        for action in self._unflagged.values():
            action.env_var = variable_of(action)  # type: ignore[attr-defined]  # shown beside its help
        for action in needed:  # they may come from elsewhere
            action.nargs = argparse.OPTIONAL
        if (mistake := mistaken(os.environ, map(variable_of, self._actions), of_all_commands)) is not None:
            raise InvalidConfig(mistake)
        args = self.parse_args(sys.argv[1:] if argv is None else list(argv))
        said = {dest for dest in self._unflagged if getattr(args, dest) not in (None, [])}
        for dest, action in self._unflagged.items():
            if dest not in said and (text := os.environ.get(variable_of(action)) or self._from_files.get(dest, ("", ""))[0]):
                setattr(args, dest, action.type(text) if callable(action.type) else text)
        if args.print_config:
            print(as_yaml(self.prog, self._told, args, lambda action: self._where_from(action, args, action.dest in said)))
            raise SystemExit(0)
        if missing := [str(action.metavar or action.dest) for action in needed if getattr(args, action.dest) is None]:
            self.error(f"the following arguments are required: {', '.join(missing)}")
        return args

    def parse_known_args(self, *given: Any, **more: Any) -> Any:
        try:
            return super().parse_known_args(*given, **more)
        finally:
            self._from_files |= self._config_file_parser.positionals

    def _where_from(self, action: argparse.Action, args: argparse.Namespace, said: bool) -> str:
        """Who set it, in words."""
        for source, settings in self.get_source_to_settings_dict().items():
            if source.startswith(("environment_variables", "config_file")):
                for key, (setter, _) in settings.items():
                    if setter is action:
                        return source.partition("|")[2] or key
        if not action.option_strings and not said and getattr(args, action.dest) is not None:
            return variable_of(action) if os.environ.get(variable_of(action)) else self._from_files[action.dest][1]
        return "default" if getattr(args, action.dest) == action.default else "command line"


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows defaults where there is one to show, and which variable of the environment says the same."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(120, _columns()))

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        shown = action.default is not None and action.default is not False and action.default not in ("", argparse.SUPPRESS)
        if action.option_strings and shown and "default:" not in text:
            text += " (default: %(default)s)"
        variable = getattr(action, "env_var", None)
        return f"{text} [{variable}]" if variable else text


def addresses(given: Sequence[str] | None) -> list[str]:
    """What a repeatable option collected; a variable of the environment holds several, separated by commas or blanks."""
    return [part for text in given or () for part in re.split(r"[,\s]+", text) if part]


def check_addresses(initial_peers: Sequence[str], announce: Sequence[str] = ()) -> None:
    """Refuse at once what can be no address. The room of the network, which takes seconds to load, reads them again with libp2p's own parser.

    Raises MalformedAddress.
    """
    from swarm.net.identity import is_peer_id

    for text in initial_peers:
        if not _can_be_dialled(text.split("/")) or text.count("/p2p/") != 1 or not is_peer_id(text.partition("/p2p/")[2]):
            raise MalformedAddress(text)
    for text in announce:
        if not _can_be_dialled(text.split("/")) or "/p2p/" in text:
            raise MalformedAddress(text, announced=True)


def _can_be_dialled(parts: Sequence[str]) -> bool:
    if len(parts) < 5 or parts[0] or parts[3] != "tcp" or not re.fullmatch("[0-9]{1,5}", parts[4]) or not 0 < int(parts[4]) < 2**16:
        return False
    if parts[1] in ("dns", "dns4", "dns6"):
        return bool(parts[2])
    try:
        return f"ip{ipaddress.ip_address(parts[2]).version}" == parts[1]
    except ValueError:
        return False


def number(low: float, high: float, kind: type = int) -> Callable[[str], Any]:
    """A number within bounds; out of them is an error that names them. `high` may be infinite."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        if not low <= value <= high:
            form = "d" if kind is int and high < math.inf else ".15g"
            bounds = f"at least {low:.15g}" if high == math.inf else f"{low:{form}} to {high:{form}}"
            raise argparse.ArgumentTypeError(f"{text} is out of range, which is {bounds}")
        return value

    return read


def numbers(low: float, high: float, kind: type = int) -> Callable[[str], tuple[Any, ...]]:
    """Several such, separated by commas."""
    one = number(low, high, kind)
    return lambda text: tuple(one(part.strip()) for part in text.split(","))


def words(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Several of those that are known, separated by commas."""

    def read(text: str) -> tuple[str, ...]:
        parts = tuple(part.strip() for part in text.split(","))
        for part in parts:
            if part not in known:
                raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(known)}; {nearest(part, known, 'write one of those')}")
        return parts

    return read


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


ZONE = Path("/etc/localtime")
"""On most systems a link to the file of the machine's time zone, such as /usr/share/zoneinfo/Europe/Berlin."""

CONTINENTS = frozenset(("Africa", "America", "Antarctica", "Arctic", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific"))


def region(asked: str | None, zone: str | None = None) -> str:
    """Where this machine says it is: as asked, nowhere for "none", or else the continent of its time `zone`, as TZ or the system has it."""
    if asked is not None:
        return "" if asked == "none" else asked
    zone = zone or os.environ.get("TZ", "").lstrip(":") or str(ZONE.resolve())
    return next((part for part in Path(zone).parts if part in CONTINENTS), "")


def size(text: str) -> int:
    """Bytes, as people write them: 20GB, 500M, 1.5GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write one like 20GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


LEAST_UPLOAD = 50_000
"""Bytes a second. What one neighbour is sent must fit into the three seconds after which a link that cannot write is taken for lost (docs/operations.md)."""


def upload(text: str) -> int:
    """Bytes a second, and enough of them for one neighbour: with less, every session that comes by breaks."""
    rate = size(text)
    if rate < LEAST_UPLOAD:
        raise argparse.ArgumentTypeError(f"{text} is too little to serve with; allow at least 50kB a second, or leave it out for no limit")
    return rate


def device(text: str) -> str:
    """Devices by their spelling; whether this machine has them, torch says once it is loaded."""
    for name in text.split(","):
        if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", name.strip()) or (name.strip() == "auto" and "," in text):
            raise argparse.ArgumentTypeError(f"there is no device {name.strip()!r}; write cpu, cuda or cuda:0, several such as cuda:0,cuda:1, or auto")
    return text


ENDS = ("embed", "head")


def on_disk(text: str) -> tuple[str, ...]:
    """What may stay on disk: `embed`, `head`, both or none."""
    parts = tuple(part.strip() for part in text.split(","))
    if parts == ("none",):
        return ()
    if not set(parts) <= set(ENDS):
        raise argparse.ArgumentTypeError(f"{text!r} cannot stay on disk; write embed, head, or embed,head")
    return tuple(part for part in ENDS if part in parts)


def short_name(text: str) -> str:
    if printable(text, MOST_NAME) != text:
        raise argparse.ArgumentTypeError(f"a name is one line of at most {MOST_NAME} characters; give a shorter one")
    return text


def region_name(text: str) -> str:
    """Where a machine is; to say nothing has a word of its own, so that an empty variable is no answer."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; write one such as eu-west, none to say nothing, or leave it out for the time zone's continent")
    return short_name(text)


def set_threads(threads: int | None) -> None:
    """How many threads computing may use. Before torch loads: OpenMP reads its settings once. Passive waiting, because a spinning pool steals the cores that
    other peers of this machine, or the network, need; but only after 5000 turns of a loop (0.12 ms), for within a step the next work follows sooner."""
    if os.environ.setdefault("OMP_WAIT_POLICY", "passive") == "passive":
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)


def _columns() -> int:
    try:
        return os.get_terminal_size().columns - 2
    except OSError:
        return 120


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
