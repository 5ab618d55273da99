"""Room: model. What is compiled of a layer, and by whom: how a family calls its layers, all that decides which code comes out, and the process that makes it
(`compiling.py`). Knows layers as modules with tensors; not how their code is run (`compiled.py`) or when.

Layers of one kind (the same modules, shapes and settings) share one piece of code, which is given each layer's own weights where they lie; so a model of 80
layers is compiled as fast as one of eight, and a peer that moves to other layers finds their code there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import transformers
from torch import nn

from swarm.core import readable
from swarm.model.memory import COMPILING
from swarm.model.native import FOLDER as CODE
from swarm.spawning import spawn

log = logging.getLogger(__name__)

FORMS = ("one", "some")
"""Pieces of code for each kind of layer: for a single token, for which loops fall away, and for several."""

ABOUT = "about.json"
"""Beside them: how layers of the kind are called (`call`), and the SHA-256 of each library (`digests`)."""

MOST = 64
"""Tokens of all sessions together in a step that compiled code runs: beyond it torch multiplies as fast as we do."""

WORTH = 2**20
"""Numbers in a layer below which nobody waits for its steps."""

PATIENCE = 900.0
"""Seconds for compiling one kind of layer. It takes 20 where nothing else runs."""

TRACED = ("recipes.py", "compiling.py", "operators.py", "attention.py", "anatomy.py")
"""What decides, beside a model, which code comes out."""

PLAIN = (bool, int, float, str, type(None))

NUMBER = "layer_idx"
"""What layers and attention modules call their place in the model; all that layers of a kind may differ in beside weights."""


class Unsuitable(Exception):
    """These layers cannot be compiled; the text says why."""


class Argument(NamedTuple):
    """One argument of a layer: a tensor (`tensors` is None), several in a tuple (their number), or (`tensors` 0) a value that the code takes for granted."""

    name: str | None
    tensors: int | None
    value: bool | int | float | str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """How a family calls its layers. Its tensors are the inputs of compiled code, in this order."""

    arguments: tuple[Argument, ...]

    @classmethod
    def seen(cls, args: Sequence[object], kwargs: Mapping[str, object]) -> Call:
        """Raises Unsuitable for arguments that are neither tensors nor plain values."""
        return cls(tuple(_argument(name, value) for name, value in (*((None, value) for value in args), *kwargs.items())))

    def tensors(self, args: Sequence[object], kwargs: Mapping[str, object]) -> list[torch.Tensor] | None:
        """The inputs of this call, None if it is another kind of call."""
        found: list[torch.Tensor] = []
        positional = iter(args)
        for name, tensors, value in self.arguments:
            given = next(positional, self) if name is None else kwargs.get(name, self)
            if tensors is None:
                if not isinstance(given, torch.Tensor):
                    return None
                found.append(given.contiguous())  # as they were when it was compiled
            elif tensors:
                if not isinstance(given, tuple) or len(given) != tensors:
                    return None
                found += [tensor.contiguous() for tensor in given]
            elif type(given) is not type(value) or given != value:
                return None
        return found if len(args) + len(kwargs) == len(self.arguments) else None

    def put(self, tensors: Sequence[torch.Tensor]) -> tuple[list[object], dict[str, object]]:
        """The arguments of a call with these inputs."""
        rest = iter(tensors)
        args: list[object] = []
        kwargs: dict[str, object] = {}
        for name, count, value in self.arguments:
            given: object = next(rest) if count is None else tuple(next(rest) for _ in range(count)) if count else value
            if name is None:
                args.append(given)
            else:
                kwargs[name] = given
        return args, kwargs


def _argument(name: str | None, value: object) -> Argument:
    if isinstance(value, torch.Tensor):
        return Argument(name, None)
    if isinstance(value, tuple) and value and all(isinstance(item, torch.Tensor) for item in value):
        return Argument(name, len(value))
    if isinstance(value, PLAIN):
        return Argument(name, 0, value)
    raise Unsuitable(f"its layers are given a {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that must be known to compile a kind of layer, as plain values: `folder` has the configuration, `path` is where the model's layers are, `layer` the
    number of one of the kind, `tensors` are shapes and dtypes by name, `native` is the library of products and attention. `key` names the result."""

    key: str
    folder: str
    path: str
    layer: int
    dtype: str
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    native: str

    @classmethod
    def of(cls, module: nn.Module, *, folder: Path, config_hash: str, path: str, layer: int, dtype: torch.dtype, native: Path) -> Recipe:
        tensors = {name: (tuple(tensor.shape), _name(tensor.dtype)) for name, tensor in tensors_of(module).items()}
        described = (config_hash, _name(dtype), _description(module), tensors, native.name, torch.__version__, transformers.__version__, MOST)
        code = b"".join(path.read_bytes() for path in (*(Path(__file__).with_name(name) for name in TRACED), CODE / "operators.cpp"))
        key = sha256(code + json.dumps(described).encode()).hexdigest()[:24]
        return cls(key, str(folder), path, layer, _name(dtype), tensors, str(native))

    @property
    def place(self) -> Path:
        """The folder of the code, beside the library it calls."""
        return Path(self.native).parent / f"layer-{self.key}"

    def text(self) -> str:
        return json.dumps(asdict(self))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)))


def _description(module: nn.Module) -> list[object]:
    """What decides a layer's code beside its configuration: its modules and their settings, all but its number."""
    return [
        (path, "Linear" if isinstance(part, nn.Linear) else type(part).__qualname__, settings)
        for path, part in module.named_modules()
        for settings in [sorted((name, value) for name, value in vars(part).items() if isinstance(value, PLAIN) and name != NUMBER)]
    ]


def worth_compiling(recipes: Mapping[int, Recipe]) -> Mapping[int, Recipe]:
    """Those of layers that are large enough, where there is memory enough for compiling."""
    if not all(recipe.place.exists() for recipe in recipes.values()) and psutil.virtual_memory().available < COMPILING:
        log.info("too little memory is free for compiling layers: it takes %s for half a minute", readable(COMPILING))
        return {}
    return {i: recipe for i, recipe in recipes.items() if sum(math.prod(shape) for shape, _ in recipe.tensors.values()) >= WORTH}


async def compile_layers(recipe: Recipe) -> None:
    """Make the code of `recipe`, unless it is there. It takes another process, so that nobody here is kept waiting. Raises Unsuitable."""
    if recipe.place.exists():
        return
    try:
        process = await spawn(
            *(sys.executable, "-P", "-m", "swarm.model.compiling"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us
        )
    except OSError as error:
        raise Unsuitable(f"no process can be started ({error})") from error
    try:
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate(recipe.text().encode())
    except TimeoutError:
        raise Unsuitable(f"compiling took longer than {PATIENCE:.0f} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # and the compilers that it started
            await process.wait()
    if process.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        raise Unsuitable(lines[-1] if lines else f"the compiling process ended with status {process.returncode}")
