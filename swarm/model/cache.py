"""Room: model. The keys and values one session left at one hop. Knows tensors and positions; nothing of models, routes or of who asks.

Shapes: K = key/value heads, n = new positions, L = positions held, D = width of a key head, E = width of a value head.

A cache learns the shapes from the first keys it is given, so no family has to be described to it. It grows by doubling: a slab per layer stays contiguous,
which is what attention reads fastest (a head's positions side by side: 20-30 % faster at 2048 positions than a position's heads side by side), and the
copying amounts to one pass over the final size. Writing beyond `length` changes nothing that counts until `advance`, so a run that fails half-way leaves the
cache as it was.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch

from swarm.core import slab_after_cut, slab_size


class Slabs(ctypes.Structure):
    """Keys and values of one layer, as machine code sees them (`cpp/attention.h`)."""

    _fields_ = (("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("capacity", ctypes.c_int64))


class KVCache:
    """One session's keys and values for the layers of components [start, stop). Positions [0, length) count.

    `limit` is the highest length the session may ever reach, if known; slabs never grow beyond it. Rotary scaling that depends on the length of the whole
    sequence (longrope, dynamic) looks at it too, so that an answer does not depend on how it was cut into steps. `compiled` is whether its session began when
    layers were compiled already, and `captured` the recorded steps (`gpu.captured.Captured`) that it began with.
    """

    __slots__ = ("_keys", "_slabs", "_values", "captured", "compiled", "length", "limit", "start", "stop")

    def __init__(self, start: int, stop: int, limit: int | None = None, compiled: bool = False, captured: Any = None) -> None:
        self.start, self.stop, self.limit, self.compiled, self.captured = start, stop, limit, compiled, captured
        self.length = 0
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._slabs: ctypes.Array[Slabs] | None = None

    @property
    def first_layer(self) -> int:
        """Index in the model of the first layer of these components."""
        return max(self.start - 1, 0)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, whether filled or not."""
        return sum(slab.nbytes for slabs in (self._keys, self._values) for slab in list(slabs.values()))  # another thread may just let it grow

    @property
    def position_nbytes(self) -> int:
        """Bytes of one position's keys, or values, in the layer where they are largest."""
        return max((slab[:, 0].nbytes for slabs in (self._keys, self._values) for slab in slabs.values()), default=0)

    def write(self, layer: int, start: int, k_KnD: torch.Tensor, v_KnE: torch.Tensor, since: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Put positions [start, start + n) of transformer layer `layer`, and return views of [since, start + n): [K, L, D] and [K, L, E]."""
        stop = start + k_KnD.shape[1]
        keys = self._keys.get(layer)
        if keys is None or keys.shape[1] < stop:
            keys = self._grow(layer, stop, k_KnD, v_KnE)
        values = self._values[layer]
        keys[:, start:stop] = k_KnD
        values[:, start:stop] = v_KnE
        return keys[:, since:stop], values[:, since:stop]

    def reserve(self, stop: int, layers: int) -> bool:
        """Make room for positions up to `stop` in all `layers` layers; False before each of them has been written to, since what is not known cannot grow."""
        if len(self._keys) < layers:
            return False
        for layer, keys in self._keys.items():
            if keys.shape[1] < stop:
                self._grow(layer, stop, keys, self._values[layer])
        return True

    def slabs(self) -> ctypes.Array[Slabs]:
        """Where the slabs of every layer lie, those of the first one first. Good until the cache grows or is freed."""
        if self._slabs is None:
            layers = sorted(self._keys)
            self._slabs = (Slabs * len(layers))(*(Slabs(self._keys[i].data_ptr(), self._values[i].data_ptr(), self._keys[i].shape[1]) for i in layers))
        return self._slabs

    def begin_as(self, other: KVCache, length: int) -> Iterator[int]:
        """Hold, instead of nothing, a copy of what another cache of the same components holds below `length`: a slab at a time, each of so many bytes. Nothing
        counts before the last one. Raises ValueError when that is less."""
        if self.length or (self.start, self.stop) != (other.start, other.stop) or length > other.length:
            raise ValueError(f"a cache of {self.length} positions cannot begin as {length} of another one's {other.length}")
        for slabs, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for layer in list(theirs):
                slab = theirs[layer]
                slabs[layer] = slab.new_empty((slab.shape[0], slab_size(length, self.limit), slab.shape[2]))
                slabs[layer][:, :length] = slab[:, :length]
                yield slabs[layer].nbytes
        self._slabs = None
        self.compiled, self.captured, self.length = other.compiled, other.captured, length

    def advance(self, n: int) -> None:
        """Make the `n` positions count that every layer has just written."""
        self.length += n

    def truncate(self, n: int) -> None:
        """Forget positions from `n` on; memory that is far more than the rest needs goes back. Raises ValueError when there are fewer: a gap is not
        to be invented."""
        if not 0 <= n <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} positions to {n}")
        self.length = n
        capacity = next((slab.shape[1] for slab in self._keys.values()), 0)
        if (less := slab_after_cut(capacity, n)) < capacity:
            for slabs in (self._keys, self._values):
                for layer, slab in slabs.items():
                    slabs[layer] = slab[:, :less].clone(memory_format=torch.contiguous_format)
            self._slabs = None

    def free(self) -> None:
        """Give the memory back; the cache is empty and usable again."""
        self.length = 0
        self._keys.clear()
        self._values.clear()
        self._slabs = None

    def _grow(self, layer: int, need: int, k_KnD: torch.Tensor, v_KnE: torch.Tensor) -> torch.Tensor:
        """Slabs for `need` positions of heads like these, with what was there."""
        if not self.start <= layer + 1 < self.stop:
            raise ValueError(f"layer {layer} is not in components [{self.start}, {self.stop}) of this cache")
        capacity = slab_size(need, self.limit)
        for slabs, new in ((self._keys, k_KnD), (self._values, v_KnE)):
            slab = new.new_empty((new.shape[0], capacity, new.shape[2]))
            if layer in slabs:
                slab[:, : self.length] = slabs[layer][:, : self.length]
            slabs[layer] = slab
        self._slabs = None
        return self._keys[layer]
