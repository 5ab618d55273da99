"""A serving peer's loops, in virtual time: when it announces itself."""

from __future__ import annotations

import asyncio

from swarm.core import Span
from swarm.peer.holding import Holding
from swarm.peer.hops import Offer
from swarm.peer.server import TICK, About, Peer
from swarm.wire import RENEW_EVERY
from tests.net.virtual import run
from tests.peer.test_hops import Engine as Jobs
from tests.peer.test_hops import Links as Sent


class Links(Sent):
    def subscribe(self, receive, lost): ...

    async def measure(self, peer):
        return 0.01


class Engine(Jobs):
    steps = tokens = 0

    def load(self, model): ...

    async def run(self):
        await asyncio.Event().wait()


class Directory:
    def __init__(self):
        self.announced = []

    async def announce(self, record):
        self.announced.append((asyncio.get_running_loop().time(), record))

    async def read(self, config_hash):
        return [record for _, record in self.announced[-1:]]


async def serving(seconds, *, asleep=0.0, sign=None):
    """A peer that serves for so long, and in the middle of it sleeps, as a frozen machine does: its clock goes on, its timers do not."""
    loop, directory = asyncio.get_running_loop(), Directory()
    offer = Offer("rev", "float32", 4, (Span(0, 4),), 100, version=3)
    about = About("toy", "c0ffee", ("addr",), region="here")
    peer = Peer(
        Links(), directory, Engine(), Holding(None, offer, 0.01, 0.001, 1.0, 100), about, clock=loop.time, wall=lambda: 10.0**9 + loop.time(), verify=lambda *_: True,
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


def test_a_machine_that_was_asleep_says_at_once_that_it_is_back():
    announced = run(serving(10, asleep=4.0))
    assert [when for when, _ in announced][:2] == [0, announced[1][0]] and 9 <= announced[1][0] <= 9 + 2 * TICK and len(announced) == 2


def test_a_candidate_says_so_and_soon_that_it_coordinates():
    announced = run(serving(40, sign=lambda data: b"signed"))
    assert announced[0][1].claim.role == "candidate" and announced[-1][1].claim.role == "claim" and announced[-1][1].claim.term == 1
