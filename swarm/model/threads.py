"""Room: model. How many threads compute. More than a processor has cores help little, and harm where two share one; and where reading weights is what takes
time, a core less may be as fast. Which holds depends on the machine, so it is measured once, on weights that are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf

import psutil
import torch
from torch import nn

from swarm.model.products import LEAST, SAMPLE

ROWS = (1, 64)
"""A step of one session, and a prompt's: both count alike."""

ROUNDS = 5

MOSTLY = 0.75
"""What share of the cores keeps them busy: with one of few left to whoever listens it is no less."""

GAIN = 1.1
"""How much faster than the usual number another must be to be taken: less may be noise, and peers that start together disturb one another."""


def candidates(usual: int, cores: int | None) -> list[int]:
    """The usual number first; one for each core, and one less, which leaves a core to whoever listens."""
    cores = min(cores or usual, usual)
    return list(dict.fromkeys((usual, cores, *((cores - 1,) if cores > 2 else ()))))


@torch.inference_mode()
def choose(model: nn.Module, clock: Callable[[], float], cores: int | None = None) -> int:
    """Have so many threads compute from now on as is fastest, and say how many. The usual number for a model without large matrices on a CPU."""
    usual = torch.get_num_threads()
    counts = candidates(usual, cores or psutil.cpu_count(logical=False))
    layers: Sequence[nn.Linear] = _sample(model)
    if len(counts) < 2 or not layers:
        return usual
    inputs = {(rows, layer.in_features): layer.weight.new_ones((rows, layer.in_features)) for layer in layers for rows in ROWS}
    times = {(count, rows): inf for count in counts for rows in ROWS}
    for _ in range(ROUNDS):  # in turns, so that all meet the same noise
        for count, rows in times:
            torch.set_num_threads(count)
            began = clock()
            for layer in layers:
                layer(inputs[rows, layer.in_features])
            times[count, rows] = min(times[count, rows], clock() - began)
    slower = {count: sum(times[count, rows] / times[usual, rows] for rows in ROWS) / len(ROWS) for count in counts}
    best = min(counts, key=slower.__getitem__)
    chosen = best if slower[best] * GAIN < 1 else usual
    torch.set_num_threads(chosen)
    return chosen


SMALL = 2**17
"""Numbers that one thread alone converts sooner than it would wake another, which sleeps while other peers compute: of 49,152 it took 0.07 ms, with another
0.2 to 0.35 and at times 1."""


def widened(x: torch.Tensor) -> torch.Tensor:
    """In float32."""
    if x.numel() > SMALL or x.device.type != "cpu":
        return x.float()
    with _alone():
        return x.float()


@contextmanager
def _alone() -> Iterator[None]:
    """This thread computes alone within."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def fill(cores: int | None = None) -> bool:
    """Whether the threads of this process alone keep the machine's cores busy, so that whoever computes beside it takes them from it."""
    return torch.get_num_threads() >= MOSTLY * (cores or psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)


def _sample(model: nn.Module) -> Sequence[nn.Linear]:
    """Some large matrices: no more than a cache cannot hold."""
    layers: list[nn.Linear] = []
    left = SAMPLE
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.numel() >= LEAST and module.weight.device.type == "cpu" and left > 0:
            layers.append(module)
            left -= module.weight.nbytes
    return layers
