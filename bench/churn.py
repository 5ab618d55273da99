"""Whole virtual hours of churn: `python -m bench.churn [--minutes 10] [--json]`, or one of them again: `--seed N --trace FILE`.

100 peers on the stage of `swarm/sim/` serve a model of 30 layers, and every 30 s one is killed, or its whole machine, and another comes 8 s later. Three
in four of those who die are hops of somebody's chain. Guests talk all the time. Every answer is held against the model's own, and every process against what it
must have given back; what was broken is printed beneath its seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from swarm.sim import scripts
from swarm.sim.swarm import Scene, Stage
from swarm.sim.verdict import Verdict


def death(stage: Stage) -> None:
    scripts.kill(stage.random.choice(["", "first", "middle", "last"]))(stage)


def hour(arguments: argparse.Namespace, seed: int, trace: Path | None = None) -> Verdict:
    scene = Scene(peers=arguments.peers, clients=arguments.guests, layers=30, holds=(4, 8))
    script = scripts.repeated(death, (arguments.every, arguments.every), arguments.hours * 3600)
    if trace is None:
        return Stage(seed, scene).run(script)
    with trace.open("w") as file:
        return Stage(seed, scene, note=file.write).run(script)


def row(verdict: Verdict, took: float) -> dict[str, Any]:
    return {
        "seed": verdict.seed,
        "broken": verdict.broken,
        "turns": len(verdict.turns),
        "finished": verdict.finished,
        "excused": verdict.excused,
        "rebuilt": verdict.reroutes,
        "longest_gap_s": round(verdict.longest_gap, 2),
        "tokens": sum(len(turn.tokens) for turn in verdict.turns),
        "wall_s_per_virtual_hour": round(took / verdict.seconds * 3600, 1),
        "trace": verdict.trace,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--minutes", type=float, default=10.0, help="begin no further seed after so long (default 10)")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", type=Path, help="where to write everything that happens in it")
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--guests", type=int, default=3)
    parser.add_argument("--hours", type=float, default=1.0, help="virtual hours of each seed (default 1)")
    parser.add_argument("--every", type=float, default=30.0, help="virtual seconds between two deaths (default 30)")
    arguments = parser.parse_args()
    if arguments.trace is not None and arguments.seed is None:
        parser.error("--trace needs --seed")
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    for seed in [arguments.seed] if arguments.seed is not None else itertools.count(1):
        start = time.perf_counter()
        if rows and start - began > 60 * arguments.minutes:
            break
        verdict = hour(arguments, seed, arguments.trace)
        rows.append(row(verdict, time.perf_counter() - start))
        if not arguments.json:
            print(*(f"{key} {value}" for key, value in rows[-1].items() if key != "broken"), sep="  ", flush=True)
            print(*(f"  {line}\n" for line in verdict.broken), sep="", end="", flush=True)
    total = {
        "seeds": len(rows),
        "failed": [entry["seed"] for entry in rows if entry["broken"]],
        "wall_s_per_virtual_hour": round(fmean(entry["wall_s_per_virtual_hour"] for entry in rows), 1),
    }
    print(json.dumps({"peers": arguments.peers, **total, "rows": rows}) if arguments.json else total)


if __name__ == "__main__":
    main()
