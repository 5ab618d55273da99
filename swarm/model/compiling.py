"""Room: model. The process that compiles: `python -P -m swarm.model.compiling` reads a `Recipe` from standard input and leaves code in its place, or says why
not in one line. Knows how transformers builds a model and torch compiles one; holds no weights, since code depends on shapes alone.

A layer is traced as its model calls it, with products and attention as operators of our own (`cpp/operators.cpp`), and compiled ahead of time: what comes out
is a library that needs neither Python nor this process. Every rounding is kept where eager execution has it, so that both compute the same numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from swarm.core import Span
from swarm.model.anatomy import cut, dissect, part_class
from swarm.model.attention import IMPLEMENTATION, How, seat
from swarm.model.checkpoint import Checkpoint
from swarm.model.native import Native, alone, compiler
from swarm.model.operators import NAMES, Operators
from swarm.model.quantized import METHODS, RoundedLinear
from swarm.model.recipes import ABOUT, FORMS, MOST, Call, Recipe, Unsuitable

NICE = 10
"""Whoever is served comes first."""

COUNTS = (3, 5)
"""Tokens of two calls that are watched: sizes that differ between them are numbers of tokens."""

OPTIONS = {
    "aot_inductor.package_constants_in_so": False,  # they are given later, each layer's own
    "always_keep_tensor_constants": True,  # ours are made up: none may be looked at
    "emulate_precision_casts": True,
    "cpp.threads": 1,  # what is not a product or attention is too small to be shared out
}


class OperatorLinear(nn.Module):
    """A linear layer whose product is our operator."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        out = torch.ops.swarm.product(input, self.weight)
        return out if self.bias is None else out + self.bias


class OperatorRoundedLinear(nn.Module):
    """The same of weights that are held as `kind` holds them."""

    def __init__(self, linear: nn.Linear, kind: type[RoundedLinear], product: str) -> None:
        super().__init__()
        self._names, self._product = kind.NAMES, getattr(torch.ops.swarm, product)
        for name in self._names:
            self.register_buffer(name, None)
        self.bias = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        out = self._product(input, *(getattr(self, name) for name in self._names))
        return out if self.bias is None else out + self.bias


class Traced:
    """Stands for the sessions of a row: attention is our operator, for the layer whose number is given with every call."""

    def __init__(self) -> None:
        self.number: torch.Tensor | None = None
        self.calls = 0

    def attend(self, layer: int, q_1QTD: torch.Tensor, k_1KTD: torch.Tensor, v_1KTE: torch.Tensor, how: How) -> torch.Tensor:
        self.calls += 1
        number = torch.zeros(1, dtype=torch.long) if self.number is None else self.number
        sinks_Q = None if how.sinks_Q is None else how.sinks_Q.float()
        return torch.ops.swarm.attend(q_1QTD, k_1KTD, v_1KTE, number, how.scaling, how.window or 0, how.softcap or 0.0, sinks_Q)


class Flat(nn.Module):
    """A layer as a function of tensors alone."""

    def __init__(self, layer: nn.Module, call: Call, traced: Traced) -> None:
        super().__init__()
        self.layer = layer
        self._call, self._traced = call, traced

    def forward(self, number: torch.Tensor, inputs: list[torch.Tensor]) -> torch.Tensor:
        self._traced.number = number
        args, kwargs = self._call.put(inputs)
        return self.layer(*args, **kwargs)


def main() -> None:
    os.nice(NICE)
    warnings.simplefilter("ignore")
    recipe = Recipe(**json.load(sys.stdin))
    try:
        with alone(recipe.place.with_suffix(".lock")):
            if not recipe.place.exists():
                make(recipe)
    except Exception as error:  # whatever a compiler may raise: the layers stay eager, and the log says why
        lines = str(error).strip().splitlines()
        sys.exit(f"{type(error).__name__}: {lines[0] if lines else ''}" if not isinstance(error, Unsuitable) else str(error))


def make(recipe: Recipe) -> None:
    """All forms of a kind of layer, or nothing. Raises Unsuitable, and whatever torch may."""
    torch.set_num_threads(1)
    Operators(Native(Path(recipe.native), compiler() or ""))
    _describe_operators()
    mark = f".compiling-{recipe.key}-"
    for left in recipe.place.parent.glob(f"{mark}*"):  # by somebody who was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=mark, dir=recipe.place.parent) as folder, torch.no_grad():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/cache"
        made = Path(folder) / "made"
        made.mkdir()
        layer, call, traced, sizes = _watched(recipe)
        flat = Flat(layer, call, traced).eval()
        for form, count in zip(FORMS, (1, COUNTS[0]), strict=True):
            _compile(flat, [_example(shape, dtype, count) for shape, dtype in sizes], sizes if count > 1 else None, made / f"{form}.so", Path(folder))
        digests = {form: sha256((made / f"{form}.so").read_bytes()).hexdigest() for form in FORMS}
        (made / ABOUT).write_text(json.dumps({"call": call.arguments, "digests": digests}))
        made.replace(recipe.place)


def _describe_operators() -> None:
    """Shapes of their results, for tracing."""
    library = torch.library
    library.register_fake("swarm::product")(lambda x, w: x.new_empty((*x.shape[:-1], w.shape[0])))
    for name in ("product_int8", "product_int4"):
        library.register_fake(f"swarm::{name}")(lambda x, w, steps: x.new_empty((*x.shape[:-1], w.shape[0])))
    library.register_fake("swarm::attend")(lambda q, k, v, *_: q.new_empty((1, q.shape[2], q.shape[1], v.shape[3])))


