"""Room: model. The keys and values one session left at one hop. Knows tensors and positions; nothing of models, routes or of who asks.

Shapes: K = key/value heads, n = new positions, L = positions held, D = width of a key head, E = width of a value head.

A cache learns the shapes from the first keys it is given, so no family has to be described to it. It grows by doubling: a slab per layer stays contiguous,
which is what attention reads fastest (a head's positions side by side: 20-30 % faster at 2048 positions than a position's heads side by side), and the
copying amounts to one pass over the final size. Writing beyond `length` changes nothing that counts until `advance`, so a run that fails half-way leaves the
cache as it was.
"""

from __future__ import annotations

import torch

from swarm.core import slab_size


class KVCache:
    """One session's keys and values for the layers of components [start, stop). Positions [0, length) count.

    `limit` is the highest length the session may ever reach, if known; slabs never grow beyond it. Rotary scaling that depends on the length of the whole
    sequence (longrope, dynamic) looks at it too, so that an answer does not depend on how it was cut into steps.
    """

    __slots__ = ("_keys", "_values", "length", "limit", "start", "stop")

    def __init__(self, start: int, stop: int, limit: int | None = None) -> None:
        self.start, self.stop, self.limit = start, stop, limit
        self.length = 0
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes allocated, whether filled or not."""
        return sum(slab.nbytes for slabs in (self._keys, self._values) for slab in slabs.values())

    def write(self, layer: int, start: int, k_KnD: torch.Tensor, v_KnE: torch.Tensor, since: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Put positions [start, start + n) of transformer layer `layer`, and return views of [since, start + n): [K, L, D] and [K, L, E]."""
        stop = start + k_KnD.shape[1]
        keys = self._keys.get(layer)
        if keys is None or keys.shape[1] < stop:
            keys = self._grow(layer, start, stop, k_KnD, v_KnE)
        values = self._values[layer]
        keys[:, start:stop] = k_KnD
        values[:, start:stop] = v_KnE
        return keys[:, since:stop], values[:, since:stop]

    def advance(self, n: int) -> None:
        """Make the `n` positions count that every layer has just written."""
        self.length += n

    def truncate(self, n: int) -> None:
        """Forget positions from `n` on. Raises ValueError when there are fewer: a gap cannot be invented."""
        if not 0 <= n <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} positions to {n}")
        self.length = n

    def free(self) -> None:
        """Give the memory back; the cache is empty and usable again."""
        self.length = 0
        self._keys.clear()
        self._values.clear()

    def _grow(self, layer: int, filled: int, need: int, k_KnD: torch.Tensor, v_KnE: torch.Tensor) -> torch.Tensor:
        if not self.start <= layer + 1 < self.stop:
            raise ValueError(f"layer {layer} is not in components [{self.start}, {self.stop}) of this cache")
        capacity = slab_size(need, self.limit)
        for slabs, new in ((self._keys, k_KnD), (self._values, v_KnE)):
            slab = new.new_empty((new.shape[0], capacity, new.shape[2]))
            if layer in slabs:
                slab[:, :filled] = slabs[layer][:, :filled]
            slabs[layer] = slab
        return self._keys[layer]
