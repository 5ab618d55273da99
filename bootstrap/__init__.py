"""The room `bootstrap`: the public peers through which newcomers enter, and what it takes to run one (README.md). Installed as `swarm.bootstrap`."""

from __future__ import annotations

from pathlib import Path

PEERS_FILE = Path(__file__).parent / "peers.txt"


def public_peers(file: Path = PEERS_FILE) -> list[str]:
    """The addresses in the list, one a line; blank lines and what follows a # are skipped."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]
