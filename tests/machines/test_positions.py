"""The books of a hop: what it holds, how far whoever follows is, and which draws of a head count. Each against the plainest account of the same."""

from __future__ import annotations

import random
import struct

import pytest

from swarm.core import Sampling
from swarm.machines.drawing import Drawing, portion, wanted
from swarm.machines.effects import Draw
from swarm.machines.feed import Feed
from swarm.machines.limits import LEAST_CHUNK, HopLimits
from swarm.machines.marks import marks
from swarm.machines.positions import Positions
from swarm.wire import LOGITS, MARK, Blob, Order


def rows(*values: float) -> Blob:
    return Blob("float32", 1, memoryview(struct.pack(f"{len(values)}f", *values)))


def order(**changes) -> Order:
    return Order(b"s" * 16, 1, "client", "r", "f", ((1, 0),), **{"emit_from": 3, "until": 9, "limit": 9, "sampling": Sampling(), "route": (), **changes})


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("rewindable", [True, False])
def test_jobs_outputs_and_marks_are_of_exactly_the_tokens_that_are_held(seed, rewindable):
    dice, held = random.Random(seed), Positions(10_000, rewindable)
    tokens: list[int] = []
    jobs: list[tuple[int, int, int]] = []
    voided: set[int] = set()
    for _ in range(200):
        act = dice.random()
        if act < 0.5:
            new = [dice.randrange(50) for _ in range(dice.randint(1, 4))]
            jobs.append((held.append(new, rows(*new), (5,)), len(tokens), len(tokens) + len(new)))
            tokens += new
        elif act < 0.85 and jobs:
            serial, start, stop = jobs.pop(0)
            assert all(held.finished(other) is None for other in (*voided, *(later for later, _, _ in jobs)))
            if dice.random() < 0.5 and stop > start + 1:  # a part of it
                jobs.insert(0, (serial, start + 1, stop))
                stop = start + 1
            job = held.finished(serial, stop - start)
            assert job is not None and (job.start, job.start + job.count, job.micros) == (start, stop, (5,))
            held.journal.append(rows(*tokens[start:stop]))
        else:
            length = dice.randint(0, len(tokens) + 2)
            keep = held.cut(length)
            assert (keep is None) == (length >= len(tokens))
            if keep is not None:
                assert keep == (length if rewindable else 0) or any(start == keep < length < stop for _, start, stop in jobs)
                del tokens[keep:]
                voided |= {serial for serial, start, _ in jobs if start >= keep}
                jobs = [job for job in jobs if job[1] < keep]
        assert held.tokens == tokens and held.owed == bool(jobs)
        assert held.computed == held.journal.stop == (jobs[0][1] if jobs else len(tokens))
        assert bytes(held.marks) == (marks(rows(*tokens)) if tokens else b"")
        assert held.size >= len(tokens)
        if held.computed:
            assert bytes(held.journal.rows(0, held.computed).data) == bytes(rows(*tokens[: held.computed]).data)


@pytest.mark.parametrize("instead", [True, False])
def test_who_begins_as_another_holds_what_that_holds_so_far(instead):
    one, other = Positions(10_000), Positions(10_000)
    one.finished(one.append([4, 5, 6], rows(4, 5, 6), ()))
    one.journal.append(rows(1, 2, 3))
    before = one.journal
    other.begin_as(one, 2, instead=instead)
    assert other.tokens == [4, 5] and other.computed == 2 and len(other.marks) == 2 * MARK and bytes(other.journal.rows(0, 2).data) == bytes(rows(1, 2).data)
    assert (other.journal is before) == instead and (instead or before.stop == 3)
    other.cut(0)
    assert one.tokens == [4, 5, 6], "what is copied is its own"


@pytest.mark.parametrize("seed", range(30))
def test_whoever_is_fed_gets_each_position_once_and_never_beyond_the_window(seed):
    dice, feed = random.Random(seed), Feed()
    chunk, window, computed, has = 3, 8, 0, 0
    assert feed.lacks(5, chunk, window) is None, "it has not said where to begin"
    feed.begins_at(0)
    for _ in range(300):
        computed += dice.randint(0, 2)
        while (part := feed.lacks(computed, chunk, window)) is not None:
            assert part[0] == feed.sent < part[1] <= min(computed, part[0] + chunk, feed.acked + window)
            feed.sent = part[1]
        assert feed.sent == min(computed, feed.acked + window)
        if dice.random() < 0.1:  # it lost all, or some of it
            has = dice.randint(0, feed.sent)
            feed.begins_at(has)
        elif dice.random() < 0.1:
            computed = dice.randint(0, computed)
            has = min(has, computed)
            feed.truncate(computed)
        elif has < feed.sent:
            has = dice.randint(has, feed.sent)
            feed.has(has)
            feed.has(dice.randint(0, has))  # late, so of no consequence
        assert feed.acked == has <= feed.sent <= computed
    feed.has(10**6)
    assert feed.acked == feed.sent, "nobody has what was not sent"


def test_draws_count_as_long_as_they_continue_one_another():
    drawing, tokens = Drawing(), [1, 2, 3]
    assert drawing.take([Draw(2, 9), Draw(3, 7)], tokens, order()) == ([Draw(3, 7)], None), "the earlier one is forced"
    assert drawing.take([Draw(4, 8)], [1, 2, 3, 7], order()) == ([Draw(4, 8)], None)
    astray = [1, 2, 3, 7, 6, 6]
    assert drawing.take([Draw(5, 1), Draw(6, 1)], astray, order()) == ([], None), "a 6 stands where an 8 was drawn"
    drawing.truncate(4)
    assert drawing.take([Draw(5, 1)], [1, 2, 3, 7, 5], order()) == ([], None), "and a 5 is no better: the draw of 8 still counts"
    drawing.truncate(4)
    assert drawing.take([Draw(5, 1)], [1, 2, 3, 7, 8], order()) == ([Draw(5, 1)], None)
    drawing.truncate(3)
    assert drawing.take([Draw(4, 2)], [1, 2, 3, 0], order()) == ([Draw(4, 2)], None), "what was drawn behind the cut counts no more"


def test_a_stop_token_and_the_last_position_end_the_answer():
    ended = Drawing()
    assert ended.take([Draw(3, 7), Draw(4, 1)], [1, 2, 3, 7], order(sampling=Sampling(stop_ids=(7,)))) == ([Draw(3, 7)], "stop")
    assert ended.take([Draw(4, 1)], [1, 2, 3, 7], order()) == ([], None)
    assert Drawing().take([Draw(8, 1)], [0] * 8, order()) == ([Draw(8, 1)], "length")


def test_a_head_draws_from_emit_from_on_and_is_read_in_small_portions():
    assert wanted(order(emit_from=3), 0, 5, [1] * 5) == ((2, 3, 4), ())
    assert wanted(order(emit_from=3), 4, 1, [1, 2, 3, 4, 5]) == ((0,), ())
    assert wanted(order(sampling=Sampling(repetition_penalty=1.1)), 2, 1, [1, 2, 3]) == ((0,), (1, 2)), "the penalty asks for the history"
    assert portion(order(), 0, 256) == 256
    assert portion(order(reply=LOGITS, emit_from=40), 0, 256) == 39 and portion(order(reply=LOGITS, emit_from=40), 39, 256) == LEAST_CHUNK


def test_an_order_may_ask_for_smaller_chunks_within_bounds():
    limits = HopLimits(chunk=256)
    assert [limits.chunk_for(asked) for asked in (0, 64, 1, 10**6)] == [256, 64, LEAST_CHUNK, 256]
