"""What a client reads instead of tokens is what an undisturbed run would have given, whatever happens on the way: every position once, in order."""

from __future__ import annotations

import pytest

from swarm.core import PeerId, Span
from swarm.machines.effects import Deliver
from swarm.wire import LOOP, Blob, Rows, SessionMessage
from tests.machines.test_sessions import SPANS
from tests.machines.world import COMPONENTS, VOCAB, World, digest, true_tokens


def true_rows(history: list[int]) -> list[bytes]:
    """What the whole toy model's head holds after each position."""
    rows = [str(token).encode() for token in history]
    for component in range(COMPONENTS):
        state, out = b"head" if component == COMPONENTS - 1 else str(component).encode(), []
        for row in rows:
            state = digest(state, row)
            out.append(state)
        rows = out
    return rows


class ReadingWorld(World):
    """Its heads give what they hold where the order asks for that."""

    read: list[tuple[int, bytes]]

    def start(self, peer: PeerId) -> None:
        super().start(peer)
        room, engine = self.rooms[peer], self.engines[peer]
        finished = room.finished

        def given(key, serial, blob, draws, micros) -> None:
            if key.stop == COMPONENTS and room._tenants.get(key).order.reply != LOOP:
                states = engine.caches[key][-1]
                rows = b"".join(states[draw.position - 1] for draw in draws)
                blob, draws = Blob("float32", 2, memoryview(rows)) if draws else None, ()
            finished(key, serial, blob, draws, micros)

        room.finished = given  # type: ignore[method-assign]

    def do(self, effects) -> None:
        for effect in effects:
            if isinstance(effect, Deliver) and effect.rows is not None:
                assert effect.token == self.client.history[effect.position]
                self.read += [(effect.position + at, bytes(effect.rows[at : at + 1].data)) for at in range(len(effect.rows))]
        super().do(effects)

    def client_receives(self, sender: PeerId, message: SessionMessage) -> None:
        if isinstance(message, Rows):
            self.do(self.client.rows(sender, message))
        else:
            super().client_receives(sender, message)

    def reading(self, tokens: list[int], first: int, goal: int) -> list[tuple[int, bytes]]:
        self.read, self.delivered, self.finish = [], [], None
        self.client.begin_reading(tokens, first, goal, "logits")
        self.open(self.client.route if self.client.route and self.random.random() < 0.7 and self.healthy() else self.route())
        for _ in range(20_000):
            if self.finish is not None:
                return self.read
            self.tick()
        raise AssertionError(f"no end: {len(self.read)} rows, route {self.client.route}")


def read_and_talk(world: ReadingWorld) -> None:
    """Turns that read, some of positions that were there before, among turns that draw."""
    history: list[int] = []
    for _ in range(4):
        if history and world.random.random() < 0.4:
            kept = world.random.randint(1, len(history))
            world.do(world.client.cut(kept))
            del history[kept:]
        tokens = [world.random.randrange(VOCAB) for _ in range(world.random.randint(1, 12))]
        history += tokens
        if world.random.random() < 0.3:
            answer = world.turn(tokens, 5)
            assert answer == true_tokens(history, 5)
            history += answer
            continue
        first = world.random.choice([len(history) - 1, len(history) - len(tokens), world.random.randrange(len(history))])
        expected = list(enumerate(true_rows(history)))[first:]
        assert world.reading(tokens, first, len(history) + world.random.choice([0, 30])) == expected
        assert world.client.history == history and not world.client.running


def test_without_trouble_only_what_is_new_is_computed():
    world = ReadingWorld(5, {"a": Span(0, 3), "b": Span(3, 6)}, trouble=0)
    world.guessing = 0.0
    assert world.reading([1, 2, 3, 4], 0, 50) == list(enumerate(true_rows([1, 2, 3, 4])))
    assert world.reading([5], 4, 50) == [(4, true_rows([1, 2, 3, 4, 5])[4])]
    world.settle()
    assert world.reroutes == 0 and [engine.positions for engine in world.engines.values()] == [5, 5], "and nothing goes on by itself"


@pytest.mark.parametrize("block", range(4))
def test_any_interleaving_reads_every_position_once(block):
    for seed in range(block * 50, block * 50 + 50):
        world = ReadingWorld(seed, SPANS, trouble=(0.0, 0.01, 0.03, 0.08)[seed % 4])
        try:
            read_and_talk(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_a_client_that_keeps_its_own_ends_reads_too():
    for seed in range(30):
        read_and_talk(ReadingWorld(seed, {"b1": Span(1, 3), "b2": Span(1, 5), "b3": Span(3, 5), "b4": Span(2, 6)}, trouble=0.02, own_ends=True))
