"""Room: model. What of this machine can compute, by the names that torch gives it. Knows torch; nothing of models. ROCm goes by the name of `cuda` there.

One NVIDIA card has run this (docs/performance.md); the CPU alone is covered by tests that always run, which is why it is the default.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from swarm.errors import InvalidConfig

AUTO = "auto"


def available() -> tuple[str, ...]:
    """All there are, the CPU last."""
    kinds = {"cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0, "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0}
    many = tuple(f"{kind}:{i}" for kind, count in kinds.items() for i in range(count))
    return (*many, *(("mps",) if torch.backends.mps.is_available() else ()), "cpu")


def resolve(text: str, there: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The devices that `--device` names: several joined by commas, or `auto`, every GPU of the first kind that is `there`, and without one the CPU. A kind
    without a number is the first of it.

    Raises InvalidConfig for such as this machine does not have.
    """
    there = available() if there is None else there
    if text == AUTO:
        kind = there[0].partition(":")[0]
        return tuple(name for name in there if name.partition(":")[0] == kind)
    names = tuple(_named(part.strip()) for part in text.split(","))
    for name in names:
        if name not in there:
            raise InvalidConfig(f"cannot use device {name}; choose {', '.join(there)}, which is all that the torch installed here finds on this machine")
    if len(set(names)) < len(names) or (len(names) > 1 and "cpu" in names):
        raise InvalidConfig(f"cannot compute on {text}: name each GPU once, and the CPU alone (another peer may run on it)")
    return names


def _named(text: str) -> str:
    return f"{text}:0" if text in ("cuda", "xpu") else text.removesuffix(":0") if text.startswith(("cpu", "mps")) else text


def synchronize(devices: Iterable[str]) -> None:
    """Wait until these have done all that was asked of them. The CPU always has."""
    for device in devices:
        kind = device.partition(":")[0]
        if kind == "cuda":
            torch.cuda.synchronize(device)
        elif kind == "xpu":
            torch.xpu.synchronize(device)
        elif kind == "mps":
            torch.mps.synchronize()
