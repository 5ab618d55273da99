"""What the gateway costs: several streams through it, and the same ones through the Python API, in turns.

    python -m bench.gateway [--streams 8] [--peers 3] [--dtype bfloat16] [--threads 1] [--tokens 96] [--rounds 3] [--model FOLDER] [--json]

The gateway is a process of its own, the API's client is this one; whoever reads the gateway's events only counts them. Tokens/s of all streams together. On a
machine that others use too, the processor time for each token says more: that of whoever asks, libp2p's daemon included, beside that of the peers.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

import swarm
from bench.common import arguments, median, random_llama, show
from swarm.core import even_split
from swarm.local import LocalProcess
from swarm.model.sources import layers_of


async def through_api(client: swarm.aio.Client, prompts: list[list[int]], count: int) -> float:
    async def one(prompt: list[int]) -> None:
        async with client.session() as session:
            async for _ in session.stream_tokens(prompt, max_new_tokens=count, ignore_eos=True):
                pass

    began = time.perf_counter()
    await asyncio.gather(*map(one, prompts))
    return len(prompts) * count / (time.perf_counter() - began)


async def through_gateway(url: str, name: str, prompts: list[list[int]], count: int) -> float:
    host, port = url.removeprefix("http://").split(":")

    async def one(prompt: list[int]) -> None:
        asked = {"model": name, "prompt": prompt, "max_tokens": count, "ignore_eos": True, "stream": True, "temperature": 0}
        body = json.dumps({**asked, "stream_options": {"include_usage": True}}).encode()
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        tail = b""
        while part := await reader.read(65536):
            tail = (tail + part)[-512:]
        writer.close()
        assert f'"completion_tokens":{count}'.encode() in tail, tail

    began = time.perf_counter()
    await asyncio.gather(*map(one, prompts))
    return len(prompts) * count / (time.perf_counter() - began)


def spent(*pids: int) -> float:
    """Seconds of processor time of these processes and their children so far."""
    processes = [process for pid in pids for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def children_but(others: Iterable[int]) -> list[int]:
    """Our own process's children that belong to none of these: the daemon of our client."""
    return [child.pid for child in psutil.Process().children() if child.pid not in set(others)]


async def compare(folder: str, local: swarm.LocalSwarm, gateway: LocalProcess, streams: int, count: int, rounds: int) -> dict[str, float]:
    dice, peers, rows = random.Random(1), [peer.pid for peer in local.peers], []
    theirs = {child.pid for child in psutil.Process().children()}
    async with swarm.aio.Client(folder, initial_peers=local.initial_peers, reuse=False) as client:
        for at in range(rounds + 1):
            prompts = [[dice.randrange(2, 256) for _ in range(32)] for _ in range(streams)]
            began, own = spent(*peers), time.process_time() + spent(*children_but(theirs))
            direct = await through_api(client, prompts, count)
            ours, work = time.process_time() + spent(*children_but(theirs)) - own, spent(*peers) - began
            before = spent(gateway.pid)
            served = await through_gateway(gateway.facts["url"], "it", prompts, count)
            gateways = spent(gateway.pid) - before
            if at:  # the first round is to warm up
                rows.append((direct, served, served / direct, *(1000 * seconds / (streams * count) for seconds in (work, ours, gateways))))
    names = (
        "tokens/s through the Python API",
        "tokens/s through the gateway",
        "ratio",
        "CPU ms a token: peers",
        "CPU ms a token: API",
        "CPU ms a token: gateway",
    )
    return dict(zip(names, map(median, zip(*rows, strict=True)), strict=True))


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=96, help="new tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="folder of a model (default: 362 M random parameters less their vocabulary, a byte a token)")
    args = parser.parse_args()
    folder = args.model or str(random_llama(vocab=256))
    layers = layers_of(folder) or 0
    with swarm.LocalSwarm(folder, even_split(layers, args.peers), dtype=args.dtype, threads=args.threads) as local, tempfile.TemporaryDirectory() as logs:
        peers = [text for address in local.initial_peers for text in ("--initial-peers", address)]
        with (path := Path(logs) / "log").open("wb") as log:
            gateway = LocalProcess("swarm.cli.gateway", ["--model", folder, "--name", "it", "--port", "0", "--no-reuse", *peers], log, {})
        try:
            gateway.wait_ready(120, path)
            figures = asyncio.run(compare(folder, local, gateway, args.streams, args.tokens, args.rounds))
        finally:
            gateway.kill()
    show(f"gateway, {args.streams} streams", figures, args.json)


if __name__ == "__main__":
    main()
