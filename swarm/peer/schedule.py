"""Which jobs run next: decode steps of every session first, then at most one chunk of somebody's prompt. Pure; knows counts and keys, no tensors.

A job is grouped with others that enter and leave the model at the same components, because only those can share a row of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

DECODE = 8
"""A job of at most so many positions counts as decoding: a single token, or one with a few drafted ones."""

PACKED = 512
"""Positions packed into one row at most: beyond it a row only adds waiting."""


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """The oldest job of one hop. `arrived` is a rising number: who came first."""

    what: T
    entry: int
    exit: int
    count: int
    arrived: int

    @property
    def decodes(self) -> bool:
        return self.count <= DECODE


def schedule(waiting: Sequence[Waiting[T]]) -> list[list[T]]:
    """One round: groups to run one after the other, each a row of packed sessions. Older jobs first; every decode step is in, and one prompt chunk."""
    ordered = sorted(waiting, key=lambda job: job.arrived)
    groups: list[list[T]] = []
    rows: dict[tuple[int, int], list[T]] = {}
    sizes: dict[tuple[int, int], int] = {}
    for job in ordered:
        if not job.decodes:
            continue
        way = (job.entry, job.exit)
        if way not in rows or sizes[way] + job.count > PACKED:
            rows[way], sizes[way] = [], 0
            groups.append(rows[way])
        rows[way].append(job.what)
        sizes[way] += job.count
    groups.extend([job.what] for job in [job for job in ordered if not job.decodes][:1])
    return groups
