"""Room: model. Which layers may run at once, though a model's own code calls them one after the other. Knows numbers of layers and the tensors of their calls;
not what a layer is or who computes it.

Between two layers most families do nothing: each is given what the one before it gave, and otherwise the same as that one. So whoever computes a layer can
compute those after it in one go, without a turn through Python for each, and give out the results as they are called for. Whether layers follow one another
like that is seen in the calls themselves, of the first step and of every one after it: a call that is not the one that was expected is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch


class Ahead:
    """What is known of the calls of one model's layers: of all its steps which layers follow one another, of this step what was computed ahead."""

    def __init__(self) -> None:
        self._followers: set[int] = set()
        self._others: tuple[object, ...] = ()
        self._last: tuple[int, torch.Tensor] | None = None
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self) -> None:
        """A step."""
        self._others, self._last = (), None
        self._made.clear()

    def made(self, layer: int, args: Sequence[object], kwargs: Mapping[str, object]) -> torch.Tensor | None:
        """What was computed ahead for this call, None if nothing was. The first of `args` are the hidden states."""
        found = self._made.pop(layer, None)
        if found is None:
            return None
        given, result = found
        if args[0] is given and _same(_others(args, kwargs), self._others):
            self._last = layer, result
            return result
        self._made.clear()
        self._followers.discard(layer)
        return None

    def run(self, layer: int, args: Sequence[object], kwargs: Mapping[str, object], candidates: Iterable[int]) -> list[int]:
        """The layers to compute for this call, in turn: itself, and of `candidates`, the layers that come after it, those that will follow."""
        others = _others(args, kwargs)
        if self._last is not None and self._last[0] == layer - 1 and args[0] is self._last[1] and _same(others, self._others):
            self._followers.add(layer)
        self._others = others
        layers = [layer]
        for candidate in candidates:
            if candidate != layers[-1] + 1 or candidate not in self._followers:
                break
            layers.append(candidate)
        return layers

    def keep(self, layers: Sequence[int], results: Sequence[torch.Tensor]) -> None:
        """What the layers of `run` gave; the first result is for the call itself."""
        self._last = layers[0], results[0]
        for layer, given, result in zip(layers[1:], results, results[1:], strict=False):
            self._made[layer] = given, result


def _others(args: Sequence[object], kwargs: Mapping[str, object]) -> tuple[object, ...]:
    return (*args[1:], *kwargs, *kwargs.values())


def _same(some: tuple[object, ...], others: tuple[object, ...]) -> bool:
    """Not equal but the same: tensors are not looked into."""
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
