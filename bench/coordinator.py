"""Kill or freeze the coordinator, or it and its first standby at once, in mid-answer: does the answer notice, and how soon is a route planned for others again?

    python -m bench.coordinator [--runs 5] [--how kill|freeze] [--victims 1|2] [--json]

Real processes. Two peers serve and stay out of office; four others stand for it, and have too small a cache to be in any chain. While one client's answer runs,
another asks for answers of one token, one after the other. A victim that was killed is replaced by a new peer, one that was frozen is thawed.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import swarm
from bench.common import arguments, show
from tests.swarm.models import greedy, save_llama

LENGTH, AT = 1000, 100
"""Tokens of the answer, and the one at which it happens."""

PROMPT = [72, 101, 108, 108, 111]
HOPS, OFFICERS = ("0:3", "3:6"), 4
OFFICE = ("--cache-tokens", "1")
"""A peer with room for one position is in nobody's chain."""

BEFORE = 5
"""Requests that show what is usual."""

PAUSE = 0.2
"""Seconds between two requests."""

PATIENCE = 90.0
"""Seconds to wait for what takes some ten."""


def request(client: swarm.Client) -> tuple[float, str]:
    """Seconds from the question to the first token, and who planned the route."""
    began = time.monotonic()
    with client.session() as session:
        list(session.stream_tokens(PROMPT, max_new_tokens=1, ignore_eos=True))
        return time.monotonic() - began, session.route.planner


def officers(client: swarm.Client) -> list[str]:
    """The coordinator and the standbys whom this client would ask."""

    async def order() -> list[str]:
        advisers = client._client.advisers
        return advisers.order(bytes(16)) if advisers is not None else []

    return client._loop.call(order())


def settled(client: swarm.Client, local: swarm.LocalSwarm, victims: list[str]) -> list[str]:
    """Once there is a coordinator that plans, and two standbys, all of them alive."""
    deadline, alive = time.monotonic() + PATIENCE, {peer.peer_id for peer in local.peers}
    while time.monotonic() < deadline:
        found, (_, planner) = officers(client), request(client)
        if len(found) == 3 and set(found) <= alive - set(victims) and planner == found[0]:
            return found
        time.sleep(1.0)
    raise SystemExit(f"nobody coordinates after {PATIENCE:g} s")


class Asker:
    """Asks again and again from the moment it happens, beside the answer. `first` is what the first request took, `planned` when the first route came from
    somebody in office, `succeeded` when the directory named another coordinator: seconds."""

    def __init__(self, client: swarm.Client, victims: list[str]) -> None:
        self._client, self._victims, self._began = client, victims, time.monotonic()
        self.first, self.planned, self.succeeded = 0.0, float("inf"), float("inf")
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()

    def _ask(self) -> None:
        while max(self.planned, self.succeeded) == float("inf") and self._age() < PATIENCE:
            took, planner = request(self._client)
            self.first = self.first or took
            if planner and planner not in self._victims:
                self.planned = min(self.planned, self._age())
            if self._client._client.advisers.coordinator not in (None, *self._victims):
                self.succeeded = min(self.succeeded, self._age())
            time.sleep(PAUSE)

    def _age(self) -> float:
        return time.monotonic() - self._began


def gaps(tokens: Iterator[int], into: list[int]) -> Iterator[float]:
    last = time.monotonic()
    for token in tokens:
        into.append(token)
        now = time.monotonic()
        yield now - last
        last = now


def one(local: swarm.LocalSwarm, answering: swarm.Client, asking: swarm.Client, how: str, count: int) -> tuple[list[int], dict[str, float]]:
    """One answer with one misfortune: its tokens, and the figures of the run in seconds."""
    found = settled(asking, local, [])
    usual = statistics.median(request(asking)[0] for _ in range(BEFORE))
    victims = [peer for peer in local.peers if peer.peer_id in found[:count]]
    tokens: list[int] = []
    before, after = [], []
    with answering.session() as session:
        for gap in gaps(session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True), tokens):
            (after if len(tokens) > AT else before).append(gap)
            if len(tokens) == AT:
                for victim in victims:
                    victim.kill() if how == "kill" else victim.freeze()
                asker = Asker(asking, found[:count])
                # what killing takes is no gap of the answer: tokens that came meanwhile lie ready
        asker.wait()
    for victim in victims:
        if how == "kill":
            local.peers.remove(victim)
            local.add("0:6", arguments=["--coordinator", "auto", *OFFICE])
        else:
            victim.thaw()
    return tokens, {
        "usual gap": statistics.median(before[1:]),
        "longest gap before": max(before[1:]),
        "longest gap after": max(after[1:]),
        "request before": usual,
        "request after": asker.first,
        "planned by somebody in office": asker.planned,
        "another coordinator": asker.succeeded,
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--how", choices=("kill", "freeze"), default="kill")
    parser.add_argument("--victims", type=int, choices=(1, 2), default=1)
    args = parser.parse_args()
    runs, same = [], 0
    with tempfile.TemporaryDirectory() as folder:
        model = save_llama(Path(folder))
        expected = greedy(model, PROMPT, LENGTH)
        with swarm.LocalSwarm(str(model), HOPS, arguments=["--coordinator", "never"]) as local:
            for _ in range(OFFICERS):
                local.add("0:6", arguments=["--coordinator", "auto", *OFFICE])
            reach = {"initial_peers": local.initial_peers, "patience": 20}
            answering, asking = swarm.Client(str(model), **reach), swarm.Client(str(model), reuse=False, **reach)
            with answering, asking, answering.session(), asking.session():
                for run in range(args.runs):
                    tokens, seconds = one(local, answering, asking, args.how, args.victims)
                    same += tokens == expected
                    runs.append(seconds)
                    if not args.json:
                        print(f"run {run + 1}:", ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items()), flush=True)
    figures: dict[str, object] = {"runs": args.runs, "same tokens": same}
    for name in runs[0]:
        values = sorted(seconds[name] for seconds in runs)
        figures[f"{name}, median s"], figures[f"{name}, worst s"] = statistics.median(values), values[-1]
    show(f"{args.how} the coordinator{' and its first standby' if args.victims == 2 else ''}", figures, args.json)


if __name__ == "__main__":
    main()
