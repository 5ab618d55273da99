"""The engine: jobs and cuts in order, one session's trouble its own, and no answer to a hop that is gone."""

from __future__ import annotations

import asyncio
import threading
import weakref
from itertools import accumulate, count

import msgspec
import pytest
import torch

from swarm.core import Hop, Sampling, Span
from swarm.machines.effects import Compute
from swarm.peer.engine import LOOK, WORTH_GIVING_BACK, Engine
from swarm.peer.hops import HopKey
from swarm.peer.rounds import COPIED
from swarm.peer.schedule import LEAST, RING_GRACE
from swarm.wire import Blob, Order
from tests.net.virtual import run

ROUTE = (Hop("me", 0, 2), Hop("you", 2, 4))


class Cache:
    nbytes = 0

    def __init__(self, limit):
        self.rows, self.limit = [], limit

    def truncate(self, length):
        del self.rows[length:]

    def begin_as(self, other, length):
        if self.rows or length > len(other.rows):
            raise ValueError("it does not fit")
        rows = []
        for row in range(length):
            rows.append(other.rows[row])
            yield COPIED // 2
        self.rows = rows


class Model:
    """Components 0 and 1 of four. Its output at a position is the sum of the tokens up to it; token 13 cannot be run."""

    spans, device, dtype, hidden, head = (Span(0, 2),), "cpu", torch.float32, 1, 3

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches = []
        self.limits = []
        self.fills_cores = True

    def new_cache(self, start, stop, limit=None):
        return Cache(limit)

    def run(self, start, stop, rows):
        self.entered.set()
        self.gate.wait(60)
        self.limits += [row.cache.limit for row in rows]
        self.batches.append([list(row.tokens) for row in rows])
        if any(13 in row.tokens for row in rows):
            raise RuntimeError("thirteen")
        outs = []
        for row in rows:
            assert row.start == len(row.cache.rows)
            row.cache.rows += row.tokens
            outs.append(torch.tensor([[float(sum(row.cache.rows[: row.start + at + 1]))] for at in range(len(row.tokens))]))
        return outs


class Results:
    def __init__(self):
        self.seen = asyncio.Queue()

    def finished(self, key, serial, rows, draws, micros):
        self.seen.put_nowait((key.session[:1], serial, torch.frombuffer(bytearray(rows.data), dtype=torch.float32).tolist()))

    def failed(self, key, detail):
        self.seen.put_nowait((key.session[:1], "failed", detail))


def key(name: str) -> HopKey:
    return HopKey(name.encode() * 16, 0, 2)


def order(name: str) -> Order:
    return Order(name.encode() * 16, 1, "client", "rev", "float32", ((1, 0),), 1, 9, 99, Sampling(), ROUTE)


def job(serial: int, start: int, *tokens: int) -> Compute:
    return Compute(serial, start, tokens, None)


def scenario(play):
    async def main():
        models, results = [Model()], Results()
        gate, engine = models[0].gate, Engine(models[0])
        engine.results = results
        running = asyncio.create_task(engine.run())
        try:
            async with asyncio.timeout(60):
                await play(engine, models.pop(), results.seen)
            assert not running.done()
        finally:
            gate.set()
            running.cancel()
            await asyncio.wait({running})

    asyncio.run(main())


def test_jobs_and_cuts_are_done_in_order_and_voided_jobs_are_skipped():
    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, 1, 2, 3))
        engine.submit(key("a"), job(2, 3, 100))
        engine.truncate(key("a"), 2)
        engine.submit(key("a"), job(3, 2, 5))
        assert [await seen.get(), await seen.get()] == [(b"a", 1, [1, 3, 6]), (b"a", 3, [8])]

    scenario(play)


def test_sessions_that_wait_together_run_together_and_one_that_fails_fails_alone():
    async def play(engine, model, seen):
        for name in "abc":
            engine.open(key(name), order(name))
        engine.submit(key("a"), job(1, 0, 1))
        engine.submit(key("b"), job(1, 0, 13))
        engine.submit(key("c"), job(1, 0, 3))
        got = sorted([await seen.get() for _ in range(3)], key=lambda result: result[0])
        assert got == [(b"a", 1, [1]), (b"b", "failed", "RuntimeError('thirteen')"), (b"c", 1, [3])]
        assert model.batches[0] == [[1], [13], [3]]

    scenario(play)


