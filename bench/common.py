"""What the benchmarks share: the model they run, the baseline in this process, and how figures are printed."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("SWARM_BENCH_CACHE", Path.home() / ".cache" / "swarm-bench"))


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def random_llama(*, layers: int = 32, hidden: int = 960, feed_forward: int = 2560, heads: int = 15, kv_heads: int = 5, vocab: int = 49152) -> Path:
    """A Llama of random weights in float32, made once and kept: about 362 M parameters by default."""
    folder = CACHE / f"llama-{layers}x{hidden}x{vocab}"
    if not (folder / "model.safetensors").exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from tests.swarm.models import save_tokenizer

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        folder.mkdir(parents=True, exist_ok=True)
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="5GB")
        save_tokenizer(folder)
    return folder


class Baseline:
    """transformers' own `generate` in this process, eager, as its users run it."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[list[list[int]], list[float]]:
        """Greedy tokens of a batch of prompts of equal length, and the time at which each step's tokens were there, in seconds since the call."""
        times: list[float] = []
        began = time.perf_counter()

        class Clock:
            def put(self, _: Any) -> None:
                times.append(time.perf_counter() - began)

            def end(self) -> None: ...

        ids = self._torch.tensor([list(prompt) for prompt in prompts])
        if len(prompts) == 1:
            out = self._model.generate(ids, attention_mask=self._torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0, streamer=Clock())
            times = times[1:]
        else:
            out = self._model.generate(ids, attention_mask=self._torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0)
            times = [time.perf_counter() - began]
        return out[:, ids.shape[1] :].tolist(), times


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(title: str, figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"bench": title, **figures}))
        return
    print(title)
    wide = max(map(len, figures))
    for name, value in figures.items():
        print(f"  {name:<{wide}}  {value:.3f}" if isinstance(value, float) else f"  {name:<{wide}}  {value}")
