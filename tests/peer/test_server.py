"""A serving peer's loops, in virtual time: when it announces itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import groupby
from math import inf

import pytest

from swarm.core import Span
from swarm.errors import DoesNotFit, RemoteError
from swarm.peer.holding import Holding
from swarm.peer.offer import Offer
from swarm.peer.server import GAUGE_EVERY, MEASURE_EVERY, TICK, About, Peer
from swarm.wire import RENEW_EVERY, Claim, Needed, decode_announcement, encode
from tests.net.helpers import announcement
from tests.net.virtual import run
from tests.peer.test_hops import Engine as Jobs
from tests.peer.test_hops import Links as Sent


class Links(Sent):
    def subscribe(self, receive, lost): ...

    async def measure(self, peer):
        return 0.01

    async def gauge(self, peer):
        self.gauged = [*getattr(self, "gauged", []), (peer, asyncio.get_running_loop().time())]
        return {"a": 2e6, "b": 3e6}.get(peer, inf)


class Engine(Jobs):
    steps = tokens = 0

    def load(self, model):
        self.model = model

    async def unload(self):
        assert not self.open_keys
        self.model = None

    async def run(self):
        await asyncio.Event().wait()


class Directory:
    """Where others are found beside whoever spoke last."""

    def __init__(self, others=()):
        self.announced, self.others = [], others

    async def announce(self, record):
        self.announced.append((asyncio.get_running_loop().time(), record))

    async def read(self, config_hash):
        return [*self.others, *(record for _, record in self.announced[-1:])]


def wall():
    return 10.0**9 + asyncio.get_running_loop().time()


async def serving(seconds, *, asleep=0.0, sign=None, draft=""):
    """A peer that serves for so long, and in the middle of it sleeps, as a frozen machine does: its clock goes on, its timers do not."""
    loop, directory = asyncio.get_running_loop(), Directory()
    offer = Offer("rev", "float32", 4, (Span(0, 4),), 100, version=3)
    about = About("toy", "c0ffee", ("addr",), region="here", draft=draft)
    peer = Peer(
        Links(), directory, Engine(), Holding("weights", offer, 0.01, 0.001, 1.0, 100), about, clock=loop.time, wall=wall, verify=lambda *_: True,
        sign=sign, think=lambda function, *arguments: None,
    )  # fmt: skip
    task = asyncio.create_task(peer.serve())
    await asyncio.sleep(seconds / 2)
    loop.now += asleep
    await asyncio.sleep(seconds / 2)
    task.cancel()
    return directory.announced


def test_it_renews_its_announcement_in_time_and_says_what_planning_needs():
    announced = run(serving(4.5 * RENEW_EVERY))
    assert [round(when / RENEW_EVERY, 2) for when, _ in announced] == [0, 1, 2, 3, 4]
    record = announced[-1][1]
    assert (record.region, record.span_version, record.busy, record.claim) == ("here", 3, 0, None)
    assert [one.sequence for _, one in announced] == sorted({one.sequence for _, one in announced})


def test_a_draft_model_with_a_long_name_leaves_the_announcement_readable():
    record = run(serving(1.0, draft="d" * 255))[0][1]
    assert decode_announcement(encode(record)).draft == "d" * 128


def test_a_machine_that_was_asleep_says_at_once_that_it_is_back():
    announced = run(serving(10, asleep=4.0))
    assert [when for when, _ in announced][:2] == [0, announced[1][0]] and 9 <= announced[1][0] <= 9 + 2 * TICK and len(announced) == 2


def test_a_candidate_says_so_and_soon_that_it_coordinates():
    announced = run(serving(40, sign=lambda data: b"signed"))
    assert announced[0][1].claim.role == "candidate" and announced[-1][1].claim.role == "claim" and announced[-1][1].claim.term == 1


class Loader:
    """Any two components fit, and load within 5 s."""

    costs = (1,) * 4

    def __init__(self, engine):
        self.engine = engine

    def budget(self, held):
        return 2

    async def fetch(self, span): ...

    async def load(self, span):
        assert self.engine.model is None, "two parts in memory at once"
        await asyncio.sleep(5.0)
        return Holding(f"weights of {span.start}:{span.stop}", replace(OFFER, spans=(span,)), 0.02, 0.002, 3.0, 50)


OFFER = Offer("rev", "float32", 4, (Span(0, 2),), 100, version=3)
ABOUT = About("toy", "c0ffee", ("addr",))


async def at_once(function, *arguments):
    return function(*arguments)


def peer_of(directory, engine=None, links=None, about=ABOUT, **more) -> Peer:
    """One that holds OFFER."""
    holding = Holding("weights", OFFER, 0.01, 0.001, 1.0, 100)
    clock = asyncio.get_running_loop().time
    return Peer(links or Links(), directory, engine or Engine(), holding, about, clock=clock, wall=wall, verify=lambda *_: True, **more)


def test_it_moves_and_says_at_every_step_what_it_serves():
    """Three serve one half and one serves the other; whoever goes says where to under its old version, and has a new one once the old weights are gone."""
    others = [announcement(peer, spans=spans, revision="rev") for peer, spans in (("a", ((0, 2),)), ("b", ((0, 2),)), ("c", ((2, 4),)))]
    changes, improved = [], []

    async def main():
        directory, engine = Directory(others), Engine()

        async def improve():
            improved.append(engine.model)
            await asyncio.sleep(20.0)

        about = replace(ABOUT, draft="small")
        more = {"loader": Loader(engine), "improve": improve, "changed": lambda: changes.append(peer.status())}
        peer = peer_of(directory, engine=engine, about=about, think=at_once, **more)
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(300.0)
        await peer.drain(1.0)
        task.cancel()
        return engine.model, [record for _, record in directory.announced]

    model, said = run(main())
    assert model == "weights of 2:4" and improved == ["weights", model]
    steps = [step for step, _ in groupby((record.state, record.spans[0], record.span_version == 3) for record in said)]
    assert steps == [
        ("online", (0, 2), True), ("joining", (2, 4), True), ("joining", (2, 4), False), ("online", (2, 4), False), ("leaving", (2, 4), False),
        ("left", (2, 4), False),
    ]  # fmt: skip
    assert len({record.span_version for record in said}) == 2 and said[-1].span_version > 3
    assert {(record.spans[0], record.draft) for record in said} == {((0, 2), "small"), ((2, 4), "")}, "a draft model is of use to a first hop alone"
    assert (said[-1].cache_tokens, said[-1].head_weight) == (50, 3.0) and said[-1].decode > 0.015
    assert [(status.state, status.aim) for status in changes] == [
        ("online", None), ("joining", Span(2, 4)), ("joining", Span(2, 4)), ("online", None), ("leaving", None),
    ]  # fmt: skip


@pytest.mark.parametrize("others, limit, said", [("ab", None, 3e6), ("ab", 1e6, 1e6), ("abz", None, 0.0), ("abz", 5e6, 5e6), ("", None, 0.0), ("", 1e6, 1e6)])
def test_it_says_what_it_can_send_as_far_as_that_is_known_and_slow(others, limit, said):
    """By the best of three, since what is slow may be theirs; and not more than its owner allows."""

    async def main():
        links = Links()
        directory = Directory([announcement(peer, revision="rev") for peer in others])
        about = About("toy", "c0ffee", ("addr",), max_upload=limit)
        peer = peer_of(directory, links=links, about=about)
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(1.5 * GAUGE_EVERY)
        task.cancel()
        return directory.announced[-1][1].upload, getattr(links, "gauged", [])

    upload, gauged = run(main())
    asked = [peer for peer, _ in gauged]
    assert upload == said and sorted(asked[: len(others)]) == sorted(asked[len(others) :]) == sorted(others)


def test_who_is_gauged_cannot_be_foretold():
    """Or whoever makes up the right peer ids would say what a peer can send."""

    async def main():
        links = Links()
        directory = Directory([announcement(peer, revision="rev") for peer in "abcdefgh"])
        peer = peer_of(directory, links=links)
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(9.5 * GAUGE_EVERY)
        task.cancel()
        return {peer for peer, _ in links.gauged}

    assert run(main()) == set("abcdefgh")


def test_what_it_alone_serves_is_no_hole():
    """Or it would read the directory every few seconds, for nothing."""

    class Counted(Directory):
        reads = 0

        async def read(self, config_hash):
            self.reads += 1
            return await super().read(config_hash)

    async def main():
        directory, engine = Counted([announcement("c", revision="rev", spans=((2, 4),))]), Engine()
        peer = peer_of(directory, engine=engine, think=at_once, loader=Loader(engine))
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(1200.0)
        task.cancel()
        return directory.reads

    assert run(main()) < 1200 / MEASURE_EVERY + 30


def test_where_the_new_place_cannot_be_loaded_it_serves_the_old_one_again():
    others = [announcement(peer, spans=spans, revision="rev") for peer, spans in (("a", ((0, 2),)), ("b", ((0, 2),)), ("c", ((2, 4),)))]

    class Broken(Loader):
        async def load(self, span):
            if span == Span(2, 4):
                raise DoesNotFit("no room")
            return await super().load(span)

    async def main():
        directory, engine = Directory(others), Engine()
        peer = peer_of(directory, engine=engine, think=at_once, loader=Broken(engine))
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(600.0)
        task.cancel()
        return engine.model, directory.announced[-1][1]

    model, last = run(main())
    assert model == "weights of 0:2" and (last.state, last.spans) == ("online", ((0, 2),)) and last.span_version > 3


def test_an_announcement_that_nobody_heard_is_no_reason_to_go_back():
    others = [announcement(peer, spans=spans, revision="rev") for peer, spans in (("a", ((0, 2),)), ("b", ((0, 2),)), ("c", ((2, 4),)))]

    class Deaf(Directory):
        lost = 0

        async def announce(self, record):
            if record.state == "online" and record.spans == ((2, 4),) and not self.lost:
                self.lost += 1
                raise RemoteError("nobody hears us")
            await super().announce(record)

    async def main():
        directory, engine = Deaf(others), Engine()
        peer = peer_of(directory, engine=engine, think=at_once, loader=Loader(engine))
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(300.0)
        task.cancel()
        return directory.lost, engine.model, directory.announced[-1][1]

    lost, model, last = run(main())
    assert lost == 1 and model == "weights of 2:4" and (last.state, last.spans) == ("online", ((2, 4),))


def test_who_stays_out_of_the_election_knows_who_coordinates_all_the_same():
    """Or its hops could not tell a route of a coordinator that was replaced."""

    async def main():
        others = [announcement("a", claim=Claim("claim", 4, (1,))), announcement("b", claim=Claim("claim", 5, (0,))), announcement("c")]
        peer = peer_of(Directory(others))
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(2.0)
        task.cancel()
        return peer.room.facts().term

    assert run(main()) == 5


def test_a_call_of_the_coordinator_makes_it_look_and_a_drain_ends_its_office():
    async def main():
        engine = Engine()
        others = [announcement(peer, spans=((0, 2),), revision="rev") for peer in "ab"] + [announcement("c", spans=((2, 4),), revision="rev")]
        directory = Directory(others)
        peer = peer_of(directory, engine=engine, think=at_once, loader=Loader(engine), sign=lambda data: b"signed")
        peer._mover._next = 10.0**6  # of itself it would look now and then
        peer._mover.look = at_last = Looked()
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(1.0)
        peer._mover._next = 10.0**6
        peer._receive("leader", Needed("other", 2, 4))
        await asyncio.sleep(1.0)
        assert not at_last.times
        peer._receive("leader", Needed("c0ffee", 2, 4))
        await asyncio.sleep(1.0)
        assert len(at_last.times) == 1
        await asyncio.sleep(30.0)
        assert directory.announced[-1][1].claim.role == "claim"
        await peer.drain(1.0)
        task.cancel()
        return directory.announced[-1][1]

    assert run(main()).claim.role == "released"


class Looked:
    def __init__(self) -> None:
        self.times = []

    async def __call__(self) -> bool:
        self.times.append(asyncio.get_running_loop().time())
        return False


def test_rounds_that_were_computed_change_what_it_announces():
    async def main():
        directory, engine = Directory(), Engine()
        peer = peer_of(directory, engine=engine)
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(1.0)
        before = directory.announced[-1][1].decode
        for _ in range(200):
            engine.timed(Span(0, 2), 1, 0.5)
        await asyncio.sleep(RENEW_EVERY)
        task.cancel()
        return before, directory.announced[-1][1].decode

    before, after = run(main())
    assert before == pytest.approx(0.01) and after > 10 * before


def test_how_fit_it_is_changes_seldom():
    """Or every candidate would find another one better every second."""

    async def main():
        peer = peer_of(Directory())
        scores = []
        for _ in range(120):
            await asyncio.sleep(60.0)
            scores.append(peer._fitness)
        return scores

    scores = run(main())
    assert len(set(scores)) == 4 and scores == sorted(scores)


class Startling(list):
    """Announcements over which something goes wrong that nobody foresaw, once."""

    startled = False

    def __iter__(self):
        if not self.startled:
            self.startled = True
            raise ZeroDivisionError("what a stranger announced")
        return super().__iter__()


class Startled(Directory):
    async def read(self, config_hash):
        return Startling(await super().read(config_hash))


@pytest.mark.parametrize("moves", [False, True], ids=["stays", "moves"])
def test_a_bug_over_what_strangers_announce_is_logged_and_ends_nothing(moves, caplog):
    async def main():
        engine, links = Engine(), Links()
        directory = Startled([announcement(peer, revision="rev") for peer in "ab"])
        peer = peer_of(directory, engine=engine, links=links, think=at_once, loader=Loader(engine) if moves else None)
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(1.5 * GAUGE_EVERY)
        assert not task.done()
        task.cancel()
        return getattr(links, "gauged", [])

    assert run(main()), "others are measured as if nothing had been"
    assert "a stranger announced" in caplog.text
