"""Which layers run at once: those whose calls were seen to follow one another, for as long as they do."""

from __future__ import annotations

import torch

from swarm.model.ahead import Ahead

MASK, TABLE = torch.zeros(1), (torch.ones(1), torch.ones(1))


def step(ahead: Ahead, layers: range, between=lambda layer, hidden: hidden, mask=lambda layer: MASK, last: int = 99) -> list[list[int]]:
    """One step of a model whose layers add one; what was computed together."""
    together: list[list[int]] = []
    ahead.begin()
    hidden = torch.zeros(1)
    for layer in layers:
        hidden = between(layer, hidden)
        args, kwargs = (hidden,), {"mask": mask(layer), "table": TABLE, "cache": None}
        made = ahead.made(layer, args, kwargs)
        if made is None:
            numbers = ahead.run(layer, args, kwargs, range(layer + 1, min(layers.stop, last)))
            results = [hidden + at + 1 for at in range(len(numbers))]
            ahead.keep(numbers, results)
            together.append(numbers)
            made = results[0]
        assert made == hidden + 1, "what is given out is what this call gives"
        hidden = made
    return together


def test_what_followed_once_is_computed_at_once_from_then_on():
    ahead = Ahead()
    assert step(ahead, range(3, 7)) == [[3], [4], [5], [6]]
    assert step(ahead, range(3, 7)) == [[3, 4, 5, 6]]
    assert step(ahead, range(4, 6)) == [[4, 5]], "a part of it"
    assert step(ahead, range(3, 7), last=5) == [[3, 4], [5], [6]], "no further than may be"


def test_layers_with_a_call_of_their_own_begin_anew():
    ahead, other = Ahead(), torch.zeros(1)
    for _ in range(2):
        seen = step(ahead, range(6), mask=lambda layer: other if layer == 3 else MASK)
    assert seen == [[0, 1, 2], [3], [4, 5]]


def test_what_is_given_something_else_is_computed_anew():
    ahead = Ahead()
    for _ in range(2):
        step(ahead, range(5))
    changed = lambda layer, hidden: hidden * 2 if layer == 2 else hidden  # noqa: E731
    assert step(ahead, range(5), between=changed) == [[0, 1, 2, 3, 4], [2, 3, 4]]
    assert step(ahead, range(5), between=changed) == [[0, 1], [2, 3, 4]]
    copied = lambda layer, hidden: hidden.clone() if layer == 2 else hidden  # noqa: E731
    assert step(ahead, range(5), between=copied) == [[0, 1], [2, 3, 4]], "the same numbers elsewhere are not looked into"
    assert step(ahead, range(5)) == [[0, 1], [2, 3, 4]]
    assert step(ahead, range(5)) == [[0, 1, 2, 3, 4]], "and learnt again"


def test_a_layer_that_is_left_out_is_missed_by_nobody():
    ahead = Ahead()
    for _ in range(2):
        step(ahead, range(4))
    ahead.begin()
    given, results = torch.zeros(1), [torch.zeros(1) for _ in range(4)]
    ahead.keep(ahead.run(0, (given,), {}, range(1, 4)), results)
    assert ahead.made(1, (results[0],), {}) is results[1]
    ahead.begin()
    assert ahead.made(2, (results[1],), {}) is None, "of another step"
