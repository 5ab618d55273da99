"""Moving, in virtual time: when a peer looks, what it does before it unloads anything, what makes it stay. Places themselves are tested with routing."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from swarm.core import Span
from swarm.errors import DoesNotFit, HubUnreachable, RemoteError
from swarm.peer.moving import CALLED_EVERY, HASTE, LOOK_EVERY, NEWS, Mover
from swarm.routing.table import PeerView
from tests.net.virtual import run

HERE, THERE = Span(0, 3), Span(3, 6)
ME = PeerView("me", spans=(HERE,))
CROWDED = [PeerView("a", spans=(HERE,)), PeerView("b", spans=(HERE,)), PeerView("c", spans=(THERE,))]
"""Whoever of three goes to help the one makes the swarm faster and safer."""

RIVAL = replace(CROWDED[0], state="joining", spans=(THERE,))
"""Somebody with a smaller id goes there first."""

BARE = [view for view in CROWDED if view.peer == "c"]
"""All others who served what we serve are gone."""


async def at_once(function, *arguments):
    return function(*arguments)


class Home:
    """A peer that writes down what is done with it. `sees` is what it reads, the last of it again and again; `told` what may go wrong."""

    def __init__(self, *sees, empties=True, fails=(), deaf=()) -> None:
        self.did, self.sees, self.empties, self.fails, self.deaf = [], list(sees), empties, dict(fails), deaf

    def _note(self, *what) -> None:
        self.did.append(what)
        if what[0] in self.deaf:
            raise RemoteError("nobody hears us")

    def view(self):
        return ME

    async def neighbours(self):
        now = self.sees.pop(0) if len(self.sees) > 1 else self.sees[0]
        if now is None:
            raise RemoteError("the directory cannot be read")
        return now

    async def aim(self, place):
        self._note("aims", place, asyncio.get_running_loop().time())

    async def stay(self):
        self._note("stays")

    async def empty(self, patience):
        self._note("empties", asyncio.get_running_loop().time())
        return self.empties

    async def settle(self, place, loader):
        self._note("settles", place)
        if place in self.fails:
            raise self.fails[place]


class Loader:
    costs = (1,) * 6

    def __init__(self, home, broken=False, slow=0.0):
        self.home, self.broken, self.slow = home, broken, slow

    def budget(self, held):
        assert held == HERE
        return 3

    async def fetch(self, span):
        self.home.did.append(("fetches", span))
        await asyncio.sleep(self.slow)
        if self.broken:
            raise DoesNotFit("no disk")


def mover(home, loader=None, dice=None) -> Mover:
    return Mover(home, loader or Loader(home), 6, clock=lambda: asyncio.get_running_loop().time(), think=at_once, dice=dice or random.Random(1))


def moved(home, loader=None):
    """Whether one look makes it move, and what it did."""
    return run(mover(home, loader).look()), [what[0] for what in home.did]


def test_a_move_fetches_says_so_waits_for_news_empties_and_only_then_reloads():
    home = Home(CROWDED)
    assert moved(home) == (True, ["fetches", "aims", "empties", "settles", "stays"])
    assert [what[1] for what in home.did if what[0] in ("fetches", "aims", "settles")] == [THERE] * 3
    assert home.did[2][1] - home.did[1][2] == NEWS


def test_where_other_programs_have_taken_the_memory_it_stays_and_serves():
    home = Home(CROWDED)
    loader = Loader(home)
    loader.budget = lambda held: 0
    assert moved(home, loader) == (False, [])


def test_who_is_well_placed_does_nothing():
    assert moved(Home(BARE)) == (False, [])
    assert moved(Home([PeerView("c", spans=(THERE,)), PeerView("d", spans=(THERE,))])) == (False, []), "nobody else serves what we serve"


@pytest.mark.parametrize(
    "sees, did",
    [
        ((CROWDED, BARE), ["fetches"]),
        ((CROWDED, CROWDED, [RIVAL, *CROWDED[1:]]), ["fetches", "aims", "stays"]),
        ((CROWDED, CROWDED, BARE), ["fetches", "aims", "stays"]),
        ((CROWDED, CROWDED, None), ["fetches", "aims", "stays"]),
        ((CROWDED, CROWDED, CROWDED, BARE), ["fetches", "aims", "empties", "stays"]),
        ((CROWDED, CROWDED, CROWDED, None), ["fetches", "aims", "empties", "stays"]),
    ],
    ids=["others left while it fetched", "a rival came first", "others left since", "no news", "others left while it emptied", "no news then"],
)
def test_what_has_become_wrong_meanwhile_is_not_done(sees, did):
    assert moved(Home(*sees)) == (False, did)


def test_answers_that_nobody_else_takes_are_reason_to_stay():
    assert moved(Home(CROWDED, empties=False)) == (False, ["fetches", "aims", "empties", "stays"])


def test_what_cannot_be_fetched_or_said_is_not_moved_for():
    home = Home(CROWDED)
    assert moved(home, Loader(home, broken=True)) == (False, ["fetches"])
    assert moved(Home(CROWDED, deaf=("aims",))) == (False, ["fetches", "aims", "stays"])


def test_where_the_new_place_cannot_be_loaded_the_old_one_is_and_it_stays_for_good():
    home = Home(CROWDED, fails={THERE: DoesNotFit("no room")})
    run(asyncio.wait_for(mover(home).run(), 10 * LOOK_EVERY))  # it ends
    assert [what[:2] for what in home.did[3:]] == [("settles", THERE), ("settles", HERE), ("stays",)]


@pytest.mark.parametrize("error", [DoesNotFit("no room"), HubUnreachable("files of the old layers were evicted")])
def test_where_neither_can_be_loaded_the_peer_ends(error):
    with pytest.raises(type(error)):
        run(mover(Home(CROWDED, fails={THERE: error, HERE: error})).run())


def looks(seconds, hears=None, called=False):
    """When it looked, while `hears` was told to it every second, or it was called."""
    home = Home([])

    async def main():
        it, loop, times = mover(home), asyncio.get_running_loop(), []

        async def look():
            times.append(loop.time())

        it.look = look
        task = asyncio.create_task(it.run())
        while loop.time() < seconds:
            if hears is not None:
                it.heard(hears)
            if called:
                it.called()
            await asyncio.sleep(1.0)
        task.cancel()
        return times

    return run(main())


def test_it_looks_at_random_moments_and_soon_where_something_is_served_by_nobody():
    calm, whole, hole = looks(40 * LOOK_EVERY), looks(40 * LOOK_EVERY, CROWDED), looks(400.0, CROWDED[:2])
    assert 50 < len(calm) < 120 and whole == calm
    assert len(hole) > 400.0 / (HASTE + 1) and len(set(hole)) == len(hole)
    leaving = [CROWDED[0], replace(CROWDED[2], state="leaving")]
    assert looks(400.0, leaving) == hole, "who is leaving counts no more"


def test_it_looks_when_it_is_called_but_not_all_the_time():
    called = looks(400.0, called=True)
    assert called[0] <= 1.0 and 400.0 / (CALLED_EVERY + 2) <= len(called) <= 400.0 / CALLED_EVERY + len(looks(400.0)) + 1


class Startled(Home):
    """Something goes wrong that nobody foresaw when it looks for the time of this number."""

    def __init__(self, at: int) -> None:
        super().__init__(CROWDED)
        self.at = at

    async def neighbours(self):
        self.at -= 1
        return None if not self.at else await super().neighbours()


@pytest.mark.parametrize(("at", "did"), [(1, []), (2, ["fetches"]), (3, ["fetches", "aims", "stays"]), (4, ["fetches", "aims", "empties", "stays"])])
def test_a_bug_over_what_others_announce_leaves_a_peer_where_it_is(at, did, caplog):
    assert moved(Startled(at)) == (False, did)
    assert "a bug in looking" in caplog.text
