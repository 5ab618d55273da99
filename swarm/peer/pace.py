"""How fast this peer is, kept current from the rounds it computes. Pure: times in, announced seconds out.

The model is that of a batching server: a round takes `read` seconds for each layer, however many rows share it, and `row` seconds for each layer and row.
Rounds of few rows tell the first, rounds of many the second; each is smoothed exponentially, the other taken as known. (Least squares over both at once go
astray as soon as all rounds are alike for a while, as they are in any long answer.)
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.core import Span

FEW = 8
"""Rows up to which a round is mostly reading. Up to so many a head draws after each; of a prompt it sees only the last."""

NEWS = 0.02
"""Of one round in the running means: about the last 50 of its kind count."""

OUTLIER = 3.0
"""Times what was expected, beyond which a round tells more of the machine's other work than of ours, and counts as no more than that."""

BOUND = 20.0
"""Times what was measured at the start, or a part of it, beyond which nothing is announced."""

PROMPT = 64
"""Rows among which an announced prompt token shares the reading of weights: as measured at the start (`swarm.model.measure`)."""

ENOUGH = 100
"""Rounds after which a fit tells more than a short measurement: the means count about the last 50 of each kind."""

ALIKE = 3.0
"""Times what is measured at the start, or a part of it, up to which an earlier fit is believed: layers that are not compiled yet may be twice as slow, and
other programs busy. Beyond, the machine is not what it was."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What rounds took, in seconds: for each layer `read`, however many rows share it, and `row` for each layer and row; fitted to so many `rounds`."""

    read: float
    row: float
    rounds: int = 0

    @property
    def decode(self) -> float:
        return self.read + self.row

    @property
    def prefill(self) -> float:
        return self.row + self.read / PROMPT


class Pace:
    """`decode` and `prefill` as announced: seconds for a layer's step with one row, and for each row of a prompt. `head_weight`: the head in layers' worth."""

    def __init__(self, decode: float, prefill: float, head_weight: float, components: int, known: Fit | None = None) -> None:
        """Measured just now, over few steps. `known` is what rounds took before a restart, and is gone on from where it is like that."""
        self._first = decode, prefill
        self._head, self._components = head_weight, components
        row = max((prefill * PROMPT - decode) / (PROMPT - 1), 0.0)
        began = Fit(max(decode - row, 0.0), row)
        if known is not None and _alike(known.decode, decode) and _alike(known.prefill, prefill):
            began = known
        self._read, self._row, self._rounds = began.read, began.row, began.rounds

    @property
    def fit(self) -> Fit | None:
        """What is worth keeping; None while too little was computed."""
        return Fit(self._read, self._row, self._rounds) if self._rounds >= ENOUGH else None

    @property
    def decode(self) -> float:
        return _bounded(self._read + self._row, self._first[0])

    @property
    def prefill(self) -> float:
        return _bounded(self._row + self._read / PROMPT, self._first[1])

    def add(self, span: Span, rows: int, seconds: float) -> None:
        """One round over these components, all its rows together."""
        layers: float = len(span) - (span.start == 0) - (span.stop == self._components)
        if span.stop == self._components and rows <= FEW:
            layers += self._head
        if layers <= 0 or rows <= 0 or not seconds > 0:
            return
        self._rounds += 1
        expected = self._read + self._row * rows
        taken = min(seconds / layers, OUTLIER * expected) if expected > 0 else seconds / layers
        if rows <= FEW:
            self._read += NEWS * (max(taken - self._row * rows, 0.0) - self._read)
        else:
            self._row += NEWS * (max(taken - self._read, 0.0) / rows - self._row)


def _bounded(value: float, first: float) -> float:
    return min(max(value, first / BOUND), first * BOUND)


def _alike(value: float, first: float) -> bool:
    return first / ALIKE <= value <= first * ALIKE
