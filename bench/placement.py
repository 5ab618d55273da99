"""How well peers place themselves while others come and go: `python -m bench.placement [--json] [--quick] [--seeds n]`.

Two rules live through the same swarms and the same events: ours (`swarm/routing/placement.py`) and Petals' (`block_selection.py`, commit 22afba6), written down
here. Machines, speeds and events are synthetic, as in the study before this project; the throughput of a placement is the exact maximal flow.

Virtual time: who joins or moves serves after LOADING seconds, what somebody announces is known to others after NEWS seconds, and every peer looks for a better
place at random moments, on average every CHECK seconds.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from swarm.core import Span, missing_spans, whole
from swarm.routing import PeerView
from swarm.routing.flow import rate, tokens_per_second
from swarm.routing.placement import better_place, choose_spans, still_better

KINDS = ((10, 2.4e-3, 7e-5), (22, 0.85e-3, 2e-5), (22, 0.95e-3, 4.5e-5), (14, 2.7e-3, 6e-5), (30, 17e-3, 1.7e-3))
"""3060, 4090, 3090, T4, CPU: layers of a 70B model in int8 that fit, seconds to read one, seconds to compute a token in it."""

HEAD = 1.2
LOADING, NEWS, CHECK = 60.0, 10.0, 120.0
LIFETIME = 4 * 3600.0
"""Seconds; the mean time a peer stays."""


@dataclass(frozen=True)
class Setting:
    name: str
    layers: int
    peers: int
    seeds: int
    memory: float = 1.0
    slowness: float = 1.0

    @property
    def components(self) -> int:
        return self.layers + 2


TIGHT = ((50, 5), (60, 5), (75, 5), (100, 3), (140, 3), (300, 1))
"""Peers and seeds where memory is scarce: 1.7, 2.1, 2.6, 3.4, 4.8 and 10 hosts a layer."""

SETTINGS = (
    *(Setting("80 layers", 80, peers, seeds) for peers, seeds in ((10, 24), (30, 4), (100, 1), (300, 1))),
    *(Setting("126 layers, a quarter of the memory", 126, peers, seeds, 0.25, 3.8) for peers, seeds in TIGHT),
)


@dataclass(frozen=True)
class Machine:
    view: PeerView
    room: int


@dataclass(frozen=True)
class Event:
    at: float
    machine: Machine
    joins: bool


def machine(rng: random.Random, number: int, setting: Setting) -> Machine:
    layers, read, compute = rng.choice(KINDS)
    read, compute = read * setting.slowness, compute * setting.slowness
    view = PeerView(f"peer{number:05}", decode=read + compute, prefill=compute, head_weight=HEAD, region=f"region{rng.randrange(5)}")
    return Machine(view, max(int(layers * setting.memory), 1))


def story(setting: Setting, seed: int, events: int) -> tuple[list[Machine], list[Event]]:
    """Who is there at first, and who comes and goes then; the number of peers stays within one of what it was."""
    rng = random.Random(seed)
    first = [machine(rng, number, setting) for number in range(setting.peers)]
    present, told, now = list(first), [], 0.0
    for number in range(events):
        now += rng.expovariate(2 * setting.peers / LIFETIME)
        joins = len(present) < setting.peers or (len(present) == setting.peers and rng.random() < 0.5)
        if joins:
            present.append(machine(rng, setting.peers + number, setting))
            told.append(Event(now, present[-1], True))
        else:
            told.append(Event(now, present.pop(rng.randrange(len(present))), False))
    return first, told


def bound(machines: Sequence[Machine], components: int) -> float:
    """No placement gives more: every machine brings its rate, but no component more than a machine can hold helps by more than the flow itself."""
    weight = components - 2 + 0.05 + HEAD
    rates, rooms = np.array([rate(m.view) for m in machines]), np.array([float(m.room) for m in machines])
    low, high = 0.0, float(rates.sum()) / weight
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(rates, middle * rooms).sum() >= middle * weight else (low, middle)
    return low


# --- the two rules ------------------------------------------------------------------------------------------------------------------------------------------


class Ours:
    """Announces a move, waits until all know of it, and goes if it still thinks so."""

    settles = NEWS

    def newcomer(self, views: Sequence[PeerView], me: Machine, components: int) -> Span:
        return choose_spans(views, components, [1] * components, me.room, me.view.decode, me.view.region)

    def check(self, views: Sequence[PeerView], me: Machine, components: int, rng: random.Random) -> Span | None:
        return better_place(views, me.view, components, [1] * components, me.room)

    def confirm(self, before: Sequence[PeerView], views: Sequence[PeerView], me: Machine, components: int, place: Span) -> bool:
        return still_better(before, views, me.view, place, components)


class Petals:
    """`should_choose_other_blocks` and `choose_best_blocks`; the blocks of a span have the same throughput, a peer's own over (blocks + 1) / 2."""

    settles = 0.0
    QUALITY, EPS = 0.75, 1e-3

    def newcomer(self, views: Sequence[PeerView], me: Machine, components: int) -> Span:
        throughputs = np.zeros(components)
        for view in sorted(views, key=lambda view: view.peer):
            throughputs[self._slice(view.spans[0])] += self._throughput(view)
        start = self._best_start(throughputs, min(me.room, components))
        return Span(start, start + min(me.room, components))

    def check(self, views: Sequence[PeerView], me: Machine, components: int, rng: random.Random) -> Span | None:
        spans = {view.peer: view.spans[0] for view in sorted([*views, me.view], key=lambda view: view.peer)}
        speeds = {view.peer: self._throughput(view) for view in [*views, me.view]}
        throughputs = np.zeros(components)
        for peer, span in spans.items():
            throughputs[self._slice(span)] += speeds[peer]
        initial = throughputs.min()
        name, own = me.view.peer, speeds[me.view.peer]
        throughputs[self._slice(spans[name])] -= own * (1 + self.EPS)
        if initial > self.EPS and throughputs.min() <= 0:
            return None
        start = self._best_start(throughputs, len(spans[name]))
        if start == spans[name].start:
            return None
        target = Span(start, start + len(spans[name]))
        throughputs[self._slice(spans[name])] += own * self.EPS
        throughputs[self._slice(target)] += own
        spans[name] = target
        self._everybody_moves(spans, speeds, throughputs, rng)
        if throughputs.min() < initial or throughputs.min() < self.EPS:
            return None
        return target if initial / throughputs.min() < self.QUALITY - self.EPS else None

    def _everybody_moves(self, spans: dict[str, Span], speeds: dict[str, float], throughputs: np.ndarray, rng: random.Random) -> None:
        moved = True
        while moved:
            moved, names = False, list(spans)
            rng.shuffle(names)
            for name in names:
                span = spans[name]
                throughputs[self._slice(span)] -= speeds[name] * (1 + self.EPS)
                start = self._best_start(throughputs, len(span))
                throughputs[self._slice(span)] += speeds[name] * self.EPS
                if start != span.start:
                    spans[name], moved = Span(start, start + len(span)), True
                throughputs[self._slice(spans[name])] += speeds[name]

    @staticmethod
    def _best_start(throughputs: np.ndarray, blocks: int) -> int:
        """The start of the window whose sorted throughputs are lexicographically smallest, the lowest of equals."""
        sorted_WN = np.sort(np.lib.stride_tricks.sliding_window_view(throughputs, blocks), axis=1)
        return int(np.lexsort(sorted_WN.T[::-1])[0])

    @staticmethod
    def _slice(span: Span) -> slice:
        return slice(span.start, span.stop)

    @staticmethod
    def _throughput(view: PeerView) -> float:
        return rate(view) / ((len(view.spans[0]) + 1) / 2)


