"""Room: model. How a model of transformers is cut: where its layers are, what stands before and after them, and how a part of it runs alone. Knows module
trees; not checkpoints, caches or sessions.

A part keeps the model's own classes and forward methods, so that whatever a family does inside its layers needs no code here. What is not in the part is
replaced: layers by `PassThrough` (true indices stay, so that per-layer settings stay right), the rest by `Absent`. A `Gate` around the first layer of a part
puts the hidden states in, whatever the family did to them on the way (embedding multipliers, position tables, projections); a `Gate` around the last one
takes them out. So everything before the first layer *is* `embed`, everything after the last one *is* `head`, for every family alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from swarm.core import Span
from swarm.errors import UnsupportedModel
from swarm.model.names import LAYER_LISTS, component_of
from swarm.model.shortcut import Shortcut


class PassThrough(nn.Module):
    """Stands where a layer is not: gives back the hidden states it gets."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        _copy_labels(layer, self)

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return hidden

    __call__ = forward  # a step passes through all the layers that are elsewhere: no hooks


class Absent(nn.Module):
    """Stands where a norm, projection or head is not: gives back what it gets."""

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return hidden


class AbsentTable(nn.Module):
    """Stands where a table of embeddings is not: looks up nothing, which added to anything changes nothing."""

    zero: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros((), device="cpu"), persistent=False)

    def forward(self, *_: object, **__: object) -> torch.Tensor:
        return self.zero


class Gate(nn.Module):
    """Around the first or last layer of a part. `given` replaces what comes in, `taken` is what went out."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.given: torch.Tensor | None = None
        self.taken: torch.Tensor | None = None
        _copy_labels(layer, self)

    def forward(self, hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        hidden = self.layer(hidden if self.given is None else self.given, *args, **kwargs)
        if not isinstance(hidden, torch.Tensor):
            raise UnsupportedModel(f"{type(self.layer).__name__} returns more than hidden states, which cannot travel between peers; choose another model")
        self.taken = hidden
        return hidden

    def out(self) -> torch.Tensor:
        if self.taken is None:
            raise UnsupportedModel(f"{type(self.layer).__name__} was never called, so layers do not run one after another; choose another model")
        return self.taken


class Wanted(nn.Module):
    """Around the output matrix: applies it only to the rows `wanted` of the row of tokens. If they are wanted `raw`, they are `taken` as they come."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.wanted: torch.Tensor | None = None
        self.raw = False
        self.taken: torch.Tensor | None = None

    def forward(self, hidden_1TH: torch.Tensor) -> torch.Tensor:
        hidden_1WH = hidden_1TH if self.wanted is None else hidden_1TH[:, self.wanted]
        if not self.raw:
            return self.head(hidden_1WH)
        self.taken = hidden_1WH
        return self.head(hidden_1WH[:, :1])  # for its shape: what a family does to logits afterwards it may


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Paths in a model's module tree: its list of layers, what stands before (`before`) and after them (`after`), and the rotary embeddings."""

    layers: str
    count: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    rotary: tuple[str, ...]
    embedding: str
    output: str


def dissect(model: PreTrainedModel) -> Anatomy:
    """Works for a whole model and for a part of one, where what is absent is left out. Raises UnsupportedModel for a tree that is not embeddings, one list of
    layers, and a head."""
    name = type(model).__name__
    count = model.config.num_hidden_layers
    lists = [
        path for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count and path.rpartition(".")[2] in LAYER_LISTS
    ]
    embedding, output = _path_of(model, model.get_input_embeddings()), _path_of(model, model.get_output_embeddings())
    if not lists or embedding is None or output is None:
        raise UnsupportedModel(f"{name} is not built as embedding, list of layers and head, so it cannot be cut into spans; choose another model")
    limbs = dict(_limbs(model, lists[0]))
    before, after, rotary = [], [], []
    for path, module in limbs.items():
        if not any(True for _ in module.parameters()):  # a rotary embedding, a dropout, a norm without weights: kept, since it costs nothing
            if hasattr(module, "rope_type"):
                rotary.append(path)
        elif component_of(path, count) == count + 1:
            after.append(path)
        elif path.rpartition(".")[0] == lists[0].rpartition(".")[0] and _declared_after(model, lists[0], path):
            raise UnsupportedModel(f"{name} has {path} after its layers, neither a norm nor a head, so it cannot be cut into spans; choose another model")
        else:
            before.append(path)
    return Anatomy(lists[0], count, tuple(before), tuple(after), tuple(rotary), embedding, output)


