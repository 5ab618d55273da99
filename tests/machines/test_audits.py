"""Who is audited how often, and what follows. Promised is: a cheat is caught within 60 hops, one that cheats one time in ten within 600."""

from __future__ import annotations

import random

import pytest

from swarm.machines.audits import BAN, DOUBTS, FORGIVEN, LONGEST, NEW, PROVEN, REMEMBERED, USUAL, Audits

CHEAT, HONEST = "cheat", "honest"


def hops_until_caught(seed: int, share: float, known: int = 0) -> int:
    """Of a peer that has passed so many audits before it begins to cheat in some of its hops."""
    dice, audits = random.Random(seed), Audits()
    for _ in range(known):
        audits.passed(CHEAT)
    for hop in range(1, 10_000):
        cheats = dice.random() < share
        for number in audits.choose([HONEST, CHEAT], dice.random):
            if number == 1 and cheats:
                return hop
            audits.passed((HONEST, CHEAT)[number])
    raise AssertionError("never caught")


@pytest.mark.parametrize(("share", "promised"), [(1.0, 60), (0.1, 600)])
@pytest.mark.parametrize("known", [0, PROVEN], ids=["newcomer", "proven"])
def test_a_cheat_is_caught_within_the_promised_hops(share, promised, known):
    audits = Audits()
    for _ in range(known):
        audits.passed(CHEAT)
    assert 1 - (1 - audits.rate(CHEAT) * share) ** promised >= 0.95
    runs = sorted(hops_until_caught(seed, share, known) for seed in range(1000))
    assert sum(hops <= promised for hops in runs) >= 930, "950 but for luck"
    if share == 1.0 and not known:
        assert runs[950] <= 6, "newcomers are looked at more often"


def test_the_proven_are_audited_seldom_and_never_not_at_all():
    audits = Audits()
    assert audits.rate(HONEST) == NEW
    rates = []
    for _ in range(2 * PROVEN):
        audits.passed(HONEST)
        rates.append(audits.rate(HONEST))
    assert rates == sorted(rates, reverse=True) and rates[-1] == USUAL
    audits.doubted(HONEST, 0.0)
    assert audits.rate(HONEST) == NEW
    assert Audits(0.0).rate(HONEST) == 0.0 and Audits(1.0).rate(HONEST) == 1.0


def test_bans_end_and_grow_and_then_it_is_a_newcomer_again():
    audits, now = Audits(), 0.0
    for _ in range(PROVEN):
        audits.passed(CHEAT)
    lasts = []
    for _ in range(8):
        until = audits.caught(CHEAT, now)
        assert audits.caught(CHEAT, now + 1) == until, "it was banned already"
        assert audits.banned(until - 1) == {CHEAT} and not audits.banned(until) and audits.rate(CHEAT) == NEW
        lasts.append(until - now)
        now = until
    assert lasts[:3] == [BAN, 2 * BAN, 4 * BAN] and lasts[-1] == LONGEST


def test_who_does_not_account_for_its_work_is_banned_unless_it_passes_as_often():
    audits = Audits()
    assert [audits.doubted(CHEAT, 0.0) for _ in range(DOUBTS)] == [False] * (DOUBTS - 1) + [True]
    assert audits.banned(1.0) == {CHEAT}
    for _ in range(50):
        assert not audits.doubted(HONEST, 0.0)
        audits.passed(HONEST)
    assert audits.banned(1.0) == {CHEAT}


def test_who_is_at_odds_with_many_is_wrong_and_not_each_of_them():
    audits = Audits()
    for _ in range(10):  # with one alone nobody can tell
        assert not audits.doubted(CHEAT, 0.0, "neighbour 0") and not audits.doubted("neighbour 0", 0.0, CHEAT)
    assert audits.rate("neighbour 0") == NEW
    for number in range(1, DOUBTS):
        audits.doubted(f"neighbour {number}", 0.0, CHEAT)
        audits.doubted(CHEAT, 0.0, f"neighbour {number}")
    assert audits.banned(1.0) == {CHEAT}
    assert not audits._records["neighbour 0"].odds, "what a cheat said is not held against them"
    audits.doubted("neighbour 0", 1.0, CHEAT)
    assert not audits._records["neighbour 0"].odds


def at_odds_each(times: int, passes: int) -> Audits:
    """With so many neighbours, of whom each is new, and so many audits passed after each."""
    audits = Audits()
    for number in range(times):
        audits.doubted(HONEST, 0.0, f"throwaway {number}")
        for _ in range(passes):
            audits.passed(HONEST)
    return audits


def test_odds_of_long_ago_are_forgotten_and_those_of_who_lies_now_and_then_are_not():
    seldom = at_odds_each(20, FORGIVEN)
    assert not seldom.banned(1.0) and seldom.rate(HONEST) == USUAL
    assert at_odds_each(20, 9).banned(1.0) == {HONEST}
    assert at_odds_each(DOUBTS, FORGIVEN // 2).banned(1.0) == {HONEST}


def test_drawing_otherwise_by_lot_is_chance_once_in_a_while():
    audits = Audits()
    for _ in range(3):
        assert not audits.drew_otherwise(HONEST) and audits.rate(HONEST) == NEW and audits.is_new(HONEST)
        for _ in range(FORGIVEN):
            audits.passed(HONEST)
        assert audits.rate(HONEST) == USUAL and not audits.is_new(HONEST)
    assert not audits.drew_otherwise(CHEAT)
    for _ in range(FORGIVEN - 1):
        audits.passed(CHEAT)
    assert audits.drew_otherwise(CHEAT)


def test_made_up_identities_do_not_wash_out_who_is_banned():
    audits = Audits()
    audits.caught(CHEAT, 0.0)
    for number in range(2 * REMEMBERED):
        audits.passed(f"sybil {number}")
    assert CHEAT in audits.banned(1.0) and len(audits._records) <= REMEMBERED
