"""Room: model. Rotary embeddings whose scaling depends on how long a sequence is (longrope, dynamic NTK). Knows one module of transformers; no sessions.

transformers takes the longest position in the row it is given. In a packed row that is another session's, and in a prompt cut into chunks it is the chunk's.
Here the length is said from outside, as the length the session may reach: an answer then does not depend on how it was cut, sent again or packed. Up to the
length from which scaling begins, and for prompts beyond it, that gives transformers' own tokens; an answer that *crosses* that length is computed with the
long factors from its start, where transformers switches half-way and computes its whole cache again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ReachRotary(nn.Module):
    """A family's rotary embedding told that the sequence is `reach` positions long."""

    inner: Any

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.reach = 0

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = self.inner
        if inner.rope_type == "dynamic":  # it remembers the longest sequence it saw: begin anew, or one session would leave its mark on the next
            inner.register_buffer("inv_freq", inner.original_inv_freq.to(x.device), persistent=False)
            inner.max_seq_len_cached = inner.original_max_seq_len
        last = position_ids.new_full((position_ids.shape[0], 1), self.reach - 1)
        cos, sin = inner(x, torch.cat([position_ids, last], dim=1))
        return cos[:, :-1], sin[:, :-1]
