"""Who may use how much memory: reserved before anything is allocated. Counts, never allocates."""

from __future__ import annotations

from collections.abc import Collection, Hashable


class CacheLedger:
    """A budget of positions, each of which costs its session's `weight`: the layers it keeps keys and values for, and its journals in layers' worth.

    `tokens` positions of a session that weighs `whole`, the most that one can, use it up. Ask `can_reserve`, then `reserve`; a key reserves again to change its
    share. What is laid by is in nobody's way: it has to make room as soon as that is wanted.

    `most` says to how many of them new reservations are held for the time being: what is reserved stays, may shrink, and goes on within `tokens`.
    """

    def __init__(self, tokens: int, whole: float) -> None:
        self.tokens = self.most = tokens
        self._whole = whole
        self._held: dict[Hashable, float] = {}
        self._laid: dict[Hashable, float] = {}
        """The oldest first."""

    @property
    def free_tokens(self) -> int:
        """Positions that any one more session could still reserve, whatever of the things held it runs over."""
        return max(int(min(self.tokens, self.most) - self.held + ROUNDING), 0) if self._whole else self.tokens

    @property
    def held(self) -> float:
        """Positions reserved, as of sessions that weigh the most."""
        return sum(self._held.values()) / self._whole if self._whole else 0.0

    def can_reserve(self, key: Hashable, tokens: int, weight: float, spare: float = 0.0, without: Collection[Hashable] = ()) -> bool:
        """Whether they fit, instead of what the key may have reserved before, and leave so much of the whole (0 to 1) to others. What is no more than the key
        has always fits. `without` are keys that would be released first."""
        now = min(self.tokens, self.most) * (1 - spare)
        return self._fits(key, tokens, weight, now, without) or tokens * weight <= self._held.get(key, -1.0) + ROUNDING

    def reserve(self, key: Hashable, tokens: int, weight: float) -> list[Hashable]:
        """What was laid by and has to go for it, the oldest first. Also beyond `most`: whoever was told that it can, may have released its own on the way
        here. Raises ValueError where it does not fit at all."""
        if not self._fits(key, tokens, weight, self.tokens):
            raise ValueError(f"{tokens} positions of weight {weight:g} do not fit into what is left")
        self._held[key] = tokens * weight
        return self._make_room()

    def _fits(self, key: Hashable, tokens: int, weight: float, budget: float, without: Collection[Hashable] = ()) -> bool:
        others = sum(held for other, held in self._held.items() if other != key and other not in without)
        return others + tokens * weight <= budget * self._whole + ROUNDING

    def release(self, key: Hashable) -> None:
        self._held.pop(key, None)
        self._laid.pop(key, None)

    @property
    def laid(self) -> float:
        """Positions laid by, counted in the same way."""
        return sum(self._laid.values()) / self._whole if self._whole else 0.0

    def hold_to(self, most: int) -> list[Hashable]:
        """Let no more be reserved for now; what of the things laid by has to go."""
        self.most = most
        return self._make_room()

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
        room = min(self.tokens, self.most) * self._whole + ROUNDING - sum(self._held.values())
        while sum(self._laid.values()) > max(room, 0.0):
            gone.append(next(iter(self._laid)))
            del self._laid[gone[-1]]
        return gone


ROUNDING = 1e-6
"""Positions by which sums of weights may be off: they are fractions."""
