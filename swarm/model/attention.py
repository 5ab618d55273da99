"""Room: model. Attention over several sessions packed into one row, and how transformers is told to use it. Knows caches; not models, routes or wires.

Shapes: T = tokens of the row, n = tokens of one session in it, L = positions that session may look at, Q = query heads, K = key/value heads, G = Q / K,
D = width of a query or key head, E = width of a value head.

transformers calls `packed_attention` from every layer of every family that supports its AttentionInterface, with the new keys and values only: this function
owns the caches (models are run with `use_cache=False`), so a kernel for variable lengths, or one opaque operator inside a compiled graph, can take its place
without touching a model. No mask is ever built by transformers: for an implementation it has no mask function for it passes None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import AttentionInterface, PreTrainedConfig

from swarm.errors import UnsupportedModel
from swarm.model.cache import KVCache
from swarm.model.products import FEW
from swarm.model.prompts import NativePrompts

IMPLEMENTATION = "swarm"

_UNSAID = -1
"""Default of `sliding_window`: None is what families say of a layer that sees everything, which is not the same as saying nothing."""

SCORES_AT_ONCE = 2**24
"""How many attention scores the path by hand holds at a time: 64 MiB in float32."""


class How(NamedTuple):
    """What a layer asks of its attention: `window` None sees everything, `softcap` None caps nothing, `sinks_Q` take a share of the softmax of each head."""

    scaling: float
    window: int | None
    softcap: float | None
    sinks_Q: torch.Tensor | None


class Attends(Protocol):
    """One call of a model, as its layers' attention sees it."""

    def attend(self, layer: int, q_1QTD: torch.Tensor, k_1KTD: torch.Tensor, v_1KTE: torch.Tensor, how: How) -> torch.Tensor:
        """Keep keys and values, and attend: [1, T, Q, E]."""


class Table(Protocol):
    """The sessions of a row as machine code sees them."""


