"""Who may use how much memory: reserved before anything is allocated. Counts, never allocates."""

from __future__ import annotations

from collections.abc import Hashable


class CacheLedger:
    """A budget of positions, each of which costs its session's `weight`: the layers it keeps keys and values for, and its journals in layers' worth.

    `tokens` positions of a session that weighs `whole`, the most that one can, use it up. Ask `can_reserve`, then `reserve`; a key reserves again to change its
    share.
    """

    def __init__(self, tokens: int, whole: float) -> None:
        self.tokens = tokens
        self._whole = whole
        self._held: dict[Hashable, float] = {}

    @property
    def free_tokens(self) -> int:
        """Positions that any one more session could still reserve, whatever of the things held it runs over."""
        return max(int(self.tokens - sum(self._held.values()) / self._whole + ROUNDING), 0) if self._whole else self.tokens

    def can_reserve(self, key: Hashable, tokens: int, weight: float, spare: float = 0.0) -> bool:
        """Whether they fit, instead of what the key may have reserved before, and leave so much of the whole (0 to 1) to others."""
        others = sum(held for other, held in self._held.items() if other != key)
        return others + tokens * weight <= self.tokens * self._whole * (1 - spare) + ROUNDING

    def reserve(self, key: Hashable, tokens: int, weight: float) -> None:
        if not self.can_reserve(key, tokens, weight):
            raise ValueError(f"{tokens} positions of weight {weight:g} do not fit into what is left")
        self._held[key] = tokens * weight

    def release(self, key: Hashable) -> None:
        self._held.pop(key, None)


ROUNDING = 1e-6
"""Positions by which sums of weights may be off: they are fractions."""
