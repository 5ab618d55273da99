"""Who guesses, how far ahead, and what is learned from it: by virtual time."""

from __future__ import annotations

import random

import pytest

from swarm.core import Sampling
from swarm.machines.hop import STEP
from swarm.peer.drafting import (
    AT_ONCE,
    FARTHEST,
    INDEX_AT_ONCE,
    INDEXED,
    MEMORY,
    MOST_RINGS,
    SPARED,
    UNSEEN,
    WEIGHT,
    Drafter,
    Guesser,
    Lookup,
    Rings,
    Tempo,
    Told,
    ahead,
)


def looked_up(tokens: list[int], most: int = 4) -> list[int]:
    it = Lookup()
    return it.take(tokens, [], most) if it.offers(tokens, [], len(tokens)) else []


def test_lookup_says_what_followed_the_last_time():
    assert looked_up([1, 2, 3, 4, 5, 9, 2, 3]) == [4, 5, 9, 2]
    assert looked_up([1, 2, 7, 1, 2, 8, 1, 2]) == [8, 1, 2, 8], "the later of two"
    assert looked_up([1, 2, 3, 4]) == [] == looked_up([1, 2, 1]) == looked_up([])


def test_the_longest_match_counts():
    assert looked_up([5, 1, 2, 3, 4, 7, 0, 3, 4, 8, 0, 1, 2, 3, 4], 1) == [7]


def test_a_period_is_followed_beyond_what_is_there():
    assert looked_up([1, 2, 3] * 3, 10) == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]


def test_fresh_tokens_count_as_if_they_were_there():
    it = Lookup()
    assert it.offers([1, 2, 3, 9, 1], [2], 6) == "lookup 2"
    assert it.take([1, 2, 3, 9, 1], [2], 3) == [3, 9, 1]


def test_a_run_goes_on_while_its_guesses_are_on_their_way_and_not_after_a_wrong_one():
    it, tokens = Lookup(), [1, 2, 3, 4, 5, 6, 1, 2]
    assert it.offers(tokens, [], 8)
    tokens += it.take(tokens, [], 2)
    assert tokens[8:] == [3, 4] and it.offers(tokens, [], 8) and it.take(tokens, [], 2) == [5, 6]
    it.missed(9)
    assert it.offers(tokens[:9], [], 9) is not None and it.offers([*tokens[:9], 7], [], 10) is None
    it = Lookup()
    it.offers(tokens[:8], [], 8)
    it.take(tokens[:8], [], 2)
    it.missed(8)
    assert it.offers([*tokens[:8], 9, 9], [], 9) is None, "one beyond it, somebody else's guess stands now"


def test_a_text_that_is_edited_is_copied_on_behind_what_was_changed():
    source = list(range(100, 140))
    it, tokens = Lookup(), [*source, 1, 2, *source[:2]]
    assert it.offers(tokens, [], 44) and it.take(tokens, [], 8) == source[2:10]
    it.missed(50)
    tokens += source[2:8]
    assert it.offers(tokens, [7], 51) == "lookup 1" and it.take(tokens, [7], 4) == source[9:13]
    assert it.offers([*tokens, 7, *source[9:13]], [], 53) == "lookup 2" and it.take([*tokens, 7, *source[9:13]], [], 1) == source[13:14]
    it.missed(51)
    assert it.offers([*tokens, 7], [8], 52) is None, "it is another text by now"


def test_behind_what_was_changed_means_just_behind_it():
    source = list(range(100, 140))
    for cut, then in ((50, [7, 8]), (40, [*range(11)])):
        it, tokens = Lookup(), [*source, 1, 2, *source[:2]]
        assert it.offers(tokens, [], 44) and it.take(tokens, [], 8)
        tokens += source[2:8]
        it.missed(50)
        if cut < 50:
            it.missed(cut)
        assert it.offers([*tokens[:cut], *then], [], cut + len(then)) is None


def test_where_a_change_leads_to_a_text_that_is_known_that_is_copied():
    it, tokens = Lookup(), [1, 2, 3, 4, 5, 6, 7, 0, 9, 4, 5, 8, 8, 0, 1, 2, 3]
    assert it.offers(tokens, [], 17) and it.take(tokens, [], 3) == [4, 5, 6]
    it.missed(19)
    assert it.offers([*tokens, 4, 5], [8], 20) == "lookup 2" and it.take([*tokens, 4, 5], [8], 2) == [8, 0], "three tokens say so"


def test_nothing_is_looked_up_behind_a_guess_of_somebody_else():
    assert Lookup().offers([1, 2, 3, 1, 2], [], 4) is None


