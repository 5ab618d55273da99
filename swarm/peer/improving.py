"""How a peer gets faster while it serves: the layers it holds are compiled in other processes, and take over when they are ready and have proved right.

Does not know how layers are compiled, which is the model room's, nor what is served meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from swarm.model.recipes import Recipe

log = logging.getLogger(__name__)

T = TypeVar("T")


class Workshop(Protocol):
    """Whoever runs a model, as far as that may be worked on."""

    async def alone(self, act: Callable[[Any], T]) -> T | None:
        """`act` with the model that it runs, between two rounds; None where it runs none."""


async def improve(workshop: Workshop, *, asked: bool = False) -> None:
    """Compile what is held: as far as it is worth it, or all of it where that was `asked` for. A failure is told in the log, and everything stays as it was."""
    from swarm.model.recipes import Unsuitable, worth_compiling

    try:
        recipes: Mapping[int, Recipe] = await workshop.alone(lambda model: model.recipes() if asked else worth_compiling(model.recipes())) or {}
        await make(recipes)
        count = await adopt(workshop, recipes)
    except Unsuitable as error:
        log.warning("layers are not compiled, so they stay as fast as they are: %s", error)
    except Exception:  # of a compiler, or of code that nobody has run before: nothing that a peer should end for
        log.warning("layers could not be compiled, so they stay as fast as they are", exc_info=True)
    else:
        if count:
            log.info("decoding steps of %d layers run as code or graphs made for this machine from now on", count)
        elif asked:
            log.warning("no layer runs faster: that takes a CPU, g++, and float32 or bfloat16, or one GPU that holds them all; --debug may say more")


async def adopt(workshop: Workshop, recipes: Mapping[int, Recipe]) -> int:
    """Have the model run these layers compiled, if they prove right; how many do. A step of that at a time, so that nobody who is served waits for more."""
    begun = await workshop.alone(lambda model: (model, model.adopting(recipes)))
    if begun is None:
        return 0
    first, pieces = begun
    try:
        while True:
            done = await workshop.alone(lambda model: _next(pieces) if model is first else (0,))
            if done is None or done[0] is not None:
                return done[0] or 0 if done is not None else 0
    finally:
        with contextlib.suppress(ValueError):  # a piece still runs: whoever is last to let go of it ends it
            pieces.close()


def _next(pieces: Generator[None, None, int]) -> tuple[int | None]:
    """What came of them at the end, None before."""
    try:
        next(pieces)
    except StopIteration as end:
        return (end.value,)
    return (None,)


async def make(recipes: Mapping[int, Recipe]) -> None:
    """The code of all these layers. Raises Unsuitable."""
    from swarm.model.recipes import compile_layers

    for recipe in {recipe.key: recipe for recipe in recipes.values()}.values():
        await compile_layers(recipe)
