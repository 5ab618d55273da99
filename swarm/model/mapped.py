"""Room: model. Embeddings and heads whose matrix stays in its file, mapped into memory: what is read of it is in the page cache, which the machine may take
back. Knows modules, checkpoints and safetensors files; not layouts or sessions.

The matrix keeps the dtype of its file, and what is used of it is converted when it is used. That is exact: numbers are converted one by one, so looking rows up
and converting them may change places.

Shapes: T = tokens, U = different tokens, H = hidden width, V = vocabulary, v = some of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import nn
from torch.func import functional_call
from torch.nn.functional import linear

from swarm.core import Span
from swarm.errors import NotAModel, UnsupportedModel
from swarm.model.anatomy import Anatomy, leave_out, put
from swarm.model.checkpoint import Checkpoint
from swarm.model.names import is_output_matrix, is_token_embedding
from swarm.model.products import WIDE


def mapped(file: Path, name: str) -> torch.Tensor:
    """A tensor that is where the file is mapped, and takes no memory of its own. Raises NotAModel."""
    try:
        with safe_open(str(file), framework="pt", device="cpu") as tensors:
            return tensors.get_tensor(name)  # which stays mapped for as long as somebody holds the tensor
    except Exception as error:  # safetensors has one class of its own for all that may be wrong with a file
        raise NotAModel(f"cannot map {name} from {file.name} ({str(error).splitlines()[0]}); fetch it again") from error


class MappedTable(nn.Module):
    """An embedding of a family's own class, of rows in a file. It is given the few rows that are wanted, on `device`, and looks them up as ever."""

    def __init__(self, inner: nn.Module, rows_VH: torch.Tensor, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        if not isinstance(inner, nn.Embedding) or rows_VH.shape != (inner.num_embeddings, inner.embedding_dim):
            raise UnsupportedModel(f"the embedding of this model is a {type(inner).__name__} that cannot stay on disk; leave out --on-disk")
        self.inner, self._rows_VH, self._dtype, self._device = inner, rows_VH, dtype, device
        if "weight" in inner._parameters:
            leave_out(inner)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        ids_U, places = torch.unique(ids.cpu(), return_inverse=True)
        rows_UH = self._rows_VH[ids_U].to(dtype=self._dtype).to(self._device)
        return functional_call(self.inner, {"weight": rows_UH}, (places.to(self._device),))


class MappedHead(nn.Module):
    """An output matrix in a file of another dtype than is served, converted piece by piece whenever it is used. It is multiplied by the CPU."""

    def __init__(self, inner: nn.Module, rows_VH: torch.Tensor) -> None:
        super().__init__()
        check_head(inner, rows_VH)
        self._rows_VH = rows_VH
        self.bias: nn.Parameter | None
        self.register_parameter("bias", cast(nn.Linear, inner).bias)

    def forward(self, x_1TH: torch.Tensor) -> torch.Tensor:
        some = max(WIDE // self._rows_VH.shape[1], 1)
        out_1TV = torch.cat([linear(x_1TH, rows_vH.to(x_1TH.dtype)) for rows_vH in self._rows_VH.split(some)], dim=-1)
        return out_1TV if self.bias is None else out_1TV + self.bias


def check_head(inner: nn.Module, rows_VH: torch.Tensor) -> None:
    """Raises UnsupportedModel for what is no plain product with these rows."""
    if not isinstance(inner, nn.Linear) or rows_VH.shape != (inner.out_features, inner.in_features):
        raise UnsupportedModel(f"the head of this model is a {type(inner).__name__} that cannot stay on disk; leave head out of --on-disk")


class Matrices:
    """The matrices of `embed` and `head` that stay on disk, of those that `spans` need."""

    def __init__(self, checkpoint: Checkpoint, spans: Sequence[Span], on_disk: Collection[int]) -> None:
        head = checkpoint.shape.head
        held = {end for end in (0, head) if any(end in span for span in spans)}
        self._names = {end: _matrix(checkpoint, end, head) for end in held & set(on_disk)}
        tied = bool(self._names) and held == {0, head} and _matrix(checkpoint, 0, head) == _matrix(checkpoint, head, head)
        if tied and head in self._names:
            self._names[0] = self._names[head]  # it is one, so it would not be in memory for either
        self.components = frozenset(self._names)
        self.left_out = () if tied and head not in self._names else tuple(sorted(self._names))
        """What is not to be read into memory. A tied head that is in memory must be."""
        self._files = checkpoint.files_for_tensors(self._names.values())

    def seat(self, model: nn.Module, anatomy: Anatomy, folder: Path, dtype: torch.dtype, entry: str) -> None:
        """Put them into the model, which computes in `dtype`. Raises NotAModel, UnsupportedModel."""
        for end, name in self._names.items():
            path = anatomy.output if end else anatomy.embedding
            inner, rows_VH = model.get_submodule(path), mapped(folder / self._files[name], name)
            if end == 0:
                put(model, path, MappedTable(inner, rows_VH, dtype, entry))
            elif rows_VH.dtype == dtype:
                check_head(inner, rows_VH)
                del inner.weight
                inner.register_parameter("weight", nn.Parameter(rows_VH, requires_grad=False))
            else:
                put(model, path, MappedHead(inner, rows_VH))


def _matrix(checkpoint: Checkpoint, end: int, head: int) -> str:
    """Name of the matrix of `embed` (0) or `head`. Raises UnsupportedModel where there is not just one."""
    tensors = sorted(name for name in checkpoint.tensors_for([Span(end, end + 1)]) if name.endswith("weight"))
    first, second = (is_output_matrix, is_token_embedding) if end == head else (is_token_embedding, is_output_matrix)
    found = list(filter(first, tensors)) or list(filter(second, tensors))
    if len(found) != 1:
        raise UnsupportedModel(f"{checkpoint.name} has no single matrix for its {'head' if end else 'embedding'} that could stay on disk; leave out --on-disk")
    return found[0]
