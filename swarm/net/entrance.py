"""The net room's way into hivemind: by its side doors. We use its DHT and its p2p; its front door loads the trainers too, and scipy for them.

Whoever else in this process asks the package for a name of it gets all of it then.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Unopened(ModuleType):
    """A package whose modules can be imported, and whose own file runs when one of its names is missed."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        ours = f"{self.__name__}.{name}" in sys.modules  # a module of it, in the middle of its import
        if spec is None or spec.loader is None or ours or (name.startswith("__") and name != "__version__"):  # what looks at every module asks for such names
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def come_in(package: str = "hivemind") -> None:
    """Before the first import of anything of it. Where that has been, nothing is left to save."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _Unopened
        sys.modules[package] = module
