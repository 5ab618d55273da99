"""Room: model. What a model's own code does around layers that run in one go, seen once and then done again without that code. Knows modules and their calls;
not what a family is, how layers are compiled, or who asks.

In a step of one token the Python of a model (masks that nobody reads, settings, loops, outputs by name) takes longer than what it computes beside its layers: a
row of a table, rotary factors, a norm. So a step is watched: which modules are called, with what, and where that comes from. If what the step gives is traced
back, through modules alone, to what it was given, then from then on these modules are called and nothing else is. Where a family changes something between two
of them (a multiplier, a cap on logits) the trace breaks off, and its own code goes on running. And because a change in place leaves no trace, the next step is
computed both ways: the shortcut is taken only if it gives the very same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

LOOKS = 8
"""Steps that are watched before it is believed that there is no shortcut: in the first ones layers learn that they may run in one go."""

CONSTANTS = (bool, float, str, type(None))
"""What a module may be given beside tensors. A whole number may be one of tokens, which the next step has more of."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The call of a module, or (`module` None) of all layers in one go, of which the last one gives `result`."""

    module: nn.Module | None
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    result: object


class Place(int):
    """Stands for a tensor of a step: the how manieth of those that it is given and then makes."""


@dataclass(frozen=True, slots=True)
class Act:
    """A call to be made in every step, with places where it has tensors, and where what it makes goes."""

    module: nn.Module | None
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    made: tuple[Place, ...]


class Lost(Exception):
    """Something that a step was not given, nor a module of it has made."""


class Layers(Protocol):
    """Those of a row, for one step."""

    @property
    def whole(self) -> Seen | None:
        """The call that ran all of them, if one did."""

    def go(self, args: Sequence[object], kwargs: Mapping[str, object]) -> torch.Tensor | None:
        """Run all of them in one go: what the last one gives, None if they cannot."""

    def again(self) -> None:
        """The step begins anew."""


class Shortcut:
    """Of steps over some components: those of one token, and those of several."""

    def __init__(self, limbs: Iterable[nn.Module]) -> None:
        """`limbs` are the modules beside the layers."""
        self._limbs = tuple(limbs)
        self._ways: dict[bool, Way] = {}
        self._looks = {False: LOOKS, True: LOOKS}

    def step(self, layers: Layers, usual: Callable[[], torch.Tensor], given: torch.Tensor, positions_1T: torch.Tensor) -> torch.Tensor:
        """What `usual`, the model's own code, gives for these ids [1, T] or hidden states [1, T, H]; without it where the way is known."""
        several = given.shape[1] > 1
        way = self._ways.get(several)
        if way is None:
            return self._watch(several, layers, usual, (given, positions_1T)) if self._looks[several] else usual()
        made = way.go(layers, (given, positions_1T))
        if made is not None and way.proven:
            return made
        layers.again()
        wanted = usual()
        if made is not None:
            way.proven = torch.equal(made, wanted)
            if not way.proven:
                del self._ways[several]
                self._looks[several] = 0
        return wanted

    def _watch(self, several: bool, layers: Layers, usual: Callable[[], torch.Tensor], given: Sequence[torch.Tensor]) -> torch.Tensor:
        self._looks[several] -= 1
        seen: list[Seen] = []
        handles = [limb.register_forward_hook(lambda *call: seen.append(Seen(*call)), with_kwargs=True) for limb in self._limbs]
        try:
            out = usual()
        finally:
            for handle in handles:
                handle.remove()
        if layers.whole is not None and (way := Way.found([*seen, layers.whole], given, out)) is not None:
            self._ways[several] = way
        return out


class Way:
    """From what a step is given to what it gives, through calls alone; `proven` once it gave the very same as the model's own code."""

    def __init__(self, acts: Sequence[Act], out: Place) -> None:
        self._acts, self._out, self.proven = tuple(acts), out, False

    @classmethod
    def found(cls, seen: Sequence[Seen], given: Sequence[torch.Tensor], out: torch.Tensor) -> Way | None:
        """None where what counts comes from elsewhere, or the layers do not count. All tensors that were `seen` are still there, so no two lie in one place."""
        places = {_where(tensor): Place(at) for at, tensor in enumerate(given)}
        acts: list[Act] = []
        count, left = len(given), list(seen)
        while known := next(((call, act) for call in left if (act := _traced(call, places, count)) is not None), None):
            call, act = known
            left.remove(call)
            acts.append(act)
            count += len(act.made)
            for tensor, place in zip(_results(call.result), act.made, strict=True):
                places.setdefault(_where(tensor), place)
        if (end := places.get(_where(out))) is None:
            return None
        acts = _needed(acts, end)
        return cls(acts, end) if any(act.module is None for act in acts) else None

    def go(self, layers: Layers, given: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """None if the layers cannot run in one go now."""
        values: dict[int, Any] = dict(enumerate(given))
        for act in self._acts:
            args, kwargs = _filled(act.args, values), {name: _filled(value, values) for name, value in act.kwargs.items()}
            made = layers.go(args, kwargs) if act.module is None else act.module(*args, **kwargs)
            if made is None:
                return None
            values.update(zip(act.made, _results(made), strict=True))
        return values[self._out]


def _where(tensor: object) -> tuple[object, ...]:
    """What two tensors have in common that are the same numbers in the same order. Raises Lost for what is no tensor."""
    if not isinstance(tensor, torch.Tensor):
        raise Lost
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _traced(call: Seen, places: Mapping[tuple[object, ...], Place], count: int) -> Act | None:
    """The call as one to be made when `count` tensors are there; None for one that is given something else."""
    try:
        for tensor in (made := _results(call.result)):
            _where(tensor)
        kwargs = {name: _template(value, places) for name, value in call.kwargs.items()}
        return Act(call.module, _template(call.args, places), kwargs, tuple(Place(count + at) for at in range(len(made))))
    except Lost:
        return None


def _needed(acts: Sequence[Act], out: Place) -> list[Act]:
    """Those that `out` comes of."""
    wanted, needed = {out}, []
    for act in reversed(acts):
        if wanted.intersection(act.made):
            wanted.update(_places(act.args), *map(_places, act.kwargs.values()))
            needed.append(act)
    return needed[::-1]


def _places(template: Any) -> Iterator[Place]:
    if isinstance(template, Place):
        yield template
    elif isinstance(template, tuple):
        for item in template:
            yield from _places(item)


def _results(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _template(value: Any, places: Mapping[tuple[object, ...], Place]) -> Any:
    if isinstance(value, tuple):
        return tuple(_template(item, places) for item in value)
    if isinstance(value, CONSTANTS):
        return value
    if (place := places.get(_where(value))) is None:
        raise Lost
    return place


def _filled(template: Any, values: Mapping[int, Any]) -> Any:
    if isinstance(template, Place):
        return values[template]
    return tuple(_filled(item, values) for item in template) if isinstance(template, tuple) else template