Sizes = list[tuple[tuple[int | None, ...], torch.dtype]]
"""Shapes of inputs, None where the number of tokens stands."""


def _watched(recipe: Recipe) -> tuple[nn.Module, Call, Traced, Sizes]:
    """The layer, and how its model calls it."""
    checkpoint = Checkpoint.open(recipe.folder)
    span = Span(recipe.layer + 1, recipe.layer + 2)
    kind = part_class(checkpoint.model_class, [span], needs_embedding=False, needs_output=False)
    dtype = getattr(torch, recipe.dtype)
    with torch.device("meta"):
        model = cast(Any, kind)._from_config(checkpoint.config, dtype=dtype, attn_implementation=IMPLEMENTATION).eval()
    model.to_empty(device="cpu")
    layer = model.get_submodule(f"{recipe.path}.{recipe.layer}")
    _furnish(layer, recipe)
    turn, traced = seat(model), Traced()
    turn.pack = traced
    view = cut(model, dissect(model), span)
    calls: list[tuple[tuple, dict]] = []
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    for count in COUNTS:
        with FakeTensorMode(allow_non_fake_inputs=True):  # nothing is computed, so that memory of weights is never touched
            hidden_1TH = torch.empty((1, count, checkpoint.shape.hidden), dtype=dtype)
            view(hidden_1TH, None, position_ids=torch.zeros((1, count), dtype=torch.long))
    hook.remove()
    if len(calls) != len(COUNTS) or traced.calls != len(COUNTS):
        raise Unsuitable("its layers are not called once for each step, with one attention each")
    first, second = (Call.seen(*call) for call in calls)
    if first != second:
        raise Unsuitable("its layers are called in more than one way")
    return layer, first, traced, _sizes(*(first.tensors(*call) or [] for call in calls))


def _furnish(layer: nn.Module, recipe: Recipe) -> None:
    """Tensors of the shapes and dtypes that will be there, without anything in them; and our operators."""
    for path, part in list(layer.named_modules()):
        if isinstance(part, nn.Linear):
            method = next((method for method, kind in METHODS.items() if f"{path}.{kind.NAMES[0]}" in recipe.tensors), None)
            _put(layer, path, OperatorLinear(part) if method is None else OperatorRoundedLinear(part, METHODS[method], f"product_{method}"))
    for name, (shape, dtype) in recipe.tensors.items():
        path, _, last = name.rpartition(".")
        owner, tensor = layer.get_submodule(path), torch.empty(tuple(shape), dtype=getattr(torch, dtype))
        if last in owner._buffers:
            owner._buffers[last] = tensor
        else:
            owner._parameters[last] = nn.Parameter(tensor, requires_grad=False)


def _put(layer: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(layer.get_submodule(parent), name, module)


def _sizes(first: list[torch.Tensor], second: list[torch.Tensor]) -> Sizes:
    """Raises Unsuitable for inputs whose sizes are something else than numbers of tokens."""
    sizes: Sizes = []
    for one, other in zip(first, second, strict=True):
        pairs = list(zip(one.shape, other.shape, strict=False))
        if one.dim() != other.dim() or any(a != b and (a, b) != COUNTS for a, b in pairs):
            raise Unsuitable("its layers are given sizes that depend on more than the number of tokens")
        sizes.append((tuple(None if (a, b) == COUNTS else a for a, b in pairs), one.dtype))
    return sizes


def _example(shape: tuple[int | None, ...], dtype: torch.dtype, count: int) -> torch.Tensor:
    return torch.zeros(tuple(count if size is None else size for size in shape), dtype=dtype)


def _compile(flat: Flat, inputs: list[torch.Tensor], sizes: Sizes | None, library: Path, folder: Path) -> None:
    """With `sizes`, for any number of tokens up to MOST."""
    tokens = torch.export.Dim("tokens", min=2, max=MOST)
    moving = None if sizes is None else (None, [{at: tokens for at, size in enumerate(shape) if size is None} for shape, _ in sizes])
    program = torch.export.export(flat, (torch.zeros(1, dtype=torch.long), inputs), dynamic_shapes=moving, strict=False)
    outputs = [node.meta["val"] for node in next(node for node in program.graph.nodes if node.op == "output").args[0]]
    if len(outputs) != 1 or outputs[0].dtype != inputs[0].dtype:  # sizes are not to be looked at: a number that is compared becomes part of the code
        raise Unsuitable("its layers give back more than hidden states")
    shims = {getattr(torch.ops.swarm, name).default: [declared] for name, declared in NAMES.items()}
    options = OPTIONS | {"aot_inductor.custom_ops_to_c_shims": shims}
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / f"{library.stem}.pt2"), inductor_configs=options)
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            if name.endswith(".wrapper.json") and (nodes := json.loads(archive.read(name))["nodes"]):
                raise Unsuitable(f"its layers call {nodes[0]['node']['target']}, which compiled code can only do through Python")
            if name.endswith(".wrapper.so"):
                with archive.open(name) as source, library.open("wb") as target:
                    shutil.copyfileobj(source, target)
                    target.flush()
                    os.fsync(target.fileno())


if __name__ == "__main__":
    main()
