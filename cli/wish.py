"""Room: cli. What an operator asks of the machine: which model, which of its layers, in what form, and where.

Imports of the model room stand inside functions: it loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from swarm.core import AUTO, ROUNDED_BITS, ModelShape
from swarm.errors import InvalidConfig

if TYPE_CHECKING:
    from swarm.model.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asks for."""

    model: str
    layers: str
    dtype: str | None
    device: str
    cache_tokens: int | None
    max_memory: int | None
    max_disk: int | None
    name: str
    region: str
    quantize: str | None = None
    compiled: bool = False
    """Before it serves."""
    eager: bool = False
    """Never compiled."""
    offload: str = "auto"
    on_disk: tuple[str, ...] = ()
    threads: int | None = None
    """None: as many as are fastest."""

    def __post_init__(self) -> None:
        if self.quantize and "head" in self.on_disk:
            raise InvalidConfig("a head that is rounded is none that is in the model's files; leave head out of --on-disk, or --quantize")

    @property
    def streams(self) -> bool:
        """Whether layers that a GPU has no room for may wait in the machine's memory. Unless told to, we choose no layers that will be slow."""
        return self.offload == "yes" or (self.offload == "auto" and self.layers != AUTO)

    def dtype_of(self, checkpoint: Checkpoint) -> str:
        """In which it computes."""
        return self.dtype or checkpoint.dtype

    def numerics(self, checkpoint: Checkpoint) -> str:
        """The class in which it will serve."""
        return self.dtype_of(checkpoint) + (f"-{self.quantize}" if self.quantize else "")

    def shape(self, checkpoint: Checkpoint) -> ModelShape:
        """The checkpoint's as it will be held; times `_scale` it is what memory takes."""
        from swarm.model.layout import mapped_components
        from swarm.model.memory import ITEM_SIZE

        item = ITEM_SIZE.get(self.dtype_of(checkpoint), 4)
        shape = checkpoint.shape.rounded(item, ROUNDED_BITS[self.quantize]) if self.quantize else checkpoint.shape
        mapped = mapped_components(self.on_disk, shape.components)
        return replace(shape, component_bytes=tuple(0 if i in mapped else size for i, size in enumerate(shape.component_bytes))) if mapped else shape
