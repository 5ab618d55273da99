"""The promises of an election: somebody coordinates nearly always, hardly ever two on one side, and a client finds one that answers."""

from __future__ import annotations

import copy

import pytest

from swarm.machines.election import Candidacy, Election, ElectionTiming, Look, Ping, Say
from tests.machines.elections import hour

T = ElectionTiming()
LISTEN = 2 * T.renew


def candidate(name: str = "me", score: tuple[int, ...] = (1,)) -> Election:
    return Election("model/0", name, score, 0.0)


def claim(peer: str = "other", term: int = 1, sequence: int = 1, score: tuple[int, ...] = (1,)) -> Candidacy:
    return Candidacy(peer, "claim", term, sequence, score)


def said(effects) -> list[Candidacy]:
    return [effect.record for effect in effects if isinstance(effect, Say)]


def elect(machine: Election, now: float, others: tuple[Candidacy, ...] = ()) -> list[Candidacy]:
    """Let its turn come, and answer the look it takes first, and its pings. Returns its claims."""
    machine.records(others, now)
    effects = machine.wake(now)
    for effect in effects:
        if isinstance(effect, Ping):
            effects += machine.pong(effect.peer, True, now)
    return [record for record in said(effects) + said(machine.records(others, now)) if record.role == "claim"]


def leader(now: float = LISTEN) -> Election:
    machine = candidate()
    elect(machine, 0.0)
    (record,) = elect(machine, now)
    assert machine.leads and record.term == 1
    return machine


@pytest.mark.parametrize(("loss", "skew"), [(0.0, 0.0), (0.05, 10.0), (0.2, 10.0)])
def test_somebody_coordinates_nearly_always(loss, skew):
    """Twenty minutes of twenty candidates, the coordinator killed every five. bench/election.py does it at full length, and gives the figures."""
    outcomes = [hour(seed, candidates=20, loss=loss, skew=skew, seconds=1200.0, partition=False) for seed in range(3)]
    seconds = sum(outcome.seconds for outcome in outcomes)
    assert sum(outcome.alone for outcome in outcomes) < 0.025 * seconds
    assert sum(outcome.doubled for outcome in outcomes) < 0.001 * seconds
    assert sum(outcome.three_tries for outcome in outcomes) > 0.994 * sum(outcome.clients for outcome in outcomes)
    assert all(outcome.changes <= 5 for outcome in outcomes), "nobody is replaced who lives"


def test_a_partition_has_one_on_each_side_and_one_again_when_it_is_over():
    outcome = hour(7, candidates=20, loss=0.05, skew=1.0, seconds=1800.0)
    assert outcome.doubled < 0.01 * outcome.seconds and outcome.alone < 0.03 * outcome.seconds


def test_a_newcomer_listens_before_it_claims():
    machine = candidate()
    assert not elect(machine, 0.0) + elect(machine, LISTEN - 0.1)
    assert leader().coordinator(LISTEN) == "me"


def test_a_better_candidate_waits_for_whoever_coordinates():
    machine = candidate(score=(9,))
    for tick in range(60):
        sequence = 1 + tick // 5
        elect(machine, float(tick), (claim(sequence=sequence),))
        assert machine.coordinator(float(tick)) == "other" and not machine.leads


def test_an_old_copy_of_a_claim_is_no_sign_of_life():
    machine = candidate()
    machine.records([claim(sequence=5)], 0.0)
    for now in (5.0, 10.0, 14.9):
        machine.records([claim(sequence=5), claim(sequence=4)], now)
        assert machine.coordinator(now) == "other"
    machine.records([claim(sequence=5)], 15.1)
    assert machine.coordinator(15.1) is None


@pytest.mark.parametrize(
    ("other", "stays"), [(claim(term=2), False), (claim(term=1, score=(2,)), False), (claim(term=1, score=(0,)), True), (claim(term=0, score=(9,)), True)]
)
def test_of_two_claims_the_higher_term_stays_and_of_one_term_the_better_score(other, stays):
    machine = leader()
    (*_, last) = said(machine.records([other], LISTEN + 1)) or [None]
    assert machine.leads == stays and (last is None) == stays
    assert stays or (last.role == "released" and machine.coordinator(LISTEN + 1) == "other")