# --- the world ----------------------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    joined: float = 0.0
    shares: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, throughput over the bound) between two changes."""
    events: int = 0
    outages: int = 0
    moves: int = 0
    checks: int = 0
    check_s: float = 0.0


class World:
    def __init__(self, setting: Setting, seed: int, rule: Ours | Petals, events: int) -> None:
        self.setting, self.seed, self.rule = setting, seed, rule
        self.first, self.events = story(setting, seed, events)
        self.machines: dict[str, Machine] = {}
        self.places: dict[str, Span] = {}
        self.online: set[str] = set()
        self.known: dict[str, PeerView] = {}
        self.intent: set[str] = set()
        self.generation: dict[str, int] = {}
        self.news = random.Random(seed)
        self.dice: dict[str, random.Random] = {}
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order, self.now = 0, 0.0
        self.heard = 0
        self.looked: dict[str, int] = {}
        self.began, self.last, self.current = False, 0.0, 0.0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        for at, each in enumerate(self.first):
            self.later(at * 2 * NEWS, lambda each=each: self.join(each))
        while self.queue:
            self.step()
        self.outcome.joined = self.share()
        self.began, self.last, self.current = True, self.now, self.outcome.joined
        for name in sorted(self.machines):
            self.look_later(name)
        for event in self.events:
            self.later(event.at, lambda event=event: self.happen(event))
        end = self.now + self.events[-1].at
        while self.queue[0][0] <= end:
            self.step()
        self.account()
        return self.outcome

    def step(self) -> None:
        self.now, _, act = heapq.heappop(self.queue)
        act()

    def later(self, delay: float, act: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.queue, (self.now + delay, self.order, act))

    def happen(self, event: Event) -> None:
        if event.joins:
            self.join(event.machine)
            self.look_later(event.machine.view.peer)
        else:
            self.leave(event.machine.view.peer)
        self.outcome.events += 1
        self.outcome.outages += self.broken()

    def join(self, machine: Machine) -> None:
        name = machine.view.peer
        self.machines[name] = machine
        self.dice[name] = random.Random(f"{self.seed} {name}")
        self.generation[name] = 0
        self.go(name, self.rule.newcomer(self.others(name), machine, self.setting.components))

    def leave(self, name: str) -> None:
        del self.machines[name], self.places[name]
        self.online.discard(name)
        self.later(self.news.uniform(0, NEWS), lambda: self.forget(name))
        self.changed()

    def forget(self, name: str) -> None:
        self.known.pop(name, None)
        self.heard += 1

    def go(self, name: str, place: Span) -> None:
        """Begin to load; what was served before is gone."""
        self.places[name] = place
        self.online.discard(name)
        self.generation[name] += 1
        self.announce(name, place, "joining")
        self.changed()
        self.later(LOADING, lambda at=self.generation[name]: self.loaded(name, at))

    def loaded(self, name: str, generation: int) -> None:
        if name in self.machines and self.generation[name] == generation:
            self.online.add(name)
            self.announce(name, self.places[name], "online")
            self.changed()

    def announce(self, name: str, place: Span, state: str) -> None:
        view = replace(self.machines[name].view, spans=(place,), state=state)

        def heard() -> None:
            if name in self.machines:
                self.known[name] = view
                self.heard += 1

        self.later(self.news.uniform(0, NEWS), heard)

    def look_later(self, name: str) -> None:
        self.later(self.dice[name].uniform(0, 2 * CHECK), lambda: self.look(name))

    def look(self, name: str) -> None:
        if name not in self.machines:
            return
        self.look_later(name)
        if name in self.online and name not in self.intent and self.looked.get(name) != self.heard:  # nothing new, no new answer
            self.looked[name] = self.heard
            self.consider(name)

    def consider(self, name: str) -> None:
        place = self.decide(name)
        if place is None:
            return
        if not self.rule.settles:
            return self.move(name, place)
        self.intent.add(name)
        self.announce(name, place, "joining")
        before = self.others(name)
        self.later(self.rule.settles, lambda: self.confirm(name, before, place))

    def confirm(self, name: str, before: Sequence[PeerView], place: Span) -> None:
        self.intent.discard(name)
        if name not in self.machines:
            return
        if self.rule.confirm(before, self.others(name), self.me(name), self.setting.components, place):
            self.move(name, place)
        else:
            self.announce(name, self.places[name], "online")
            self.consider(name)

    def me(self, name: str) -> Machine:
        machine = self.machines[name]
        return Machine(replace(machine.view, spans=(self.places[name],)), machine.room)

    def move(self, name: str, place: Span) -> None:
        self.outcome.moves += 1
        self.go(name, place)

    def decide(self, name: str) -> Span | None:
        me, others = self.me(name), self.others(name)
        began = time.process_time()
        place = self.rule.check(others, me, self.setting.components, self.dice[name])
        self.outcome.check_s += time.process_time() - began
        self.outcome.checks += 1
        return place

    def others(self, name: str) -> list[PeerView]:
        return [view for peer, view in sorted(self.known.items()) if peer != name]

    # --- what it was worth ----------------------------------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        if self.began:
            self.account()
            self.current = self.share()

    def account(self) -> None:
        self.outcome.shares.append((self.now - self.last, self.current))
        self.last = self.now

    def share(self) -> float:
        serving = [replace(self.machines[name].view, spans=(self.places[name],)) for name in sorted(self.online)]
        return tokens_per_second(serving, self.setting.components) / bound(list(self.machines.values()), self.setting.components)

    def broken(self) -> bool:
        return bool(missing_spans([self.places[name] for name in self.online], whole(self.setting.components)))


def of_time(shares: Sequence[tuple[float, float]], part: float) -> float:
    """The share of the bound below which the swarm was for this part of the time."""
    wanted = part * sum(seconds for seconds, _ in shares)
    for seconds, share in sorted(shares, key=lambda each: each[1]):
        wanted -= seconds
        if wanted <= 0:
            return share
    return 0.0


def measure(setting: Setting, rule: Ours | Petals, seeds: range, events: int) -> dict[str, float]:
    outcomes = [World(setting, seed, rule, events).run() for seed in seeds]
    shares = [share for outcome in outcomes for share in outcome.shares]
    seconds, happened = sum(seconds for seconds, _ in shares), sum(outcome.events for outcome in outcomes)
    return {
        "joined": statistics.mean(outcome.joined for outcome in outcomes),
        "churn": sum(seconds * share for seconds, share in shares) / seconds,
        "p10": of_time(shares, 0.1),
        "outages": sum(outcome.outages for outcome in outcomes) / happened,
        "down": sum(seconds for seconds, share in shares if share == 0) / seconds,
        "moves": sum(outcome.moves for outcome in outcomes) / happened,
        "check_ms": 1000 * sum(outcome.check_s for outcome in outcomes) / max(sum(outcome.checks for outcome in outcomes), 1),
    }


def ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 2) if theirs else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed and few events of the small swarms: only to see that it runs")
    parser.add_argument("--seeds", type=int, help="swarms of each setting (by default from 24 of the smallest to 1 of the largest)")
    parser.add_argument("--first-seed", type=int, default=2000, help="the constants of the rule were picked on seeds below 1010")
    parser.add_argument("--events", type=int, default=40, help="joins and leaves of each swarm (default 40)")
    arguments = parser.parse_args()
    for setting in SETTINGS:
        if arguments.quick and setting.peers > 50:
            continue
        seeds = range(arguments.first_seed, arguments.first_seed + (1 if arguments.quick else arguments.seeds or setting.seeds))
        found = {type(rule).__name__.lower(): measure(setting, rule, seeds, 10 if arguments.quick else arguments.events) for rule in (Petals(), Ours())}
        ratios = {name: ratio(found["ours"][name], theirs) for name, theirs in found["petals"].items()}
        if arguments.json:
            print(json.dumps({"setting": setting.name, "peers": setting.peers, "seeds": len(seeds), **found, "ours over petals": ratios}), flush=True)
            continue
        print(f"{setting.name}, {setting.peers} peers, {len(seeds)} seeds")
        for rule, figures in found.items():
            print(f"  {rule:<16}", "  ".join(f"{name} {figure:.3f}" for name, figure in figures.items()))
        print(f"  {'ours over petals':<16}", "  ".join(f"{name} {figure}" for name, figure in ratios.items()), flush=True)


if __name__ == "__main__":
    main()
