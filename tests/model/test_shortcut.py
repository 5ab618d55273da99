"""The way through a model without its own code: found where modules alone lead from what a step is given to what it gives, and taken only once it is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swarm.model.shortcut import LOOKS, Seen, Shortcut

WIDTH = 4


class Angles(nn.Module):
    """Two tensors of the positions, as rotary factors are."""

    def forward(self, hidden: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return positions * 0.5, positions + 1.0


class Sum:
    """Layers that may run in one go: what they are given and its factors, added up."""

    def __init__(self) -> None:
        self.whole: Seen | None = None
        self.able, self.ran, self.begun = True, 0, 0

    def call(self, hidden: torch.Tensor, **kwargs: object) -> torch.Tensor:
        result = self._sum(hidden, kwargs)
        self.whole = Seen(None, (hidden,), kwargs, result) if self.able else None
        return result

    def go(self, args, kwargs) -> torch.Tensor | None:
        self.ran += self.able
        return self._sum(args[0], kwargs) if self.able else None

    def again(self) -> None:
        self.whole, self.begun = None, self.begun + 1

    @staticmethod
    def _sum(hidden: torch.Tensor, kwargs) -> torch.Tensor:
        one, other = kwargs["factors"]
        return hidden + (one + other)[..., None]


class Model:
    """Embedding, factors, layers, norm; `code` is what a family does beside that, at the places that tests name."""

    def __init__(self, **code) -> None:
        self.table, self.angles, self.norm, self.unused = nn.Embedding(9, WIDTH), Angles(), nn.LayerNorm(WIDTH), nn.Identity()
        self.layers, self.code, self.turns = Sum(), code, 0
        self.shortcut = Shortcut([self.table, self.angles, self.norm, self.unused])

    def usual(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.turns += 1
        does = lambda where, value: self.code[where](value) if where in self.code else value  # noqa: E731
        hidden = does("embedded", self.table(ids))
        one, other = self.angles(hidden, positions)
        self.unused(hidden)
        hidden = self.layers.call(hidden, factors=(does("factor", one), other), mask=None, use_cache=does("flag", False))
        return does("out", self.norm(does("hidden", hidden)))

    def step(self, at: int, tokens: int = 1) -> torch.Tensor:
        """As long as whoever runs layers does: `whole` is of this step alone."""
        ids, positions = torch.full((1, tokens), at % 9), torch.arange(at, at + tokens)[None].float()
        self.layers.whole = None
        with torch.inference_mode():
            made = self.shortcut.step(self.layers, lambda: self.usual(ids, positions), ids, positions)
            wanted = self.usual(ids, positions)
            self.turns -= 1
        assert torch.equal(made, wanted), "whichever way it was computed"
        return made

    def runs(self, steps: int = 2 * LOOKS, **kwargs) -> int:
        """In how many of these steps the model's own code ran."""
        self.turns = 0
        for at in range(steps):
            self.step(at, **kwargs)
        return self.turns


def test_the_models_own_code_runs_twice_and_then_no_more():
    """Once to be watched, once to be compared."""
    model = Model()
    assert model.runs() == 2
    assert model.layers.ran == 2 * LOOKS - 1


def test_steps_of_several_tokens_have_a_way_of_their_own():
    model = Model()
    assert model.runs() == 2
    assert model.runs(tokens=3) == 2


def test_what_is_not_needed_is_not_called():
    model = Model()
    model.runs(3)
    called = []
    model.unused.register_forward_hook(lambda *_: called.append(1))
    with torch.inference_mode():
        ids, positions = torch.ones((1, 1), dtype=torch.long), torch.zeros(1, 1)
        model.shortcut.step(model.layers, lambda: pytest.fail("the way is known"), ids, positions)
    assert not called


@pytest.mark.parametrize("where", ["embedded", "factor", "hidden", "out"])
def test_what_a_family_does_between_modules_goes_on_being_done(where):
    """A multiplier, a cap: what they make comes from no module."""
    model = Model(**{where: lambda value: value * 2})
    assert model.runs() == 2 * LOOKS
    assert model.layers.ran == 0


@pytest.mark.parametrize("where", ["hidden", "out"])
def test_what_is_changed_in_place_is_found_out_by_comparing(where):
    """It lies where it lay, so nothing else tells."""
    model = Model(**{where: lambda value: value.mul_(2)})
    assert model.runs() == 2 * LOOKS
    assert model.layers.ran == 1, "compared once, and never tried again"


def test_numbers_of_tokens_are_not_taken_for_constants():
    assert Model(flag=lambda value: 7).runs() == 2 * LOOKS


def test_a_slice_of_everything_is_the_same():
    """As families cut their logits to those that are asked for."""
    assert Model(hidden=lambda value: value[:, slice(0, None), :]).runs() == 2


def test_layers_that_cannot_run_in_one_go_any_more_run_as_usual():
    model = Model()
    model.runs()
    model.layers.able = False
    assert model.runs(3) == 3
    model.layers.able = True
    assert model.runs(3) == 0


def test_layers_that_learn_to_run_in_one_go_are_watched_again_but_not_for_ever():
    model = Model()
    model.layers.able = False
    assert model.runs(LOOKS - 1) == LOOKS - 1
    model.layers.able = True
    assert model.runs() == 2
    model = Model()
    model.layers.able = False
    model.runs(LOOKS)
    model.layers.able = True
    assert model.runs() == 2 * LOOKS
    assert not any(module._forward_hooks for module in (model.table, model.angles, model.norm)), "nobody watches any more"


def test_whoever_fails_while_watched_leaves_nothing_behind():
    def fails(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    model = Model(out=fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.step(0)
    assert not model.table._forward_hooks
    del model.code["out"]
    assert model.runs() == 2
