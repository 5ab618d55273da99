"""What `bench.far` says of answers that differ."""

from __future__ import annotations

import pytest
import torch

from bench.far import gap, parting
from swarm.core import Sampling
from swarm.model.sampling import DrawRequest, draw


class Model:
    """Two tokens, whose logits are the same everywhere."""

    head = 3

    def __init__(self, *logits: float) -> None:
        self.logits_1V = torch.tensor([logits])
        self.asked: list[tuple[int, ...]] = []

    def new_cache(self, start: int, stop: int) -> None: ...

    def run(self, start, stop, rows):
        self.asked.append(rows[0].tokens)
        return [self.logits_1V]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_the_gap_is_what_the_other_token_lacked_to_be_drawn(temperature, seed):
    model, prompt = Model(1.0, 0.25), [1, 1, 0]
    position = len(prompt) + 1

    def drawn(*logits: float) -> int:
        return draw(torch.tensor([logits]), [DrawRequest(Sampling(temperature=temperature, seed=seed), position, ())])[0].token

    winner = drawn(1.0, 0.25)
    found = gap(model, prompt, [0, winner, 1], [0, 1 - winner], temperature, seed)
    assert model.asked == [(1, 1, 0, 0)]
    more, less = ([(1.0, 0.25)[token] + (token != winner) * (found + by) for token in (0, 1)] for by in (1e-3, -1e-3))
    assert (drawn(*more), drawn(*less)) == (1 - winner, winner)


def test_where_answers_part():
    assert (parting([1, 2, 3], [1, 5, 3]), parting([1, 2], [1, 2, 3]), parting([1], [1])) == (1, None, None)
