"""What is not computed twice: the time to the first token of a prompt that goes on from something long, against that of an ordinary prompt as short.

    python -m bench.turns [--history 1000] [--prompt 16] [--peers 3] [--dtype bfloat16] [--threads 2] [--rounds 7] [--json]

`turn` is a second turn of one session, `session` another session of the same client that begins with the same tokens, `anew` the same for a client that reuses
nothing. In turns, so that all meet the same noise.
"""

from __future__ import annotations

import random
import time

import swarm
from bench.common import arguments, median, random_llama, show
from swarm.core import even_split


def first(session: swarm.Session, prompt: list[int]) -> float:
    began = time.perf_counter()
    next(iter(session.stream_tokens(prompt, max_new_tokens=4, ignore_eos=True)))
    return time.perf_counter() - began


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--history", type=int, default=1000)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", choices=("wait", "off"), default="wait")
    args = parser.parse_args()
    folder, dice = str(random_llama()), random.Random(1)
    times: dict[str, list[float]] = {name: [] for name in ("ordinary", "turn", "session", "anew")}

    def tokens(count: int) -> list[int]:
        return [dice.randrange(40000) for _ in range(count)]

    with swarm.LocalSwarm(folder, even_split(32, args.peers), dtype=args.dtype, threads=args.threads, arguments=["--compile", args.compile]) as local:
        peers = local.initial_peers
        with swarm.Client(folder, initial_peers=peers) as client, swarm.Client(folder, initial_peers=peers, reuse=False) as forgetful:
            for number in range(args.rounds + 1):
                history = tokens(args.history)
                taken = {}
                with client.session() as session:
                    taken["ordinary"] = first(session, tokens(args.prompt))
                with client.session() as session:
                    list(session.stream_tokens(history, max_new_tokens=4, ignore_eos=True))
                    taken["turn"] = first(session, tokens(args.prompt))
                with client.session() as session:
                    taken["session"] = first(session, [*history, *tokens(args.prompt)])
                with forgetful.session() as session:
                    taken["anew"] = first(session, [*history, *tokens(args.prompt)])
                for name, seconds in taken.items() if number else ():
                    times[name].append(seconds)
    figures: dict[str, object] = {f"{name}, s": median(some) for name, some in times.items()}
    for name in ("turn", "session", "anew"):
        ratios = [one / other for one, other in zip(times[name], times["ordinary"], strict=True)]
        figures[f"{name} over ordinary"] = median(ratios)
    show(f"{args.prompt} tokens after {args.history}, {args.peers} peers, {args.dtype}, {args.threads} threads, compile {args.compile}", figures, args.json)


if __name__ == "__main__":
    main()
