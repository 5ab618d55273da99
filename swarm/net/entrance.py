"""The net room's way into hivemind: by its side doors. We use its DHT and its p2p; its front door loads the trainers too, and scipy for them.

Whoever else in this process asks the package for a name of it gets all of it then.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
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


class _Later(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = self._loader
        module.__class__ = _Unopened


class _Entrance(MetaPathFinder):
    """Stands before the first import of a package, and goes with it."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._package:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


def come_in(package: str = "hivemind") -> None:
    """Before the first import of anything of it. Where that has been, nothing is left to save."""
    if package not in sys.modules:
        sys.meta_path.insert(0, _Entrance(package))
