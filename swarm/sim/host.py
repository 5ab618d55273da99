"""The room `sim`, the machine below a node: meters that show what a script says, and notes that outlive a process on the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from swarm.ports import Readings

PLENTY = 2**40
"""Bytes that nobody will miss."""


class Meters:
    """Implements `ports.Meters`."""

    def __init__(self) -> None:
        self.readings = Readings(free=PLENTY, host_free=PLENTY)

    def read(self) -> Readings:
        return self.readings

    def show(self, **changes: float | bool) -> None:
        """What they show from now on, where it changes."""
        self.readings = replace(self.readings, **changes)  # type: ignore[arg-type]


class Notes:
    """Implements `ports.Notes`."""

    def __init__(self) -> None:
        self.written: dict[tuple[str, ...], dict[str, float]] = {}

    def read(self, about: Sequence[str]) -> Mapping[str, float]:
        return self.written.get(tuple(about), {})

    def write(self, about: Sequence[str], figures: Mapping[str, float]) -> None:
        self.written[tuple(about)] = dict(figures)
