"""The toy model: every token hangs on every input and component before it, and its engine will not be asked for nonsense."""

from __future__ import annotations

import asyncio

import pytest

from swarm.core import Hop, Sampling, Span
from swarm.machines.effects import Compute
from swarm.peer.hops import HopKey
from swarm.sim.clock import VirtualLoop
from swarm.sim.toy import EOS, VOCAB, Engine, Speed, answer
from swarm.wire import Blob, Order

COMPONENTS = 6
ORDER = Order(b"s" * 16, 1, "me", "", "", ((1, 0),), 3, 9, 99, Sampling(), (Hop("p", 0, COMPONENTS),))


class Results:
    def __init__(self) -> None:
        self.rows: dict[HopKey, Blob | None] = {}
        self.tokens: list[int] = []
        self.failures = 0
        self.micros = 0

    def finished(self, key, serial, rows, draws, micros) -> None:
        self.rows[key] = rows
        self.micros += micros
        self.tokens += [draw.token for draw in draws]

    def failed(self, key, detail) -> None:
        self.failures += 1


def computed(spans: list[Span], history: list[int], *, chunk: int = 99, start: int = 0) -> tuple[list[int], int]:
    """The token after a history, over a chain of engines; and how many faults they found."""
    loop, results = VirtualLoop(), Results()

    async def main() -> list[Engine]:
        engines, tasks = [], []
        for span in spans:
            engine = Engine(COMPONENTS, Speed(0.01, 0.001), loop.time)
            engine.results = results
            engine.open(HopKey(b"s" * 16, span.start, span.stop), ORDER)
            engines.append(engine)
            tasks.append(asyncio.create_task(engine.run()))
        for at in range(0, len(history), chunk):
            part, hidden = tuple(history[at : at + chunk]), None
            for span, engine in zip(spans, engines, strict=True):
                key = HopKey(b"s" * 16, span.start, span.stop)
                engine.submit(key, Compute(at, at + start, part, hidden, (len(part) - 1,) if at + chunk >= len(history) else ()))
                await asyncio.sleep(1)
                hidden = results.rows.get(key)
        for task in tasks:
            task.cancel()
        return engines

    engines = loop.run(main())
    return results.tokens, sum(len(engine.faults) for engine in engines)


@pytest.mark.parametrize("spans", [[Span(0, 6)], [Span(0, 1), Span(1, 5), Span(5, 6)], [Span(0, 3), Span(3, 6)]])
@pytest.mark.parametrize("chunk", [1, 3, 99])
def test_any_split_gives_the_models_own_token(spans, chunk):
    history = [5, 900, 17, 17, 3, 8, 44]
    assert computed(spans, history, chunk=chunk) == (answer(history, 1, COMPONENTS), 0)


@pytest.mark.parametrize("spans", [[Span(0, 2), Span(3, 6)], [Span(0, 3), Span(2, 6)]])
def test_a_component_left_out_or_run_twice_gives_another_token(spans):
    history = [5, 900, 17]
    assert computed(spans, history)[0] != answer(history, 1, COMPONENTS)


def test_every_token_of_the_past_matters_and_so_does_its_place():
    said = {tuple(answer(history, 3, COMPONENTS)) for history in ([1, 2, 3], [2, 1, 3], [1, 2], [1, 2, 3, 3], [1, 2, 4], [9, 2, 3])}
    assert len(said) == 6


def test_a_job_that_does_not_fit_the_cache_is_a_fault():
    assert computed([Span(0, 6)], [1, 2], start=1) == ([], 1)


def test_an_answer_ends_where_the_model_says_so():
    endings = [answer([token], 400, COMPONENTS) for token in range(1, 20)]
    assert all(EOS not in said[:-1] for said in endings)
    assert any(said[-1] == EOS for said in endings) and all(0 <= token < VOCAB for said in endings for token in said)


def test_time_is_for_components_and_rows():
    loop = VirtualLoop()

    async def main() -> float:
        engine = Engine(COMPONENTS, Speed(0.01, 0.001), loop.time)
        engine.results = Results()
        key = HopKey(b"s" * 16, 1, 4)
        engine.open(key, ORDER)
        engine.submit(key, Compute(1, 0, (1, 2, 3, 4, 5), Blob("float32", 2, memoryview(bytes(40)))))
        task = asyncio.create_task(engine.run())
        await asyncio.sleep(1)
        task.cancel()
        return engine.results.micros / 1e6

    assert loop.run(main()) == pytest.approx(3 * (0.01 + 5 * 0.001))
