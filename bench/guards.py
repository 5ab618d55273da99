"""What all guards together cost: tokens/s of a ring, from this tree and from one without them, turn by turn in the same minutes.

    git worktree add ../before COMMIT && ln -s ../cli ../before/swarm/cli && ln -s ../bootstrap ../before/swarm/bootstrap
    python -m bench.guards ../before [--peers 3] [--rounds 20] [--tokens 200] [--json]

The model is the demo model: its layers take so little that most of a token's time is messages, where guards are. Both swarms run all the time; one
waits while the other answers.
"""

from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.common import arguments, median, show

PROMPT = list(range(20, 36))


def serve(peers: int, tokens: int) -> None:
    """The child: a swarm and a client; one answer and its rate for each line."""
    import swarm
    import swarm.aio
    from swarm.model.sources import layers_of

    # Guesses are younger than the guards, and would hide what these cost.
    plain = {"speculate": False} if "speculate" in inspect.signature(swarm.aio.Client).parameters else {}
    model = str(swarm.demo_model())
    depth = layers_of(model)
    cuts = [depth * peer // peers for peer in range(peers + 1)]
    with swarm.LocalSwarm(model, [f"{a}:{b}" for a, b in itertools.pairwise(cuts)], threads=1) as local:
        with swarm.Client(model, initial_peers=local.initial_peers, **plain) as client:
            print("ready", flush=True)
            for _ in sys.stdin:
                times = []
                with client.session() as session:
                    for _ in session.stream_tokens(PROMPT, max_new_tokens=tokens, temperature=0, ignore_eos=True):
                        times.append(time.perf_counter())
                print((len(times) - 1) / (times[-1] - times[0]), flush=True)


class Side:
    def __init__(self, tree: Path, args: Any) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), str(tree), "--child", "--peers", str(args.peers), "--tokens", str(args.tokens)]
        environment = os.environ | {"PYTHONPATH": str(tree.resolve()), "OMP_WAIT_POLICY": "passive"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=tree)

    def ready(self) -> None:
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n", "the swarm did not start; see above"

    def rate(self) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("before", type=Path, help="a tree without the guards")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--child", action="store_true")
    args = parser.parse_args()
    if args.child:
        return serve(args.peers, args.tokens)
    sides = [Side(args.before, args), Side(Path(__file__).resolve().parents[1], args)]
    try:
        for side in sides:
            side.ready()
            side.rate()
        pairs = []
        for number in range(args.rounds):
            rates = {at: sides[at].rate() for at in ((0, 1) if number % 2 else (1, 0))}
            pairs.append((rates[0], rates[1]))
    finally:
        for side in sides:
            side.close()
    before, after = ([pair[at] for pair in pairs] for at in (0, 1))
    cost = [1 - with_them / without for without, with_them in pairs]
    show(
        "guards",
        {
            "tokens/s without": median(before),
            "tokens/s with": median(after),
            "cost, median of pairs": f"{median(cost):.1%}",
            "cost, quarters": f"{sorted(cost)[len(cost) // 4]:.1%} to {sorted(cost)[3 * len(cost) // 4]:.1%}",
        },
        args.json,
    )


if __name__ == "__main__":
    main()
