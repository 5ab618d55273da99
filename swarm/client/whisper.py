"""What a client's own draft model thinks comes next, told to the first hop of its chain, which may start it at once.

Knows a session's history and what was told last; not how guesses are made, nor what becomes of them. A wrong one costs the ring a little, the answer nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from swarm.core import Sampling
from swarm.machines.client import ClientSession
from swarm.machines.effects import Effect

MOST = 64
"""Tokens told at once at most (`wire.Guess`)."""


class Line(Protocol):
    """One session as a draft model sees it."""

    def opened(self, sampling: Sampling) -> None: ...

    def missed(self, length: int) -> None:
        """Only so many tokens of the history still stand."""

    def ahead_of(self, history: Sequence[int]) -> list[int]:
        """What may follow, as far as it is known already; it goes on with that."""

    def closed(self) -> None: ...


MakeLine = Callable[[Callable[[], None]], Line]
"""With whom to tell when there is more."""


class Whisper:
    """One session's guesses. `do` carries out what the machine answers."""

    def __init__(self, machine: ClientSession, do: Callable[[Sequence[Effect]], None], make: MakeLine | None) -> None:
        self._machine, self._do, self._make = machine, do, make
        self._line: Line | None = None
        self._told: tuple[int, int, tuple[int, ...]] = (0, 0, ())

    def begin(self, keep: int, sampling: Sampling) -> None:
        """A turn begins, after the first `keep` tokens of the history."""
        if self._line is None and self._make is not None:
            self._line = self._make(self.more)
        self.cut(keep)
        if self._line is not None:
            self._line.opened(sampling)

    def cut(self, keep: int) -> None:
        """Only the first `keep` tokens of the history still stand."""
        if self._line is not None:
            self._line.missed(keep)

    def more(self) -> None:
        """There is a token more, or a guess more."""
        machine = self._machine
        if self._line is None or not machine.running:
            return
        guesses = tuple(self._line.ahead_of(machine.history)[:MOST])
        told = (machine.chain, len(machine.history), guesses)
        if told != self._told and (effects := machine.guess(guesses)):
            self._told = told
            self._do(effects)

    def close(self) -> None:
        line, self._line, self._make = self._line, None, None
        if line is not None:
            line.closed()
