"""Tiny random models of many families, saved as real checkpoints: configurations away from their defaults, windows smaller than the tests' lengths. And the
shortest way to run a chain of spans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from swarm.core import Span
from swarm.model.cache import KVCache
from swarm.model.checkpoint import Checkpoint
from swarm.model.span import Row, SpanModel

VOCAB = 131
LAYERS = 5
LENGTH = 128

_ENDLESS = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=None, pad_token_id=None, initializer_range=0.2)
_HEADS = dict(num_hidden_layers=LAYERS, num_attention_heads=4, max_position_embeddings=LENGTH)
_BASE = _ENDLESS | _HEADS | dict(hidden_size=48, intermediate_size=80, num_key_value_heads=2)
_ALL_HEADS = {key: value for key, value in _BASE.items() if key != "num_key_value_heads"}
_MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)
_OPT = _ENDLESS | _HEADS | dict(hidden_size=48, ffn_dim=96, init_std=0.2)

_MLA = dict(q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12)
_MLA |= dict(moe_intermediate_size=32, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=2)
_LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)

FAMILIES: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", _BASE | dict(rope_parameters=_LLAMA3)),
    "llama-tied": ("Llama", _BASE | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
    "qwen2": ("Qwen2", _BASE | dict(use_sliding_window=True, sliding_window=17, max_window_layers=2, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", _BASE | dict(head_dim=20, rope_parameters=dict(rope_type="yarn", factor=4.0, rope_theta=1e4, original_max_position_embeddings=32))),
    "qwen3_moe": ("Qwen3Moe", _BASE | _MOE | dict(head_dim=16, decoder_sparse_step=2, mlp_only_layers=[0], norm_topk_prob=True)),
    "mixtral": ("Mixtral", _BASE | dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=19)),
    "mistral": ("Mistral", _BASE | dict(sliding_window=11, head_dim=16)),
    "gemma2": (
        "Gemma2",
        _BASE | dict(head_dim=16, attn_logit_softcapping=3.0, final_logit_softcapping=2.0, query_pre_attn_scalar=40, sliding_window=13),
    ),
    "gemma3": ("Gemma3", _BASE | dict(head_dim=16, sliding_window=9, sliding_window_pattern=3, query_pre_attn_scalar=24, final_logit_softcapping=4.0)),
    "granite": ("Granite", _BASE | dict(embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22, attention_multiplier=0.0156)),
    "phi3": ("Phi3", _BASE | dict(sliding_window=15, partial_rotary_factor=0.5)),
    "gpt_neox": ("GPTNeoX", _ALL_HEADS | dict(rotary_pct=0.25, use_parallel_residual=False)),
    "gpt2": ("GPT2", _ENDLESS | dict(n_embd=48, n_layer=LAYERS, n_head=4, n_positions=LENGTH, scale_attn_by_inverse_layer_idx=True)),
    "opt": ("OPT", _OPT),
    "opt-projected": ("OPT", _OPT | dict(word_embed_proj_dim=24, do_layer_norm_before=False, tie_word_embeddings=False, init_std=0.6)),
    "olmo2": ("Olmo2", _BASE),
    "qwen2_moe": ("Qwen2Moe", _BASE | _MOE | dict(shared_expert_intermediate_size=32, use_sliding_window=True, sliding_window=12, max_window_layers=2)),
    "nemotron": ("Nemotron", _BASE | dict(partial_rotary_factor=0.5)),
    "deepseek_v3": ("DeepseekV3", _ALL_HEADS | _MLA),
    "gpt_oss": ("GptOss", _BASE | dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=9)),
}


@dataclass(frozen=True, slots=True)
class Tiny:
    folder: Path
    model: transformers.PreTrainedModel
    checkpoint: Checkpoint

    def load(self, *spans: Span, **options: object) -> SpanModel:
        return SpanModel.load(self.checkpoint, spans, **options)


def build(family: str, folder: Path, **changes: object) -> Tiny:
    """Save a tiny model of `family` under `folder`, and load it as transformers itself does, in float32."""
    name, settings = FAMILIES[family]
    return save(name, settings | changes, folder)


def save(name: str, settings: dict, folder: Path, seed: int = 5, **saving: object) -> Tiny:
    config = _config_class(name)(**settings)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():  # norms start as ones and biases as zeros, which would hide one left out
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * (0.05 if path.endswith("bias") else 0.5))
        if config.tie_word_embeddings:  # a tied matrix that outweighs the layers answers every token with itself
            model.get_input_embeddings().weight.mul_(0.1 / getattr(config, "embedding_multiplier", 1.0))
    model.save_pretrained(folder, **saving)
    reread = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Tiny(folder, reread, Checkpoint.open(str(folder)))


def _config_class(name: str) -> type[transformers.PreTrainedConfig]:
    return getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")


def generated(model: transformers.PreTrainedModel, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy tokens of transformers' own generate."""
    ids = torch.tensor([list(prompt)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


Part = tuple[SpanModel, int, int]


class Chain:
    """One session through hops (model, start, stop), in order."""

    def __init__(self, parts: Iterable[Part], limit: int | None = None) -> None:
        self.parts = list(parts)
        self.caches: list[KVCache] = [model.new_cache(start, stop, limit) for model, start, stop in self.parts]

    @property
    def length(self) -> int:
        return self.caches[0].length

    def feed(self, tokens: Sequence[int], want: Sequence[int] | None = None) -> torch.Tensor:
        """Logits [len(want), V] after `tokens` were appended."""
        return feed([self], [tokens], [want])[0]

    def truncate(self, length: int) -> None:
        for cache in self.caches:
            cache.truncate(length)

    def generate(self, prompt: Sequence[int], count: int, chunks: Sequence[int] = ()) -> list[int]:
        """Greedy tokens; the prompt goes in by chunks of the given sizes, the rest of it at once."""
        for size in chunks:
            self.feed(prompt[:size], [])
            prompt = prompt[size:]
        tokens = [int(self.feed(prompt)[0].argmax())]
        while len(tokens) < count:
            tokens.append(int(self.feed(tokens[-1:])[0].argmax()))
        return tokens


def feed(chains: Sequence[Chain], tokens: Sequence[Sequence[int]], wants: Sequence[Sequence[int] | None]) -> list[torch.Tensor]:
    """One step of several sessions at once, packed at every hop."""
    hidden: list[torch.Tensor | None] = [None] * len(chains)
    for i, (model, start, stop) in enumerate(chains[0].parts):
        sessions = zip((chain.caches[i] for chain in chains), tokens, hidden, wants, strict=True)
        rows = [Row(cache, cache.length, ids, x, want) for cache, ids, x, want in sessions]
        hidden = list(model.run(start, stop, rows))
    return hidden