class Machine(Protocol):
    """Attention in machine code: of the CPU (`native.NativeAttention`) or of a GPU (`gpu.attention.GpuAttention`)."""

    def table(self, caches: Sequence[KVCache], starts: Sequence[int], counts: Sequence[int]) -> Table:
        """Of caches that have room in every layer. Good until one of them grows."""

    def takes(self, *tensors: torch.Tensor) -> bool:
        """Whether these queries, keys and values are what it was made for."""

    def __call__(
        self,
        table: Any,
        layer: int,
        q_1QTD: torch.Tensor,
        k_1KTD: torch.Tensor,
        v_1KTE: torch.Tensor,
        scaling: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks_Q: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Keep keys and values, and attend: [1, T, Q, E]."""


class Pack:
    """Which tokens of a row belong to which session: `caches[i]` gets `counts[i]` tokens from position `starts[i]` on. Lives for one call of a model.

    `table` is what machine code knows of it, None where torch attends, but for `prompts` if there is code for them.
    """

    __slots__ = ("_machine", "_masks", "caches", "calls", "counts", "prompts", "starts", "table")

    def __init__(self, caches: Sequence[KVCache], starts: Sequence[int], counts: Sequence[int], prompts: NativePrompts | None = None) -> None:
        self.caches, self.starts, self.counts, self.prompts = caches, starts, counts, prompts
        self.calls = 0
        self.table: Any = None
        self._machine: Machine | None = None
        self._masks: dict[tuple[int, int, int, int | None, torch.device], torch.Tensor] = {}

    @classmethod
    def of_table(cls, machine: Machine, table: Table, tokens: int) -> Pack:
        """So many tokens of whatever sessions a table holds when it is looked at."""
        pack = cls((), (), (tokens,))
        pack._machine, pack.table = machine, table
        return pack

    def use(self, machine: Machine, layers: int) -> None:
        """Let machine code attend, if the caches know the shapes of all `layers` layers already."""
        if self.reserve(layers):
            self._machine, self.table = machine, machine.table(self.caches, self.starts, self.counts)

    def reserve(self, layers: int) -> bool:
        """Whether there is room in all `layers` layers of every cache now: not before each of them has been written to."""
        return all([cache.reserve(start + n, layers) for cache, start, n in zip(self.caches, self.starts, self.counts, strict=True)])

    def attend(self, layer: int, q_1QTD: torch.Tensor, k_1KTD: torch.Tensor, v_1KTE: torch.Tensor, how: How) -> torch.Tensor:
        self.calls += 1
        if self._machine is not None and self._machine.takes(q_1QTD, k_1KTD, v_1KTE):
            return self._machine(self.table, layer, q_1QTD, k_1KTD, v_1KTE, how.scaling, how.window or 0, how.softcap or 0.0, how.sinks_Q)
        outs, at = [], 0
        for cache, start, n in zip(self.caches, self.starts, self.counts, strict=True):
            here = slice(at, at + n)
            outs.append(_attend(self, cache, layer, start, q_1QTD[0, :, here], k_1KTD[0, :, here], v_1KTE[0, :, here], how))
            at += n
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[None]

    def mask(self, start: int, n: int, since: int, window: int | None, device: torch.device) -> torch.Tensor:
        """[n, L], true where query position start + i may look at position since + j. Every layer of one kind asks for the same one: it is built once."""
        key = (start, n, since, window, device)
        if key not in self._masks:
            queries_n1 = torch.arange(start, start + n, device=device)[:, None]
            keys_1L = torch.arange(since, start + n, device=device)[None]
            seen_nL = keys_1L <= queries_n1
            self._masks[key] = seen_nL & (keys_1L > queries_n1 - window) if window else seen_nL
        return self._masks[key]


@dataclass(slots=True)
class Turn:
    """Whose turn it is: the pack that a span model is running. Every attention module of the model holds the same one, since several families (Nemotron,
    StableLM) drop keyword arguments on the way from the model to its attention."""

    pack: Attends | None = None


def seat(model: torch.nn.Module) -> Turn:
    """Give every module of `model` that knows its layer the same turn."""
    turn = Turn()
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.turn = turn  # type: ignore[assignment]
    return turn


def packed_attention(
    module: torch.nn.Module,
    q_1QTD: torch.Tensor,
    k_1KTD: torch.Tensor,
    v_1KTE: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = _UNSAID,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Append the new keys and values to their sessions' caches and attend: [1, T, Q, E], and None for the weights nobody asks for.

    Raises UnsupportedModel for a family that wants what this function does not do, rather than give a wrong answer.
    """
    turn: Turn | None = getattr(module, "turn", None)
    pack = None if turn is None else turn.pack
    if pack is None or attention_mask is not None or position_bias is not None or is_causal is False:
        raise UnsupportedModel(f"{type(module).__name__} asks for attention that swarm does not do (a mask, a bias or both directions); choose another model")
    layer = cast(int, module.layer_idx)
    if sliding_window == _UNSAID:
        sliding_window = _window(cast(PreTrainedConfig, module.config), layer)
    how = How(q_1QTD.shape[3] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    return pack.attend(layer, q_1QTD, k_1KTD, v_1KTE, how), None


def _window(config: PreTrainedConfig, layer: int) -> int | None:
    """The window of a family that tells transformers' mask of it and not its attention (Qwen2-MoE, Phi-MoE)."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[layer] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def _attend(pack: Pack, cache: KVCache, layer: int, start: int, q_QnD: torch.Tensor, k_KnD: torch.Tensor, v_KnE: torch.Tensor, how: How) -> torch.Tensor:
    """One session's tokens against all it may look at: [n, Q, E]."""
    heads, n, _ = q_QnD.shape
    scaling, window, *_ = how
    since = max(0, start + 1 - window) if window else 0
    k_KLD, v_KLE = cache.write(layer, start, k_KnD, v_KnE, since)
    if n > FEW and pack.prompts is not None and pack.prompts.takes(q_QnD, k_KLD, v_KLE):
        return pack.prompts(q_QnD, k_KLD, v_KLE, start, since, scaling, window or 0, how.softcap or 0.0, how.sinks_Q)
    if how.softcap is not None or how.sinks_Q is not None:
        return _by_hand(pack, q_QnD, k_KLD, v_KLE, start, since, how)
    if n == 1:
        # One query sees every position left, so query heads that share keys may stand side by side as if they were positions: up to 6 x faster than
        # enable_gqa in bfloat16, and equal in float32.
        q_KGD = q_QnD.reshape(k_KLD.shape[0], -1, q_QnD.shape[2])
        return sdpa(q_KGD[None], k_KLD[None], v_KLE[None], scale=scaling).reshape(1, heads, -1)
    grouped = k_KLD.shape[0] != heads
    if start == 0 and not (window and n > window):
        out_1QnE = sdpa(q_QnD[None], k_KLD[None], v_KLE[None], is_causal=True, scale=scaling, enable_gqa=grouped)
    else:
        mask_nL = pack.mask(start, n, since, window, q_QnD.device)
        out_1QnE = sdpa(q_QnD[None], k_KLD[None], v_KLE[None], attn_mask=mask_nL, scale=scaling, enable_gqa=grouped)
    return out_1QnE[0].transpose(0, 1)


def _by_hand(pack: Pack, q_QnD: torch.Tensor, k_KLD: torch.Tensor, v_KLE: torch.Tensor, start: int, since: int, how: How) -> torch.Tensor:
    """What no fused kernel of torch does: soft-capped scores (Gemma 2) and a learned sink that takes a share of the softmax (GPT-OSS). [n, Q, E].

    Query positions are taken a few at a time, so that a long prompt does not hold all its scores at once.
    """
    (heads, n, width), (scale, window, softcap, sinks_Q) = q_QnD.shape, how
    groups, length = k_KLD.shape[0], k_KLD.shape[1]
    k_K1DL, v_K1LE = k_KLD.transpose(1, 2)[:, None], v_KLE[:, None]
    outs, some = [], max(1, SCORES_AT_ONCE // (heads * length))
    for at in range(0, n, some):
        q_KGmD = q_QnD[:, at : at + some].reshape(groups, heads // groups, -1, width)
        scores_KGmL = torch.matmul(q_KGmD, k_K1DL) * scale
        if softcap is not None:
            scores_KGmL = torch.tanh(scores_KGmL / softcap) * softcap
        if n > 1:
            mask_mL = pack.mask(start, n, since, window, q_QnD.device)[at : at + some]
            scores_KGmL = scores_KGmL.masked_fill(~mask_mL, float("-inf"))
        scores_KGmL = scores_KGmL.float()
        if sinks_Q is not None:
            sinks_KGm1 = sinks_Q.float().view(groups, heads // groups, 1, 1).expand(*scores_KGmL.shape[:-1], 1)
            weights_KGmL = torch.softmax(torch.cat([scores_KGmL, sinks_KGm1], dim=-1), dim=-1)[..., :-1]
        else:
            weights_KGmL = torch.softmax(scores_KGmL, dim=-1)
        outs.append(torch.matmul(weights_KGmL.to(v_KLE.dtype), v_K1LE).reshape(heads, -1, v_KLE.shape[2]))
    return (outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)).transpose(0, 1)


AttentionInterface.register(IMPLEMENTATION, packed_attention)
