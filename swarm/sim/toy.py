"""The room `sim`, its model: hashes in place of tensors, so that tokens can be checked. An engine computes them hop by hop on virtual time; `answer` at once.

A component's output at a position is a digest of its number and of every input up to that position. A row that is skipped, repeated, out of place, of another
session or of another component therefore changes every token from there on.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from swarm.core import HopKey, ModelShape, PeerId, Span
from swarm.machines.effects import Compute, Draw
from swarm.peer.drafting import Drafter
from swarm.peer.engine import Results
from swarm.peer.schedule import Waiting, schedule
from swarm.wire import COMPRESSED, Blob, Order

REVISION, NUMERICS = "toy", "float32"

ROW = 1 / 20
"""What a row costs, of what it costs to read a component."""

LONG, SHORT = ("float32", 2), (COMPRESSED, 6)
"""Rows of digests as they are, and as if compressed: eight bytes either way, so that tokens stay exact."""

VOCAB = 1000

EOS = 0

FIRST_CHARACTER = 0x4E00
"""Where tokens begin as characters: any block of a thousand that are one code point each."""


def shape(layers: int) -> ModelShape:
    return ModelShape("toy", layers, hidden=2, vocab=VOCAB, max_length=4096, config_hash=f"toy-{layers}")


def answer(history: Sequence[int], count: int, components: int) -> list[int]:
    """What the whole model says after a history: `count` tokens, or fewer if one of them ends the answer."""
    states = [_beginning(component) for component in range(components)]
    fed = 0
    said: list[int] = []
    everything = list(history)
    while len(said) < count and (not said or said[-1] != EOS):
        for token in everything[fed:]:
            _feed(states, token)
        fed = len(everything)
        said.append(_drawn(states[-1]))
        everything.append(said[-1])
    return said


def beginning(components: int) -> tuple[bytes, ...]:
    """What the whole model is at before the first token."""
    return tuple(_beginning(component) for component in range(components))


def fed(states: Sequence[bytes], token: int) -> tuple[bytes, ...]:
    """What it is at after one token more."""
    after = list(states)
    _feed(after, token)
    return tuple(after)


def said(states: Sequence[bytes]) -> int:
    """What it says then."""
    return _drawn(states[-1])


class Oracle(Drafter):
    """Guesses what the model will say, so far as it is `right`, a share of the time. `made` and `wrong` count."""

    def __init__(self, components: int, right: float, dice: random.Random) -> None:
        self._right, self._dice = right, dice
        self._beginning = [_beginning(component) for component in range(components)]
        self._line: list[int] = []
        self._states = list(self._beginning)
        self.made = self.wrong = 0

    def offers(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> str | None:
        return "oracle"

    def take(self, tokens: Sequence[int], fresh: Sequence[int], most: int) -> list[int]:
        line = [*tokens, *fresh]
        if line[: len(self._line)] != self._line:
            self._line, self._states = [], list(self._beginning)
        for token in line[len(self._line) :]:
            _feed(self._states, token)
        self._line, states, guesses = line, list(self._states), list[int]()
        for _ in range(min(most, 16)):
            right = self._dice.random() < self._right
            guesses.append(_drawn(states[-1]) if right else self._dice.randrange(VOCAB))
            self.made, self.wrong = self.made + 1, self.wrong + (not right)
            _feed(states, guesses[-1])
        return guesses


class Text:
    """A tokenizer of one character a token."""

    def encode(self, prompt: str, *, continues: bool = False) -> list[int]:
        return [ord(character) - FIRST_CHARACTER for character in prompt]

    def detokenizer(self) -> Text:
        return self

    def feed(self, token: int) -> str:
        return chr(FIRST_CHARACTER + token)

    def finish(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds: `layer` for reading a component once, however many rows share it, and `row` for each row and component."""

    layer: float
    row: float


