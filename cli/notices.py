"""Room: cli. What is said once, and what is said so that it can be typed elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

SERVING = (
    "Serving means that other people's prompts pass through this machine and are computed here. Whoever serves the layers a prompt passes through can read what\n"
    "passes, and so can you: serve only if you will treat it as private. (Said once; Ctrl-C leaves in peace.)"
)

ASKING = (
    "Your prompt and its answer pass through other people's machines, and whoever serves them can read what passes: send nothing that must stay secret. With\n"
    "--own-ends the first and last layers stay on this machine, so that peers see numbers instead of words, which makes reading harder but not impossible.\n"
    "(Said once.)"
)

NO_PUBLIC_PEERS = "there are no public peers yet"


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
    except OSError:
        pass


def line_to_type(command: str, addrs: Sequence[str]) -> str:
    """The line with which another machine joins us. The first address is the most public one."""
    return f"{command} --initial-peers {addrs[0]}" if addrs else command
