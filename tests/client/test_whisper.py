"""What a client tells the first hop of its own guesses, and when."""

from __future__ import annotations

from swarm.client.whisper import MOST, Whisper
from swarm.core import Hop, Sampling
from swarm.machines.client import ClientSession
from swarm.machines.effects import Send
from swarm.wire import Drawn, Guess, Have

S = b"s" * 16


class Line:
    """Counts on from the last token."""

    def __init__(self, more) -> None:
        self.more, self.known, self.samplings, self.over, self.kept = more, 3, [], False, list[int]()

    def opened(self, sampling) -> None:
        self.samplings.append(sampling)

    def missed(self, length) -> None:
        self.kept.append(length)

    def ahead_of(self, history) -> list[int]:
        return [history[-1] + 1 + at for at in range(self.known)]

    def closed(self) -> None:
        self.over = True


def whispering() -> tuple[Whisper, ClientSession, list[Guess], list[Line]]:
    machine, told, lines = ClientSession(S, "me", "rev", "float32"), list[Guess](), list[Line]()

    def do(effects) -> None:
        told.extend(effect.message for effect in effects if isinstance(effect, Send))

    def make(more) -> Line:
        lines.append(Line(more))
        return lines[-1]

    it = Whisper(machine, do, make)
    machine.begin([1, 2, 3], Sampling(), 100)
    it.begin(0, Sampling())
    machine.open([Hop("a", 0, 6)])
    return it, machine, told, lines


def test_nothing_is_told_before_the_first_hop_has_opened_and_then_whatever_is_new():
    it, machine, told, (line,) = whispering()
    it.more()
    assert not told
    machine.have("a", Have(S, 1, -1, 0, 0, True))
    it.more()
    it.more()
    assert [(guess.start, guess.tokens, guess.chain, guess.to) for guess in told] == [(3, (4, 5, 6), 1, 0)], "once is enough"
    line.known = 4
    line.more()
    machine.drawn("a", Drawn(S, 1, -1, 0, 3, (9,)))
    it.more()
    assert [(guess.start, guess.tokens) for guess in told[1:]] == [(3, (4, 5, 6, 7)), (4, (10, 11, 12, 13))]


def test_a_message_holds_only_so_many():
    it, machine, told, (line,) = whispering()
    machine.have("a", Have(S, 1, -1, 0, 0, True))
    line.known = 2 * MOST
    it.more()
    assert len(told[0].tokens) == MOST


def test_a_session_has_one_line_and_none_after_its_end():
    it, machine, told, lines = whispering()
    machine.have("a", Have(S, 1, -1, 0, 0, True))
    it.begin(2, Sampling(temperature=1.0))
    assert len(lines) == 1 and lines[0].samplings == [Sampling(), Sampling(temperature=1.0)]
    assert lines[0].kept == [0, 2], "what was drawn too much is no part of the next turn"
    it.close()
    it.more()
    it.begin(0, Sampling())
    assert lines[0].over and len(lines) == 1 and not told


def test_between_turns_nothing_is_told():
    it, machine, told, _ = whispering()
    machine.have("a", Have(S, 1, -1, 0, 0, True))
    machine.cut(3)
    it.more()
    assert not told