@dataclass(eq=False)
class _Slot:
    caches: list[list[bytes]]
    """For each component of the hop, its state after every position."""
    queue: deque[Compute | int] = field(default_factory=deque)
    arrived: int = 0

    @property
    def next_job(self) -> Compute | None:
        return next((entry for entry in self.queue if isinstance(entry, Compute)), None)


class Engine:
    """Implements `holding.ServingEngine`: one group of the real schedule at a time."""

    def __init__(self, components: int, speed: Speed, clock: Callable[[], float]) -> None:
        """What plays the part of a model is its speed."""
        self.components, self.speed = components, speed
        self.results: Results | None = None
        self.timed: Callable[[Span, int, float], None] = lambda span, rows, seconds: None
        self.steps = 0
        self.tokens = 0
        self.share = 1.0
        self.work = 0
        """Rows times the components that each went through here."""
        self.compressed = 0
        """Rows that it handed on compressed."""
        self.boast = 1.0
        """By what factor its node is told that its rounds are shorter than they are: a liar's announcement is never corrected."""
        self.cheat: Callable[[HopKey, list[bytes]], list[bytes]] | None = None
        """What it makes of its rows before it hands them on, or draws from them."""
        self.says: Callable[[int], int] | None = None
        """Which token stands at a position, whatever the model would say."""
        self.faults: list[str] = []
        """What no engine should ever be asked."""
        self.hangs = False
        """Whether nothing is computed any more, though everything else lives on."""
        self._clock = clock
        self._slots: dict[HopKey, _Slot] = {}
        self._arrivals = 0
        self._wake = asyncio.Event()

    def open(self, key: HopKey, order: Order) -> None:
        if key not in self._slots:
            self._slots[key] = _Slot([[] for _ in range(key.start, key.stop)])

    def submit(self, key: HopKey, job: Compute) -> None:
        slot = self._slots[key]
        if slot.next_job is None:
            self._queue_up(slot)
        slot.queue.append(job)
        self._wake.set()

    def truncate(self, key: HopKey, length: int) -> None:
        queue = self._slots[key].queue
        while queue and isinstance(queue[-1], Compute) and queue[-1].start >= length:
            queue.pop()
        queue.append(length)

    def passed(self, key: HopKey, length: int) -> None: ...

    def begin_as(self, key: HopKey, other: HopKey, length: int) -> None:
        if any(map(len, self._slots[key].caches)) or any(len(states) < length for states in self._slots[other].caches):
            self.faults.append(f"{key.start}:{key.stop} is to begin with {length} positions that are not there")
        self._slots[key].caches = [states[:length] for states in self._slots[other].caches]

    def take_over(self, key: HopKey, other: HopKey, length: int) -> None:
        self.begin_as(key, other, length)
        self.free(other)

    def rest(self, key: HopKey) -> None:
        if self._slots[key].next_job is not None:
            self.faults.append(f"{key.start}:{key.stop} rests with work to do")

    def free(self, key: HopKey) -> None:
        self._slots.pop(key, None)

    def load(self, model: Speed) -> None:
        self.speed = model

    async def unload(self) -> None:
        if self._slots:
            self.faults.append("unloaded while hops were open")

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while round_ := schedule(self._waiting()):
                for keys in round_:
                    await self._compute([(key, self._slots[key]) for key in keys if key in self._slots])

    # --- inside -------------------------------------------------------------------------------------------------------------------------------------------

    def _queue_up(self, slot: _Slot) -> None:
        self._arrivals += 1
        slot.arrived = self._arrivals

    def _waiting(self) -> list[Waiting[HopKey]]:
        if self.hangs:
            return []
        jobs = [(key, slot, slot.next_job) for key, slot in self._slots.items()]
        return [Waiting(key, key.start, key.stop, len(job.tokens), slot.arrived) for key, slot, job in jobs if job is not None]

    async def _compute(self, group: Iterable[tuple[HopKey, _Slot]]) -> None:
        ready = [(key, slot, job) for key, slot in group if (job := self._taken(slot)) is not None]
        if not ready:
            return
        began, rows = self._clock(), sum(len(job.tokens) for _, _, job in ready)
        span = ready[0][0].stop - ready[0][0].start
        await asyncio.sleep(span * (self.speed.layer + rows * self.speed.row))
        self.steps += 1
        self.tokens += rows
        self.work += rows * span
        micros = round((self._clock() - began) * 1e6)
        self.timed(Span(ready[0][0].start, ready[0][0].stop), rows, (self._clock() - began) / self.boast)
        for key, slot, job in ready:
            self._finish(key, slot, job, round(micros / self.share))
        if self.share < 1:
            await asyncio.sleep((self._clock() - began) * (1 / self.share - 1))

    def _taken(self, slot: _Slot) -> Compute | None:
        """The oldest job, after the cuts before it. None if it was voided while another group ran."""
        if slot.next_job is None:
            return None
        self._queue_up(slot)
        while not isinstance(entry := slot.queue.popleft(), Compute):
            for states in slot.caches:
                del states[entry:]
        return entry

    def _finish(self, key: HopKey, slot: _Slot, job: Compute, micros: int) -> None:
        if self._slots.get(key) is not slot or self.results is None:
            return
        held = {len(states) for states in slot.caches}
        if held != {job.start}:
            self.faults.append(f"{key.start}:{key.stop} is to run from {job.start} with {sorted(held)} positions in its cache")
            self.results.failed(key, "wrong cache")
            return
        rows = run(slot.caches, key.start, job.tokens, job.hidden)
        if self.cheat is not None:
            rows = self.cheat(key, rows)
        if key.stop == self.components:
            places = [(job.start + at + 1, rows[at]) for at in job.draw]
            draws = [Draw(position, _drawn(row) if self.says is None else self.says(position)) for position, row in places]
            self.results.finished(key, job.serial, None, draws, micros)
        else:
            self.compressed += len(rows) * job.compress
            self.results.finished(key, job.serial, Blob(*(SHORT if job.compress else LONG), memoryview(b"".join(rows))), (), micros)


