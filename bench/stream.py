"""One stream, a long prompt, and several sessions at once, over peers on this machine, against transformers' `generate` in one process.

    python -m bench.stream [--peers 3] [--dtype float32] [--threads 2] [--rounds 5] [--tokens 64] [--compile wait] [--json]

Baseline and subject take turns within one run, because this machine's speed is not its own; the ratio of each pair is what counts, and its median is printed.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil

import swarm
from bench.common import Baseline, arguments, median, random_llama, show
from swarm.core import base_dtype, even_split, is_rounded, parse_layers
from swarm.model.checkpoint import Checkpoint
from swarm.model.memory import dtype_scale

PROMPT = [(17 * at + 5) % 40000 for at in range(16)]
LONG = [(31 * at + 7) % 40000 for at in range(1024)]


def stream_times(client: swarm.Client, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    began, tokens, times = time.perf_counter(), [], []
    with client.session() as session:
        for token in session.stream_tokens(prompt, max_new_tokens=count, ignore_eos=True):
            tokens.append(token)
            times.append(time.perf_counter() - began)
    return tokens, times


def rate(times: list[float]) -> float:
    """Tokens per second after the first."""
    return (len(times) - 1) / (times[-1] - times[0])


def one_stream(baseline: Baseline, client: swarm.Client, rounds: int, count: int) -> dict:
    ratios, theirs, ours, same = [], [], [], True
    for _ in range(rounds):
        expected, base = baseline.generate([PROMPT], count)
        tokens, times = stream_times(client, PROMPT, count)
        same &= tokens == expected[0]
        theirs.append(rate(base))
        ours.append(rate(times))
        ratios.append(ours[-1] / theirs[-1])
    return {"one stream, baseline tok/s": median(theirs), "one stream, swarm tok/s": median(ours), "one stream, ratio": median(ratios), "tokens equal": same}


def long_prompt(baseline: Baseline, client: swarm.Client, rounds: int) -> dict:
    ratios = []
    for _ in range(rounds):
        _, base = baseline.generate([LONG], 2)
        _, times = stream_times(client, LONG, 2)
        ratios.append(times[0] / base[0])
    return {f"{len(LONG)}-token prompt, swarm s to first token": times[0], "prompt, time ratio": median(ratios)}


def together(baseline: Baseline, client: swarm.Client, rounds: int, sessions: int, count: int) -> dict:
    prompts = [[(at * 101 + token) % 40000 for token in PROMPT] for at in range(sessions)]
    ratios, theirs, ours, same = [], [], [], True
    for _ in range(rounds):
        expected, base = baseline.generate(prompts, count)
        answers: list[list[int]] = [[] for _ in prompts]

        def ask(at: int, into: list[list[int]] = answers) -> None:
            into[at] = client.generate_tokens(prompts[at], max_new_tokens=count, ignore_eos=True)

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(sessions)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - began
        same &= answers == expected
        theirs.append(sessions * count / base[-1])
        ours.append(sessions * count / taken)
        ratios.append(ours[-1] / theirs[-1])
    name = f"{sessions} sessions"
    return {f"{name}, baseline tok/s": median(theirs), f"{name}, swarm tok/s": median(ours), f"{name}, ratio": median(ratios), f"{name}, tokens equal": same}


def memory(local: swarm.LocalSwarm, folder: Path, dtype: str) -> dict:
    """Of each peer: its weights as served, what it holds alone (no weights that it maps from the file as the baseline does), and all that is resident:
    libraries, and the weights it has touched."""
    checkpoint, found = Checkpoint.open(str(folder)), {}
    for peer in local.peers:
        weights = checkpoint.bytes_for(parse_layers(peer.layers, checkpoint.shape.layers)) * dtype_scale(checkpoint.dtype, base_dtype(dtype))
        held = psutil.Process(peer.pid).memory_full_info()
        for what, size in (("weights", weights), ("unique memory", held.uss), ("resident memory", held.rss)):
            if what != "weights" or not is_rounded(dtype):
                found[f"peer {peer.layers}, {what} MB"] = round(size / 2**20)
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="of the swarm, such as bfloat16 or bfloat16-int8; the baseline is never rounded")
    parser.add_argument("--threads", type=int, default=2, help="threads of the baseline and of each peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--compile", choices=("wait", "off"), default="wait", help="whether the peers' layers are compiled before it begins")
    parser.add_argument("--only", choices=("stream", "prompt", "sessions"), help="one of the three")
    args = parser.parse_args()
    folder = random_llama()
    with swarm.LocalSwarm(str(folder), even_split(32, args.peers), dtype=args.dtype, threads=args.threads, arguments=["--compile", args.compile]) as local:
        with swarm.Client(str(folder), initial_peers=local.initial_peers, reuse=False, speculate=False) as client:
            baseline = Baseline(folder, base_dtype(args.dtype), args.threads)
            baseline.generate([PROMPT], 2)
            stream_times(client, PROMPT, 2)
            figures: dict = {}
            if args.only in (None, "stream"):
                figures |= one_stream(baseline, client, args.rounds, args.tokens)
            if args.only in (None, "prompt"):
                figures |= long_prompt(baseline, client, max(args.rounds // 2, 1))
            if args.only in (None, "sessions"):
                figures |= together(baseline, client, args.rounds, args.sessions, args.tokens)
            figures |= memory(local, folder, args.dtype)
    show(f"{args.peers} peers, {args.dtype}, {args.threads} threads, compile {args.compile}", figures, args.json)


if __name__ == "__main__":
    main()