def test_a_history_that_was_cut_misleads_nobody():
    it = Lookup()
    it.offers([1, 2, 3, 4, 5], [], 5)
    it.missed(2)
    tokens = [1, 2, 9, 9, 3, 4]
    assert it.offers(tokens, [], 6) is None
    assert it.offers([*tokens, 1, 2], [], 8) and it.take([*tokens, 1, 2], [], 1) == [9]


def test_an_index_does_not_grow_with_every_history_that_was_cut():
    it = Lookup()
    for begin in range(0, 40 * SPARED, SPARED):
        it.offers(list(range(begin, begin + SPARED)), [], SPARED)
        it.missed(0)
    assert len(it._index) < 5 * 3 * SPARED
    assert it.offers([1, 2, 3, 4, 1, 2], [], 6) and it.take([1, 2, 3, 4, 1, 2], [], 1) == [3], "it begins anew"


def test_a_long_prompt_is_taken_in_pieces():
    tokens = [at % 500 for at in range(2 * INDEX_AT_ONCE)]
    it = Lookup()
    assert it.offers(tokens, [], len(tokens)) is None
    assert it.offers(tokens, [], len(tokens)) is not None
    before = Lookup()
    before.read(tokens, len(tokens))
    assert before.offers(tokens, [], len(tokens)) is not None, "there was a moment to look at some of it"


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_a_search_through_all_of_it_finds(seed):
    """Whatever is told in one go or token by token, some of it as what is to follow."""
    dice = random.Random(seed)
    text = [dice.randrange(1 + seed) for _ in range(300)]
    it, end = Lookup(), dice.randrange(100)
    while end < len(text):
        held = dice.randint(max(end - 3, 0), end)
        found = next((at for length in INDEXED for at in range(end - 1, length - 1, -1) if text[at - length : at] == text[end - length : end]), None)
        tokens, fresh = text[:held], text[held:end]
        assert (it.offers(tokens, fresh, end) is None) == (found is None)
        if found is not None:
            assert it.take(tokens, fresh, 5) == [*text[found:end] * 5][:5]
        end += dice.choice((1, 1, 1, 8, 40))


def test_what_one_is_told_holds_only_where_it_fits():
    it = Told("client")
    it.tell(3, [7, 8, 9])
    assert it.offers([1, 2], [], 2) is None and it.offers([1, 2, 3], [], 3) == "client"
    assert it.take([1, 2, 3], [], 2) == [7, 8]
    assert it.offers([1, 2, 3], [7], 4) == "client" and it.take([1, 2, 3], [7], 5) == [8, 9]
    assert it.offers([1, 2, 3, 6], [], 4) is None and it.offers([1, 2, 3, 7, 8, 9], [], 6) is None


def test_tempo_knows_the_ring_by_its_quickest_trips_and_the_hop_by_the_slowest_one():
    it = Tempo()
    it.left(10, 11, 1.0)
    assert it.home(11, (2000, 5000), 1.2) == 1 and it.ring == pytest.approx(0.2) and it.hop == pytest.approx(0.005)
    it.left(11, 19, 2.0)
    it.left(19, 20, 2.0)
    assert it.home(12, (8000, 4000), 2.3) == 8 and 0.2 < it.ring < 0.21 and 0.001 < it.hop < 0.005
    it.left(19, 20, 3.0)  # that one was taken back
    assert it.home(20, (), 3.2) == 1 and it.home(50, (), 4.0) == 0


def test_a_step_whose_end_was_taken_back_is_not_timed_again():
    it = Tempo()
    it.left(10, 18, 1.0)
    assert it.home(11, (8000,), 1.1) == 8
    it.left(13, 14, 1.1)  # the guess at 13 was wrong
    assert it.home(14, (8000,), 1.2) == 1 and it.ring == pytest.approx(0.1) and it.hop > 0.001


def came_home(*steps: tuple[float, float, int]) -> Tempo:
    """After a first step, which took 0.1 s of which hops computed 5 ms at most: when others left and came home, and how many positions they were."""
    it, events, start = Tempo(), [], 1
    it.left(0, 1, 0.0)
    it.home(1, (5000,), 0.1)
    for left, home, count in steps:
        events += [(left, 0, start, count), (home, 1, start, count)]
        start += count
    for when, is_home, begin, count in sorted(events):
        if is_home:
            it.home(begin + 1, (5000,), when)
        else:
            it.left(begin, begin + count, when)
    return it


