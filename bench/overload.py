"""Many more sessions than there is cache for: what is still served, beside what can be served at best.

    python -m bench.overload [--fit 8] [--times 10] [--peers 2] [--length 128] [--clients 8] [--rounds 3] [--json]

The baseline are the same answers, as many at a time as fit, each worker going on with the next. Then all come at once. Whoever is told to come again later
within its patience does; who is told so after that counts as told.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import swarm
from bench.common import arguments, median, show
from swarm.core import even_split
from swarm.errors import Refused

LAYERS = 6


def served(clients: list[swarm.Client], workers: int, turns: int, length: int) -> tuple[float, Counter[str]]:
    """Tokens per second of all together, and how the sessions ended."""
    told: Counter[str] = Counter()

    def work(number: int) -> None:
        dice = random.Random(number)
        for _ in range(turns):
            prompt = [dice.randrange(250) for _ in range(length // 2)]
            try:
                clients[number % len(clients)].generate_tokens(prompt, max_new_tokens=length // 2, ignore_eos=True)
                told["whole"] += 1
            except Refused as error:
                told[error.reason] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told["whole"] * (length // 2) / (time.perf_counter() - began), told


def main() -> None:
    from tests.swarm.models import save_llama

    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--fit", type=int, default=8)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--peers", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="positions of a session: half of them prompt")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--patience", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    best, crowded, ratios, ended = [], [], [], Counter()
    with tempfile.TemporaryDirectory() as folder:
        model = str(save_llama(Path(folder), hidden=256, layers=LAYERS))
        options = ["--compile", "off", "--cache-tokens", str(args.fit * args.length)]
        with swarm.LocalSwarm(model, even_split(LAYERS, args.peers), threads=1, arguments=options) as local:
            kind = {"reuse": False, "speculate": False, "patience": args.patience}
            clients = [swarm.Client(model, initial_peers=local.initial_peers, **kind) for _ in range(args.clients)]
            served(clients, args.fit, 1, args.length)
            for _ in range(args.rounds):
                best.append(served(clients, args.fit, args.times, args.length)[0])
                rate, told = served(clients, args.fit * args.times, 1, args.length)
                crowded.append(rate)
                ratios.append(rate / best[-1])
                ended += told
            for client in clients:
                client.close()
    figures: dict[str, object] = {"as many as fit, tok/s": median(best), "all at once, tok/s": median(crowded), "ratio": median(ratios)}
    figures |= {f"ended {how}": count for how, count in ended.items()}
    show(f"{args.fit * args.times} sessions where {args.fit} fit, {args.peers} peers", figures, args.json)


if __name__ == "__main__":
    main()