def test_a_cut_that_no_job_follows_is_made_all_the_same():
    """Or a session that is cut and says nothing more would hold what nobody counts."""

    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, 1, 2, 3))
        await seen.get()
        cache = engine._slots[key("a")].cache
        engine.truncate(key("a"), 2)
        engine.truncate(key("a"), 1)
        while len(cache.rows) > 1:  # noqa: ASYNC110  a cache tells nobody
            await asyncio.sleep(0)
        engine.submit(key("a"), job(2, 1, 5))
        assert await seen.get() == (b"a", 2, [6])

    scenario(play)


def test_memory_of_sessions_that_are_gone_goes_back_to_the_machine(monkeypatch):
    trimmed = asyncio.Event()
    monkeypatch.setattr("swarm.model.memory.trim", lambda: loop.call_soon_threadsafe(trimmed.set))

    async def play(engine, model, seen):
        nonlocal loop
        loop = asyncio.get_running_loop()
        for name, size in (("a", WORTH_GIVING_BACK - 1), ("b", 1)):
            assert not trimmed.is_set()
            engine.open(key(name), order(name))
            engine.submit(key(name), job(1, 0, 1))
            await seen.get()
            engine._slots[key(name)].cache.nbytes = size
            engine.free(key(name))
        await trimmed.wait()

    loop = None
    scenario(play)


def test_a_session_begins_as_another_that_is_cut_or_freed_right_after():
    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, 1, 2, 3))
        await seen.get()
        for name in "bc":
            engine.open(key(name), order(name))
            engine.begin_as(key(name), key("a"), 2)
        engine.truncate(key("a"), 0)
        engine.submit(key("a"), job(2, 0, 50))
        engine.submit(key("b"), job(1, 2, 10))
        engine.submit(key("c"), job(1, 2, 20))
        engine.free(key("a"))
        assert sorted([await seen.get(), await seen.get()]) == [(b"b", 1, [13]), (b"c", 1, [23])]

    scenario(play)


async def begin_with_fifty_ones(engine, seen):
    """`a` holds them, `b` begins with them, and `c` with nothing."""
    engine.open(key("a"), order("a"))
    engine.submit(key("a"), job(1, 0, *[1] * 50))
    await seen.get()
    for name in "bc":
        engine.open(key(name), order(name))
    engine.begin_as(key("b"), key("a"), 50)


def test_nobody_waits_for_more_than_a_piece_of_a_long_prefix():
    async def play(engine, model, seen):
        await begin_with_fifty_ones(engine, seen)
        engine.submit(key("b"), job(1, 50, 100))
        for at in range(3):
            engine.submit(key("c"), job(at, at, 1))
            assert await seen.get() == (b"c", at, [at + 1]), "with two rows copied before each, and after"
        assert await seen.get() == (b"b", 1, [150])

    scenario(play)


def test_a_prefix_is_copied_before_it_is_cut():
    async def play(engine, model, seen):
        await begin_with_fifty_ones(engine, seen)
        engine.submit(key("c"), job(1, 0, 1))
        await seen.get()
        engine.truncate(key("a"), 1)
        engine.submit(key("a"), job(2, 1, *[50] * 60))
        engine.submit(key("b"), job(1, 50, 100))
        got = dict([(name, result[-1]) for name, _, result in [await seen.get(), await seen.get()]])
        assert got == {b"a": 1 + 60 * 50, b"b": 150}

    scenario(play)


def test_a_session_that_is_cut_while_its_prefix_is_copied_keeps_what_is_left():
    """And one that is gone copies nothing more."""

    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, *range(1, 7)))
        await seen.get()
        for name in "bc":
            engine.open(key(name), order(name))
            engine.begin_as(key(name), key("a"), 6)
        engine.truncate(key("b"), 4)
        gone = engine._slots[key("c")].cache
        engine.free(key("c"))
        assert all(copy.cache is not gone for copy in engine._copies)
        while any(copy.cache is not gone for copy in engine._copies):  # noqa: ASYNC110  nobody says when a piece is done
            await asyncio.sleep(0)
        engine.submit(key("b"), job(1, 4, 100))
        assert await seen.get() == (b"b", 1, [110]) and not gone.rows

    scenario(play)


