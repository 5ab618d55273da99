"""Devices that are only pretended: tensors that say they lie on one, hold their numbers on the CPU, and refuse to be used together with those of another, as
real ones do. What is not pretended is time: everything is done at once.

torch knows a kind of device called `lazy`, of which no build here has any: nothing but what is written below happens on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CROSSES = ("aten::_to_copy", "aten::copy_", "aten::to")
"""What may be done with tensors of two devices."""


class Pretended(torch.Tensor):
    """A tensor on a device that is not there."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> Pretended:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=device
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {}, lambda func, device: None)


class Pretending(TorchDispatchMode):
    """While it lasts there are pretended devices. `used` counts what each was asked to do. All of it is inference: tensors that may be differentiated
    keep count of their views, which these do not."""

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[str, int] = {}
        self._inference = torch.inference_mode()

    def __enter__(self) -> Pretending:
        self._inference.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._inference.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {}, self._seen)

    def _seen(self, func: Any, device: torch.device) -> None:
        self.used[str(device)] = self.used.get(str(device), 0) + 1


def _call(func: Any, args: Any, kwargs: dict[str, Any], seen: Callable[[Any, torch.device], None]) -> Any:
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    crosses = func.name().partition(".")[0] in CROSSES
    # a number may lie on the CPU, as for real devices
    places = {tensor.device for tensor in tensors if tensor.dim() or tensor.device.type != "cpu"}
    if len(places) > 1 and not crosses:
        raise RuntimeError(f"{func} is given tensors of {sorted(map(str, places))}")
    asked = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    device = asked or (tensors[0].device if crosses else next(iter(places), torch.device("cpu")))
    seen(func, device)
    out = func(*tree_map(_really, args), **tree_map(_really, kwargs))
    if func is torch.ops.aten.copy_.default:
        return tensors[0]
    return out if device.type == "cpu" else tree_map(lambda leaf: Pretended(leaf, device) if isinstance(leaf, torch.Tensor) else leaf, out)


def _really(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, Pretended) else torch.device("cpu") if isinstance(leaf, torch.device) else leaf
