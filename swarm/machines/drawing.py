"""What a head is asked to draw, and which of its draws count: those that continue what it has drawn itself.

Knows the order and the tokens that stand there; not who hears of a draw, nor how one is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.machines.effects import Draw
from swarm.machines.limits import LEAST_CHUNK
from swarm.machines.marks import token_marks
from swarm.wire import LOGITS, LOOP, MOST_SHOWN, Order


@dataclass(slots=True)
class Drawing:
    """A token already here that differs from the drawn one was a wrong guess: what follows it is `astray` until it is taken back."""

    last: tuple[int, int] | None = None
    """Position and token of the last draw that counts."""
    astray: bool = False
    _counted: dict[int, int] = field(default_factory=dict)
    """Tokens of draws that counted, by position, as far as somebody may ask for them."""

    def take(self, draws: Sequence[Draw], tokens: Sequence[int], order: Order) -> tuple[list[Draw], str | None]:
        """Those of some draws that count, where these `tokens` stand, and whether they end the answer: "stop" or "length"."""
        sent: list[Draw] = []
        finish = None
        for draw in draws:
            if draw.position < order.emit_from:
                continue
            if self.last is not None and draw.position - 1 == self.last[0] and tokens[draw.position - 1] != self.last[1]:
                self.astray = True
            if self.astray:
                break
            self.last = (draw.position, draw.token)
            sent.append(draw)
            if draw.position <= MOST_SHOWN:
                self._counted[draw.position] = draw.token
            if draw.token in order.sampling.stop_ids:
                finish = "stop"
            elif draw.position + 1 >= order.limit:
                finish = "length"
            if finish is not None:
                self.astray = True
                break
        return sent, finish

    def truncate(self, length: int) -> None:
        """Positions from `length` on are taken back. The token drawn for `length` itself still counts: it is to stand there."""
        if self.last is None or self.last[0] > length:
            self.last = None
        self.astray = False
        self._forget(length)

    def anew(self, length: int) -> Drawing:
        """For another order, of whose past so many positions still hold; what was drawn is remembered."""
        self._forget(length)
        return Drawing(_counted=self._counted)

    def _forget(self, length: int) -> None:
        self._counted = {position: token for position, token in self._counted.items() if position <= length}

    def marks(self, position: int) -> bytes:
        """Of the tokens drawn in one go, up to that for a position; empty if that was not drawn here."""
        tokens: list[int] = []
        while (token := self._counted.get(position - len(tokens))) is not None and len(tokens) < MOST_SHOWN:
            tokens.append(token)
        return token_marks(tokens[::-1])


def portion(order: Order, start: int, chunk: int) -> int:
    """Positions that a head computes at once from there on. Where logits are asked for these are few: a row of them is as long as the vocabulary."""
    before = order.emit_from - 1 - start
    if order.reply != LOGITS:
        return chunk
    return min(chunk, before) if before > 0 else LEAST_CHUNK


def wanted(order: Order, start: int, count: int, tokens: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which offsets of a job over `count` positions to draw after, and the history that the sampling asks for."""
    draw = tuple(range(max(order.emit_from - 1 - start, 0), count))
    draws = draw and order.reply == LOOP and order.sampling.repetition_penalty != 1
    return draw, tuple(tokens[:start]) if draws else ()
