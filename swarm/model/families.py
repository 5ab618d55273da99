"""Room: model. Which families of transformers can be cut into spans, and why others cannot. Reads configurations and classes only.

The span model is generic: nothing here makes a family work. These are the reasons to refuse one before it computes something wrong. A layer that keeps
state outside its attention would do that silently, so what is not known to work through transformers' attention interface is refused.
"""

from __future__ import annotations

from typing import cast

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from swarm.core import LengthScaling
from swarm.errors import UnsupportedModel

_ENCODERS = (
    "bert bert-generation camembert data2vec-text electra ernie roberta roberta-prelayernorm roc_bert xlm-roberta xlm-roberta-xl xmod modernbert-decoder"
)

_REASONS = {
    "diffllama": "its layers attend twice with the same keys",
    "doge": "its attention computes a mask of its own",
    "gemma3n_text": "its layers also read the token ids",
    "gemma4_text": "its layers differ in size and some use the keys and values of others",
    "gemma4_unified_text": "its layers differ in size and some use the keys and values of others",
    "longcat_flash": "its layers hold two attentions each",
    "moshi": "it speaks and listens beside writing",
    **dict.fromkeys(_ENCODERS.split(), "it is an encoder at heart, built otherwise than decoders"),
}

_INTERFACE_UNDECLARED = frozenset({"stablelm"})
"""Families whose attention does go through transformers' attention interface although they do not say so; tested."""

_LAYER_KINDS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose only state is keys and values that may all be seen, or the last so many of them."""

LENGTH_SCALED_ROPE = frozenset({"longrope", "dynamic"})
"""Rotary scalings that look at the longest position of the whole row, so that sessions of different lengths would disturb one another."""


def model_class(config: PreTrainedConfig, name: str) -> type[PreTrainedModel]:
    """The class that generates text for `config`. Raises UnsupportedModel, with the reason, for what cannot be cut into spans."""
    family = config.model_type
    architectures = getattr(config, "architectures", None) or ()
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or (architectures and not any(_generates(text) for text in architectures)):
        kind = architectures[0] if architectures else family
        raise UnsupportedModel(f"{name} is a {kind}, not a causal language model; choose a model that generates text")
    found = cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    if reason := _reason(config, found):
        raise UnsupportedModel(f"{name} cannot be split over peers: {reason}; choose a model of another family than {family}")
    return found


def length_scaling(config: PreTrainedConfig) -> LengthScaling | None:
    """For rotary embeddings that depend on the length of the sequence; None for all others."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") not in LENGTH_SCALED_ROPE:
        return None
    original = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
    return LengthScaling(parameters["rope_type"], original)


def _generates(architecture: str) -> bool:
    return architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))


def _reason(config: PreTrainedConfig, found: type[PreTrainedModel]) -> str | None:
    if config.model_type in _REASONS:
        return _REASONS[config.model_type]
    if config.get_text_config() is not config:
        return "it reads images or sound beside text, and only text models are served"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder and a decoder, and only decoders are served"
    if getattr(found, "_is_stateful", False):
        return "its layers keep a recurrent state, which cannot be taken back to an earlier position"
    if not getattr(found, "_supports_attention_backend", False) and config.model_type not in _INTERFACE_UNDECLARED:
        return "its attention does not go through transformers' attention interface"
    if strange := set(getattr(config, "layer_types", None) or ()) - _LAYER_KINDS:
        return f"it has layers of kind {', '.join(sorted(strange))}"
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        return "its attention looks in both directions"
    if getattr(config, "num_kv_shared_layers", 0):
        return "some of its layers use the keys and values of others"
    rope = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(part, dict) and part.get("rope_type") in LENGTH_SCALED_ROPE for part in rope.values()):
        return "its rotary embedding scales with the length differently from layer to layer"
    return None