def replacements(model: nn.Module, anatomy: Anatomy, spans: Sequence[Span], keep: Sequence[str] = ()) -> dict[str, nn.Module]:
    """What to put where so that only `spans` (and the paths in `keep`) remain."""
    new: dict[str, nn.Module] = {}
    for i in range(anatomy.count):
        if not any(i + 1 in span for span in spans):
            path = f"{anatomy.layers}.{i}"
            new[path] = PassThrough(model.get_submodule(path))
    for component, paths in ((0, anatomy.before), (anatomy.count + 1, anatomy.after)):
        if not any(component in span for span in spans):
            for path in paths:
                if path not in keep:
                    new[path] = AbsentTable() if isinstance(model.get_submodule(path), nn.Embedding) else Absent()
    return new


def part_class(
    whole: type[PreTrainedModel], spans: Sequence[Span], needs_embedding: bool, needs_output: bool, left_out: Sequence[int] = ()
) -> type[PreTrainedModel]:
    """A subclass of a model's own class that holds only `spans`. `from_pretrained` builds it without memory, then reads only what remains.

    `needs_embedding` keeps the embedding matrix for a head that is tied to it, `needs_output` the output matrix for an embedding stored under its name. Of the
    components `left_out`, `embed` or `head`, the matrix is not read.
    """

    def __init__(self: PreTrainedModel, config: PreTrainedConfig, *args: object, **kwargs: object) -> None:
        whole.__init__(self, config, *args, **kwargs)
        anatomy = dissect(self)
        has_embed, has_head = (any(component in span for span in spans) for component in (0, anatomy.count + 1))
        keep = [path for path, needed in ((anatomy.embedding, needs_embedding), (anatomy.output, needs_output)) if needed]
        for path, module in replacements(self, anatomy, spans, keep).items():
            put(self, path, module)
        for component in left_out:
            leave_out(self.get_submodule(anatomy.output if component else anatomy.embedding))
        if left_out or not (has_embed or needs_embedding) or not (has_head or needs_output):
            self._tied_weights_keys = {}
            self.all_tied_weights_keys = {}

    # transformers finds a family's conversions of stored tensors by the name of the class: the part must bear it.
    return type(whole.__name__, (whole,), {"__init__": __init__, "__module__": whole.__module__})


def leave_out(module: nn.Module) -> None:
    """Take an embedding's or a head's matrix away. A row is left that is no weight: transformers fills what it did not read with noise, and wants
    something to fill."""
    matrix: Any = module.weight
    module.padding_idx = None  # type: ignore[assignment]  # which row that is matters to training only
    module.register_parameter("weight", None)
    del module.weight
    module.register_buffer("weight", matrix.new_empty((1, matrix.shape[1])), persistent=False)