def run(caches: Sequence[list[bytes]], start: int, tokens: Sequence[int], hidden: Blob | None) -> list[bytes]:
    """The outputs of components from `start` on, whose caches grow."""
    rows = [_embedded(token) for token in tokens] if start == 0 else _rows(hidden)
    for component, states in enumerate(caches, start):
        for at, row in enumerate(rows):
            rows[at] = _digest(states[-1] if states else _beginning(component), row)
            states.append(rows[at])
    return rows


def drawn(row: bytes) -> int:
    """What the head says to its own output."""
    return _drawn(row)


def _feed(states: list[bytes], token: int) -> None:
    row = _embedded(token)
    for component, state in enumerate(states):
        row = states[component] = _digest(state, row)


def _digest(state: bytes, row: bytes) -> bytes:
    return hashlib.blake2b(state + row, digest_size=8).digest()


def _beginning(component: int) -> bytes:
    return component.to_bytes(8, "big")


def _embedded(token: int) -> bytes:
    return token.to_bytes(8, "big")


def _drawn(state: bytes) -> int:
    return int.from_bytes(state, "big") % VOCAB


def _rows(blob: Blob | None) -> list[bytes]:
    return [] if blob is None else [bytes(blob[at : at + 1].data) for at in range(len(blob))]


def share(one: Blob, other: Blob, components: int) -> float:
    """Digests have no tolerance, and what is not the same is far apart."""
    return 0.0 if one == other else 1000.0


def nudged(rows: Blob, numerics: str, dice: Callable[[int], bytes]) -> Blob:
    """Nor roundings."""
    return rows


def verify(client: PeerId, order: bytes, signature: bytes) -> bool:
    return signature == signed(client, order)


def signed(client: PeerId, order: bytes) -> bytes:
    return hashlib.blake2b(order, key=client.encode()[:64], digest_size=32).digest()
