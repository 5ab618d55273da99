"""Who may use how much memory: reserved before anything is allocated. Counts, never allocates."""

from __future__ import annotations

from collections.abc import Hashable


class CacheLedger:
    """A budget of positions, each of which costs its session's `weight`: the layers it keeps keys and values for, and its journals in layers' worth.

    `tokens` positions of a session that weighs `whole`, the most that one can, use it up. Ask `can_reserve`, then `reserve`; a key reserves again to change its
    share. What is laid by is in nobody's way: it has to make room as soon as that is wanted.
    """

    def __init__(self, tokens: int, whole: float) -> None:
        self.tokens = tokens
        self._whole = whole
        self._held: dict[Hashable, float] = {}
        self._laid: dict[Hashable, float] = {}
        """The oldest first."""

    @property
    def free_tokens(self) -> int:
        """Positions that any one more session could still reserve, whatever of the things held it runs over."""
        return max(int(self.tokens - sum(self._held.values()) / self._whole + ROUNDING), 0) if self._whole else self.tokens

    def can_reserve(self, key: Hashable, tokens: int, weight: float, spare: float = 0.0) -> bool:
        """Whether they fit, instead of what the key may have reserved before, and leave so much of the whole (0 to 1) to others."""
        others = sum(held for other, held in self._held.items() if other != key)
        return others + tokens * weight <= self.tokens * self._whole * (1 - spare) + ROUNDING

    def reserve(self, key: Hashable, tokens: int, weight: float) -> list[Hashable]:
        """What was laid by and has to go for it, the oldest first. Raises ValueError where `can_reserve` is False."""
        if not self.can_reserve(key, tokens, weight):
            raise ValueError(f"{tokens} positions of weight {weight:g} do not fit into what is left")
        self._held[key] = tokens * weight
        return self._make_room()

    def release(self, key: Hashable) -> None:
        self._held.pop(key, None)
        self._laid.pop(key, None)

    def lay_by(self, key: Hashable, tokens: int, weight: float) -> list[Hashable]:
        """Keep so much as long as nobody wants the room; what has to go for it, which may be the key itself."""
        self._laid[key] = tokens * weight
        return self._make_room()

    def renew(self, key: Hashable) -> None:
        """What is laid by under this key is of use: others go before it."""
        if (size := self._laid.pop(key, None)) is not None:
            self._laid[key] = size

    def _make_room(self) -> list[Hashable]:
        gone = []
        room = self.tokens * self._whole + ROUNDING - sum(self._held.values())
        while sum(self._laid.values()) > max(room, 0.0):
            gone.append(next(iter(self._laid)))
            del self._laid[gone[-1]]
        return gone


ROUNDING = 1e-6
"""Positions by which sums of weights may be off: they are fractions."""