@dataclass(slots=True)
class View:
    """One sub-span, ready to be called again and again: shares every weight with the model it was cut from. `shortcut` is the way through it without the
    model's own code, where there is one."""

    model: PreTrainedModel
    entry: Gate | None
    exit: Gate | None
    wanted: Wanted | None
    layers: range
    shortcut: Shortcut

    @property
    def held(self) -> int:
        """How many layers are in it."""
        return len(self.layers)

    def __call__(self, given: torch.Tensor, wanted: torch.Tensor | None, raw: bool = False, **kwargs: torch.Tensor) -> torch.Tensor:
        """`given` is ids [1, T] when the view has `embed`, hidden states [1, T, H] otherwise. Returns logits of the `wanted` rows [1, W, V] when the view has
        `head`, or if they are wanted `raw` what the head's matrix is given [1, W, H], hidden states [1, T, H] otherwise."""
        try:
            if self.entry is not None:
                self.entry.given = given
                kwargs["inputs_embeds"] = given
            else:
                kwargs["input_ids"] = given
            if self.wanted is not None:
                self.wanted.wanted, self.wanted.raw = wanted, raw
            output = self.model(use_cache=False, **kwargs)
            if self.wanted is not None and self.wanted.taken is not None:
                return self.wanted.taken
            return output.logits if self.exit is None else self.exit.out()
        finally:
            for gate in (self.entry, self.exit):
                if gate is not None:
                    gate.given = gate.taken = None
            if self.wanted is not None:
                self.wanted.taken = None


def cut(model: PreTrainedModel, anatomy: Anatomy, span: Span) -> View:
    """A view of `span`, which the model must hold."""
    new = replacements(model, anatomy, [span])
    entry = exit_ = wanted = None
    if span.start > 0:
        entry = _gate(model, anatomy, new, min(span.start - 1, anatomy.count - 1))
    if span.stop <= anatomy.count + 1:
        exit_ = _gate(model, anatomy, new, max(span.stop - 2, 0))
    else:
        wanted = Wanted(model.get_submodule(anatomy.output))
        new[anatomy.output] = wanted
    copy: Any = _with(model, {tuple(path.split(".")): module for path, module in new.items()})
    root = copy if wanted is not None else getattr(copy, model.base_model_prefix)
    shortcut = Shortcut(limb for _, limb in _limbs(model, anatomy.layers))
    return View(root, entry, exit_, wanted, range(max(span.start, 1) - 1, min(span.stop - 1, anatomy.count)), shortcut)


def _gate(model: nn.Module, anatomy: Anatomy, new: dict[str, nn.Module], index: int) -> Gate:
    path = f"{anatomy.layers}.{index}"
    there = new.get(path) or model.get_submodule(path)
    if not isinstance(there, Gate):
        there = new[path] = Gate(there)
    return there


def _with(module: nn.Module | None, new: Mapping[tuple[str, ...], nn.Module]) -> nn.Module:
    """A shallow copy of a module tree with some modules replaced; everything else is shared."""
    assert module is not None
    copy = module.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    children = dict(module._modules)
    for name in sorted({path[0] for path in new}):
        below = {path[1:]: replacement for path, replacement in new.items() if path[0] == name}
        children[name] = below[()] if () in below else _with(module._modules[name], below)
    copy.__dict__["_modules"] = children
    return copy


def _limbs(model: nn.Module, layers: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hang off the path from the root to the list of layers."""
    at, below = model, ""
    for step in layers.split("."):
        if any(True for _ in at.parameters(recurse=False)):
            raise UnsupportedModel(f"{type(at).__name__} has weights of its own beside its layers, so it cannot be cut into spans; choose another model")
        for name, child in at.named_children():
            if name != step:
                yield f"{below}{name}", child
        at, below = at.get_submodule(step), f"{below}{step}."


def _declared_after(model: nn.Module, layers: str, path: str) -> bool:
    """Whether a sibling of the list of layers is declared after it. Families declare modules in the order in which they run, but for OPT's final projection."""
    parent, _, name = layers.rpartition(".")
    names = [child for child, _ in model.get_submodule(parent).named_children()]
    return names.index(path.rpartition(".")[2]) > names.index(name)


def _path_of(model: nn.Module, wanted: nn.Module | None) -> str | None:
    return next((path for path, module in model.named_modules() if module is wanted), None)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    owner._modules[name] = module


def _copy_labels(layer: nn.Module, to: nn.Module) -> None:
    """Plain attributes that a family's loop over its layers may read (`attention_type` and the like)."""
    for name, value in vars(layer).items():
        if isinstance(value, str | int | float) and not name.startswith("_") and name != "training":
            setattr(to, name, value)