def test_how_far_apart_steps_come_home_that_left_together_tells_of_a_line_that_is_slower_than_computing():
    it = came_home((1.0, 1.2, 8), (1.0, 1.28, 8))
    assert it.line == pytest.approx(0.01) == it.times[1] and it.seen and it.ring < 0.106
    assert came_home((1.0, 1.2, 8), (1.1, 1.3, 8)).line == 0.0, "as far apart as they left"
    assert came_home((1.0, 1.2, 8), (1.1, 1.304, 8)).line == 0.0, "or no more than a hop's moment"
    assert came_home((1.0, 1.2, 1), (1.0, 1.28, 8)).line == 0.0, "a longer one is longer on its way"
    assert came_home((1.0, 1.2, 1), (1.0, 1.28, 1)).line == 0.0, "of one position it may be chance"
    assert came_home((1.0, 1.2, 8), (1.3, 1.58, 8)).line == 0.0, "they were not on their way together"
    assert came_home((1.0, 1.2, 8), (1.0, 1.28, 8), (1.2, 1.3, 8)).line == pytest.approx((0.01 + 0.0025) / 2), "it is quicker than it seemed"
    other = came_home((1.0, 1.2, 8), (1.0, 1.28, 8))
    other.opened(None, True)
    assert not other.line and not other.seen, "of another ring it says nothing"
    it.void()
    it.left(90, 98, 1.2)
    it.left(98, 106, 1.2)
    assert it.home(91, (5000,), 3.0) and it.line == pytest.approx(0.01), "nothing before it is on its way"


def test_a_step_that_waited_for_another_says_nothing_of_the_ring():
    assert came_home((1.0, 1.2, 8), (1.0, 1.9, 8)).ring == came_home((1.0, 1.2, 8)).ring < came_home((1.0, 1.2, 8), (1.7, 1.9, 8)).ring


def test_no_more_than_a_few_steps_leave_before_it_is_known_what_the_lines_carry():
    rings, clock = Rings(), Clock()
    text = [*range(100, 400), *range(100, 110)]

    def begun() -> Guesser:
        it = Guesser([Lookup()], clock, lambda: 0, 1000, rings)
        it.opened(Sampling(), 1000, "ring")
        return it

    it = begun()
    it.home(0, ())
    it._tempo._flows = True
    it.left(309, 310)
    clock.now += 1.0
    it.home(310, (1000,))
    assert len(it.propose(text, [], 310, 1000)) == len(begun().propose(text, [], 310, 1000)) == UNSEEN
    for begin in (310, 318):
        it.left(begin, begin + 8)
    clock.now += 1.0
    for begin in (310, 318):
        it.home(begin + 1, (1000,))
    assert len(begun().propose(text, [], 310, 1000)) > UNSEEN, "it is known of this ring"


@pytest.mark.parametrize(
    ("ring", "hop", "acceptance", "others", "expected"),
    [
        (0.1, 0.005, 0.99, 0, 19),  # as many as the ring has room for
        (0.1, 0.005, 0.5, 0, 4),  # 0.5 ** 4 of a ring trip is still worth the time of a position
        (0.1, 0.005, 0.01, 0, 0),
        (0.1, 0.005, 0.99, 7, 1),  # eight share the room
        (0.03, 0.01, 0.9, 7, 0),
        (0.01, 0.01, 0.9, 0, 0),
        (0.0, 0.0, 0.9, 0, 0),
    ],
)
def test_how_far_ahead(ring, hop, acceptance, others, expected):
    assert ahead(ring, hop, hop, acceptance, others) == expected


def test_steps_that_others_share_leave_less_room():
    assert [ahead(0.1, 0.005, 0.02, 0.99, others) for others in (0, 1, 4)] == [19, 1, 0]


def test_of_how_few_guesses_an_acceptance_is_known_says_that_it_may_be_higher():
    """Eight guesses at 0.6 would be half a trip's room in vain: the next ones would wait for these to come home."""
    assert [ahead(0.1, 0.0025, 0.0025, 0.6, 0, seen) for seen in (WEIGHT, 20, 10**6)] == [24, 8, 7]
    assert ahead(0.1, 0.0025, 0.0025, 0.9, 0, WEIGHT) == 39, "still no more than there is room for"
    assert ahead(0.1, 0.05, 0.05, 0.4, 0, WEIGHT) == 0, "and the first must pay by what is known"


def test_nobody_reckons_further_ahead_than_anybody_wants():
    """A head that answers late makes the ring as long as it likes: one step is not to cost a first hop a million turns of a loop."""
    assert ahead(1e6, 1e-4, 1e-4, 0.995, 0, MEMORY) <= FARTHEST == ahead(1e6, 1e-6, 1e-6, 0.995, 0, WEIGHT)