def test_a_session_takes_over_the_cache_of_one_that_rests():
    """With what was still to be cut of it, and after whoever copies from it."""

    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, *[1] * 50))
        await seen.get()
        cache = engine._slots[key("a")].cache
        engine.open(key("b"), order("b"))
        engine.begin_as(key("b"), key("a"), 50)
        engine.truncate(key("a"), 50)
        engine.rest(key("a"))
        engine.open(key("c"), msgspec.structs.replace(order("c"), limit=77))
        engine.take_over(key("c"), key("a"), 40)
        assert key("a") not in engine._slots and engine._slots[key("c")].cache is cache and cache.limit == 77
        engine.submit(key("c"), job(1, 40, 7))
        engine.submit(key("b"), job(1, 50, 100))
        got = dict([(name, result[-1]) for name, _, result in [await seen.get(), await seen.get()]])
        assert got == {b"c": 47, b"b": 150}

    scenario(play)


def test_a_session_that_cannot_begin_as_another_fails_alone():
    async def play(engine, model, seen):
        for name in "abc":
            engine.open(key(name), order(name))
        engine.begin_as(key("b"), key("a"), 2)
        engine.submit(key("b"), job(1, 2, 10))
        engine.submit(key("c"), job(1, 0, 20))
        got = dict([(name, result) for name, *result in [await seen.get(), await seen.get()]])
        assert got[b"c"] == [1, [20]] and got[b"b"][0] == "failed"

    scenario(play)


def test_nobody_waits_for_a_session_that_rests():
    async def play(engine, model, seen):
        here = tuple(Hop(hop.peer, hop.start, hop.stop, ("/ip4/127.0.0.1/tcp/1",)) for hop in ROUTE)
        for name in "ab":
            engine.open(key(name), msgspec.structs.replace(order(name), route=here))
        for at in range(3):
            for name in "ab":
                engine.submit(key(name), job(at, at, 1))
            await seen.get(), await seen.get()
        engine.rest(key("b"))
        assert key("b") not in engine._muster._left and key("a") in engine._muster._left

    scenario(play)


def test_a_model_is_let_go_when_its_round_has_ended_and_another_is_run_then():
    async def play(engine, model, seen):
        alive, entered, gate = weakref.ref(model), model.entered, model.gate
        del model
        gate.clear()
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, 1))
        await asyncio.to_thread(entered.wait, 10)
        engine.free(key("a"))
        unloading = asyncio.create_task(engine.unload())
        await asyncio.sleep(0.05)
        assert not unloading.done() and alive() is not None, "its weights went while they were used"
        gate.set()
        await unloading
        assert alive() is None, "two models would be in memory at once"
        await engine.unload()  # as after another that could not be loaded
        engine.load(Model())
        engine.open(key("b"), order("b"))
        engine.submit(key("b"), job(1, 0, 7))
        assert await seen.get() == (b"b", 1, [7.0])

    scenario(play)


def test_a_cache_learns_how_long_its_session_may_become_from_every_order():
    async def play(engine, model, seen):
        limits = []
        for limit in 99, 150, 20:
            engine.open(key("a"), msgspec.structs.replace(order("a"), limit=limit))
            engine.submit(key("a"), job(limit, len(limits), 1))
            await seen.get()
            limits.append(model.limits[-1])
        assert limits == [99, 150, 20]

    scenario(play)


def test_a_job_of_a_hop_that_went_does_not_answer_for_the_one_that_came_after():
    async def play(engine, model, seen):
        model.gate.clear()
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, 1, 2))
        assert await asyncio.to_thread(model.entered.wait, 5)
        engine.free(key("a"))
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, 1, 2, 3, 4))
        model.gate.set()
        assert await seen.get() == (b"a", 1, [1, 3, 6, 10])
        assert seen.empty()

    scenario(play)


def test_a_cut_survives_when_the_job_before_it_is_voided_while_another_group_runs():
    async def play(engine, model, seen):
        for name in "ab":
            engine.open(key(name), order(name))
            engine.submit(key(name), job(1, 0, 1, 2))
            await seen.get()
        model.gate.clear()
        model.entered.clear()
        engine.submit(key("a"), job(2, 2, 3))
        engine.submit(key("b"), job(2, 2, *range(20, 40)))  # a prompt's chunk: the second group of the same round
        assert await asyncio.to_thread(model.entered.wait, 5)
        engine.truncate(key("b"), 1)
        model.gate.set()
        assert await seen.get() == (b"a", 2, [6])
        engine.submit(key("b"), job(3, 1, 7))
        assert await seen.get() == (b"b", 3, [8])

    scenario(play)


