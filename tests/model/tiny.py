"""Tiny random models of many families, saved as real checkpoints: configurations away from their defaults, windows smaller than the test's length."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

VOCAB = 131
BASE = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)
BASE |= dict(bos_token_id=1, eos_token_id=None, pad_token_id=None, initializer_range=0.2)
MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)

FAMILIES: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", BASE | dict(rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))),
    "llama-tied": ("Llama", BASE | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
    "qwen2": ("Qwen2", BASE | dict(use_sliding_window=True, sliding_window=17, max_window_layers=2, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", BASE | dict(head_dim=20, rope_parameters=dict(rope_type="yarn", factor=4.0, rope_theta=1e4, original_max_position_embeddings=32))),
    "qwen3_moe": ("Qwen3Moe", BASE | MOE | dict(head_dim=16, decoder_sparse_step=2, mlp_only_layers=[0], norm_topk_prob=True)),
    "mixtral": ("Mixtral", BASE | dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=19)),
    "mistral": ("Mistral", BASE | dict(sliding_window=11, head_dim=16)),
    "gemma2": ("Gemma2", BASE | dict(head_dim=16, attn_logit_softcapping=3.0, final_logit_softcapping=2.0, query_pre_attn_scalar=40, sliding_window=13, hidden_activation="gelu_pytorch_tanh")),
    "gemma3": ("Gemma3", BASE | dict(head_dim=16, sliding_window=9, sliding_window_pattern=3, query_pre_attn_scalar=24, final_logit_softcapping=4.0)),
    "granite": ("Granite", BASE | dict(embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22, attention_multiplier=0.0156)),
    "phi3": ("Phi3", BASE | dict(sliding_window=15, partial_rotary_factor=0.5)),
    "gpt_neox": ("GPTNeoX", {k: v for k, v in BASE.items() if k != "num_key_value_heads"} | dict(rotary_pct=0.25, use_parallel_residual=False)),
    "gpt2": ("GPT2", dict(vocab_size=VOCAB, n_embd=48, n_layer=5, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=None, initializer_range=0.2, scale_attn_by_inverse_layer_idx=True)),
    "opt": ("OPT", dict(vocab_size=VOCAB, hidden_size=48, ffn_dim=96, num_hidden_layers=5, num_attention_heads=4, max_position_embeddings=256, eos_token_id=None, pad_token_id=None, init_std=0.2)),
    "opt-projected": ("OPT", dict(vocab_size=VOCAB, hidden_size=48, ffn_dim=96, num_hidden_layers=5, num_attention_heads=4, max_position_embeddings=256, eos_token_id=None, pad_token_id=None, init_std=0.2, word_embed_proj_dim=24, do_layer_norm_before=False)),
    "olmo2": ("Olmo2", BASE),
    "gpt_oss": ("GptOss", BASE | dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=9)),
}


def build(family: str, folder: Path, **changes: object) -> transformers.PreTrainedModel:
    """Save a tiny model of `family` under `folder` and return it as transformers itself loads it, in float32."""
    name, settings = FAMILIES[family]
    torch.manual_seed(len(family))
    config = config_of(name)(**(settings | changes))
    config.attn_implementation = None
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():  # norms start as ones and biases as zeros, which would hide one left out
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * (0.05 if path.endswith("bias") else 0.5))
        if config.tie_word_embeddings:  # a tied matrix that outweighs the layers answers every token with itself
            model.get_input_embeddings().weight.mul_(0.1)
    model.save_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def config_of(name: str) -> type[transformers.PreTrainedConfig]:
    return getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")


def reference(model: transformers.PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens of transformers' own generate."""
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return out[0, len(prompt) :].tolist()
