"""Which jobs run next: decode steps of every session first, then at most one chunk's worth of prompts. Pure; knows counts and keys, no tensors.

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

CHUNK = 256
"""Positions of prompts in one round: one chunk of a long one, or several short ones. It is how long a stream may have to wait for somebody's prompt."""


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
    """One round: groups to run one after the other, each a row of packed sessions. Older jobs first; every decode step is in, and one group of prompts."""
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
    if prompts := _prompts([job for job in ordered if not job.decodes]):
        groups.append(prompts)
    return groups


def _prompts(ordered: Sequence[Waiting[T]]) -> list[T]:
    """The oldest prompt's job, and those that fit beside it."""
    group: list[T] = []
    size = 0
    for job in ordered:
        if group and ((job.entry, job.exit) != (ordered[0].entry, ordered[0].exit) or size + job.count > CHUNK):
            continue
        group.append(job.what)
        size += job.count
    return group
