"""How long planning takes: `python -m bench.routes [--json]`. Synthetic swarms as in the study before this project: 80 layers, consumer machines, 5 regions.

Scenarios differ in what peers have measured of one another: every pair, 20 other peers each (the rest falls back to the median), or nothing.
"Loaded" is planning with about half of the peers at work.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from swarm.core import Span
from swarm.errors import MissingLayers
from swarm.routing import PeerView, Request, choose_spans, plan, repair
from swarm.routing.atlas import Atlas
from swarm.routing.candidates import Candidates
from swarm.routing.load import Load, Share

LAYERS = 80
KINDS = ((10, 0.0024), (22, 0.00085), (22, 0.00095), (14, 0.0027), (30, 0.017))
"""3060, 4090, 3090, T4, CPU: layers held, decode seconds per layer."""

REGION = (0.0, 0.06, 0.15, 0.25, 0.20)
"""Round trip in seconds from region 0; two others are as far apart as the larger of the two."""


def swarm(peers: int, measured: int | None, seed: int) -> list[PeerView]:
    rng = random.Random(seed)
    home, height = [rng.randrange(5) for _ in range(peers)], [rng.uniform(0.002, 0.02) for _ in range(peers)]
    speeds = [rng.choice(KINDS) for _ in range(peers)]

    def rtt(a: int, b: int) -> float:
        noise = random.Random(min(a, b) * 100_003 + max(a, b)).lognormvariate(0, 0.1)
        return (max(REGION[home[a]], REGION[home[b]]) * (home[a] != home[b]) + height[a] + height[b]) * noise

    uploads = random.Random(seed).choices((0.0, 1.25e6, 5e6, 25e6), k=peers)
    views = []
    for at, (layers, decode) in enumerate(speeds):
        if peers < 30:  # random spans of so few would leave holes: five places in line, each taken at least twice
            start, layers = at % 5 * 16, 18
        else:
            start = rng.choice([0, LAYERS + 2 - layers, *[rng.randrange(LAYERS + 2 - layers)] * 6])
        others = [n for n in range(peers) if n != at]
        known = others if measured is None else rng.sample(others, min(measured, len(others)))
        views.append(
            PeerView(f"peer{at:05}", spans=(Span(start, min(start + layers, LAYERS + 2)),), decode=decode, prefill=decode / 10, head_weight=1.2,
                     region=f"region{home[at]}" if measured else "", rtts={f"peer{n:05}": rtt(at, n) for n in known}, upload=uploads[at])
        )  # fmt: skip
    return views


def milliseconds(act: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return round(1000 * statistics.median(times), 2)


def measure(peers: int, measured: int | None, seed: int, repeats: int) -> dict[str, object]:
    views, request = swarm(peers, measured, seed), Request(LAYERS + 2, prompt=128, row_bytes=16_384)
    atlas = Atlas(views)
    try:
        route = plan(atlas, request)
        lost = {route.hops[len(route.hops) // 2].peer}
        repair(atlas, request, route, lost)
    except MissingLayers:
        return {}
    rng = random.Random(seed)
    load = Load({view.peer: Share(sessions, 10 * sessions) for view in views if (sessions := rng.randrange(-10, 10)) > 0}, cycle=0.5, prompt_ratio=3.0)
    busy = plan(atlas, request, load)
    lost_there = {busy.hops[len(busy.hops) // 2].peer}
    sizes = [10] * (LAYERS + 2)
    return {
        "plan_ms": milliseconds(lambda: plan(atlas, request), repeats),
        "of_it_arrays_ms": milliseconds(lambda: Candidates(atlas, request, range(LAYERS + 2)), repeats),
        "repair_ms": milliseconds(lambda: repair(atlas, request, route, lost), repeats),
        "loaded_plan_ms": milliseconds(lambda: plan(atlas, request, load), repeats),
        "loaded_repair_ms": milliseconds(lambda: repair(atlas, request, busy, lost_there, load), repeats),
        "news_ms": milliseconds(lambda: atlas.put(replace(views[-1], free_tokens=views[-1].free_tokens - 1)), repeats),
        "atlas_ms": milliseconds(lambda: Atlas(views), repeats),
        "placement_ms": milliseconds(lambda: choose_spans(views, LAYERS + 2, sizes, 200, 0.001), repeats),
        "hops": len(route.hops),
        "ms_per_token": round(1000 * route.seconds_per_token, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3, help="swarms of each kind; the median is shown (default 3)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for peers in (10, 30, 100, 300, 1000, 10_000):
        for words, measured in (("every pair", None), ("20 each", 20), ("nothing", 0)):
            if peers > 300 and measured is None:
                continue  # no swarm does that
            runs = [run for seed in range(arguments.seeds) if (run := measure(peers, measured, seed, arguments.repeats))]
            if runs:
                row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}  # type: ignore[type-var]
                rows.append({"peers": peers, "measured": words, **row, "slowest_plan_ms": max(run["plan_ms"] for run in runs)})  # type: ignore[type-var]
    if arguments.json:
        print(json.dumps({"layers": LAYERS, "clock": "CPU time", "rows": rows}))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
