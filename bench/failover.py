"""Kill or freeze a hop of three at a random token, a spare alive: do the tokens stay the same, and how long is the longest gap?

    python -m bench.failover [--runs 50] [--hop first|middle|last] [--how kill|freeze] [--json]

Every run is one answer of real processes. The peer that was killed is replaced by a new one before the next run; one that was frozen is thawed in mid-answer.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import swarm
from bench.common import arguments, show
from tests.swarm.models import greedy, save_llama

LENGTH = 400
PROMPT = [72, 101, 108, 108, 111]
LAYERS = ("0:2", "2:4", "4:6")


def one(local: swarm.LocalSwarm, client: swarm.Client, hop: int, at: int, how: str) -> tuple[list[int], float, bool]:
    """One answer with one misfortune: its tokens, the longest gap in seconds, and whether the chain was rebuilt."""
    victim = None
    with client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == at:
                victim = next(peer for peer in local.peers if peer.peer_id == session.route.hops[hop].peer_id)
                victim.kill() if how == "kill" else victim.freeze()
            elif how == "freeze" and victim is not None and session.route.reroutes and len(tokens) % 16 == 0:
                victim.thaw()
        result = tokens, session.longest_gap, session.route.reroutes > 0
    if victim is not None and how == "kill":
        local.peers.remove(victim)
        local.add(LAYERS[hop])
    elif victim is not None:
        victim.thaw()
    return result


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--hop", choices=("first", "middle", "last"), default="middle")
    parser.add_argument("--how", choices=("kill", "freeze"), default="kill")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hop, dice = ("first", "middle", "last").index(args.hop), random.Random(args.seed)
    gaps, same, rebuilt = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        model = save_llama(Path(folder))
        expected = greedy(model, PROMPT, LENGTH)
        with swarm.LocalSwarm(str(model), [*LAYERS, LAYERS[hop]]) as local, swarm.Client(str(model), initial_peers=local.initial_peers, patience=30) as client:
            for run in range(args.runs):
                tokens, gap, again = one(local, client, hop, dice.randint(1, LENGTH // 2), args.how)
                same += tokens == expected
                rebuilt += again
                gaps.append(gap)
                if not args.json:
                    print(
                        f"run {run + 1}: {'same' if tokens == expected else 'DIFFERENT'} tokens, longest gap {gap:.2f} s{'' if again else ', not hit'}",
                        flush=True,
                    )
    gaps.sort()
    figures = {
        "runs": args.runs, "same tokens": same, "chain rebuilt": rebuilt,
        "longest gap, median s": gaps[len(gaps) // 2], "longest gap, worst s": gaps[-1],
    }  # fmt: skip
    show(f"{args.how} the {args.hop} hop", figures, args.json)


if __name__ == "__main__":
    main()
