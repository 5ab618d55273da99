"""How fast this peer is, kept current from the steps it takes. Pure: times in, announced seconds out.

Recursive least squares with forgetting (Ljung, System Identification, 1999, ch. 11) over two numbers, after the model of a batching server: a round takes
`read` seconds for each layer, however many rows share it, and `row` seconds for each layer and row.
"""

from __future__ import annotations

from swarm.core import Span

FORGETTING = 0.995
"""Of every earlier round when another is met: about the last 200 count."""

TRUST = 50.0
"""Rounds that what was measured at the start counts for."""

OUTLIER = 3.0
"""Times what was expected, beyond which a round tells more of the machine's other work than of ours, and counts as no more than that."""

BOUND = 20.0
"""Times what was measured at the start, or a part of it, beyond which nothing is announced: it would be a fit gone astray."""

PROMPT = 64
"""Rows among which an announced prompt token shares the reading of weights: as measured at the start (`swarm.model.measure`)."""

STEP = 8
"""Rows up to which a head draws after each; of a prompt it sees only the last."""


class Pace:
    """`decode` and `prefill` as announced: seconds for a layer's step with one row, and for each row of a prompt. `head_weight`: the head in layers' worth."""

    def __init__(self, decode: float, prefill: float, head_weight: float, components: int) -> None:
        self._first = decode, prefill
        self._head, self._components = head_weight, components
        self._row = max((prefill * PROMPT - decode) / (PROMPT - 1), 0.0)
        self._read = max(decode - self._row, 0.0)
        scale = 1 / TRUST
        self._covariance = [[scale, 0.0], [0.0, scale]]

    @property
    def decode(self) -> float:
        return self._bounded(self._read + self._row, self._first[0])

    @property
    def prefill(self) -> float:
        return self._bounded(self._row + self._read / PROMPT, self._first[1])

    def add(self, span: Span, rows: int, seconds: float) -> None:
        """One round over these components, all its rows together."""
        layers: float = len(span) - (span.start == 0) - (span.stop == self._components)
        if span.stop == self._components and rows <= STEP:
            layers += self._head
        if layers <= 0 or rows <= 0 or not seconds > 0:
            return
        one, other = 1.0, float(rows)
        expected = self._read + self._row * rows
        error = min(seconds / layers, OUTLIER * expected) - expected if expected > 0 else seconds / layers
        (a, b), (_, d) = self._covariance
        gain = a * one + b * other, b * one + d * other
        weight = FORGETTING + one * gain[0] + other * gain[1]
        self._read = max(self._read + gain[0] / weight * error, 0.0)
        self._row = max(self._row + gain[1] / weight * error, 0.0)
        self._covariance = [
            [min((a - gain[0] * gain[0] / weight) / FORGETTING, 1.0), (b - gain[0] * gain[1] / weight) / FORGETTING],
            [(b - gain[1] * gain[0] / weight) / FORGETTING, min((d - gain[1] * gain[1] / weight) / FORGETTING, 1.0)],
        ]

    @staticmethod
    def _bounded(value: float, first: float) -> float:
        return min(max(value, first / BOUND), first * BOUND)