def test_a_prompt_tells_of_the_ring_before_the_first_step_has_gone_round():
    it = Tempo()
    it.left(0, 20, 1.0, told=True)
    it.took(0, 0.02)
    assert it.home(20, (20_000, 10_000, 30_000), 1.2) == 0, "which is no step of the ring"
    assert it.step == it.hop == pytest.approx(0.03) and it.ring == pytest.approx(0.15) and it.found is None
    it.left(20, 21, 2.0)
    assert it.home(21, (4000, 5000, 4000), 2.1) == 1
    assert it.found == (it.ring, it.hop, it.step, False) == pytest.approx((0.1, 0.005, 0.005, False)), "what is known of a step counts alone"


def test_what_starts_before_a_token_is_home_is_not_timed():
    """It may have waited for the chain to open."""
    it = Tempo()
    it.opened((0.1, 0.005, 0.005, True), True)
    it.left(0, 20, 1.0, told=True)
    it.left(20, 24, 1.0)
    assert it.home(20, (20_000,), 1.5) == 0 and it.home(21, (6000,), 1.5) == 4
    assert it.found == (0.1, 0.005, 0.005, True)
    it.left(24, 25, 2.0)
    assert it.home(25, (5000,), 2.08) == 1 and it.ring < 0.1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def guessing(*drafters, others: int = 0, most: int = 100) -> tuple[Guesser, Clock]:
    """A ring of 0.1 s whose hops take 5 ms."""
    clock = Clock()
    it = Guesser(drafters, clock, lambda: others, most)
    it.left(7, 8)
    clock.now = 0.1
    it.home(8, (5000,))
    return it, clock


def test_the_time_of_a_step_is_not_below_what_our_own_hop_took_whatever_the_last_one_says():
    """Else it could have the ring flooded with guesses."""
    honest, lying = Tempo(), Tempo()
    for tempo, said in ((honest, (5000, 4000)), (lying, (1, 1))):
        for at in range(8):
            tempo.left(8 * at, 8 * at + 8, at)
            tempo.took(8 * at, 0.003)
            tempo.took(8 * at + 4, 0.002)
            tempo.home(8 * at + 8, said, at + 0.1)
    assert (lying.step, lying.hop) == (honest.step, honest.hop) == (pytest.approx(0.005), pytest.approx(0.005 / 8))


def test_what_was_on_its_way_when_the_chain_broke_says_nothing_of_the_ring():
    it, clock = guessing(Lookup())
    it.left(8, 9)
    it.missed(8)
    clock.now += 30.0
    assert it.home(9, (5000,)) == 0 and it._tempo.ring == pytest.approx(0.1)


class Slow(Drafter):
    """Has so many guesses by now."""

    def __init__(self, count: int) -> None:
        self.count = count

    def offers(self, tokens, fresh, sure):
        return "model" if self.count else None

    def ready(self, tokens, fresh):
        return self.count

    def take(self, tokens, fresh, most):
        taken, self.count = min(most, self.count), max(self.count - most, 0)
        return [9] * taken


def test_guesses_that_come_one_by_one_are_gathered():
    slow = Slow(2)
    it, clock = guessing(slow)
    it.left(15, 16)
    assert it.propose([0] * 15, [1], 16, 100) == [9, 9], "with a token that leaves anyway"
    slow.count = 2
    assert it.propose([0] * 16, [], 16, 100) == []
    clock.now += 0.1 / AT_ONCE + 0.001
    assert it.propose([0] * 16, [], 16, 100) == [9, 9]
    it.left(16, 18)
    slow.count = STEP
    assert len(it.propose([0] * 16, [], 16, 100)) > 2, "a whole step need not wait"


REPEATS = [1, 2, 3, 4, 5, 6, 7, 8] * 2


def test_what_was_found_of_one_ring_is_not_kept_for_another():
    """A chain is replaced: the old times will do until a step went round the new one."""
    rings, clock = Rings(), Clock()
    it = Guesser([Lookup()], clock, lambda: 0, 100, rings)

    def trip(at: int, seconds: float) -> None:
        it.left(at, at + 1)
        clock.now += seconds
        it.home(at + 1, (1000,))

    it.opened(Sampling(), 100, "near")
    for at in (6, 7, 8):
        trip(at, 0.01)
    it.missed(8)
    it.opened(Sampling(), 100, "far")
    it.left(0, 9, told=True)
    clock.now += 0.8
    it.home(9, (1000,))
    assert rings.known("far") is None and rings.known("near")[0] == pytest.approx(0.01)
    assert it.propose(REPEATS, [], 16, 10), "something is guessed meanwhile"
    trip(9, 0.8)
    assert rings.known("far")[0] == pytest.approx(0.8)


