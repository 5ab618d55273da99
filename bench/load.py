"""What routes that know the load are worth: `python -m bench.load [--json] [--quick] [--streams 24 120]`. A simulation, with virtual time and no network.

A closed loop: so many streams ask, read the whole answer, and ask again. Prompts are 50 to 350 tokens, answers geometric with a mean of 64. Peers are consumer
machines that hold 80 layers between them, in 5 regions (`bench/routes.py`). A peer works in steps of `read × the layers that anything in it needs + compute ×
tokens × layers`: at most 32 tokens that are drawn first, then at most one chunk of a prompt. Links take time and have no bandwidth. Policies see the same
swarms and the same questions:

  social    the real `plan` with the real `Ledger`; clients tell it every ten seconds how many tokens they have, and peers how many sessions
  four      the same with four coordinators, who know of each other's sessions only what peers announce
  jsq       hop by hop, who has least to do for each layer that is left of his span
  p2c       hop by hop, the less busy of two peers drawn by what is left of their spans
  shortest  the real `plan`, without load

The bound is that of a linear programme: what the peers could compute together if all batches were full and nobody waited for anybody.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from scipy.optimize import linprog

from bench import routes
from swarm.core import Span
from swarm.routing import PeerView, Request, plan
from swarm.routing.atlas import Atlas
from swarm.routing.candidates import EMBED_WEIGHT
from swarm.routing.load import BATCH, Ledger

COMPONENTS = routes.LAYERS + 2
PEERS = 24
KINDS = {0.0024: (10, 0.00013), 0.00085: (22, 0.00002), 0.00095: (22, 0.00005), 0.0027: (14, 0.00005), 0.017: (30, 0.0005)}
"""By the seconds in which it reads a layer: the layers it holds, and seconds a layer and token of computing. 3060, 4090, 3090, T4, CPU; 8-bit weights of 0.86
GB a layer, and about half of what the makers' sheets promise."""

ANSWER = 64
PROMPTS = (50, 350)
CHUNK = 256
RENEWED_EVERY = 10.0
ANNOUNCED_EVERY = 8.0
DIRECTORY_LAG = 2.0
"""Seconds from counting its sessions until coordinators read of it."""

WARM_UP = 120.0
MEASURED = 60.0


def world(seed: int) -> list[PeerView]:
    """Peers as `bench/routes.py` makes them, all round trips known, but placed one after the other where the least is, as Petals does."""
    held = np.zeros(COMPONENTS)
    views = []
    for view in routes.swarm(PEERS, None, seed):
        layers, compute = KINDS[view.decode]
        starts = range(COMPONENTS - layers + 1)
        start = min(starts, key=lambda at: (sorted(held[at : at + layers]), at))
        held[start : start + layers] += 1 / view.decode
        views.append(replace(view, spans=(Span(start, start + layers),), decode=view.decode + compute, prefill=compute))
    return views


def weight(view: PeerView, start: int, stop: int, *, drawn: bool = True) -> float:
    """Layers' worth of a hop. Of a prompt the head sees one row, which counts as nothing."""
    layers = stop - start - (start == 0) - (stop == COMPONENTS)
    return layers + EMBED_WEIGHT * (start == 0) + view.head_weight * (stop == COMPONENTS and drawn)


def bound(views: Sequence[PeerView]) -> float:
    """Tokens/s of the linear programme."""
    ratio = sum(PROMPTS) / 2 / ANSWER
    cells = [(at, c) for at, view in enumerate(views) for c in range(view.spans[0].start, view.spans[0].stop)]
    use, cover = np.zeros((len(views), len(cells) + 1)), np.zeros((COMPONENTS, len(cells) + 1))
    for column, (at, c) in enumerate(cells):
        view = views[at]
        read, compute = view.decode - view.prefill, view.prefill
        drawn, prompt = weight(view, c, c + 1), weight(view, c, c + 1, drawn=False)
        use[at, column] = drawn * (read / BATCH + compute) + prompt * ratio * compute
        cover[c, column] = 1.0
    cover[:, -1] = -1.0
    best = linprog([0.0] * len(cells) + [-1.0], A_ub=use, b_ub=np.ones(len(views)), A_eq=cover, b_eq=np.zeros(COMPONENTS))
    return float(best.x[-1])


# --- the stage --------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stream:
    """One question after another; `hops` are those of the present one, as (peer, start, stop)."""

    number: int
    rng: random.Random
    asked: float = 0.0
    first: float | None = None
    prompt: int = 0
    left: int = 0
    drawn: int = 0
    hops: Sequence[tuple[int, int, int]] = ()
    waiting: int = 0

    @property
    def key(self) -> bytes:
        return self.number.to_bytes(16, "big")


