"""Room: model. Layers whose decoding steps run as compiled code. A step of few tokens is a matter of reading weights and of a hundred small operations between
products; eagerly each of those costs more for being called than for what it computes. Knows layers, how they are called, and code that another process made of
them (`compiling.py`); not spans, sessions or when to compile.

Layers of one kind (the same modules, shapes and settings) share one piece of code, which is given each layer's own weights where they lie; so a model of 80
layers is compiled as fast as one of eight, and a peer that moves to other layers finds their code there. Prompts stay eager: there multiplying is what takes
time. What compiled code computes is compared with the eager layer before it is used, for every layer, and a layer that does not agree stays eager.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import transformers
from torch import nn

from swarm.core import readable
from swarm.model.attention import Pack
from swarm.model.memory import COMPILING
from swarm.model.native import FOLDER as CODE
from swarm.model.native import Native
from swarm.model.operators import Code, Operators

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

TRACED = ("compiled.py", "compiling.py", "operators.py", "attention.py", "anatomy.py")
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
        tensors = {name: (tuple(tensor.shape), _name(tensor.dtype)) for name, tensor in _tensors(module).items()}
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


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
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
        process = await asyncio.create_subprocess_exec(
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


NEAR = {torch.float32: (1e-3, 1e-6), torch.bfloat16: (2**-5, 2**-7)}
"""How far compiled may be from eager, in shares of the largest number that a layer adds, and of the largest that it gives."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The code of a kind of layer: how its layers are called, and the libraries of FORMS."""

    call: Call
    libraries: tuple[Path, ...]

    @classmethod
    def found(cls, place: Path) -> Kind:
        """In the folder where `compile_layers` left it. A library that was cut short would end whoever runs it, so then there is none from now on, and the
        next one who wants it makes it anew. Raises Unsuitable."""
        try:
            about = json.loads((place / ABOUT).read_text())
            call = Call(tuple(Argument(*argument) for argument in about["call"]))
            libraries = {place / f"{form}.so": about["digests"][form] for form in FORMS}
            whole = all(sha256(library.read_bytes()).hexdigest() == digest for library, digest in libraries.items())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Unsuitable(f"the code in {place} cannot be loaded ({error})") from error
        if not whole:
            shutil.rmtree(place, ignore_errors=True)
            raise Unsuitable(f"the code in {place} was damaged; it will be compiled anew")
        return cls(call, tuple(libraries))


class CompiledLayers:
    """Compiled layers in place of a model's own, for steps of few tokens.

    `layers` are those that proved right so far; while `resting`, as at first, the eager ones run. Once they are
    all `proven`, sessions that begin are theirs.
    """

    def __init__(self, layers: Mapping[int, nn.Module], places: Mapping[int, Path], native: Native) -> None:
        """Raises Unsuitable for code that cannot be loaded; then nothing has changed."""
        try:
            self._operators = Operators(native)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unsuitable(f"operators cannot be compiled ({error})") from error
        kinds = {place: Kind.found(place) for place in sorted(set(places.values()))}
        self.layers = {i: _Layer(module, i, kinds[places[i]], self._operators, self) for i, module in layers.items()}
        self.runs, self.tries, self.resting, self.proven = False, False, True, False
        self._ran = 0
        for layer in self.layers.values():
            layer.seat()

    def begin(self, pack: Pack) -> None:
        """Before a row runs. Sessions that began eagerly stay so: sums are not everywhere taken in the same order."""
        self._ran = 0
        self.runs = not self.resting and pack.table is not None and sum(pack.counts) <= MOST and all(cache.compiled for cache in pack.caches)
        if self.runs and pack.table is not None:
            self._operators.begin(pack.table)

    def end(self) -> int:
        """After it; how many layers ran compiled."""
        self.runs = False
        return self._ran

    def ran(self) -> None:
        self._ran += 1

    @contextmanager
    def awake(self, really: bool = True) -> Iterator[None]:
        """They run within, as they would for a session; or, not `really`, they could."""
        self.resting = not really
        try:
            yield
        finally:
            self.resting = True

    @contextmanager
    def compares(self) -> Iterator[None]:
        """Rows that run within are computed both ways."""
        self.tries = True
        try:
            yield
        finally:
            self.tries = False

    def judge(self) -> None:
        """Remove layers that did not agree, or were never compared."""
        for i, layer in list(self.layers.items()):
            if not layer.tried or layer.wrong:
                log.warning("layer %d is not right when compiled, so it stays eager", i)
                self.layers.pop(i).remove()

    def remove(self) -> None:
        """Everything is eager again."""
        for layer in self.layers.values():
            layer.remove()
        self.layers.clear()


class _Layer:
    """Stands in for the `forward` of a layer: compiled where that is on and the call is the one that was compiled, eager otherwise."""

    def __init__(self, module: nn.Module, number: int, kind: Kind, operators: Operators, all_: CompiledLayers) -> None:
        self._module, self._eager, self._call, self._all = module, module.forward, kind.call, all_
        self._number = torch.tensor([number])
        self.tried, self.wrong = 0, False
        try:
            self._tensors = {f"layer.{name}": tensor.detach() for name, tensor in _tensors(module).items()}  # their code knows only where they are
            self._forms = [Code(library, self._tensors, operators) for library in kind.libraries]
        except (OSError, AttributeError, TypeError, KeyError, RuntimeError) as error:
            raise Unsuitable(f"the code in {kind.libraries[0].parent} cannot be loaded ({error})") from error

    def seat(self) -> None:
        self._module.forward = self  # type: ignore[method-assign,assignment]

    def remove(self) -> None:
        vars(self._module).pop("forward", None)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self._all.runs or (inputs := self._call.tensors(args, kwargs)) is None:
            return self._eager(*args, **kwargs)
        try:
            made = self._forms[inputs[0].shape[1] > 1].run([self._number, *inputs], like=inputs[0])
        except (RuntimeError, KeyError, TypeError) as error:
            log.warning("a compiled layer failed, so it is eager from now on: %s", error)
            self.wrong = True
            self.remove()
            return self._eager(*args, **kwargs)
        if self._all.tries:
            return self._compared(inputs[0], made, self._eager(*args, **kwargs))
        self._all.ran()
        return made

    def _compared(self, given: torch.Tensor, made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        self.tried += 1
        if not torch.equal(made, wanted):
            added, whole = NEAR[wanted.dtype]
            near = added * (wanted.float() - given.float()).abs().max() + whole * wanted.float().abs().max()
            self.wrong |= made.shape != wanted.shape or not bool((made.float() - wanted.float()).abs().max() <= near)  # not a number is not near
        return wanted
