"""Small random models with a byte tokenizer, saved as any model is: for tests in which real processes load them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS = 256


def save_llama(folder: Path, *, layers: int = 6, hidden: int = 64, positions: int = 1024, seed: int = 0, spread: float = 0.2) -> Path:
    """A Llama in float32 whose greedy text does not settle into one repeated token. The wider its weights `spread`, the louder is each layer than the last."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=EOS + 1,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        eos_token_id=EOS,
        bos_token_id=None,
        initializer_range=spread,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """One token for each byte, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


def greedy(folder: Path, prompt: list[int], count: int) -> list[int]:
    """What transformers' own `generate` answers in one process."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return out[0, len(prompt) :].tolist()
