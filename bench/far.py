"""Tokens/s of peers that are far apart, on one machine: what the ring gets of what distance and computing allow.

    python -m bench.far [--hops 3,5] [--trips 20,50,100,200] [--model demo|random] [--tokens 64] [--rounds 3] [--plot far.png] [--json]

`--trips` are round trips between any two peers, in ms. The limit is one token per N one-way trips and the computing of N hops, as the hops themselves measure
it; a way is what a Ping says that it takes in the same minute (half of its round trip): the emulator's own delay is in that, and so is ours. Beside it stands
Petals' pattern, 2N trips by way of a client at 50 ms from every peer, which is reckoned, not measured.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import swarm
from bench.common import arguments, median, random_llama, show
from bench.stream import split
from swarm.far.line import Distance

PETALS_CLIENT = 0.05
"""Seconds for a round trip between a client and each server."""

STORY = "Once upon a time"
SETTLE = 6.0
"""Seconds for peers to measure one another, so that links are there when it begins."""


async def one_way(local: swarm.LocalSwarm, config_hash: str) -> float:
    """Seconds from a peer to the next, as they have announced it: the median of all pairs."""
    from swarm.compose import connect

    async with connect(local.initial_peers) as connection:
        while True:
            records = await connection.directory.read(config_hash)
            trips = [rtt for record in records for rtt in record.rtts.values()]
            if len(records) == len(local.peers) and len(trips) >= len(records):
                return statistics.median(trips) / 2
            await asyncio.sleep(1.0)


def answer(client: swarm.Client, prompt: list[int], count: int, **options: Any) -> tuple[list[int], float, float]:
    """Tokens, the usual gap between two, and what hops say that they compute for one, both in seconds."""
    times, tokens = [], []
    with client.session() as session:
        for token in session.stream_tokens(prompt, max_new_tokens=count, ignore_eos=True, **options):
            times.append(time.perf_counter())
            tokens.append(token)
        computing = sum(hop.milliseconds for hop in session.route.hops) / 1e3
        return tokens, (times[-1] - times[0]) / (len(times) - 1), computing


def plain(local: swarm.LocalSwarm, client: swarm.Client, prompt: list[int], args: Any, way: float) -> dict[str, float]:
    ratios, nominal, gaps, computes = [], [], [], []
    hops = len(local.peers)
    for _ in range(args.rounds):
        _, gap, computing = answer(client, prompt, args.tokens)
        gaps.append(gap)
        computes.append(computing)
        ratios.append((hops * way + computing) / gap)
        nominal.append((hops * args.trip / 2e3 + computing) / gap)
    petals = 1 / (hops * PETALS_CLIENT + median(computes))
    return {
        "plain, tok/s": 1 / median(gaps),
        "limit, tok/s": 1 / (hops * way + median(computes)),
        "plain / limit": median(ratios),
        "plain / limit of the nominal distance": median(nominal),
        "computing, ms": median(computes) * 1e3,
        "one way by ping, ms": way * 1e3,
        "Petals' pattern, tok/s": petals,
    }


def measure(args: Any, folder: str, layers: int, hops: int, trip: float) -> dict[str, float]:
    from swarm.model.checkpoint import Checkpoint

    args.trip = trip
    shape = Checkpoint.open(folder).shape
    with swarm.LocalSwarm(folder, split(layers, hops), dtype="float32", threads=1, links=Distance(trip / 2e3), arguments=["--compile", args.compile]) as local:
        time.sleep(SETTLE)
        way = asyncio.run(one_way(local, shape.config_hash))
        with swarm.Client(folder, initial_peers=local.initial_peers, reuse=False) as client:
            prompt = list(STORY.encode())
            answer(client, prompt, 8)
            return plain(local, client, prompt, args, way)


def plot(path: str, rows: list[dict[str, float]]) -> None:
    """One line for each kind, over the round trip. matplotlib comes with `pip install matplotlib`; figures need none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panes = pyplot.subplots(1, len({row["hops"] for row in rows}), squeeze=False, figsize=(10, 4), sharey=True)
    for pane, hops in zip(panes[0], sorted({row["hops"] for row in rows}), strict=True):
        mine = [row for row in rows if row["hops"] == hops]
        for name in (name for name in mine[0] if name.endswith("tok/s")):
            pane.plot([row["round trip, ms"] for row in mine], [row[name] for row in mine], marker="o", label=name.removesuffix(", tok/s"))
        pane.set(title=f"{hops} hops", xlabel="round trip between hops, ms", ylabel="tokens/s", yscale="log")
        pane.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--hops", default="3,5")
    parser.add_argument("--trips", default="20,50,100,200", help="round trips between peers, in ms")
    parser.add_argument("--model", choices=("demo", "random"), default="demo")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", choices=("wait", "off"), default="off")
    parser.add_argument("--plot", metavar="FILE", help="draw tokens/s over the round trip into this PNG; needs matplotlib")
    args = parser.parse_args()
    folder, layers = (str(swarm.demo_model()), 12) if args.model == "demo" else (str(random_llama()), 32)
    rows = []
    for hops in map(int, args.hops.split(",")):
        for trip in map(float, args.trips.split(",")):
            rows.append({"hops": hops, "round trip, ms": trip, **measure(args, folder, layers, hops, trip)})
            show(f"far: {args.model}, {hops} hops, round trip {trip:g} ms", rows[-1], args.json)
    if args.plot:
        plot(args.plot, rows)


if __name__ == "__main__":
    main()
