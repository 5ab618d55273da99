"""swarm: volunteers' machines together run language models that none of them could hold.

    import swarm

    with swarm.LocalSwarm(swarm.demo_model(), layers=["0:4", "4:8", "8:12"]) as local:
        with swarm.Client(swarm.demo_model(), initial_peers=local.initial_peers) as client:
            print(client.generate("Q: sort 5 2 9\\nA:"))

Importing this package is cheap: torch, transformers and hivemind load when they are first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm import aio
    from swarm.causal_lm import SwarmForCausalLM
    from swarm.client.sync import Client, Session
    from swarm.local import LocalPeer, LocalSwarm

__version__ = "0.1.0"

__all__ = ["Client", "LocalPeer", "LocalSwarm", "Session", "SwarmError", "SwarmForCausalLM", "aio", "demo_model"]

_HOMES = {
    "Client": "swarm.client.sync",
    "Session": "swarm.client.sync",
    "LocalSwarm": "swarm.local",
    "LocalPeer": "swarm.local",
    "SwarmForCausalLM": "swarm.causal_lm",
}


def demo_model() -> str:
    """The folder of the small trained model that ships with the package."""
    from swarm import demo

    return str(demo.path())


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "aio":
        return import_module("swarm.aio")
    raise AttributeError(f"module 'swarm' has no attribute {name!r}")
