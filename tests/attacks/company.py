"""Honest peers on a stage of virtual time that really compute: nodes, clients, audits, inspections and verdicts are the real ones, and so is the arithmetic of
a small model. Only wires and clocks are pretended, so that ten thousand audits take minutes. Bans, doubts and distances are noted, whoever finds them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from swarm.client.aio import Client
from swarm.compose import Connection, OpenedModel
from swarm.core import Span
from swarm.machines.audits import Audits
from swarm.model.checkpoint import Checkpoint
from swarm.model.likeness import nudged, share
from swarm.model.span import Row, SpanModel
from swarm.peer.engine import Engine
from swarm.sim import toy
from swarm.sim.directory import Directory
from swarm.sim.swarm import Guest, Scene, Stage
from swarm.wire import COMPRESSED, Blob
from tests.model.tiny import FAMILIES, save

SCENE = Scene(peers=0, clients=0, layer=(0.01, 0.03), across=0.02, skew=0.5, loss=0.0, cache_tokens=40_000, audit=1.0, inspects=True)

Noise = Callable[[torch.Tensor], torch.Tensor]


def small_model(folder: Path) -> Checkpoint:
    """Random, with products that neither grow nor drown what they are added to, as in trained models. With a range of 0.2 instead rounding grows from layer to
    layer in bfloat16, nearly to what is allowed."""
    settings = dict(hidden_size=64, intermediate_size=192, num_hidden_layers=4, vocab_size=300, max_position_embeddings=1024, initializer_range=0.05)
    return save("Llama", FAMILIES["llama"][1] | settings | dict(rope_parameters=dict(rope_type="default", rope_theta=1e4)), folder).checkpoint


@dataclass(frozen=True)
class Subject:
    """A model that peers of a company serve, in one dtype."""

    name: str
    checkpoint: Checkpoint
    model: SpanModel

    @classmethod
    def load(cls, name: str, checkpoint: Checkpoint, dtype: str) -> Subject:
        return cls(name, checkpoint, SpanModel.load(checkpoint, [Span(0, checkpoint.shape.components)], dtype=dtype))

    @property
    def numerics(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")


@dataclass
class Seen:
    """What was found, by whomever."""

    compared: Counter[str] = field(default_factory=Counter)
    """Pairs of blobs, by model and format."""
    worst: dict[str, float] = field(default_factory=dict)
    """The largest distance, in parts of what is allowed."""
    bans: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    sizes: Counter[int] = field(default_factory=Counter)
    """Sessions that were computed together, how often."""
    threads: Counter[int] = field(default_factory=Counter)
    passed: int = 0
    unclear: int = 0

    def share(self, one: Blob, other: Blob, layers: int) -> float:
        kind, found = f"{self.subject} compressed" if one.dtype == COMPRESSED else self.subject, share(one, other, layers)
        self.compared[kind] += 1
        self.worst[kind] = max(self.worst.get(kind, 0.0), found)
        return found

    subject: str = ""
    """What peers compute just now, and in which dtype."""


def watched(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Note every ban and every doubt of any client or coordinator, and compare as real peers do."""
    caught, doubted = Audits.caught, Audits.doubted

    def note_ban(self: Audits, peer: str, now: float) -> float:
        seen.bans.append(peer)
        return caught(self, peer, now)

    def note_doubt(self: Audits, peer: str, now: float, neighbour: str | None = None) -> bool:
        seen.doubts.append(peer)
        return doubted(self, peer, now, neighbour)

    monkeypatch.setattr(Audits, "caught", note_ban)
    monkeypatch.setattr(Audits, "doubted", note_doubt)

    async def stay(mover: object) -> None:  # or splits would not be those that are asked for
        await asyncio.Event().wait()

    monkeypatch.setattr("swarm.peer.moving.Mover.run", stay)
    monkeypatch.setattr(toy, "share", seen.share)
    monkeypatch.setattr(toy, "nudged", nudged)


class _Worker:
    """A span model whose work takes virtual time, on one thread or two."""

    def __init__(self, stage: Company, model: SpanModel, layer: float) -> None:
        self._stage, self._model, self._layer = stage, model, layer
        self.noise: Noise | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def run(self, start: int, stop: int, rows: Sequence[Row]) -> list[torch.Tensor]:
        stage, threads = self._stage, self._stage.random.choice((1, 1, 1, 2))
        torch.set_num_threads(threads)
        stage.seen.threads[threads] += 1
        stage.seen.sizes[len(rows)] += 1
        stage.ahead += (stop - start) * self._layer * (1 + sum(len(row.tokens) for row in rows) / 20)
        outputs = self._model.run(start, stop, rows)
        return outputs if self.noise is None else [self.noise(output) for output in outputs]


