"""Room: core. Classes of numerics: who may share a chain, by the dtype of activations and by how weights are rounded."""

from __future__ import annotations


def base_dtype(numerics: str) -> str:
    """The dtype of activations in a numerics class: `bfloat16` of `bfloat16-int8`."""
    return numerics.partition("-")[0]


ROUNDED_BITS = {"int8": 8.0, "int4": 4.5}
"""How weights may be rounded (`--quantize`), and the bits that each then takes: those of a group of 32 in int4 share 16 more."""


def rounding(numerics: str) -> str | None:
    """How peers of this class have rounded the weights of the checkpoint: `int8` of `bfloat16-int8`."""
    method = numerics.partition("-")[2]
    return method if method in ROUNDED_BITS else None


def is_rounded(numerics: str) -> bool:
    return rounding(numerics) is not None


_MIXED = "-mixed"


def mixed(numerics: str) -> str:
    """The mixed class of whoever computes in this dtype, whatever weights they have rounded: `bfloat16-mixed` of `bfloat16` and of `bfloat16-int8`. Peers of it
    share a chain whose client allows that."""
    return base_dtype(numerics) + _MIXED


def is_mixed(numerics: str) -> bool:
    return numerics.endswith(_MIXED)


def may_serve(held: str, ordered: str) -> bool:
    """Whether a peer of the numerics `held` may be a hop of a chain of the numerics `ordered`."""
    return ordered in (held, mixed(held))
