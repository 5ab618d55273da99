"""Who may use how much memory: reserved before anything is allocated. Counts, never allocates."""

from __future__ import annotations

from collections.abc import Hashable


class CacheLedger:
    """A budget of positions, each of which costs its session's `weight`: the layers it keeps keys and values for, and its journals in layers' worth.

    `tokens` positions of a session that weighs `whole`, the most that one can, use it up. Ask `can_reserve`, then `reserve`; a key reserves again to change its
    share.

    `most` says to how many of them new reservations are held for the time being: what is reserved stays, may shrink, and goes on within `tokens`.
    """

    def __init__(self, tokens: int, whole: float) -> None:
        self.tokens = self.most = tokens
        self._whole = whole
        self._held: dict[Hashable, float] = {}

    @property
    def free_tokens(self) -> int:
        """Positions that any one more session could still reserve, whatever of the things held it runs over."""
        return max(int(min(self.tokens, self.most) - self.held + ROUNDING), 0) if self._whole else self.tokens

    @property
    def held(self) -> float:
        """Positions reserved, as of sessions that weigh the most."""
        return sum(self._held.values()) / self._whole if self._whole else 0.0

    def can_reserve(self, key: Hashable, tokens: int, weight: float, spare: float = 0.0) -> bool:
        """Whether they fit, instead of what the key may have reserved before, and leave so much of the whole (0 to 1) to others. What is no more than the key
        has always fits."""
        now = min(self.tokens, self.most) * (1 - spare)
        return self._fits(key, tokens, weight, now) or tokens * weight <= self._held.get(key, -1.0) + ROUNDING

    def reserve(self, key: Hashable, tokens: int, weight: float) -> None:
        """Also beyond `most`: whoever was told that it can, may have released its own on the way here."""
        if not self._fits(key, tokens, weight, self.tokens):
            raise ValueError(f"{tokens} positions of weight {weight:g} do not fit into what is left")
        self._held[key] = tokens * weight

    def _fits(self, key: Hashable, tokens: int, weight: float, budget: float) -> bool:
        others = sum(held for other, held in self._held.items() if other != key)
        return others + tokens * weight <= budget * self._whole + ROUNDING

    def release(self, key: Hashable) -> None:
        self._held.pop(key, None)


ROUNDING = 1e-6
"""Positions by which sums of weights may be off: they are fractions."""
