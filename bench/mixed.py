"""Sessions that come as they please, with short prompts and long ones: does anybody wait for somebody else's prompt, and what does it cost all together?

    python -m bench.mixed [--sessions 32] [--peers 3] [--dtype bfloat16] [--threads 2] [--tokens 64] [--over 10] [--json]

All sessions begin within `--over` seconds, with prompts of 16 to 512 tokens. A gap is the time between two tokens of one answer, a step the median gap. The
baseline are the same prompts and answers in groups of fixed size, each group when the one before has ended; the best size counts.
"""

from __future__ import annotations

import itertools
import random
import threading
import time

import swarm
from bench.common import arguments, median, random_llama, show
from swarm.core import even_split


def answer(client: swarm.Client, prompt: list[int], count: int, times: list[float]) -> None:
    with client.session() as session:
        for _ in session.stream_tokens(prompt, max_new_tokens=count, ignore_eos=True):
            times.append(time.perf_counter())


def together(client: swarm.Client, prompts: list[list[int]], delays: list[float], count: int) -> tuple[list[list[float]], float]:
    """When each token of each answer came, and seconds until all were there."""
    times: list[list[float]] = [[] for _ in prompts]

    def one(at: int) -> None:
        time.sleep(delays[at])
        answer(client, prompts[at], count, times[at])

    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(prompts))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, time.perf_counter() - began


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--over", type=float, default=10.0, help="seconds within which all begin")
    parser.add_argument("--groups", type=int, nargs="*", default=[8, 16, 32], help="sizes of the baseline's groups")
    args = parser.parse_args()
    dice = random.Random(1)
    prompts = [[dice.randrange(40000) for _ in range(dice.randint(16, 512))] for _ in range(args.sessions)]
    delays = [dice.uniform(0, args.over) for _ in prompts]
    folder = random_llama()
    figures: dict[str, object] = {}
    with swarm.LocalSwarm(str(folder), even_split(32, args.peers), dtype=args.dtype, threads=args.threads, arguments=["--compile", "wait"]) as local:
        with swarm.Client(str(folder), initial_peers=local.initial_peers, reuse=False, speculate=False) as client:
            together(client, prompts[:2], [0, 0], 2)
            rates = {}
            for size in args.groups:
                taken = 0.0
                for at in range(0, len(prompts), size):
                    group = prompts[at : at + size]
                    taken += together(client, group, [0.0] * len(group), args.tokens)[1]
                rates[size] = args.sessions * args.tokens / taken
                figures[f"groups of {size}, tok/s"] = rates[size]
            times, taken = together(client, prompts, delays, args.tokens)
    gaps = [[after - before for before, after in itertools.pairwise(some)] for some in times]
    step = median([gap for some in gaps for gap in some])
    longest = [max(some) for some in gaps]
    rate = args.sessions * args.tokens / (taken - min(delays))
    figures |= {"mixed, tok/s": rate, "mixed over the best groups": rate / max(rates.values())}
    figures |= {
        "median step, s": step,
        "longest gap over the median step, worst session": max(longest) / step,
        "the same, median session": median(longest) / step,
    }
    show(f"{args.sessions} sessions, {args.peers} peers, {args.dtype}, {args.threads} threads", figures, args.json)


if __name__ == "__main__":
    main()
