"""Who runs next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.peer.schedule import CHUNK, DECODE, PACKED, Waiting, schedule

jobs = st.lists(
    st.builds(lambda way, count: (way, count), st.sampled_from([(0, 5), (5, 9), (0, 9)]), st.one_of(st.integers(1, DECODE), st.integers(DECODE + 1, 300))),
    max_size=80,
)


def waiting(jobs):
    return [Waiting(at, *way, count, at) for at, (way, count) in enumerate(jobs)]


@given(jobs)
def test_every_decode_step_runs_and_one_chunk_of_prompts_after_them(jobs):
    jobs = waiting(jobs)
    round_ = schedule(jobs)
    by = {job.what: job for job in jobs}
    ran = [by[what] for group in round_ for what in group]
    assert {job.what for job in ran if job.decodes} == {job.what for job in jobs if job.decodes}
    prompts = [job for job in ran if not job.decodes]
    assert prompts[:1] == [job for job in jobs if not job.decodes][:1]
    assert ran == [job for job in ran if job.decodes] + prompts
    assert len(prompts) <= 1 or sum(job.count for job in prompts) <= CHUNK
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
    assert schedule([Waiting("a", 0, 5, 100, 1), Waiting("b", 0, 5, 100, 2), Waiting("c", 0, 5, 100, 3), Waiting("d", 5, 9, 20, 4)]) == [["a", "b"]]
    assert schedule([Waiting("a", 0, 5, 300, 1), Waiting("b", 0, 5, 100, 2)]) == [["a"]]