class Peer:
    """A batching server. An item is (stream, hop, tokens of a prompt or 0 for one that is drawn)."""

    def __init__(self, view: PeerView) -> None:
        self.view = view
        self.read, self.compute = view.decode - view.prefill, view.prefill
        self.drawn: deque[tuple[Stream, int, int]] = deque()
        self.prompts: deque[tuple[Stream, int, int]] = deque()
        self.busy = False

    def step(self) -> tuple[list[tuple[Stream, int, int]], float]:
        """What the next step takes along, and how long it lasts."""
        items = [self.drawn.popleft() for _ in range(min(BATCH, len(self.drawn)))]
        if self.prompts:
            items.append(self.prompts.popleft())
        needed: list[tuple[int, int]] = []
        tokens = 0.0
        for stream, hop, prompt in items:
            _, start, stop = stream.hops[hop]
            needed.append((start, stop))
            tokens += (prompt or 1) * weight(self.view, start, stop, drawn=not prompt)
        union, reached = 0.0, 0
        for start, stop in sorted(needed):
            if stop > reached:
                union += weight(self.view, max(start, reached), stop)
                reached = stop
        return items, self.read * union + self.compute * tokens


Policy = Callable[["Stage", Stream], Sequence[tuple[int, int, int]]]


class Stage:
    """Peers, links and streams in virtual time."""

    def __init__(self, views: Sequence[PeerView], streams: int, seed: int, policy: Policy, coordinators: int) -> None:
        self.views, self.policy = list(views), policy
        self.atlas, self.ledgers = Atlas(views), [Ledger() for _ in range(coordinators)]
        self.sessions = [0] * PEERS
        self.number = {view.peer: at for at, view in enumerate(self.views)}
        self.peers = [Peer(view) for view in self.views]
        self.link = self.atlas.matrix(self.atlas.rows(view.peer for view in self.views))
        self.work = np.zeros(PEERS)
        """Seconds a token takes, of all who go through a peer: what hop-by-hop policies go by."""
        self.rng = random.Random(seed)
        self.now, self.planning, self.plans = 0.0, 0.0, 0
        self.tokens, self.cycles, self.firsts = 0, [], []
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        for number in range(streams):
            stream, begins = Stream(number, random.Random(seed * 100_003 + number)), self.rng.uniform(0, WARM_UP / 2)
            self.at(begins, self.ask, stream)
            self.at(begins + RENEWED_EVERY, self.renew, stream)

        for peer in range(PEERS):
            self.at(self.rng.uniform(0, ANNOUNCED_EVERY), self.announce, peer)

    def ledger(self, stream: Stream) -> Ledger:
        return self.ledgers[stream.number % len(self.ledgers)]

    def at(self, when: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), act, arguments))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, act, arguments = heapq.heappop(self._events)
            act(*arguments)

    @property
    def measuring(self) -> bool:
        return self.now >= WARM_UP

    def ask(self, stream: Stream) -> None:
        stream.asked, stream.first, stream.drawn = self.now, None, 0
        stream.prompt = stream.rng.randint(*PROMPTS)
        stream.left = 1 + int(stream.rng.expovariate(1 / (ANSWER - 0.5)))
        began = time.process_time()
        stream.hops = self.policy(self, stream)
        self.planning += time.process_time() - began
        self.plans += 1
        self._charge(stream, +1)
        chunks = [CHUNK] * (stream.prompt // CHUNK) + [stream.prompt % CHUNK] * (stream.prompt % CHUNK > 0)
        stream.waiting = len(chunks)
        for tokens in chunks:
            self.arrive(stream, 0, tokens)

    def _charge(self, stream: Stream, sign: int) -> None:
        for peer, start, stop in stream.hops:
            self.work[peer] += sign * self.views[peer].decode * (stop - start)
        for peer in {peer for peer, _, _ in stream.hops}:
            self.sessions[peer] += sign

    def announce(self, peer: int) -> None:
        self.at(self.now + DIRECTORY_LAG, self.read, replace(self.views[peer], sessions=self.sessions[peer]))
        self.at(self.now + ANNOUNCED_EVERY, self.announce, peer)

    def read(self, view: PeerView) -> None:
        for ledger in self.ledgers:
            ledger.news(view)

    def arrive(self, stream: Stream, hop: int, prompt: int) -> None:
        peer = self.peers[stream.hops[hop][0]]
        (peer.prompts if prompt else peer.drawn).append((stream, hop, prompt))
        if not peer.busy:
            self.begin(peer)

    def begin(self, peer: Peer) -> None:
        items, seconds = peer.step()
        peer.busy = True
        self.at(self.now + seconds, self.end, peer, items)

    def end(self, peer: Peer, items: Sequence[tuple[Stream, int, int]]) -> None:
        peer.busy = False
        for stream, hop, prompt in items:
            here = stream.hops[hop][0]
            if hop + 1 < len(stream.hops):
                self.at(self.now + self.link[here, stream.hops[hop + 1][0]], self.arrive, stream, hop + 1, prompt)
            elif prompt and stream.waiting > 1:
                stream.waiting -= 1
            else:
                self.draw(stream, self.link[here, stream.hops[0][0]])
        if peer.drawn or peer.prompts:
            self.begin(peer)

    def draw(self, stream: Stream, way: float) -> None:
        stream.drawn += 1
        self.tokens += self.measuring
        if stream.first is None:
            stream.first = self.now
            if self.measuring:
                self.firsts.append(self.now - stream.asked)
        if stream.drawn < stream.left:
            self.at(self.now + way, self.arrive, stream, 0, 0)
            return
        cycle = (self.now - stream.first) / (stream.drawn - 1) if stream.drawn > 1 else None
        if self.measuring and cycle is not None and stream.drawn >= 8:
            self.cycles.append(cycle)
        self._charge(stream, -1)
        self.ledger(stream).release(stream.key, self.now, stream.drawn)
        self.ask(stream)

    def renew(self, stream: Stream) -> None:
        self.ledger(stream).renew(stream.key, self.now, stream.drawn)
        self.at(self.now + RENEWED_EVERY, self.renew, stream)


# --- the policies -----------------------------------------------------------------------------------------------------------------------------------------


def request_of(stream: Stream) -> Request:
    return Request(COMPONENTS, prompt=stream.prompt, output=ANSWER)


def numbered(stage: Stage, route: Any) -> Sequence[tuple[int, int, int]]:
    return [(stage.number[hop.peer], hop.start, hop.stop) for hop in route.hops]


def social(stage: Stage, stream: Stream) -> Sequence[tuple[int, int, int]]:
    request, ledger = request_of(stream), stage.ledger(stream)
    route = plan(stage.atlas, request, ledger.load(stage.now))
    ledger.place(stream.key, route, request, stage.now)
    return numbered(stage, route)


def shortest(stage: Stage, stream: Stream) -> Sequence[tuple[int, int, int]]:
    return numbered(stage, plan(stage.atlas, request_of(stream)))


def hop_by_hop(choose: Callable[[Stage, int, list[int]], int]) -> Policy:
    def policy(stage: Stage, stream: Stream) -> Sequence[tuple[int, int, int]]:
        hops, at = [], 0
        while at < COMPONENTS:
            able = [number for number, view in enumerate(stage.views) if at in view.spans[0]]
            peer = choose(stage, at, able)
            stop = stage.views[peer].spans[0].stop
            hops.append((peer, at, stop))
            at = stop
        return hops

    return policy


def least_work(stage: Stage, at: int, able: list[int]) -> int:
    def per_layer(peer: int) -> float:
        view, layers = stage.views[peer], stage.views[peer].spans[0].stop - at
        return float(stage.work[peer] + view.decode * layers) / layers

    return min(able, key=per_layer)


def better_of_two(stage: Stage, at: int, able: list[int]) -> int:
    left = {peer: stage.views[peer].spans[0].stop - at for peer in able}
    two = []
    while left and len(two) < 2:
        two += stage.rng.choices(list(left), list(left.values()))
        del left[two[-1]]
    return min(two, key=lambda peer: float(stage.work[peer]))


POLICIES: dict[str, Policy] = {"social": social, "four": social, "jsq": hop_by_hop(least_work), "p2c": hop_by_hop(better_of_two), "shortest": shortest}


def measure(views: Sequence[PeerView], streams: int, seed: int, policy: str, seconds: float) -> dict[str, float]:
    stage = Stage(views, streams, seed, POLICIES[policy], 4 if policy == "four" else 1)
    stage.run(WARM_UP + seconds)
    return {
        "tokens_per_second": stage.tokens / seconds,
        "of_bound": stage.tokens / seconds / bound(views),
        "median_ms_per_token": 1000 * statistics.median(stage.cycles),
        "first_token_p95_s": statistics.quantiles(stage.firsts, n=20)[-1],
        "plan_ms": 1000 * stage.planning / stage.plans,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one swarm and 20 s, to see that it runs")
    parser.add_argument("--streams", type=int, nargs="+", default=[24, 120, 480, 1200])
    parser.add_argument("--seeds", type=int, default=3, help="swarms (default 3)")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    arguments = parser.parse_args()
    seeds, seconds = (1, 20.0) if arguments.quick else (arguments.seeds, MEASURED)
    rows = []
    for streams in arguments.streams:
        for policy in arguments.policies:
            began = time.process_time()
            runs = [measure(world(seed), streams, seed, policy, seconds) for seed in range(1, seeds + 1)]
            row = {"streams": streams, "policy": policy, **{key: round(statistics.fmean(run[key] for run in runs), 3) for key in runs[0]}}
            row["each"] = [round(run["tokens_per_second"]) for run in runs]
            row["cpu_s"] = round(time.process_time() - began, 1)
            rows.append(row)
            if not arguments.json:
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.json:
        print(json.dumps({"peers": PEERS, "layers": routes.LAYERS, "rows": rows}))


if __name__ == "__main__":
    main()
