"""The span model against transformers' own generate, in one process: `python -m bench.span [--json] [--quick]`.

A random Llama of 362 M parameters (32 layers, hidden 960) is saved once under --folder. Baseline and subject take turns, so that whatever else the
machine does meets both alike; the ratio of medians counts, above 1 is faster than transformers. On a busy machine read `cpu_ratio` with `--threads 1`:
seconds of processor, not of the clock. Only the model room is measured: three span models hand tensors to one another without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))

from swarm.core import Span
from swarm.model.checkpoint import Checkpoint
from swarm.model.span import Row, SpanModel

SHAPE = dict(hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5, vocab_size=49152)


class Seconds(NamedTuple):
    wall: float
    cpu: float

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def model_folder(folder: Path) -> Path:
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**SHAPE, max_position_embeddings=4096, tie_word_embeddings=True, eos_token_id=None)
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


class Chain:
    """Span models in a row, and caches for some sessions."""

    def __init__(self, checkpoint: Checkpoint, cuts: list[int], dtype: str) -> None:
        self.parts = [(SpanModel.load(checkpoint, [Span(a, b)], dtype=dtype), a, b) for a, b in pairwise(cuts)]

    def open(self, sessions: int) -> None:
        self.caches = [[model.new_cache(a, b) for _ in range(sessions)] for model, a, b in self.parts]

    def step(self, tokens: list[list[int]]) -> list[int]:
        hidden: list[torch.Tensor | None] = [None] * len(tokens)
        for (model, a, b), caches in zip(self.parts, self.caches, strict=True):
            rows = [Row(cache, cache.length, ids, x) for cache, ids, x in zip(caches, tokens, hidden, strict=True)]
            hidden = list(model.run(a, b, rows))
        return [int(logits[-1].argmax()) for logits in hidden]

    def generate(self, prompts: list[list[int]], count: int) -> tuple[list[list[int]], Seconds, Seconds]:
        """Tokens, seconds to the first, seconds for the others."""
        self.open(len(prompts))
        begin = now()
        tokens = [[token] for token in self.step(prompts)]
        first = now()
        for _ in range(count - 1):
            for ids, token in zip(tokens, self.step([ids[-1:] for ids in tokens]), strict=True):
                ids.append(token)
        return tokens, first - begin, now() - first


def reference(model: transformers.PreTrainedModel, prompts: list[list[int]], count: int) -> tuple[list[list[int]], Seconds, Seconds]:
    ids = torch.tensor(prompts)
    settings = dict(attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None, pad_token_id=0)
    begin = now()
    out = model.generate(ids, max_new_tokens=1, **settings)
    first = now()
    if count > 1:
        out = model.generate(ids, max_new_tokens=count, min_new_tokens=count, **settings)
    return out[:, ids.shape[1] :].tolist(), first - begin, now() - first - (first - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "swarm-bench-llama-362m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--only", choices=["one", "prompt", "eight"], help="one case of the three")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = model_folder(options.folder)
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=options.dtype).eval()
    chain = Chain(Checkpoint.open(str(folder)), [0, 12, 23, 34], options.dtype)
    generator = torch.Generator().manual_seed(1)

    def prompts(sessions: int, length: int) -> list[list[int]]:
        return torch.randint(0, SHAPE["vocab_size"], (sessions, length), generator=generator).tolist()

    cases = {"one": (prompts(1, 32), options.tokens), "prompt": (prompts(1, 1024), 1), "eight": (prompts(8, 32), options.tokens)}
    report: dict[str, object] = {"threads": options.threads, "dtype": options.dtype, "load": os.getloadavg()[0]}
    for name, (prompt, count) in cases.items():
        if options.only not in (None, name):
            continue
        theirs, ours, equal = [], [], True
        for round_ in range(options.rounds + 1):
            a, b = reference(whole, prompt, count), chain.generate(prompt, count)
            equal &= a[0] == b[0]
            if round_:  # the first warms up
                pick = 1 if count == 1 else 2
                theirs.append(a[pick])
                ours.append(b[pick])
        made = len(prompt) * (count - 1) if count > 1 else len(prompt[0])
        walls = [[seconds.wall for seconds in side] for side in (theirs, ours)]
        cpus = [[seconds.cpu for seconds in side] for side in (theirs, ours)]
        report[name] = {
            "transformers": round(made / median(walls[0]), 2),
            "spans": round(made / median(walls[1]), 2),
            "ratio": round(median(walls[0]) / median(walls[1]), 3),
            "cpu_ratio": round(median(cpus[0]) / median(cpus[1]), 3),
            "equal": equal,
        }
    if options.json:
        print(json.dumps(report))
    else:
        for name, line in report.items():
            print(f"{name:10s} {line}")


if __name__ == "__main__":
    main()
