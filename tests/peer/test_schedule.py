"""Who runs next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.peer.schedule import BEGIN, DECODE, GRACE, LEAST, MOST, PACKED, RECENT, RING_GRACE, SHARED, STEPS, Chunks, Waiting, portion, schedule

jobs = st.lists(
    st.builds(lambda way, count: (way, count), st.sampled_from([(0, 5), (5, 9), (0, 9)]), st.one_of(st.integers(1, DECODE), st.integers(DECODE + 1, 300))),
    max_size=80,
)


def waiting(jobs):
    return [Waiting(at, *way, count, at) for at, (way, count) in enumerate(jobs)]


@given(jobs, st.integers(LEAST, MOST))
def test_every_decode_step_runs_and_one_chunk_of_prompts_after_them(jobs, chunk):
    jobs = waiting(jobs)
    round_ = schedule(jobs, chunk)
    by = {job.what: job for job in jobs}
    ran = [by[what] for group in round_ for what in group]
    assert {job.what for job in ran if job.decodes} == {job.what for job in jobs if job.decodes}
    prompts = [job for job in ran if not job.decodes]
    assert prompts[:1] == [job for job in jobs if not job.decodes][:1]
    assert ran == [job for job in ran if job.decodes] + prompts
    assert len(prompts) <= 1 or sum(job.count for job in prompts) <= chunk
    assert not prompts or [job.what for job in prompts] == round_[-1]


@given(jobs)
def test_a_group_enters_and_leaves_together_and_is_not_too_long(jobs):
    jobs = waiting(jobs)
    by = {job.what: job for job in jobs}
    for group in schedule(jobs):
        assert len({(by[what].entry, by[what].exit) for what in group}) == 1
        assert sum(by[what].count for what in group) <= PACKED or len(group) == 1


def test_older_jobs_come_first_whatever_order_they_are_named_in():
    assert schedule([Waiting("b", 0, 5, 100, 2), Waiting("a", 0, 5, 100, 1)]) == [["a", "b"]]


def test_short_prompts_share_a_chunk_and_a_long_one_fills_it():
    assert schedule([Waiting("a", 0, 5, 100, 1), Waiting("b", 0, 5, 100, 2), Waiting("c", 0, 5, 100, 3), Waiting("d", 5, 9, 20, 4)], 256) == [["a", "b"]]
    assert schedule([Waiting("a", 0, 5, 300, 1), Waiting("b", 0, 5, 100, 2)], 256) == [["a"]]


@given(st.integers(DECODE + 1, 2000), st.integers(LEAST, MOST))
def test_a_long_job_comes_to_its_end_in_portions_none_of_which_passes_for_decoding(count, chunk):
    portions = []
    while count:
        portions.append(portion(count, chunk))
        count -= portions[-1]
        assert DECODE < portions[-1] <= chunk + DECODE
    assert all(size == chunk for size in portions[:-1])


def test_prompts_get_large_chunks_where_nobody_decodes_and_small_ones_where_somebody_does():
    chunks = Chunks()
    assert chunks.size(0.0) == MOST
    chunks.ran(True, 1, 0.04, now=10.0)
    assert chunks.size(10.0) == MOST, "nobody knows yet how long a prompt takes"
    chunks.ran(False, 100, 0.1, now=10.0)
    assert chunks.size(10.0) == GRACE * 40
    assert chunks.size(10.0 + RECENT) == GRACE * 40 and chunks.size(10.1 + RECENT) == MOST and not chunks.decodes(10.1 + RECENT)
    for _ in range(50):
        chunks.ran(True, 8, 0.002, now=12.0)
    assert chunks.size(12.0) == LEAST, "prompts come to their end all the same"
    for _ in range(50):
        chunks.ran(True, 8, 4.0, now=12.0)
    assert chunks.size(12.0) == MOST


def ring(step: float, each: float) -> Chunks:
    """Of a ring on one machine whose steps take so long, and each position of a prompt."""
    chunks = Chunks()
    chunks.ran(False, 50, 50 * each / 3, now=1.0)
    chunks.ran(True, 1, step / 3, now=1.0)
    chunks.went_round(50, 50 * each)
    for _ in range(STEPS):
        chunks.stepped(step)
    return chunks


def test_on_one_machine_a_token_waits_for_few_steps_whatever_a_portion_takes_at_one_hop():
    assert ring(0.03, 0.003).size(1.0, shared=True) == RING_GRACE * 10
    assert ring(0.3, 0.003).size(1.0, shared=True) == SHARED and ring(0.003, 0.003).size(1.0, shared=True) == LEAST


def test_where_steps_have_long_been_as_far_apart_as_portions_make_them_these_grow():
    """It is the usual step that nobody waits much longer than. One prompt that comes by makes none of it."""
    chunks = ring(0.03, 0.003)
    for _ in range(STEPS // 2 - 1):
        chunks.stepped(0.1)
    assert chunks.size(1.0, shared=True) == RING_GRACE * 10
    for _ in range(2):
        chunks.stepped(0.1)
    assert chunks.size(1.0, shared=True) == int(RING_GRACE * 0.1 / 0.003)


def test_what_a_portion_takes_all_the_way_round_is_reckoned_until_it_is_known():
    chunks = Chunks()
    assert chunks.size(0.0, shared=True) == BEGIN
    chunks.ran(False, 50, 0.05, now=1.0)
    chunks.ran(True, 1, 0.01, now=1.0)
    assert chunks.size(1.0, shared=True) == SHARED, "nothing has gone round yet"
    chunks.stepped(0.06)
    assert chunks.goes_round(50, 0.15) == pytest.approx(0.15)
    assert chunks.size(1.0, shared=True) == int(RING_GRACE * 0.06 / 0.003)
    chunks.went_round(50, 0.2)
    chunks.went_round(0, 9.0)
    assert chunks.goes_round(50, 0.15) == pytest.approx(0.2) and chunks.goes_round(50, 0.9) == 0.9
    assert chunks.size(1.0, shared=True) == int(RING_GRACE * 0.06 / 0.004)
