"""Room: model. Which component a tensor or module belongs to, told from its name alone. Knows no torch and reads no file.

One rule serves both sides: the names in a checkpoint (which files and bytes a span needs) and the names in a module tree (what a span puts aside). Decoder
families agree on far more than they differ in: a numbered list of layers, a handful of names for what comes after it, and everything else comes before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LAYER_LISTS = ("layers", "h", "blocks", "layer")
"""What families call their list of layers: Llama and most others, GPT-2, MPT-like, BERT-like."""

_LAYER = re.compile(rf"(?:^|\.)(?:{'|'.join(LAYER_LISTS)})\.(\d+)(?:\.|$)")

OUTPUT_MATRICES = frozenset({"lm_head", "embed_out"})
"""The matrix that makes logits; `embed_out` is GPT-NeoX's."""

_AFTER_LAYERS = OUTPUT_MATRICES | {"norm", "final_norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "project_out"}
"""Names of what stands after the last layer. `project_out` is OPT's, which declares it before its layers: the order of declaration cannot tell."""

_TOKEN_EMBEDDINGS = frozenset({"embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings"})


def component_of(name: str, layers: int) -> int | None:
    """Component index of a tensor or module called `name` in a model of `layers` layers; None for extra layers (multi-token prediction) nobody runs."""
    if match := _LAYER.search(name):
        index = int(match[1])
        return index + 1 if index < layers else None
    return layers + 1 if _AFTER_LAYERS.intersection(name.split(".")) else 0


def is_output_matrix(name: str) -> bool:
    """Whether `name` is the matrix that turns hidden states into logits, a part of it, or the module that holds it."""
    return _LAYER.search(name) is None and bool(OUTPUT_MATRICES.intersection(name.split(".")))


def is_token_embedding(name: str) -> bool:
    return _LAYER.search(name) is None and bool(_TOKEN_EMBEDDINGS.intersection(name.split(".")))


def tensors_of_components(names: Iterable[str], layers: int) -> list[set[str]]:
    """For each component the names of the tensors it must read. Tied weights are stored once, under either name, and belong to `embed` and to `head`."""
    names = sorted(names)
    owned: list[set[str]] = [set() for _ in range(layers + 2)]
    for name in names:
        component = component_of(name, layers)
        if component is not None:
            owned[component].add(name)
    embeddings = {name for name in names if is_token_embedding(name)}
    outputs = {name for name in names if is_output_matrix(name)}
    if embeddings and not outputs:
        owned[layers + 1] |= embeddings
    if outputs and not embeddings:
        owned[0] |= outputs
    return owned
