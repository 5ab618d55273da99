"""Names of tensors and modules, as families really spell them."""

from __future__ import annotations

import pytest

from swarm.model.names import component_of, tensors_of_components

L = 12


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("model.embed_tokens.weight", 0),
        ("model.layers.0.self_attn.q_proj.weight", 1),
        ("model.layers.11.mlp.experts.7.w1.weight", 12),
        ("model.layers.12.eh_proj.weight", None),
        ("model.norm.weight", 13),
        ("lm_head.weight", 13),
        ("transformer.h.3.ln_1.bias", 4),
        ("h.3.attn.c_attn.weight", 4),
        ("wpe.weight", 0),
        ("transformer.ln_f.weight", 13),
        ("gpt_neox.layers.5.post_attention_layernorm.weight", 6),
        ("gpt_neox.final_layer_norm.bias", 13),
        ("embed_out.weight", 13),
        ("model.decoder.embed_positions.weight", 0),
        ("model.decoder.project_in.weight", 0),
        ("model.decoder.project_out.weight", 13),
        ("model.decoder.layers.2.final_layer_norm.weight", 3),
        ("transformer.word_embeddings_layernorm.weight", 0),
        ("model.layers.3", 4),
        ("model.norm", 13),
        ("model.rotary_emb", 0),
    ],
)
def test_where_a_name_belongs(name, component):
    assert component_of(name, L) == component


def test_tied_weights_belong_to_both_ends_whatever_they_are_called():
    assert tensors_of_components(["wte.weight", "ln_f.weight"], 0) == [{"wte.weight"}, {"wte.weight", "ln_f.weight"}]
    assert tensors_of_components(["lm_head.weight", "norm.weight"], 0) == [{"lm_head.weight"}, {"lm_head.weight", "norm.weight"}]
    both = ["model.embed_tokens.weight", "lm_head.weight"]
    assert tensors_of_components(both, 0) == [{both[0]}, {both[1]}]
