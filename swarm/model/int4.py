"""Room: model. Weights of half a byte. 32 inputs of an output share the width of their steps: whole numbers from −8 to 7 in four bits each, and the width in
bfloat16, so 4.5 bits for a weight. Knows tensors; not layers, which `quantized.py` replaces, or models.

Shapes: T = rows (tokens), I = inputs, O = outputs of a layer, B = I / 2 bytes, G = I / 32 groups. Byte b of a group holds numbers b (low) and b + 16 (high),
each 8 more than how many steps it is: so `cpp/lanes.h` reads them.
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from swarm.model.products import WIDE

GROUP = 32
"""Inputs that share a width. Twice as many would save a quarter of a bit, and take the demo model a fifth further from the exact one (docs/performance.md)."""

LOWEST, HIGHEST = -8, 7

SHARES = (1.0, 0.93, 0.86)
"""Widths that are tried, in shares of the one whose lowest step is the largest number of the group: what that loses others may gain. (That width is negative
where the largest number is above zero.) It takes a fifth off how far the demo model is from the exact one."""

HALF = GROUP // 2

ROUNDED_AT_ONCE = 2**18
"""Numbers whose widths are sought at a time: a megabyte stays near."""


def rounded(w_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 numbers [O, B], and bfloat16 widths [O, G] of their steps."""
    numbers, widths = zip(*map(_rounded, w_OI.split(max(ROUNDED_AT_ONCE // w_OI.shape[1], 1))), strict=True)
    return torch.cat(numbers), torch.cat(widths)


def _rounded(w_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    w_OGi = w_OI.float().unflatten(1, (-1, GROUP))
    least_OG1, most_OG1 = w_OGi.amin(dim=2, keepdim=True), w_OGi.amax(dim=2, keepdim=True)
    full_OG1 = torch.where(-least_OG1 > most_OG1, least_OG1, most_OG1) / LOWEST
    widths_OG1, errors_OG1 = full_OG1.bfloat16(), torch.full_like(full_OG1, torch.inf)
    for share in SHARES:
        tried_OG1 = (full_OG1 * share).bfloat16()
        off_OG1 = (_steps(w_OGi, tried_OG1) * tried_OG1 - w_OGi).square().sum(dim=2, keepdim=True)
        widths_OG1 = torch.where(off_OG1 < errors_OG1, tried_OG1, widths_OG1)
        errors_OG1 = torch.minimum(off_OG1, errors_OG1)
    low_OGb, high_OGb = (_steps(w_OGi, widths_OG1) - LOWEST).to(torch.uint8).split(HALF, dim=2)
    return (low_OGb | high_OGb << 4).flatten(1), widths_OG1.squeeze(2)


def _steps(w_OGi: torch.Tensor, widths_OG1: torch.Tensor) -> torch.Tensor:
    """How many steps of these widths are nearest to the numbers. A group of zeros has no width."""
    return (w_OGi / widths_OG1.float()).nan_to_num(0.0).round().clamp(LOWEST, HIGHEST)


def widened(w_OB: torch.Tensor, widths_OG: torch.Tensor) -> torch.Tensor:
    """The numbers [O, I] that they stand for, in float32."""
    w_OGb = w_OB.unflatten(1, (-1, HALF))
    steps_OGi = torch.cat((w_OGb & 15, w_OGb >> 4), dim=2).float() + LOWEST
    return (steps_OGi * widths_OG.float()[:, :, None]).flatten(1)


def as_given(x_TI: torch.Tensor, w_OB: torch.Tensor, widths_OG: torch.Tensor) -> torch.Tensor:
    """The usual product, in the dtype of the rows, to which the weights are rounded."""
    outputs = max(WIDE // x_TI.shape[1], 1)
    parts = zip(w_OB.split(outputs), widths_OG.split(outputs), strict=True)
    return torch.cat([linear(x_TI, widened(w_oB, widths_oG).to(x_TI.dtype)) for w_oB, widths_oG in parts], dim=1)


def in_float32(x_TI: torch.Tensor, w_OB: torch.Tensor, widths_OG: torch.Tensor) -> torch.Tensor:
    """The same in float32, which some processors multiply several times as fast."""
    return as_given(x_TI.float(), w_OB, widths_OG).to(x_TI.dtype)
