"""Slow one hop of three fourfold in mid-answer, a spare alive: how soon does the answer leave it, and does it pause for that?

    python -m bench.slow [--runs 5] [--slower 4] [--json]

Every run is one answer of real processes. The hop is slowed by stopping its serving process for so much of every 4 ms, less than a step takes, from one
random token on to the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import swarm
from bench.common import arguments, show
from tests.swarm.models import greedy, save_llama

LENGTH = 900
PROMPT = [72, 101, 108, 108, 111]
LAYERS = ("0:2", "2:4", "4:6")
PERIOD = 0.004


@contextlib.contextmanager
def slowed(peer: swarm.LocalPeer, factor: float) -> Iterator[None]:
    """A peer whose process runs for 1/factor of every period."""
    over = threading.Event()

    def alternate() -> None:
        while not over.is_set():
            os.kill(peer.pid, signal.SIGSTOP)
            time.sleep(PERIOD * (1 - 1 / factor))
            os.kill(peer.pid, signal.SIGCONT)
            over.wait(PERIOD / factor)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def one(local: swarm.LocalSwarm, client: swarm.Client, hop: int, at: int, factor: float) -> tuple[list[int], float, float, float, float]:
    """One answer: its tokens, the seconds until the slow hop was left (inf if it was not), and three gaps between tokens, in seconds: the usual one before;
    of those from the slowness on until the hop was seen to be left, one in ten of the first half is longer than the second, and the third is the longest of
    the other half."""
    tokens: list[int] = []
    before: list[float] = []
    slow: list[tuple[float, float]] = []
    began, left = 0.0, float("inf")
    with contextlib.ExitStack() as stack, client.session() as session:
        last = time.monotonic()
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            now = time.monotonic()
            tokens.append(token)
            if left < float("inf"):
                continue
            if began:
                slow.append((now, now - last))
            elif len(tokens) > 2:
                before.append(now - last)
            last = now
            if len(tokens) == at:
                victim = next(peer for peer in local.peers if peer.peer_id == session.route.hops[hop].peer_id)
                stack.enter_context(slowed(victim, factor))
                began = last = time.monotonic()
            elif began and victim.peer_id not in {other.peer_id for other in session.route.hops}:
                left = now - began
    half = len(slow) // 2
    gaps = sorted(gap for _, gap in slow[:half])
    return tokens, left, sorted(before)[len(before) // 2], gaps[len(gaps) * 9 // 10], max(gap for _, gap in slow[half:])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slower", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    lefts, pauses, same = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        model = save_llama(Path(folder), hidden=256)
        expected = greedy(model, PROMPT, LENGTH)
        for run in range(args.runs):
            hop = run % len(LAYERS)
            with (
                swarm.LocalSwarm(str(model), [*LAYERS, LAYERS[hop]]) as local,
                swarm.Client(str(model), initial_peers=local.initial_peers) as client,
            ):
                tokens, left, usual, slow, change = one(local, client, hop, dice.randint(60, 120), args.slower)
            same += tokens == expected
            lefts.append(left)
            pauses.append(change / slow)
            if not args.json:
                print(
                    f"run {run + 1}: {'same' if tokens == expected else 'DIFFERENT'} tokens, hop {hop} left in {left:.1f} s; a token in {1e3 * usual:.0f} ms,"
                    f" one in ten more than {1000 * slow:.0f} ms when slow, {1000 * change:.0f} ms at the change",
                    flush=True,
                )
    figures = {
        "runs": args.runs, "same tokens": same, "left, median s": sorted(lefts)[len(lefts) // 2], "left, latest s": max(lefts),
        "longest gap at the change over one in ten before, median": sorted(pauses)[len(pauses) // 2], "worst": max(pauses),
    }  # fmt: skip
    show(f"one hop {args.slower:g} times slower", figures, args.json)


if __name__ == "__main__":
    main()
