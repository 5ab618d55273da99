"""A whole peer whose machine changes under it, in virtual time: what it announces, whom it takes, how much it computes, and what it knows after a restart."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest

from swarm.core import Hop, Sampling, Span
from swarm.peer.courtesy import FLOOR
from swarm.peer.headroom import BACK, LEFT
from swarm.peer.holding import Holding
from swarm.peer.monitor import NEWS_EVERY
from swarm.peer.pace import ENOUGH, PROMPT, Fit
from swarm.peer.past import KEEP_EVERY
from swarm.peer.server import UPTIME, About, Peer
from swarm.sim.host import PLENTY, Meters, Notes
from swarm.wire import RENEW_EVERY, Broken, Have, Open, Order, encode
from tests.net.virtual import run
from tests.peer.test_server import OFFER, Directory, Engine, Links, Loader, at_once, wall

POSITION = 2**20
HOLDING = Holding("weights", OFFER, 0.01, 0.001, 1.0, 100, POSITION, ("speed", "of this"))


def peer_of(directory, engine=None, links=None, lasts=False, holding=HOLDING, **more) -> Peer:
    about, clock = About("toy", "c0ffee", ("addr",), lasts=lasts), asyncio.get_running_loop().time
    return Peer(
        links or Links(), directory, engine or Engine(), holding, about, clock=clock, wall=wall, verify=lambda *_: True, think=at_once, **more
    )  # fmt: skip


def order(session: bytes, limit: int, chain: int = 1) -> Open:
    route = (Hop("me", 0, 2), Hop("after", 2, 4))
    ordered = Order(session * 16, chain, "client " + session.decode(), "rev", "float32", ((1, 0),), 3, 50, limit, Sampling(), route)
    return Open(ordered.session, chain, 0, encode(ordered), b"good")


def asked(peer: Peer, links: Links, message: Open):
    """What the peer answers to whoever orders this."""
    links.sent.clear()
    peer._receive(msgspec.msgpack.decode(message.order)[2], message)
    return next(said for _, said in links.sent if isinstance(said, (Have, Broken)))


async def living(play, **more):
    """A peer with meters, which serves while `play` goes on."""
    directory, engine, links, meters = Directory(), Engine(), Links(), Meters()
    peer = peer_of(directory, engine, links, meters=meters, **more)
    task = asyncio.create_task(peer.serve())
    try:
        await asyncio.sleep(1.0)
        return await play(peer, meters, directory, engine, links)
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_a_polite_peer_makes_way_and_soon_says_so_and_how_long_things_take_then():
    async def play(peer, meters, directory, engine, links):
        before = directory.announced[-1][1]
        assert (before.share, before.decode, engine.share) == (1.0, pytest.approx(0.01), 1.0)
        busy_from = asyncio.get_running_loop().time()
        meters.show(others=1.0)
        await asyncio.sleep(20.0)
        assert engine.share == FLOOR and peer.status().share == FLOOR and peer.status().readings.others == 1.0
        slow = directory.announced[-1][1]
        assert (slow.share, slow.decode, slow.prefill) == (FLOOR, pytest.approx(before.decode / FLOOR), pytest.approx(before.prefill / FLOOR))
        first = next(when for when, record in directory.announced if record.share < 1)
        assert first - busy_from < 8.0
        meters.show(others=0.0)
        await asyncio.sleep(30.0)
        assert engine.share == 1.0 and directory.announced[-1][1].decode == pytest.approx(0.01)
        times = [when for when, _ in directory.announced]
        assert min(later - earlier for earlier, later in pairwise(times)) >= min(NEWS_EVERY, RENEW_EVERY)
        return times

    times = run(living(play, polite=True))
    assert len(times) > 50 / RENEW_EVERY + 3, "news waited for the next renewal"


def test_a_peer_that_is_not_polite_works_on():
    async def play(peer, meters, directory, engine, links):
        meters.show(others=1.0, hot=True)
        await asyncio.sleep(30.0)
        return directory.announced[-1][1].share, getattr(engine, "share", 1.0), peer.status().readings.others

    assert run(living(play)) == (1.0, 1.0, 1.0)


def test_memory_that_others_took_is_promised_to_nobody_until_it_is_back_for_a_while(caplog):
    caplog.set_level(logging.INFO)

    async def play(peer, meters, directory, engine, links):
        assert isinstance(asked(peer, links, order(b"a", 40)), Have)
        meters.show(free=LEFT + 10 * POSITION, host_free=LEFT + 10 * POSITION)
        await asyncio.sleep(NEWS_EVERY + 2.0)
        said = directory.announced[-1][1]
        assert (said.cache_tokens, said.free_tokens) == (100, 0) and peer.status().short
        refusal = asked(peer, links, order(b"b", 20))
        assert (refusal.reason, refusal.facts.free_tokens) == ("overloaded", 0) and len(engine.open_keys) == 1
        assert isinstance(asked(peer, links, order(b"a", 40, chain=2)), Have), "what runs goes on"
        assert asked(peer, links, order(b"a", 41, chain=3)).reason == "overloaded", "but takes no more"
        meters.show(free=PLENTY, host_free=PLENTY)
        await asyncio.sleep(BACK - 2.0)
        assert asked(peer, links, order(b"b", 20)).reason == "overloaded"
        await asyncio.sleep(4.0)
        assert isinstance(asked(peer, links, order(b"b", 20)), Have) and not peer.status().short
        await asyncio.sleep(RENEW_EVERY)
        return directory.announced[-1][1].free_tokens

    assert run(living(play)) == 40
    said = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    assert len(said) == 2 and "10 of 100 positions" in said[0] and "back" in said[1]


def test_as_much_as_is_there_is_still_promised():
    async def play(peer, meters, directory, engine, links):
        meters.show(free=LEFT + 30 * POSITION, host_free=LEFT + 30 * POSITION)
        await asyncio.sleep(2.0)
        return [type(asked(peer, links, order(name, limit))) for name, limit in ((b"a", 31), (b"b", 20), (b"c", 11), (b"d", 10))]

    assert run(living(play)) == [Broken, Have, Broken, Have]


def test_what_a_peer_holds_after_a_move_is_counted_anew():
    async def play(peer, meters, directory, engine, links):
        meters.show(free=LEFT + 30 * POSITION, host_free=LEFT + 30 * POSITION)
        await asyncio.sleep(2.0)
        assert peer.status().free_tokens == 30
        peer._take(replace(HOLDING, position_bytes=POSITION / 2))
        await asyncio.sleep(2.0)
        return peer.status().free_tokens

    assert run(living(play)) == 60


async def life(notes: Notes, seconds: float, tokens: int, *, lasts: bool = True, round_seconds: float = 0.0, rounds: int = 0, holding=HOLDING, loader=None):
    """One run of a peer, and what it announced at first; ended as Ctrl-C ends it."""
    directory, engine = Directory(), Engine()
    peer = peer_of(directory, engine, lasts=lasts, holding=holding, notes=notes, loader=loader and loader(engine))
    task = asyncio.create_task(peer.serve())
    await asyncio.sleep(0.5)
    engine.tokens = tokens
    for _ in range(rounds):
        engine.timed(Span(0, 2), 1, round_seconds)
    await asyncio.sleep(seconds - 0.5)
    status = peer.status()
    task.cancel()
    await asyncio.wait({task})
    return status, directory.announced[0][1], peer._fitness


def test_what_was_served_is_added_up_over_restarts_and_fitness_is_not():
    notes = Notes()
    run(life(notes, 3 * UPTIME, 1000))
    status, _, fitness = run(life(notes, 30.0, 11))
    assert (status.tokens, status.uptime) == (1011, pytest.approx(3 * UPTIME + 30.0)) and fitness == (0,)
    assert notes.written["peer", "me"] == {"tokens": 1011, "uptime": pytest.approx(3 * UPTIME + 30.0)}


def test_an_identity_that_nobody_will_have_again_leaves_no_note():
    notes = Notes()
    run(life(notes, 2 * KEEP_EVERY, 1000, lasts=False))
    assert notes.written == {}


def test_a_crash_costs_a_minute_at_most():
    notes = Notes()

    async def main():
        peer = peer_of(Directory(), lasts=True, notes=notes)
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(1.5 * KEEP_EVERY)
        seen = dict(notes.written)
        task.cancel()
        return seen

    assert run(main())["peer", "me"]["uptime"] == pytest.approx(KEEP_EVERY, abs=1.0)


def test_what_rounds_took_is_noted_once_enough_of_them_ran():
    notes = Notes()
    run(life(notes, 5.0, 0, rounds=ENOUGH - 1, round_seconds=0.03))
    assert ("speed", "of this") not in notes.written
    run(life(notes, 5.0, 0, rounds=ENOUGH, round_seconds=0.03))
    assert notes.written["speed", "of this"]["rounds"] == ENOUGH and notes.written["speed", "of this"]["read"] > 0.012


def test_what_rounds_took_is_noted_under_what_was_held_when_they_ran():
    notes = Notes()

    async def main():
        engine = Engine()
        peer = peer_of(Directory(), engine, notes=notes, loader=Loader(engine))
        task = asyncio.create_task(peer.serve())
        await asyncio.sleep(1.0)
        for _ in range(ENOUGH):
            engine.timed(Span(0, 2), 1, 0.03)
        await peer.settle(Span(2, 4), Loader(engine))
        task.cancel()
        await asyncio.wait({task})

    run(main())
    assert set(notes.written) == {("speed", "of this")}


def test_a_peer_that_knows_what_rounds_took_announces_that_from_the_first():
    _, first, _ = run(life(Notes(), 5.0, 0, holding=replace(HOLDING, known=Fit(0.016, 0.0004, ENOUGH))))
    assert (first.decode, first.prefill) == (pytest.approx(0.0164), pytest.approx(0.0004 + 0.016 / PROMPT))
