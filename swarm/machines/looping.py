"""What the first hop of a chain starts by itself, so that the ring turns: tokens that came home, as far as the client's credit goes, and guesses ahead of them.

Knows which tokens are right and which are guesses, what waits for credit, and who guesses. Taking back what was guessed wrong, and telling those behind, is the
hop's (`hop.py`); how guesses are made, and how many, the guesser's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

from swarm.machines.limits import STEP
from swarm.wire import Drawn


class Guesser(Protocol):
    """Who guesses for a first hop, and learns from what becomes of that."""

    def propose(self, tokens: Sequence[int], fresh: Sequence[int], sure: int, most: int) -> Sequence[int]:
        """What may follow these tokens and then those, of which together the first `sure` are right: at most so many."""

    def left(self, start: int, stop: int, *, told: bool = False) -> None:
        """These positions are started, as one step; `told`: the client has fed them."""

    def took(self, start: int, micros: int) -> None:
        """What starts there took us so long: of whatever others say of a step, that much at least is so."""

    def read(self, tokens: Sequence[int], sure: int) -> None:
        """While others compute: the first `sure` of these tokens are right."""

    def judged(self, position: int, right: bool) -> None:
        """The token that stands at a position has been drawn, or another one."""

    def home(self, position: int, micros: Sequence[int]) -> int:
        """The token of a position is here: of how many positions the step was that brought it, 0 where nobody knows."""

    def missed(self, length: int) -> None:
        """Only so many positions hold: what was guessed beyond is void."""


class Looping:
    """Every hop has one. At those behind the first nothing comes home and nothing is started: it is how they know what is `sure`.

    `sure` is at most one beyond the tokens that are here, by the token that waits for credit. Ids are below `vocab`, where that is not 0."""

    def __init__(self, guesser: Guesser | None, vocab: int = 0) -> None:
        self.sure = 0
        """Tokens below it are right, those from there on guesses. At the first hop: what the client gave and what came home, which no head can change any more;
        each step tells it to those behind. At the others: what steps have told, at most what is true by now. Newcomers are fed up to it."""
        self.held: tuple[int, int] | None = None
        """Position and token, drawn, that wait for credit. There is one at most: nobody can draw behind a position that is not started."""
        self._guesser, self._vocab = guesser, vocab
        self._until = 0
        self._flows = False
        """Whether all that the client knows is here: what it has yet to feed is not to be guessed."""
        self._halted = self._deserted = False

    # --- what is right --------------------------------------------------------------------------------------------------------------------------------------

    def opened(self, until: int, accepted: int) -> None:
        """A chain begins, with such a credit and what is left of the tokens: the client knows them."""
        self._until, self.held, self._halted, self._deserted = until, None, False, False
        self._flows, self.sure = False, accepted
        if self._guesser is not None:
            self._guesser.missed(accepted)

    def given(self, start: int, stop: int, flows: bool) -> None:
        """The client has fed these positions, so all that is here is right; `flows`: it knows no more."""
        if self._guesser is not None:
            self._guesser.left(start, stop, told=True)
        self.sure, self._flows = stop, flows

    def settled(self, sure: int) -> None:
        """What was not right is taken back: so many are."""
        self.sure = sure

    def told(self, sure: int) -> None:
        """By a step, to a hop behind the first."""
        self.sure = max(self.sure, sure)

    def truncate(self, length: int) -> None:
        self.sure = min(self.sure, length)

    # --- credit ---------------------------------------------------------------------------------------------------------------------------------------------

    def granted(self, until: int) -> None:
        """The client is there, and wants positions below `until` to be started."""
        self._until, self._deserted = until, False

    def deserted(self) -> None:
        """Without its client the ring halts until that is heard of again."""
        self._deserted = True

    # --- what comes home ------------------------------------------------------------------------------------------------------------------------------------

    def believes(self, message: Drawn, tokens: Sequence[int]) -> bool:
        """Whether that can have been drawn: nothing behind the position after the last one, nor behind the first guess that is not what this message says."""
        return message.start + len(message.tokens) <= self._drawable(message, tokens)

    def _drawable(self, message: Drawn, tokens: Sequence[int]) -> int:
        for position, token in enumerate(message.tokens, message.start):
            if self.sure <= position < len(tokens) and tokens[position] != token:
                return position + 1
        return len(tokens) + 1

    def positions_of(self, message: Drawn) -> int:
        """Of how many positions the step was that brought it home; 0 where nobody knows."""
        return self._guesser.home(message.start, message.micros) if self._guesser is not None else 0

    def home(self, message: Drawn, tokens: Sequence[int]) -> int | None:
        """What was drawn, up to the first position where it says that we guessed wrong: that is to be taken back before it can say the rest."""
        self._flows = True
        for position, token in enumerate(message.tokens, message.start):
            if position < self.sure:  # the client has it, or gave it: a head that now says otherwise would have us hold other tokens than that knows of
                continue
            if position < len(tokens):
                self._judge(position, right := tokens[position] == token)
                if not right:
                    return position
            if position == len(tokens):
                self.held = position, token
            if position == self.sure:
                self.sure += 1
        self._halted |= message.finish is not None
        return None

    def missed(self, length: int) -> None:
        """What was guessed from `length` on is taken back."""
        if self._guesser is not None:
            self._guesser.missed(length)
        self.held = None

    def _judge(self, position: int, right: bool) -> None:
        if self._guesser is not None:
            self._guesser.judged(position, right)

    # --- what is started ------------------------------------------------------------------------------------------------------------------------------------

    def starts(self, tokens: Sequence[int], limit: int) -> list[tuple[int, ...]]:
        """Steps to start behind these tokens: what came home and has credit, and with it what is guessed to follow."""
        fresh: list[int] = []
        if self.held is not None and self.held[0] < len(tokens):  # the client has fed it
            self.held = None
        if self.held is not None and not self._halted and not self._deserted and self.held[0] == len(tokens) < min(self._until, limit):
            fresh, self.held = [self.held[1]], None
        started = (*fresh, *self._guesses(tokens, fresh, limit))
        steps = [started[at : at + STEP] for at in range(0, len(started), STEP)]
        if self._guesser is not None:
            for number, step in enumerate(steps):
                self._guesser.left(len(tokens) + number * STEP, len(tokens) + number * STEP + len(step))
        return steps

    def _guesses(self, tokens: Sequence[int], fresh: Sequence[int], limit: int) -> Sequence[int]:
        """What may follow what is here and `fresh`, as far as there is credit. The last position draws nothing, so it is not worth a guess. An id that the
        model does not have, as a draft model whose matrix is padded further may say, is never right, and our own engine would fail on it."""
        if self._guesser is None or not self._flows or self._halted or self._deserted:
            return ()
        begin = len(tokens) + len(fresh)
        room = min(self._until, limit - 1) - begin
        guesses = self._guesser.propose(tokens, fresh, min(self.sure, begin), room)[:room] if room > 0 else ()
        return tuple(takewhile(lambda token: token < self._vocab, guesses)) if self._vocab else guesses

    def took(self, start: int, micros: int, tokens: Sequence[int]) -> None:
        """What starts there took this hop so long. A long prompt is looked at as it is computed, so that all of it is known when the first token is home."""
        if self._guesser is not None:
            self._guesser.took(start, micros)
            self._guesser.read(tokens, min(self.sure, len(tokens)))
