"""What a first hop starts by itself: the token that came home within its credit, guesses ahead of it, and which of them a head may still change."""

from __future__ import annotations

import random

import pytest

from swarm.machines.limits import STEP
from swarm.machines.looping import Looping
from swarm.wire import Drawn

S = b"s" * 16


class Guessing:
    """Guesses what it is told to, as far as it may, and notes what it hears."""

    def __init__(self, answer=()) -> None:
        self.answer = list(answer)
        self.heard: list[tuple] = []

    def propose(self, tokens, fresh, sure, most):
        begin = len(tokens) + len(fresh)
        return self.answer[begin : begin + most]

    def left(self, start, stop):
        self.heard.append(("left", start, stop))

    def took(self, start, micros): ...

    def read(self, tokens, sure): ...

    def judged(self, position, right):
        self.heard.append(("judged", position, right))

    def home(self, position, micros):
        return len(micros)

    def missed(self, length):
        self.heard.append(("missed", length))


def drawn(start: int, *tokens: int, finish: str | None = None) -> Drawn:
    return Drawn(S, 1, 0, 0, start, tokens, finish)


def looping(guesser=None, *, until: int = 100, accepted: int = 3) -> Looping:
    made = Looping(guesser)
    made.opened(until, accepted)
    return made


def test_a_token_that_came_home_is_started_once_and_only_within_credit_and_limit():
    loop, tokens = looping(until=3), [1, 2, 3]
    assert loop.home(drawn(3, 7), tokens) is None and loop.held == (3, 7) and loop.sure == 4
    assert loop.starts(tokens, limit=100) == [] and loop.held == (3, 7), "no credit"
    loop.granted(4)
    assert loop.starts(tokens, limit=3) == [], "no room"
    assert loop.starts(tokens, limit=100) == [(7,)] and loop.held is None
    assert loop.starts([*tokens, 7], limit=100) == []


def test_what_waits_for_credit_is_forgotten_once_the_client_has_fed_it():
    loop = looping(until=3)
    loop.home(drawn(3, 7), [1, 2, 3])
    loop.granted(50)
    assert loop.starts([1, 2, 3, 7], limit=100) == [] and loop.held is None


@pytest.mark.parametrize("halt", [lambda loop: loop.home(drawn(4, 8, finish="stop"), [1, 2, 3, 7]), lambda loop: loop.deserted()])
def test_a_ring_that_has_ended_or_lost_its_client_starts_nothing(halt):
    loop = looping(Guessing(range(100)))
    loop.home(drawn(3, 7), [1, 2, 3])
    halt(loop)
    assert loop.starts([1, 2, 3, 7], limit=100) == []
    loop.opened(100, 4)
    loop.home(drawn(4, 9), [1, 2, 3, 7])
    assert loop.starts([1, 2, 3, 7], limit=100)[0][0] == 9, "another chain turns again"


def test_guesses_leave_in_steps_of_their_own_and_the_guesser_hears_of_each():
    guesser = Guessing(range(100))
    loop, tokens = looping(guesser, until=3 + 2 * STEP + 2), [0, 1, 2]
    assert loop.starts(tokens, limit=100) == [], "nothing has come home, so there is nothing to guess from"
    loop.home(drawn(3, 3), tokens)
    steps = loop.starts(tokens, limit=100)
    assert [len(step) for step in steps] == [STEP, STEP, 2] and [token for step in steps for token in step] == list(range(3, 5 + 2 * STEP))
    assert guesser.heard[-3:] == [("left", 3, 3 + STEP), ("left", 3 + STEP, 3 + 2 * STEP), ("left", 3 + 2 * STEP, 5 + 2 * STEP)]


def test_a_wrong_guess_is_named_and_nothing_behind_it_is_taken_before_it_is_taken_back():
    guesser = Guessing()
    loop, tokens = looping(guesser), [1, 2, 3, 4, 5, 6]
    message = drawn(3, 4, 9)
    assert loop.believes(message, tokens) and not loop.believes(drawn(3, 4, 9, 9), tokens), "nobody can have drawn behind a wrong guess"
    assert loop.home(message, tokens) == 4 and guesser.heard[-2:] == [("judged", 3, True), ("judged", 4, False)]
    assert loop.sure == 4 and loop.held is None
    del tokens[4:]
    loop.missed(4)
    loop.settled(4)
    heard = len(guesser.heard)
    assert loop.home(message, tokens) is None and loop.held == (4, 9) and loop.sure == 5
    assert len(guesser.heard) == heard, "a guess is judged once"


def test_a_head_cannot_change_what_is_sure():
    loop = looping(Guessing())
    assert loop.home(drawn(1, 9), [1, 2, 3]) is None and loop.sure == 3 and loop.held is None


def test_a_head_that_leaves_out_a_position_makes_nothing_sure():
    loop, tokens = looping(Guessing()), [1, 2, 3, 4, 5]
    assert loop.believes(drawn(4, 5), tokens) and loop.home(drawn(4, 5), tokens) is None and loop.sure == 3


@pytest.mark.parametrize("seed", range(40))
def test_whatever_comes_home_the_books_hold_and_the_tokens_are_those_drawn(seed):
    """A hop that guesses well and badly, and a head that draws one or some positions at a time, never behind a wrong guess."""
    dice = random.Random(seed)
    right = [dice.randrange(50) for _ in range(60)]
    guesser = Guessing()
    limit, tokens = len(right), right[:3]
    loop = looping(guesser, until=3)
    until, at = 3, 3
    for _ in range(2000):
        if at >= limit:
            break
        if dice.random() < 0.3:
            until = min(until + dice.randint(0, 9), limit)
            loop.granted(until)
        guesser.answer = [token if dice.random() < 0.8 else 99 for token in right]
        for step in loop.starts(tokens, limit):
            assert 0 < len(step) <= STEP
            tokens += step
        assert len(tokens) <= until and tokens[: loop.sure] == right[: min(loop.sure, len(tokens))] and loop.sure <= len(tokens) + 1
        assert loop.held is None or loop.held == (len(tokens), right[len(tokens)])
        told = []
        for position in range(at, min(len(tokens) + 1, at + dice.randint(0, 4), limit)):
            told.append(right[position])
            if position < len(tokens) and tokens[position] != right[position]:
                break
        if not told:
            continue
        message = drawn(at, *told)
        assert loop.believes(message, tokens)
        while (wrong := loop.home(message, tokens)) is not None:
            loop.missed(wrong)
            del tokens[wrong:]
            loop.settled(wrong)
        at += len(told)
        assert loop.sure == at
    assert at == limit and tokens == right[: len(tokens)]
    assert any(heard == ("judged", *heard[1:2], False) for heard in guesser.heard) and any(heard[-1] is True for heard in guesser.heard)
