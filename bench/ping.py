"""Does a peer answer while it computes? Pings to a peer whose processor is as busy as sessions can make it, against the same peer with nothing to do.

    python -m bench.ping [--sessions 8] [--peers 1] [--dtype bfloat16] [--threads 2] [--compile wait] [--seconds 20] [--prompt 512] [--json]

Sessions come with prompts and go on with answers, one after the other, from another process. A ping takes the way that tokens take: our process, its daemon,
the peer's daemon, the peer.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
import time
from typing import Any

import swarm
from bench.common import arguments, random_llama, show
from swarm.core import even_split

EVERY = 0.02


def load(folder: str, initial_peers: list[str], sessions: int, prompt: int, seconds: float) -> None:
    def one(seed: int) -> None:
        dice = random.Random(seed)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            with client.session() as session:
                for _ in session.stream_tokens([dice.randrange(40000) for _ in range(prompt)], max_new_tokens=64, ignore_eos=True):
                    if time.perf_counter() >= end:
                        break

    with swarm.Client(folder, initial_peers=initial_peers, reuse=False, speculate=False) as client:
        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


async def pings(links: Any, peers: list[str], seconds: float) -> list[float]:
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for peer in peers:
            began = time.perf_counter()
            await links.measure(peer)
            taken.append(time.perf_counter() - began)
        await asyncio.sleep(EVERY)
    return sorted(taken)


def of(taken: list[float], share: float) -> float:
    return taken[min(int(len(taken) * share), len(taken) - 1)] * 1e3


async def measure(args: Any, folder: str, initial_peers: list[str], config_hash: str) -> dict[str, object]:
    from swarm.compose import connect

    figures: dict[str, object] = {}
    async with connect(initial_peers) as connection:
        records = await connection.directory.read(config_hash)
        for record in records:
            connection.links.learn(record.peer, record.addrs)
        peers = [record.peer for record in records]
        await pings(connection.links, peers, 1.0)
        for name in ("idle", "busy"):
            if name == "busy":
                child = multiprocessing.get_context("spawn").Process(
                    target=load, args=(folder, initial_peers, args.sessions, args.prompt, args.seconds + 8), daemon=True
                )
                child.start()
                await asyncio.sleep(6)
            taken = await pings(connection.links, peers, args.seconds)
            figures |= {f"{name}: p50, ms": of(taken, 0.5), f"{name}: p99, ms": of(taken, 0.99), f"{name}: worst, ms": taken[-1] * 1e3}
            figures[f"{name}: pings"] = len(taken)
        await asyncio.to_thread(child.join)
    return figures


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", default="wait", choices=("wait", "off"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--prompt", type=int, default=512)
    args = parser.parse_args()
    from swarm.model.checkpoint import Checkpoint

    folder = str(random_llama())
    config_hash = Checkpoint.open(folder).shape.config_hash
    with swarm.LocalSwarm(folder, even_split(32, args.peers), dtype=args.dtype, threads=args.threads, arguments=["--compile", args.compile]) as local:
        figures = asyncio.run(measure(args, folder, local.initial_peers, config_hash))
    show(f"pings beside {args.sessions} sessions, {args.peers} peers, {args.dtype}, {args.threads} threads, compile {args.compile}", figures, args.json)


if __name__ == "__main__":
    main()
