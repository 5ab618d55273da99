"""Room: model. Weights that are read in every step, brought together onto huge pages: with pages of 4 KiB a processor spends up to two fifths of the time in
which it reads them on finding out where they lie. Knows tensors in memory of the CPU and Linux; not layers or models.

Weights that were mapped from their file are in memory of this process from then on: it shares them with no other, and the machine cannot take them back.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from swarm.model.memory import trim

HUGE = 2**21
"""Bytes of a huge page, on x86-64 and most of ARM."""

REGION = 32 * HUGE
"""Bytes brought together, unless a tensor is larger: what tensors that end within a page leave unused is little of it, and it is all that weights take twice
while they are moved."""

LEAST = 2**16
"""Bytes below which a tensor is not worth moving: norms, biases."""

ALIGNED = 64
"""Where tensors begin: at a line of the cache."""

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


MAPPED = Path("/proc/self/maps")


def are_to_be_had() -> bool:
    """Whether this machine gives huge pages to who asks for them."""
    try:
        return sys.platform == "linux" and "[never]" not in SETTING.read_text()
    except OSError:
        return False


def move(tensors: Iterable[torch.Tensor]) -> None:
    """Let these tensors have the same numbers on huge pages. Each is named once; small ones stay where they are."""
    files = _mapped_files()
    for some in _regions(tensor for tensor in tensors if tensor.nbytes >= LEAST):
        region = mmap.mmap(-1, sum(map(_room, some)) + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        region.madvise(mmap.MADV_HUGEPAGE)
        at = -torch.frombuffer(region, dtype=torch.uint8).data_ptr() % HUGE
        for tensor in some:
            there = torch.frombuffer(region, dtype=tensor.dtype, count=tensor.numel(), offset=at).view(tensor.shape)
            there.copy_(tensor)
            _forget(tensor, files)
            tensor.data = there
            at += _room(tensor)
        trim()  # or the allocator would keep what they leave


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // ALIGNED) * ALIGNED


def _regions(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    some: list[torch.Tensor] = []
    for tensor in tensors:
        if some and sum(map(_room, some)) + _room(tensor) > REGION:
            yield some
            some = []
        some.append(tensor)
    if some:
        yield some


def _forget(tensor: torch.Tensor, files: Sequence[range]) -> None:
    """Let go of the pages of a mapped file: it stays mapped for as long as any other tensor of it is held."""
    start, stop = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE, (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < stop and any(start in file for file in files):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)


def _mapped_files() -> list[range]:
    """Where in this process files are mapped for itself alone: what is let go of there is as the file has it when somebody reads it again."""
    found = []
    for line in MAPPED.read_text().splitlines():
        addresses, rights, _, _, inode, *_ = line.split()
        if inode != "0" and rights.endswith("p"):
            start, stop = addresses.split("-")
            found.append(range(int(start, 16), int(stop, 16)))
    return found