def test_a_session_begins_with_what_others_have_found_of_its_ring():
    rings, clock = Rings(), Clock()
    first, second, elsewhere = (Guesser([Lookup()], clock, lambda: 0, 100, rings) for _ in range(3))
    first.opened(Sampling(), 100, "ring")
    second.opened(Sampling(), 100, "ring")
    assert not second.propose(REPEATS, [], 16, 10)
    first.home(7, ())
    for at in (7, 8):
        first.left(at, at + 1)
        clock.now += 0.1
        first.home(at + 1, (5000,))
    second.opened(Sampling(), 100, "ring")
    elsewhere.opened(Sampling(), 100, "another")
    assert second.propose(REPEATS, [], 16, 10) and not elsewhere.propose(REPEATS, [], 16, 10)
    for ring in range(MOST_RINGS):
        rings.found(ring, (1.0, 1.0, 1.0, True))
    assert rings.known("ring") is None and rings.known(0) is not None, "of the oldest it knows no more"


def test_no_guess_before_a_ring_was_timed_nor_for_who_wants_none_nor_where_others_need_the_room():
    assert not Guesser([Lookup()], Clock(), lambda: 0).propose(REPEATS, [], 16, 10)
    assert guessing(Lookup())[0].propose(REPEATS, [], 16, 10)
    assert not guessing(Lookup(), most=0)[0].propose(REPEATS, [], 16, 10)
    assert len(guessing(Lookup(), most=3)[0].propose(REPEATS, [], 16, 10)) == 3
    assert len(guessing(Lookup())[0].propose(REPEATS, [], 16, 2)) == 2
    assert not guessing(Lookup(), others=19)[0].propose(REPEATS, [], 16, 10)


def test_the_prompt_of_a_client_that_wants_no_guesses_is_not_looked_through():
    for most in (0, 9):
        it = Guesser([lookup := Lookup()], Clock(), lambda: 0, most)
        it.read(REPEATS, 16)
        assert bool(lookup._index) == bool(most)


def test_where_there_is_no_room_nobody_is_asked():
    """A model that is asked computes, on the processor that others need."""

    class Asked(Drafter):
        def offers(self, tokens, fresh, sure):
            raise AssertionError("asked")

        def take(self, tokens, fresh, most):
            raise AssertionError("taken")

    assert guessing(Asked(), others=19)[0].propose(REPEATS, [], 16, 10) == []
    with pytest.raises(AssertionError, match="asked"):
        guessing(Asked())[0].propose(REPEATS, [], 16, 10)


def test_guesses_on_their_way_count_as_ahead():
    it, _ = guessing(Lookup())
    tokens = list(REPEATS)
    tokens += (first := it.propose(tokens, [], 16, 100))
    assert first and not it.propose(tokens, [], 16, 100)
    for position in range(16, 19):
        it.judged(position, True)
    assert it.propose(tokens, [], 19, 100)


def test_who_is_wrong_is_believed_less_and_who_is_right_more():
    it, _ = guessing(Lookup())
    tokens = list(REPEATS)
    kind = Lookup().offers(tokens, [], 16)
    before = it.acceptance(kind)
    many = len(it.propose(tokens, [], 16, 100))
    it.judged(16, False)
    it.missed(16)
    assert it.acceptance(kind) < before and len(it.propose(tokens, [], 16, 100)) < many and (it.right, it.wrong) == (0, 1)
    for position in range(16, 18):
        it.judged(position, True)
    assert it.right == 2
    it.judged(99, True)
    it.missed(18)
    it.judged(18, True)
    assert it.right == 2, "nobody has guessed these, or what was guessed is taken back"


def test_of_two_drafters_the_one_that_is_right_more_often_counts():
    told = Told("client")
    told.tell(16, [9, 9, 9, 9, 9, 9])
    it, _ = guessing(Lookup(), told)
    kind = Lookup().offers(REPEATS, [], 16)
    assert it.propose(REPEATS, [], 16, 1) == [1] and it.acceptance(kind) > it.acceptance("client")
    for _ in range(5):
        it.missed(16)
        it.judged(16, it.propose(REPEATS, [], 16, 1) == [9])
    it.missed(16)
    assert it.propose(REPEATS, [], 16, 1) == [9]
