"""Prompts of several clients take turns, whatever each of them asks for."""

from __future__ import annotations

from swarm.peer.fair import Turns
from swarm.peer.schedule import Waiting, portion, schedule

CHUNK = 256


def waits(jobs: dict[str, int], prompts: dict[str, int], fair: bool = True) -> dict[str, int]:
    """After how many positions of others each client's last prompt is through. `jobs` is how many prompts each has, all there from the beginning, in order."""
    turns, left = Turns(), {}
    for client, count in jobs.items():
        for number in range(count):
            left[f"{client}{number}"] = prompts[client]
    arrived, ran, done = {what: at for at, what in enumerate(left)}, 0, {}
    while left:
        waiting = [Waiting(what, 0, 4, count, arrived[what]) for what, count in left.items()]
        for group in schedule(turns.fairly(waiting, lambda what: what[0]) if fair else waiting, CHUNK):
            for what in group:
                part = portion(left[what], CHUNK)
                turns.ran(what[0], part)
                ran += part
                left[what] -= part
                if not left[what]:
                    del left[what]
                    done[what[0]] = ran
    return done


def test_one_client_with_many_prompts_does_not_hold_up_another():
    many, one = {"a": 50, "b": 1}, {"a": 1024, "b": 1024}
    assert waits(many, one)["b"] <= 2 * 1024 + CHUNK, "about as long as if the two had one prompt each"
    assert waits(many, one, fair=False)["b"] > 50 * 1024, "without turns it waits for them all"


def test_nor_does_one_with_a_long_prompt():
    assert waits({"a": 1, "b": 1}, {"a": 50_000, "b": 100})["b"] <= 2 * CHUNK + 100


def test_of_one_client_who_came_first_is_first_and_decode_steps_are_as_they_were():
    turns = Turns()
    jobs = [Waiting("a1", 0, 4, 500, 3), Waiting("a2", 0, 4, 500, 1), Waiting("b", 0, 4, 1, 2)]
    fair = turns.fairly(jobs, lambda what: what[0])
    assert [(job.what, job.arrived) for job in sorted(fair, key=lambda job: job.arrived)] == [("a2", 1), ("b", 2), ("a1", 3)]


def test_who_comes_later_is_neither_behind_nor_ahead_for_long():
    turns = Turns()
    a, b = Waiting("a", 0, 4, 500, 1), Waiting("b", 0, 4, 500, 2)
    turns.fairly([a], lambda what: what)
    turns.ran("a", 100_000)
    first, *_ = sorted(turns.fairly([a, b], lambda what: what), key=lambda job: job.arrived)
    assert first.what == "a", "as far as each other, the older first"
    turns.ran("a", 256)
    first, *_ = sorted(turns.fairly([a, b], lambda what: what), key=lambda job: job.arrived)
    assert first.what == "b"
    turns.fairly([b], lambda what: what)
    assert set(turns._ran) == {"b"}, "nothing is remembered of who waits for nothing"
