"""Who runs next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.peer.schedule import DECODE, GRACE, LEAST, MOST, PACKED, RECENT, SHARED, Chunks, Waiting, portion, schedule

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
    assert chunks.size(10.0) == GRACE * 40 and chunks.size(10.0, shared=True) == SHARED
    assert chunks.size(10.0 + RECENT) == GRACE * 40 and chunks.size(10.1 + RECENT) == MOST and not chunks.decodes(10.1 + RECENT)
    for _ in range(50):
        chunks.ran(True, 8, 0.002, now=12.0)
    assert chunks.size(12.0) == LEAST, "prompts come to their end all the same"
    for _ in range(50):
        chunks.ran(True, 8, 4.0, now=12.0)
    assert chunks.size(12.0) == MOST
