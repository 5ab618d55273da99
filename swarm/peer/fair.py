"""Whose prompt runs next: that of the client of whom least has run since both wait, so that nobody's many or long prompts hold up another's. Pure: counts and
keys, no tensors.

Decode steps need no turns: all sessions' are in every round. Identities are free, so this is fair among those who do not make up others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from swarm.core import PeerId
from swarm.peer.schedule import Waiting

T = TypeVar("T")


class Turns:
    def __init__(self) -> None:
        self._ran: dict[PeerId, int] = {}
        """Positions of prompts, of the clients that have some waiting."""

    def ran(self, client: PeerId, positions: int) -> None:
        if client in self._ran:
            self._ran[client] += positions

    def fairly(self, waiting: Sequence[Waiting[T]], client: Callable[[T], PeerId]) -> list[Waiting[T]]:
        """The same jobs, the prompts among them renumbered: as `schedule` takes who came first, it takes whose turn it is."""
        prompts = [job for job in waiting if not job.decodes]
        self._note({client(job.what) for job in prompts})
        turns = sorted(prompts, key=lambda job: (self._ran[client(job.what)], job.arrived))
        numbers = sorted(job.arrived for job in prompts)
        renumbered = [replace(job, arrived=number) for job, number in zip(turns, numbers, strict=True)]
        return [*(job for job in waiting if job.decodes), *renumbered]

    def _note(self, clients: set[PeerId]) -> None:
        """Whoever comes anew is as far as who has had least: neither owed what it did not ask for, nor behind."""
        self._ran = {client: ran for client, ran in self._ran.items() if client in clients}
        least = min(self._ran.values(), default=0)
        for client in clients:
            self._ran.setdefault(client, least)
