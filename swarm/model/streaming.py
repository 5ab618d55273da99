"""Room: model. Layers that wait in host memory and are copied to their device before they run. Knows modules and one way between host and device; not layouts.

All of a layer is one block of bytes on the host, so that one copy brings it. On the device there are two places for such blocks: while one layer runs in the
first, the next one arrives in the second, and when a layer has run, the one after the next is sent for. After the last comes the first again: the next token
begins with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from swarm.errors import InvalidConfig
from swarm.model.layout import BUFFERS

ALIGNED = 256
"""Bytes. What CUDA aligns its own allocations to, which kernels count on."""


class Line(Protocol):
    """The way from host memory to a device. Copies arrive in the order in which they were sent for."""

    def keep(self, size: int) -> torch.Tensor:
        """Bytes of host memory that copies may be made from."""

    def buffer(self, size: int) -> torch.Tensor:
        """Bytes of the device."""

    def bring(self, slot: int, block: torch.Tensor, place: torch.Tensor) -> None:
        """Begin to copy, as soon as what the device was asked for so far is done; what it is asked for from now on does not wait."""

    def wait(self, slot: int) -> None:
        """What the device is asked for from now on comes after the last copy into `slot`."""


class CudaLine:
    """A stream of its own for copies, from pinned memory. `tests/model/test_gpu.py` covers it, where there is a GPU."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device)
        self._arrived: dict[int, torch.cuda.Event] = {}

    def keep(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def buffer(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def bring(self, slot: int, block: torch.Tensor, place: torch.Tensor) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            place.copy_(block, non_blocking=True)
            self._arrived[slot] = self._stream.record_event()

    def wait(self, slot: int) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._arrived[slot])


def line_to(device: str) -> Line:
    """Raises InvalidConfig for a device to which nothing is streamed: the CPU, and those that share its memory."""
    if not device.startswith("cuda"):
        raise InvalidConfig(f"layers are streamed to CUDA and ROCm devices only, not to {device}; choose fewer layers")
    return CudaLine(device)


class _Piece(NamedTuple):
    """Where a tensor of a layer is in its block, and the modules that know it by name."""

    owners: tuple[tuple[dict[str, Any], str], ...]
    start: int
    tensor: torch.Tensor


class Streamed:
    """Some layers of one device, in the order in which they run."""

    def __init__(self, layers: Sequence[nn.Module], line: Line) -> None:
        """The layers are in host memory, and their tensors are taken from there."""
        self._line, pieces = line, [_pieces(layer) for layer in layers]
        sizes = [sum(_padded(piece.tensor.nbytes) for piece in some) for some in pieces]
        buffers = [line.buffer(max(sizes)) for _ in range(min(BUFFERS, len(layers)))]
        self._holds: list[int | None] = [None] * len(buffers)
        self._last = -1
        self._blocks = [_packed(some, line.keep(size)) for some, size in zip(pieces, sizes, strict=True)]
        self._places = [[buffer[:size] for buffer in buffers] for size in sizes]
        self._views = [[[(piece.owners, _view(piece, buffer)) for piece in some] for buffer in buffers] for some in pieces]
        for number, layer in enumerate(layers):
            self._seat(number, 0)
            layer.register_forward_pre_hook(lambda *_, number=number: self._before(number))
            layer.register_forward_hook(lambda *_, number=number: self._after(number))

    def _before(self, number: int) -> None:
        """Its turn: it is there, or it comes now, in the place that was not used last."""
        if number not in self._holds:
            self._bring(number, (self._last + 1) % len(self._holds))
        self._last = slot = self._holds.index(number)
        self._line.wait(slot)
        self._seat(number, slot)

    def _after(self, number: int) -> None:
        """It has been run, so its place is free. What fails before this leaves the place to whoever needs it next."""
        following = (number + len(self._holds)) % len(self._blocks)
        if following not in self._holds:
            self._bring(following, self._last)

    def _bring(self, number: int, slot: int) -> None:
        self._holds[slot] = None  # should the copy fail
        self._line.bring(slot, self._blocks[number], self._places[number][slot])
        self._holds[slot] = number

    def _seat(self, number: int, slot: int) -> None:
        for owners, tensor in self._views[number][slot]:
            for tensors, name in owners:
                tensors[name] = tensor


def _pieces(layer: nn.Module) -> list[_Piece]:
    owners: dict[int, list[tuple[dict[str, Any], str]]] = {}
    found: dict[int, torch.Tensor] = {}
    for part in layer.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    owners.setdefault(id(tensor), []).append((tensors, name))
                    found[id(tensor)] = tensor
    pieces, at = [], 0
    for known, tensor in found.items():
        pieces.append(_Piece(tuple(owners[known]), at, tensor))
        at += _padded(tensor.nbytes)
    return pieces


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _packed(pieces: Sequence[_Piece], block: torch.Tensor) -> torch.Tensor:
    for piece in pieces:
        _view(piece, block).copy_(piece.tensor.detach())
    return block


def _view(piece: _Piece, block: torch.Tensor) -> torch.Tensor:
    tensor = piece.tensor
    there = block[piece.start : piece.start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there