def test_a_result_that_cannot_be_handed_on_fails_its_session_and_the_engine_goes_on():
    async def play(engine, model, seen):
        handed_on = engine.results.finished

        def finished(key, *rest):
            if key.session[:1] == b"a":
                raise IndexError("a bug")
            handed_on(key, *rest)

        engine.results.finished = finished
        for name in "ab":
            engine.open(key(name), order(name))
            engine.submit(key(name), job(1, 0, 1))
        assert sorted([await seen.get(), await seen.get()]) == [(b"a", "failed", "IndexError('a bug')"), (b"b", 1, [1])]

    scenario(play)


@pytest.mark.parametrize("need", [5, 200, 5000])
def test_a_cache_may_outgrow_the_limit_of_its_first_turn_without_copying_at_every_token(need):
    from swarm.model.cache import KVCache

    cache, copies, last = KVCache(0, 3, limit=4), 0, None
    for position in range(need):
        keys, _ = cache.write(0, position, torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
        copies += keys.data_ptr() != last
        last = keys.data_ptr()
        cache.advance(1)
    assert copies <= 12


LONG = tuple(range(100, 100 + 70))


def in_portions(engine) -> None:
    """As if a stream had just decoded here, in no time."""
    engine._chunks.ran(False, 1, 1.0, engine._clock())
    engine._chunks.ran(True, 1, 0.0, engine._clock())


async def begins(engine, model, work: Compute) -> None:
    """A job of session a, of which the first portion runs until the model's gate is opened."""
    model.gate.clear()
    model.entered.clear()
    engine.submit(key("a"), work)
    await asyncio.to_thread(model.entered.wait, 10)


def sums(tokens) -> list[int]:
    return list(accumulate(tokens))


def test_where_streams_decode_a_long_job_runs_in_portions_and_its_result_comes_whole():
    """Steps of a stream run between them."""

    async def play(engine, model, seen):
        for name in "ab":
            engine.open(key(name), order(name))
        in_portions(engine)
        engine.submit(key("b"), job(1, 0, 1))
        assert await seen.get() == (b"b", 1, [1])
        await begins(engine, model, job(1, 0, *LONG))
        engine.submit(key("b"), job(2, 1, 2))
        model.gate.set()
        first, second = await seen.get(), await seen.get()
        assert first == (b"b", 2, [3]) and second == (b"a", 1, sums(LONG))
        portions = [len(batch[0]) for batch in model.batches[1:] if len(batch[0]) > 1]
        assert sum(portions) == len(LONG) and len(portions) > 2

    scenario(play)


def test_a_job_that_is_voided_between_its_portions_leaves_nothing_behind():
    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        in_portions(engine)
        engine.submit(key("a"), job(1, 0, 7, 7))
        assert await seen.get() == (b"a", 1, [7, 14])
        await begins(engine, model, job(2, 2, *LONG))
        engine.truncate(key("a"), 2)
        engine.submit(key("a"), job(3, 2, 1, 2))
        model.gate.set()
        assert await seen.get() == (b"a", 3, [15, 17])
        engine.submit(key("a"), job(4, 4, *LONG))
        assert await seen.get() == (b"a", 4, [17 + each for each in sums(LONG)])

    scenario(play)


def test_a_job_that_fails_in_a_later_portion_is_not_tried_again():
    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        in_portions(engine)
        engine.submit(key("a"), job(1, 0, *LONG[:40], 13, *LONG[41:]))
        assert await seen.get() == (b"a", "failed", "RuntimeError('thirteen')")
        tried = len(model.batches)
        assert tried > 1
        await asyncio.sleep(0.05)
        assert len(model.batches) == tried and seen.empty()

    scenario(play)


def test_portions_of_a_job_survive_when_another_behind_it_is_voided_while_its_last_one_runs():
    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        in_portions(engine)
        engine.submit(key("a"), job(1, 0, *LONG))
        engine.submit(key("a"), job(2, 70, 5))
        slot = engine._slots[key("a")]
        real, last = model.run, threading.Event()

        def run(start, stop, rows):
            if rows[0].start + len(rows[0].tokens) == 70:
                model.gate.clear()
                last.set()
            return real(start, stop, rows)

        model.run = run
        while slot.queue and slot.queue[0].serial == 1:
            in_portions(engine)
            await asyncio.sleep(0)
        await asyncio.to_thread(last.wait, 10)
        engine.truncate(key("a"), 70)
        model.gate.set()
        assert await seen.get() == (b"a", 1, sums(LONG))
        model.run = real
        engine.submit(key("a"), job(3, 70, 1))
        assert await seen.get() == (b"a", 3, [sum(LONG) + 1])

    scenario(play)


class Head(Model):
    """The last two components: rows of hidden states in, logits out, of which the number that came in is the likeliest."""

    spans, vocab = (Span(2, 4),), 200

    def run(self, start, stop, rows):
        self.batches.append([(row.start, len(row.tokens), tuple(row.want)) for row in rows])
        outs = []
        for row in rows:
            assert row.start == len(row.cache.rows) and len(row.hidden) == len(row.tokens)
            row.cache.rows += row.tokens
            assert row.hidden[:, 0].tolist() == [float(token) for token in row.tokens], "rows of another portion"
            outs.append(torch.nn.functional.one_hot(row.hidden[list(row.want), 0].long(), self.vocab).float())
        return outs


def test_portions_take_their_own_hidden_states_and_draw_where_they_should():
    drawn = asyncio.Queue()

    class Drawn(Results):
        def finished(self, key, serial, rows, draws, micros):
            drawn.put_nowait((serial, rows, [(draw.position, draw.token) for draw in draws], micros))

    async def main():
        ticks = count()
        engine, model = Engine(clock=lambda: next(ticks) * 1e-6), Head()
        engine.load(model)
        engine.results = Drawn()
        running = asyncio.create_task(engine.run())
        last = HopKey(b"a" * 16, 2, 4)
        engine.open(last, order("a"))
        in_portions(engine)
        tokens = LONG[:60]
        hidden = Blob("float32", 1, memoryview(bytearray(torch.tensor(tokens, dtype=torch.float32).numpy().tobytes())))
        engine.submit(last, Compute(1, 0, tokens, hidden, draw=(3, 40, 59)))
        async with asyncio.timeout(30):
            serial, rows, draws, micros = await drawn.get()
        assert (serial, rows) == (1, None) and draws == [(4, tokens[3]), (41, tokens[40]), (60, tokens[59])]
        sizes = [size for ((_, size, _),) in model.batches]
        assert sum(sizes) == 60 and len(sizes) > 1 and micros >= len(sizes)
        assert next(want for ((_, _, want),) in model.batches if want) == (3,)
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(main())


HERE = ("/ip4/10.0.0.1/tcp/1",)


def here(name: str) -> Order:
    """An order for a ring on one machine, of which we are the first half."""
    return msgspec.structs.replace(order(name), route=(Hop("me", 0, 2, HERE), Hop("you", 2, 4, HERE)))


def lengths(model) -> list[list[int]]:
    return [[len(row) for row in batch] for batch in model.batches]


def in_portions_of(count: int, engine, model) -> None:
    """Every run takes a tenth of a second, and nothing else any: what is on its way round is not late before another has run."""
    now, real = [0.0], model.run

    def run(*what):
        now[0] += 0.1
        return real(*what)

    engine._clock, model.run = lambda: now[0], run
    in_portions(engine)
    engine._chunks.went_round(count, 0.1)
    engine._chunks.stepped(0.1 / RING_GRACE)


async def idle() -> None:
    """Until whatever may start has started: nothing is waited for but others of this loop, and the compute thread."""
    for _ in range(50):
        await asyncio.sleep(0.001)


def test_on_one_machine_a_portion_of_a_prompt_goes_on_at_once_and_the_next_when_it_is_all_the_way_round():
    async def play(engine, model, seen):
        for name in "ab":
            engine.open(key(name), here(name))
        in_portions_of(LEAST + 4, engine, model)
        engine.submit(key("a"), job(1, 0, *LONG))
        assert await seen.get() == (b"a", 1, sums(LONG)[: LEAST + 4])
        engine.submit(key("b"), job(1, 0, 7))
        await idle()
        assert lengths(model) == [[LEAST + 4]], "it is on its way"
        engine.passed(key("a"), LEAST + 4)
        assert engine._wake.is_set(), "who waits for that need not wait until it is late"
        assert await seen.get() == (b"b", 1, [7]), "a step comes between two portions"
        engine.submit(key("b"), job(2, 1, 7))
        assert await seen.get() == (b"a", 1, sums(LONG)[LEAST + 4 : 2 * LEAST + 8]), "whose step has come home"
        assert engine._slots[key("a")].queue[0].start == 2 * LEAST + 8
        engine.passed(key("a"), 2 * LEAST + 8)
        assert await seen.get() == (b"b", 2, [14])
        assert engine._chunks._steps[-1] == pytest.approx(0.2), "from step to step: what a portion took, and a step"

    scenario(play)


def test_portions_that_were_handed_on_stay_when_the_rest_of_their_job_is_cut():
    async def play(engine, model, seen):
        engine.open(key("a"), here("a"))
        in_portions_of(LEAST + 4, engine, model)
        engine.submit(key("a"), job(1, 0, *LONG))
        await seen.get()
        engine.truncate(key("a"), LEAST + 4)
        engine.passed(key("a"), LEAST + 4)
        engine.submit(key("a"), job(2, LEAST + 4, 5))
        assert await seen.get() == (b"a", 2, [sums(LONG)[LEAST + 3] + 5])

    scenario(play)


@pytest.mark.parametrize("fills", [True, False])
def test_where_hops_have_cores_of_their_own_nothing_takes_turns(fills):
    async def play(engine, model, seen):
        model.fills_cores = fills
        engine._clock = lambda: 0.0
        for name in "ab":
            engine.open(key(name), here(name))
        in_portions(engine)
        engine._muster.portion({key("b"): 30}, 30, 1.0, 2.0, 0.0)
        engine.submit(key("a"), job(1, 0, *LONG))
        await idle()
        assert bool(model.batches) is not fills

    scenario(play)


def test_who_waits_for_a_portion_that_is_late_goes_on_when_it_is():
    async def play(engine, model, seen):
        for name in "ab":
            engine.open(key(name), here(name))
        in_portions(engine)
        engine._muster.portion({key("b"): 30}, 30, 0.01, 0.02, engine._clock())
        engine.submit(key("a"), job(1, 0, 7))
        assert await seen.get() == (b"a", 1, [7])

    scenario(play)


def test_after_every_round_it_rests_for_what_the_round_took(monkeypatch):
    rests = []

    async def rest(engine, seconds):
        rests.append(seconds)

    monkeypatch.setattr(Engine, "_pause", rest)

    async def play(engine, model, seen):
        engine.open(key("a"), order("a"))
        for serial in range(3):
            engine.submit(key("a"), job(serial, serial, 1))
            await seen.get()
        engine.submit(key("a"), job(3, 3, 13))
        await seen.get()
        assert len(rests) >= 3 and all(seconds > 0 for seconds in rests[:3])

    scenario(play)


@pytest.mark.parametrize("share, rest", [(1.0, 0.0), (0.5, 2.0), (0.25, 6.0)])
def test_a_share_is_that_of_computing_in_computing_and_resting(share, rest):
    async def main():
        loop = asyncio.get_running_loop()
        engine = Engine(clock=loop.time)
        engine.share = share
        await engine._pause(2.0)
        return loop.time()

    assert run(main()) == pytest.approx(rest)


def test_a_rest_is_over_when_nobody_needs_the_machine_any_more():
    async def main():
        loop = asyncio.get_running_loop()
        engine = Engine(clock=loop.time)
        engine.share = 0.25
        loop.call_later(1.0, setattr, engine, "share", 1.0)
        await engine._pause(100.0)
        return loop.time()

    assert run(main()) <= 1.0 + LOOK


def test_what_a_step_took_is_with_the_rest_that_it_costs():
    told = []

    async def play(engine, model, seen):
        engine.share, engine._clock = 0.5, count().__next__  # a second at every look, so that no real time counts
        finished = engine.results.finished
        engine.results.finished = lambda *result: (told.append(result[-1]), finished(*result))
        timed = []
        engine.timed = lambda span, rows, seconds: timed.append(seconds)
        engine.open(key("a"), order("a"))
        engine.submit(key("a"), job(1, 0, 1))
        await seen.get()
        assert told == [round(2e6 * timed[0])]

    scenario(play)
