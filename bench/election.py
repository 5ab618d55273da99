"""How well candidates agree on a coordinator: `python -m bench.election [--json]`. Virtual hours of 50 candidates, as in the study before this project.

The coordinator is killed every 300 s and comes back after 120, somebody else is killed about every minute, and for 300 s two fifths are cut off. Candidates run
the real machine (`swarm/machines/election.py`); the directory and the pings are those of `tests/machines/elections.py`.
"""

from __future__ import annotations

import argparse
import json

from tests.machines.elections import hour

CASES = ((0.0, 0.0), (0.05, 1.0), (0.05, 10.0), (0.2, 1.0), (0.2, 10.0))
"""Share of messages lost, and how far clocks are apart, in seconds either way."""


def measure(loss: float, skew: float, seeds: range) -> dict[str, float]:
    outcomes = [hour(seed, loss=loss, skew=skew) for seed in seeds]
    seconds, clients = sum(outcome.seconds for outcome in outcomes), sum(outcome.clients for outcome in outcomes)
    gaps = [gap for outcome in outcomes for gap in outcome.gaps]
    return {
        "loss": loss,
        "skew_s": skew,
        "alone_percent": round(100 * sum(outcome.alone for outcome in outcomes) / seconds, 2),
        "mean_gap_s": round(sum(gaps) / max(len(gaps), 1), 1),
        "longest_gap_s": round(max(gaps, default=0.0), 1),
        "two_on_one_side_percent": round(100 * sum(outcome.doubled for outcome in outcomes) / seconds, 3),
        "first_try_percent": round(100 * sum(outcome.first_try for outcome in outcomes) / clients, 1),
        "three_tries_percent": round(100 * sum(outcome.three_tries for outcome in outcomes) / clients, 2),
        "elections_per_hour": round(sum(outcome.changes for outcome in outcomes) / len(outcomes), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5, help="hours of each kind (default 5)")
    arguments = parser.parse_args()
    rows = [measure(loss, skew, range(1, arguments.seeds + 1)) for loss, skew in CASES]
    if arguments.json:
        print(json.dumps({"candidates": 50, "rows": rows}))
        return
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
