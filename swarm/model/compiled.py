"""Room: model. Layers whose decoding steps run as compiled code. A step of few tokens is a matter of reading weights and of a hundred small operations between
products; eagerly each of those costs more for being called than for what it computes. Knows layers, and code that was made of them (`recipes.py`); not spans,
sessions or when to compile.

Prompts stay eager: there multiplying is what takes time. What compiled code computes is compared with the eager layer before it is used, for every layer, and a
layer that does not agree stays eager. Layers that follow one another run in one go (`ahead.py`), without a turn through Python for each.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swarm.model.ahead import Ahead
from swarm.model.attention import Pack
from swarm.model.native import Native
from swarm.model.operators import Code, Operators, Stack
from swarm.model.recipes import ABOUT, FORMS, MOST, Argument, Call, Unsuitable, tensors_of
from swarm.model.shortcut import Seen

log = logging.getLogger(__name__)

NEAR = {torch.float32: (1e-3, 1e-6), torch.bfloat16: (2**-5, 2**-7)}
"""How far compiled may be from eager, in shares of the largest number that a layer adds, and of the largest that it gives."""

MOST_STACKS = 256
"""Sequences of layers that are kept ready to run in one go: whoever asks chooses where they begin and end."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The code of a kind of layer: how its layers are called, and the libraries of FORMS."""

    call: Call
    libraries: tuple[Path, ...]

    @classmethod
    def found(cls, place: Path) -> Kind:
        """In the folder where `recipes.compile_layers` left it. A library that was cut short would end whoever runs it, so then there is none from now on, and
        the next one who wants it makes it anew. Raises Unsuitable."""
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
    all `proven`, sessions that begin are theirs. Those that follow one another run `together`, if that is set.
    """

    def __init__(self, layers: Mapping[int, nn.Module], places: Mapping[int, Path], native: Native) -> None:
        """Raises Unsuitable for code that cannot be loaded; then nothing has changed."""
        try:
            self._operators = Operators(native)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unsuitable(f"operators cannot be compiled ({error})") from error
        kinds = {place: Kind.found(place) for place in sorted(set(places.values()))}
        self.layers = {i: _Layer(module, i, kinds[places[i]], self._operators, self) for i, module in layers.items()}
        self.runs, self.tries, self.resting, self.proven, self.together = False, False, True, False, True
        self._ran, self._row, self._ahead = 0, range(0), Ahead()
        self.whole: Seen | None = None
        self._stacks: dict[tuple[int, ...], Stack] = {}
        for layer in self.layers.values():
            layer.seat()

    def begin(self, pack: Pack, row: range) -> None:
        """Before the layers `row` run. Sessions that began eagerly stay so: sums are not everywhere taken in the same order."""
        self._row = row
        self.again()
        self.runs = not self.resting and pack.table is not None and sum(pack.counts) <= MOST and all(cache.compiled for cache in pack.caches)
        if self.runs and pack.table is not None:
            self._operators.begin(pack.table)

    @property
    def takes_shortcuts(self) -> bool:
        """Whether layers of this step may be called without the model around them."""
        return self.runs and self.together and not self.tries

    def again(self) -> None:
        """The step begins anew."""
        self._ran, self.whole = 0, None
        self._ahead.begin()

    def end(self) -> int:
        """After it; how many layers ran compiled."""
        ran, self.runs = self._ran, False
        self.again()
        return ran

    def run(self, number: int, args: Sequence[Any], kwargs: Mapping[str, object]) -> torch.Tensor | None:
        """What this call of a layer gives, which may have been computed with a layer before it; None if it is not for compiled code."""
        alone = self.tries or not self.together
        made = None if alone else self._ahead.made(number, args, kwargs)
        if made is None:
            layer = self.layers[number]
            if (inputs := layer.call.tensors(args, kwargs)) is None:
                return None
            numbers = [number] if alone else self._ahead.run(number, args, kwargs, self._after(layer))
            try:
                results, failed = self._stack(inputs[0].shape[1] > 1, numbers).run(inputs)
            except (KeyError, TypeError) as error:
                results, failed = (), str(error)
            if failed:
                self._remove(numbers[len(results)], f"its compiled code failed ({failed}), so it is eager from now on")
            if not results:
                return None
            self._ahead.keep(numbers, results)
            made = results[0]
            if numbers == list(self._row) and not failed:
                self.whole = Seen(None, tuple(args), kwargs, results[-1])
        self._ran += not self.tries
        return made

    def go(self, args: Sequence[Any], kwargs: Mapping[str, object]) -> torch.Tensor | None:
        """All layers of the row in one go, which they have been seen to run in: what the last one gives, None if they cannot any more."""
        stack, layer = self._stacks.get((args[0].shape[1] > 1, *self._row)), self.layers.get(self._row.start)
        if stack is None or layer is None or not self.together or (inputs := layer.call.tensors(args, kwargs)) is None:
            return None
        try:
            results, failed = stack.run(inputs)
        except (KeyError, TypeError):
            return None
        if failed:  # whoever calls them one by one finds out which
            return None
        self._ran += len(self._row)
        return results[-1]

    def _after(self, layer: _Layer) -> Iterator[int]:
        """Layers of the row behind this one that are called as it is."""
        numbers = range(layer.number + 1, self._row.stop)
        return takewhile(lambda number: number in self.layers and self.layers[number].call == layer.call, numbers)

    def _stack(self, form: bool, numbers: Sequence[int]) -> Stack:
        key = (form, *numbers)
        stack = self._stacks.pop(key, None) or Stack([self.layers[number].forms[form] for number in numbers])
        self._stacks[key] = stack
        if len(self._stacks) > MOST_STACKS:
            del self._stacks[next(iter(self._stacks))]
        return stack

    def _remove(self, number: int, why: str) -> None:
        log.warning("layer %d: %s", number, why)
        self.layers.pop(number).remove()
        self._stacks.clear()

    @contextmanager
    def awake(self, really: bool = True) -> Iterator[None]:
        """They run within, as they would for a session; or, not `really`, they could."""
        self.resting = not really
        try:
            yield
        finally:
            self.resting = True

    @contextmanager
    def running(self, together: bool) -> Iterator[None]:
        """Rows that run within run so, as far as they may."""
        may, self.together = self.together, self.together and together
        try:
            yield
        finally:
            self.together = may

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
                self._remove(i, "it is not right when compiled, so it stays eager")

    def remove(self) -> None:
        """Everything is eager again."""
        for layer in self.layers.values():
            layer.remove()
        self.layers.clear()


class _Layer:
    """Stands in for the `forward` of a layer: compiled where that is on and the call is the one that was compiled, eager otherwise."""

    def __init__(self, module: nn.Module, number: int, kind: Kind, operators: Operators, all_: CompiledLayers) -> None:
        self._module, self._eager, self.call, self._all = module, module.forward, kind.call, all_
        self.number, self.tried, self.wrong = number, 0, False
        try:
            self._tensors = {f"layer.{name}": tensor.detach() for name, tensor in tensors_of(module).items()}  # their code knows only where they are
            self.forms = [Code(library, number, self._tensors, operators) for library in kind.libraries]
        except (OSError, AttributeError, TypeError, KeyError, RuntimeError) as error:
            raise Unsuitable(f"the code in {kind.libraries[0].parent} cannot be loaded ({error})") from error

    def seat(self) -> None:
        self._module.forward = self  # type: ignore[method-assign,assignment]

    def remove(self) -> None:
        vars(self._module).pop("forward", None)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        made = self._all.run(self.number, args, kwargs) if self._all.runs else None
        if made is None:
            return self._eager(*args, **kwargs)
        return self._compared(args[0], made, self._eager(*args, **kwargs)) if self._all.tries else made

    def _compared(self, given: torch.Tensor, made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        self.tried += 1
        if not torch.equal(made, wanted):
            added, whole = NEAR[wanted.dtype]
            near = added * (wanted.float() - given.float()).abs().max() + whole * wanted.float().abs().max()
            self.wrong |= made.shape != wanted.shape or not bool((made.float() - wanted.float()).abs().max() <= near)  # not a number is not near
        return wanted
