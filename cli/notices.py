"""Room: cli. What is said once, and what is said so that it can be typed elsewhere."""

from __future__ import annotations

import ipaddress
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from swarm.bootstrap import public_peers
from swarm.errors import UsageError

log = logging.getLogger(__name__)

SERVING = (
    "Serving means that other people's prompts pass through this machine and are computed here.\n"
    "Whoever serves can read what passes, so treat it as private. (Said once.)"
)

ASKING = (
    "Your prompt and its answer pass through other people's machines, and whoever serves them can read what passes: send nothing secret.\n"
    "With --own-ends both ends of the model stay here and peers get activations instead of words: whoever has the model can still turn them back. (Said once.)"
)

NO_PUBLIC_PEERS = "there are no public peers yet"


def whom(given: Sequence[str], otherwise: str = "") -> list[str]:
    """Whom to ask: those named, or the public ones. Raises UsageError where there is nobody; `otherwise` is what could be done instead."""
    if peers := list(given) or public_peers():
        return peers
    raise UsageError(f"{NO_PUBLIC_PEERS}; name one with --initial-peers (swarm-serve and swarm-bootstrap print theirs){otherwise}")


def config_dir() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "swarm"


def state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "swarm"


def say_once(name: str, text: str, say: Callable[[str], None]) -> None:
    """Say it, unless a marker file remembers that it has been said. A machine where nothing can be written is told each time."""
    marker = state_dir() / f"told-{name}"
    if marker.exists():
        return
    say(text)
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        log.debug("cannot remember what was said in %s: %s", marker, error)


def line_to_type(command: str, addrs: Sequence[str]) -> str:
    """The line with which another machine joins us. The first address is the most public one."""
    return f"{command} --initial-peers {addrs[0]}" if addrs else command


def introduce(say: Callable[[str], None], addrs: Sequence[str], model: str = "MODEL") -> None:
    """How others come to us."""
    here = all("/127." in addr or "/::1/" in addr for addr in addrs)
    what = ", with a model's hub id or folder for MODEL" if model == "MODEL" else ""
    say(f"On this machine (no other can reach this address), type{what}:" if here else f"On other machines, type{what}:")
    say(f"  {line_to_type(f'swarm-serve {shlex.quote(model)} --layers auto', addrs)}")
    say(f"  {line_to_type(f'swarm-generate PROMPT --model {shlex.quote(model)}', addrs)}")
    if not here and not any(is_public(addr) for addr in addrs):
        say("No public address was found, so only machines of this network get here; for others, forward the port and name the outer address with --announce.")


def is_public(addr: str) -> bool:
    """Whether a multiaddr can be meant for the whole world: a name, or an address that is routed there."""
    parts = addr.split("/")
    try:
        return ipaddress.ip_address(parts[2]).is_global
    except (ValueError, IndexError):
        return len(parts) > 1 and parts[1].startswith("dns")
