"""Decoding steps on a GPU, eager and as graphs, against transformers' own: `python -m bench.gpu [--device cuda:0] [--dtype bfloat16] [--static] [--json]`.

One span model holds the random Llama of 362 M parameters whole and is given greedy sessions; transformers generates the same batch, eagerly and, with
`--static`, with its static cache and `torch.compile`, which takes minutes to compile. Also printed: how fast the card reads, and at what share of that steps
read weights. Only the model room is measured, no network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
import transformers

from bench.span import SHAPE, model_folder
from swarm.core import Span
from swarm.model.checkpoint import Checkpoint
from swarm.model.devices import synchronize
from swarm.model.span import Row, SpanModel

WHOLE = Span(0, SHAPE["num_hidden_layers"] + 2)
READ = 2**31


def generate(model: SpanModel, prompts: list[list[int]], count: int) -> tuple[list[list[int]], float]:
    """Tokens, and steps per second after the first."""
    caches = [model.new_cache(WHOLE.start, WHOLE.stop) for _ in prompts]
    answers = [[int(out[-1].argmax())] for out in model.run(WHOLE.start, WHOLE.stop, [Row(cache, 0, ids) for cache, ids in zip(caches, prompts, strict=True)])]
    model.synchronize()
    began = time.perf_counter()
    for _ in range(count - 1):
        rows = [Row(cache, cache.length, ids[-1:]) for cache, ids in zip(caches, answers, strict=True)]
        for ids, token in zip(answers, torch.cat(model.run(WHOLE.start, WHOLE.stop, rows)).argmax(1).tolist(), strict=True):
            ids.append(token)
    return answers, (count - 1) / (time.perf_counter() - began)


def reference(model: transformers.PreTrainedModel, prompts: list[list[int]], count: int, device: str, **settings: object) -> tuple[list[list[int]], float]:
    ids = torch.tensor(prompts, device=device)
    settings |= dict(attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None, pad_token_id=0)

    def timed(tokens: int) -> tuple[list[list[int]], float]:
        began = time.perf_counter()
        out = model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **settings)[:, ids.shape[1] :].tolist()
        return out, time.perf_counter() - began

    (_, short), (out, long) = timed(2), timed(count)
    return out, (count - 2) / (long - short)


def read_rate(device: str) -> float:
    """Bytes per second of a sum over memory."""
    numbers = torch.zeros(READ // 8, dtype=torch.int64, device=device)
    times = []
    for _ in range(5):
        synchronize([device])
        began = time.perf_counter()
        numbers.sum()
        synchronize([device])
        times.append(time.perf_counter() - began)
    return READ / median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--static", action="store_true", help="transformers with its static cache and torch.compile too")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "swarm-bench-llama-362m")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    folder, dice = model_folder(options.folder), torch.Generator().manual_seed(1)
    prompts = {count: torch.randint(0, SHAPE["vocab_size"], (count, 32), generator=dice).tolist() for count in options.sessions}
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=options.dtype).to(options.device).eval()
    model = SpanModel.load(Checkpoint.open(str(folder)), [WHOLE], dtype=options.dtype, device=options.device)
    ways = {"transformers eager": {}} | ({"transformers static": {"cache_implementation": "static"}} if options.static else {})
    rates: dict[str, list[float]] = {}
    expected = {}
    for name in ("swarm eager", "swarm graphs"):
        if name == "swarm graphs" and not model.use_compiled({}):
            break
        for count, given in prompts.items():
            for round_ in range(options.rounds + 1):
                if name == "swarm eager":
                    for way, settings in ways.items():
                        expected[count], rate = reference(whole, given, options.tokens, options.device, **settings)
                        rates.setdefault(f"{way}, {count}", []).extend([rate] if round_ else [])
                answers, rate = generate(model, given, options.tokens)
                rates.setdefault(f"{name}, {count}", []).extend([rate] if round_ else [])  # the first warms up
            same = sum(one == other for one, other in zip(answers, expected[count], strict=True))
            rates[f"{name}, {count}: answers equal to transformers'"] = [same / count]
    report = {name: round(median(values), 2) for name, values in rates.items()}
    memory = read_rate(options.device)
    report["memory is read at GB/s"] = round(memory / 1e9)
    best = max((rate for name, rate in report.items() if name.startswith("swarm") and name.endswith(", 1")), default=0.0)
    report["one stream reads weights at a share of"] = round(best * model.nbytes / memory, 3)
    print(json.dumps(report) if options.json else "\n".join(f"{name:60s} {value}" for name, value in report.items()))


if __name__ == "__main__":
    main()
