"""Room: model. How layers run on a GPU that torch compiled ahead of time, with attention as an operator of our own. Knows packages and tensors; not layers, nor
how code is made (`compiling.py`) or when it is used (`compiled.py`).

Weights are inputs like any other, so one package serves all layers of a kind. Python is in the way between two layers; graphs (`captured.py`) leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from swarm.model.gpu.attention import GpuAttention, TokenTable

SCHEMA = "(Tensor q, Tensor k, Tensor v, float scaling, int window, float softcap, Tensor? sinks) -> Tensor"

NAME = "swarm::attend_on_gpu"


class _Turn:
    """Whose tokens the row holds, and which layer runs: of one thread, the one that computes."""

    attention: GpuAttention | None = None
    table: TokenTable | None = None
    layer = 0


_turn = _Turn()
_library: torch.library.Library | None = None


def declare() -> None:
    """Tell torch of the operator, once for a process."""
    global _library
    if _library is not None:
        return
    _library = torch.library.Library("swarm", "FRAGMENT")
    _library.define(f"attend_on_gpu{SCHEMA}")
    _library.impl("attend_on_gpu", _attend, "CUDA")
    torch.library.register_fake(NAME, lambda q, k, v, *_: q.new_empty((1, q.shape[2], q.shape[1], v.shape[3])), lib=_library)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, window: int, softcap: float, sinks: torch.Tensor | None) -> torch.Tensor:
    if _turn.attention is None or _turn.table is None:
        raise RuntimeError("attention is called outside a step")
    return _turn.attention(_turn.table, _turn.layer, q, k, v, scaling, window, softcap, sinks)


class GpuOperators:
    """As `operators.Operators`, on a GPU."""

    SUFFIX = "pt2"

    def __init__(self, attention: GpuAttention) -> None:
        declare()
        self._packages: dict[Path, Any] = {}
        self._device = attention.device.index or 0
        _turn.attention = attention

    def begin(self, table: TokenTable) -> None:
        _turn.table = table

    def code(self, package: Path, weights: Mapping[str, torch.Tensor], layer: int) -> GpuCode:
        """Raises what torch raises for a package that is not what it should be."""
        if package not in self._packages:
            self._packages[package] = _loaded(str(package), self._device)
        return GpuCode(self._packages[package], list(weights.values()), layer)


def _loaded(package: str, device: int) -> Any:
    """Its one runner, which leaves it to us not to call it twice at once; otherwise it could not be recorded. Not by way of `aoti_load_package` where that can
    be avoided: to compare the machine with the one that compiled, that calls a C++ compiler, for half a minute."""
    loader = getattr(torch._C._aoti, "AOTIModelPackageLoader", None)
    if loader is None:
        return torch._inductor.aoti_load_package(package, run_single_threaded=True, device_index=device).loader
    return loader(package, "model", True, 1, device)


class GpuCode:
    """The code in one package with the weights of one layer."""

    def __init__(self, loader: Any, weights: Sequence[torch.Tensor], layer: int) -> None:
        self._loader, self._weights, self._layer = loader, weights, layer

    def run(self, inputs: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """The one result, of the shape and dtype of `like`. Raises RuntimeError."""
        _turn.layer = self._layer
        made = self._loader.run([*inputs, *self._weights])[0]
        if made.shape != like.shape or made.dtype != like.dtype:
            raise RuntimeError("compiled code failed (its result has another shape)")
        return made