def test_two_equal_claims_are_told_apart_the_same_way_by_both():
    one, two = leader(), candidate("other")
    elect(two, 0.0)
    elect(two, LISTEN)
    mine, theirs = one._mine, two._mine
    one.records([theirs], LISTEN + 1)
    two.records([mine], LISTEN + 1)
    assert [one.leads, two.leads].count(True) == 1


def watching(sequence: int = 2) -> Election:
    machine = candidate()
    machine.records([claim(sequence=sequence - 1)], 0.0)
    machine.records([claim(sequence=sequence)], LISTEN)
    return machine


def given_up(machine: Election, now: float = LISTEN) -> tuple[float, list]:
    """When the coordinator is given up if it answers no ping, and what was done until then."""
    done: list = []
    while machine.coordinator(now) is not None:
        assert now < LISTEN + T.alive - 1, "it is not the pings that told"
        now += 0.05
        done += machine.wake(now)
    return now, done


def test_a_standby_gives_up_a_coordinator_that_answers_no_ping_and_looks_before_it_takes_over():
    machine = watching()
    gone, done = given_up(machine)
    assert sum(isinstance(effect, Ping) for effect in done) == T.misses + 1 and gone - LISTEN < T.misses * T.retry + 1.0
    assert isinstance(done[-1], Look) and not machine.leads
    (record,) = said(machine.records([claim(sequence=2)], gone + 1.0))
    assert (record.role, record.term) == ("claim", 2)


def test_a_coordinator_that_has_written_since_is_not_replaced():
    machine = watching()
    gone, _ = given_up(machine)
    assert said(machine.records([claim(sequence=3)], gone + 1.0)) == [] and machine.coordinator(gone + 1.0) == "other"


def test_a_late_answer_clears_the_suspicion():
    machine = watching()
    gone, _ = given_up(machine)
    machine.pong("other", True, gone + 0.1)
    assert machine.coordinator(gone + 0.1) == "other" and not elect(machine, gone + 0.2, (claim(sequence=2),))


def test_a_coordinator_that_was_replaced_while_it_was_away_hears_so_from_the_one_that_did():
    old, new = leader(), candidate("other")
    new.records([old._mine], LISTEN)
    gone, _ = given_up(new)
    new.records([old._mine], gone + 1.0)
    assert new.leads and old.leads
    (ping,) = [effect for effect in new.wake(gone + 3.0) if isinstance(effect, Ping)]
    assert ping.claim is not None and ping.peer == "me"
    assert [type(effect) for effect in old.pinged(ping.claim, gone + 3.1)] == [Look] and old.claims and not old.leads, "anybody can say so"
    assert not old.pinged(ping.claim, gone + 3.2) and old.deadline(gone + 3.2) <= gone + 3.1 + old.timing.doubt
    assert new.pong("me", True, gone + 3.2) == [] and [effect.peer for effect in new.wake(gone + 4.7) if isinstance(effect, Ping)] == ["me"], "told again"
    patient = copy.deepcopy(old)
    patient.wake(gone + 3.1 + old.timing.stagger)
    assert patient.leads, "nobody else does, says the directory"
    assert [type(effect) for effect in patient.pinged(ping.claim, gone + 20.0)] == [Look] and patient.leads, "it does not stand aside so soon again"
    assert [record.role for record in said(old.records([ping.claim], gone + 3.5))] == ["released"] and not old.leads
    new.pong("me", False, gone + 3.2)
    assert not [effect for effect in new.wake(gone + 6.0) if isinstance(effect, Ping)]


def test_who_releases_its_claim_is_followed_by_the_best_of_the_rest():
    machine = candidate(score=(1,))
    better = Candidacy("better", "candidate", 0, 1, (5,))
    machine.records([claim(), better], LISTEN)
    assert machine.ranking(LISTEN) == ["better", "me"]
    gone = Candidacy("other", "released", 1, 2, (1,))
    machine.records([gone, better], LISTEN + 1)
    assert machine.coordinator(LISTEN + 1) is None and not elect(machine, LISTEN + 1, (gone, better))
    (record,) = elect(machine, LISTEN + 1 + T.stagger, (gone, better))
    assert record.role == "claim" and record.term == 2