class _Arithmetic(Engine):
    """The real engine, whose compute thread is the stage's own."""

    def __init__(self, stage: Company, worker: _Worker) -> None:
        super().__init__(clock=lambda: stage.loop.time() + stage.ahead)
        self.speed = self.worker = worker
        self.boast, self.hangs, self.compressed, self.faults = 1.0, False, 0, list[str]()


class Company(Stage):
    """Peers that hold `spans`, and clients who ask until `enough` audits have passed."""

    def __init__(self, seed: int, scene: Scene, subject: Subject, spans: Sequence[Span], seen: Seen) -> None:
        super().__init__(seed, scene)
        self.shape, self.seen, self.ahead = subject.checkpoint.shape, seen, 0.0
        self._model, self._spans = subject.model, spans
        self.clients: list[Client] = []
        self.loop.run_in_executor = self._computed  # type: ignore[method-assign,assignment]
        seen.subject = f"{subject.name} {subject.numerics}"

    def _found_swarm(self) -> None:
        for span in self._spans:
            self.join(span)

    def engine(self, layer: float) -> _Arithmetic:  # type: ignore[override]
        self._engines.append(_Arithmetic(self, _Worker(self, self._model, layer)))  # type: ignore[arg-type]
        return self._engines[-1]  # type: ignore[return-value]

    def _computed(self, thread: object, function: Callable[..., object], *arguments: object) -> asyncio.Future[object]:
        """At once, and known when it would have been done."""
        result, future = function(*arguments), self.loop.create_future()
        took, self.ahead = self.ahead, 0.0
        self.loop.call_later(took, lambda: future.done() or future.set_result(result))
        return future

    def listen(self, turns: int) -> asyncio.Task[None]:
        """A client who asks so often, and has every hop of every answer audited."""
        guest = self._arrive(Guest, f"guest{len(self.guests):03}")
        self.guests[guest.peer] = guest
        guest.task = self._start(guest, self._ask(guest, turns))
        return guest.task

    async def _ask(self, guest: Guest, turns: int) -> None:
        directory, dice = Directory(self.table, guest.links), random.Random(f"{self.seed} {guest.peer}")
        opened = OpenedModel(None, self.shape, None, toy.Text(), ())  # type: ignore[arg-type]
        connection = Connection(guest.links, directory, (), lambda data: toy.signed(guest.peer, data), toy.verify, self.loop.create_future())
        client = await Client.over(opened, connection, dice, None, directory.wall, False, 1.0, toy, self.scene.compress)
        self.clients.append(client)
        try:
            for _ in range(turns):
                prompt = [dice.randrange(1, self.shape.vocab) for _ in range(dice.choice((2, 5, 12, 30, 70)))]
                async with await client.ready_session() as session:
                    said = session.stream_tokens(
                        prompt, max_new_tokens=dice.randint(2, 9), ignore_eos=True, temperature=dice.choice((0.0, 0.0, 1.0)), seed=dice.randrange(2**31)
                    )
                    async for _ in said:
                        pass
                await client.auditor.settled()
        finally:
            self.seen.passed += client.auditor.passed
            self.seen.unclear += client.auditor.unclear
            await client.close()


def keep_company(
    subject: Subject,
    spans: Sequence[Span],
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seed: int,
    clients: int,
    turns: int,
    compress: bool = False,
    noise: Noise | None = None,
) -> None:
    """One run. Whoever makes `noise` is the first peer."""
    monkeypatch.setattr(toy, "VOCAB", subject.checkpoint.shape.vocab)
    scene = replace(SCENE, layers=subject.checkpoint.shape.layers, numerics=(subject.numerics,), compress=compress)
    stage = Company(seed, scene, subject, spans, seen)

    async def script(stage: Company) -> None:
        if noise is not None:
            next(iter(stage.servers.values())).engine.worker.noise = noise
        await asyncio.gather(*[stage.listen(turns) for _ in range(clients)])

    verdict = stage.run(script)  # type: ignore[arg-type]
    assert not verdict.broken, "\n".join(verdict.broken)
