"""Turn a training checkpoint into an ordinary model folder: bfloat16 weights, config and a byte tokenizer with a chat template."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .data import BYTE_OFFSET, EOS, PAD
from .train import config

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\\nA:' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
"""A user message becomes the prompt the model was trained on, ending where the answer begins. A system message is dropped: none was trained."""


def byte_letters() -> list[str]:
    """The printable letter that ByteLevel writes for each byte: bytes that print stand for themselves, the others follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, spare = [], 256
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    assert set(letters) == set(ByteLevel.alphabet())
    return letters


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, nothing added in front or behind: `encode(text)` is the text's bytes plus `BYTE_OFFSET`."""
    vocab = {"<|eos|>": EOS, "<|pad|>": PAD} | {letter: byte + BYTE_OFFSET for byte, letter in enumerate(byte_letters())}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|eos|>", special=True), AddedToken("<|pad|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>", pad_token="<|pad|>", model_max_length=1024,
                                   clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE)


def export(size: str, checkpoint: Path, folder: Path) -> None:
    state = torch.load(checkpoint / "state.pt", weights_only=False)
    model = LlamaForCausalLM(config(size))
    model.load_state_dict(state["model"])
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=512)
    model.save_pretrained(folder)
    words = tokenizer()
    words.save_pretrained(folder)
    _tidy(folder)
    print(f"{folder}: step {state['steps']}, {state['spent'] / 60:.1f} min, {sum(file.stat().st_size for file in folder.iterdir()):,} bytes")


def _tidy(folder: Path) -> None:
    """Newer transformers write the template to its own file and name their own tokenizer class; written like this, older ones read it too."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"chat_template": CHAT_TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("size", choices=("main", "draft"))
    parser.add_argument("checkpoint", type=Path, help="the --out folder of training")
    parser.add_argument("folder", type=Path, help="where the model folder is written")
    args = parser.parse_args()
    export(args.size, args.checkpoint, args.folder)


if __name__ == "__main__":
    main()
