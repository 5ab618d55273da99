"""Who may use how much cache: reserved before anything is allocated. Counts, never allocates."""

from __future__ import annotations

from collections.abc import Hashable


class CacheLedger:
    """A budget in token-layers: one position of one layer's cache is one unit. Ask `can_reserve`, then `reserve`; a key reserves again to change its share."""

    def __init__(self, tokens: int, layers: int) -> None:
        self.tokens = tokens
        self.layers = max(layers, 1)
        self._held: dict[Hashable, int] = {}
        self._used = 0

    @property
    def free_tokens(self) -> int:
        """Positions that a session over every held layer could still reserve."""
        return (self.tokens * self.layers - self._used) // self.layers

    def can_reserve(self, key: Hashable, tokens: int, layers: int) -> bool:
        return self._used - self._held.get(key, 0) + tokens * layers <= self.tokens * self.layers

    def reserve(self, key: Hashable, tokens: int, layers: int) -> None:
        if not self.can_reserve(key, tokens, layers):
            raise ValueError(f"{tokens} tokens × {layers} layers do not fit into what is left")
        self.release(key)
        self._held[key] = tokens * layers
        self._used += tokens * layers

    def release(self, key: Hashable) -> None:
        self._used -= self._held.pop(key, 0)
