"""Room: model. A model's weights brought to where a layout has them, and rows taken from one place to the next. Knows modules and layouts; not sessions.

Everything that is no layer's and comes before them (embeddings, rotary tables) is on the layout's entry. A layer finds what it is given on its own device: the
hidden states change devices where a stretch begins, and so does, once a run, what all its layers share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from swarm.model.anatomy import Anatomy
from swarm.model.layout import HOST, Layout
from swarm.model.streaming import Streamed, line_to


class Moves:
    """Takes what modules are given to their devices. What was taken is kept for a run, since every layer of a stretch is given the same."""

    def __init__(self) -> None:
        self._taken: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def before(self, module: nn.Module, device: str) -> None:
        """What `module` is given from now on, it finds on `device`."""
        to = torch.device(device)
        module.register_forward_pre_hook(lambda _, args, kwargs: self._take((args, kwargs), to), with_kwargs=True)

    def end(self) -> None:
        """Of a run."""
        self._taken.clear()

    def _take(self, given: Any, to: torch.device) -> Any:
        if isinstance(given, torch.Tensor):
            return given if given.device == to else self._moved(given, to)
        if isinstance(given, tuple | list):
            return type(given)(self._take(item, to) for item in given)
        if isinstance(given, dict):
            return {name: self._take(item, to) for name, item in given.items()}
        return given

    def _moved(self, tensor: torch.Tensor, to: torch.device) -> torch.Tensor:
        key = (id(tensor), to)
        if key not in self._taken:
            self._taken[key] = tensor, tensor.to(to)  # with the tensor, or another might get its id
        return self._taken[key][1]


class Spread:
    """A model whose parts lie as `layout` says."""

    def __init__(self, layout: Layout, moves: Moves) -> None:
        self.layout, self._moves = layout, moves

    def end(self) -> None:
        """After every run."""
        self._moves.end()


def spread(
    model: nn.Module,
    anatomy: Anatomy,
    layout: Layout,
    finish: Callable[[nn.Module], object] = lambda module: None,
) -> Spread:
    """Bring every part to its place, one after the other: `finish` may make it smaller when it has arrived. Raises InvalidConfig, and what torch says of
    devices."""
    kept: Kept = {}
    streams: dict[str, list[nn.Module]] = {}
    moves = Moves()
    layers = {i: model.get_submodule(f"{anatomy.layers}.{i - 1}") for i in layout.on if 0 < i <= anatomy.count}
    lines = {device: line_to(device) for device in sorted({layout.on[i] for i in layout.streamed})}
    for i, layer in sorted(layers.items()):
        place(layer, layout.on[i], {})
        finish(layer)
        if i in layout.streamed:
            place(layer, HOST, {})
            streams.setdefault(layout.on[i], []).append(layer)
    holds_head = anatomy.count + 1 in layout.on
    ends = [model.get_submodule(path) for path in sorted({*anatomy.after, anatomy.output})] if holds_head else []
    head = layout.on.get(anatomy.count + 1, layout.entry)
    for module in ends:
        place(module, head, kept)
    inside = {part for module in (*layers.values(), *ends) for part in module.modules()}
    place(model, layout.entry, kept, without=inside)
    finish(model)
    if len({*layout.on.values(), layout.entry}) > 1:
        for i, layer in layers.items():
            moves.before(layer, layout.on[i])
        for module in ends:
            moves.before(module, head)
    for device, waiting in streams.items():
        Streamed(waiting, lines[device])
    return Spread(layout, moves)


Kept = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]
"""What was brought where, with what it was before: weights that are tied stay one tensor on each device."""


def place(module: nn.Module, device: str, kept: Kept, without: Iterable[nn.Module] = ()) -> None:
    """Every parameter and buffer of `module` to `device`, but for those of the modules `without`."""
    left_out = set(without)
    for part in module.modules():
        if part in left_out:
            continue
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = _placed(parameter, device, kept)  # type: ignore[assignment]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _placed(buffer, device, kept)


def _placed(tensor: torch.Tensor, device: str, kept: Kept) -> torch.Tensor:
    if tensor.device == torch.device(device):
        return tensor
    key = (id(tensor), device)
    if key not in kept:
        there = tensor.detach().to(device)
        kept[key] = tensor, nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there
    return kept[key][1]
