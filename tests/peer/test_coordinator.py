"""Coordinators in virtual time: that candidates agree on one, answer who asks, keep the rest waiting in measure, and give way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from swarm.core import Hop
from swarm.peer.coordinator import PLACED_EACH, WAITING_EACH, WINDOW, Coordinator
from swarm.wire import Accuse, Announcement, Blob, Claim, Needed, Poll, Polled, Progress, Routed, RouteRequest, Unrouted, decode_advice
from tests.net.helpers import announcement
from tests.net.virtual import run

MODEL = "c0ffee"
S = b"s" * 16


async def at_once(function, *arguments):
    return function(*arguments)


@dataclass
class World:
    """Links and directory of a few candidates. Who is in `dead` hears and says nothing."""

    think: object = at_once
    spans: tuple = ((0, 4),)
    members: dict[str, Coordinator] = field(default_factory=dict)
    records: dict[str, Announcement] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    sent: list[tuple[str, str, object]] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)

    def add(self, name: str) -> Coordinator:
        async def announce() -> None:
            await asyncio.sleep(0.01)
            self.say(name)

        loop = asyncio.get_running_loop()
        self.members[name] = Coordinator(
            Links(name, self), Directory(self, name), MODEL, 4, (0,), announce=announce, sequence=lambda: self.records[name].sequence,
            heard=self.terms.append, sign=lambda data: name.encode(), clock=loop.time, wall=lambda: 10.0**9 + loop.time(), think=self.think,
        )  # fmt: skip
        self.say(name)
        return self.members[name]

    def say(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        if name not in self.dead:
            self.records[name] = announcement(name, spans=self.spans, sequence=round(1000 * now) + 1, time=10.0**9 + now, claim=self.members[name].claim)

    def leaders(self) -> list[str]:
        return [name for name, member in self.members.items() if member.leads and name not in self.dead]


class Links:
    def __init__(self, peer: str, world: World) -> None:
        self.peer, self._world = peer, world

    def learn(self, peer, addrs): ...

    def send(self, peer, message):
        world = self._world
        world.sent.append((self.peer, peer, message))
        if peer in world.members and not {peer, self.peer} & world.dead:
            asyncio.get_running_loop().call_later(0.02, world.members[peer].receive, self.peer, message)


class Directory:
    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    async def read(self, config_hash):
        assert config_hash == MODEL
        await asyncio.sleep(0.05)
        return [] if self._name in self._world.dead else [self._world.records[peer] for peer in sorted(self._world.records)]


async def living(world: World, names: str) -> list[asyncio.Task]:
    members = [world.add(name) for name in names]
    return [asyncio.create_task(member.run()) for member in members]


async def until(condition, seconds: float) -> float:
    begin = asyncio.get_running_loop().time()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  virtual time
            await asyncio.sleep(0.1)
    return asyncio.get_running_loop().time() - begin


def test_they_agree_on_one_and_on_another_when_it_is_gone():
    async def main():
        world = World()
        await living(world, "abcdef")
        await until(lambda: len(world.leaders()) == 1, 20)
        (first,) = world.leaders()
        await asyncio.sleep(60)
        assert world.leaders() == [first]
        world.dead.add(first)
        assert await until(lambda: len(world.leaders()) == 1, 20) <= 10
        (second,) = world.leaders()
        assert second != first and world.members[second].claim.term == 2
        world.dead.remove(first)  # it was frozen, and believes that it still leads
        world.say(first)
        await until(lambda: world.leaders() == [second], 10)
        assert world.terms and max(world.terms) == 2

    run(main())


def test_it_calls_who_would_help_more_elsewhere():
    """One at a time, and nobody again soon, whatever becomes of those who serve something else. (Another may have claimed at the same moment, and called
    somebody before it yielded.)"""

    async def main():
        world = World(spans=((0, 2),))
        await living(world, "abc")
        world.records["z"] = announcement("z", spans=((2, 4),), time=10.0**9 + 10)
        world.records |= {peer: announcement(peer, revision="other", time=10.0**9 + 10) for peer in "xy"}
        await until(lambda: len(world.leaders()) == 1, 20)
        await asyncio.sleep(60.0)
        (leader,) = world.leaders()
        calls = [(sender, to, message.start, message.stop) for sender, to, message in world.sent if isinstance(message, Needed)]
        return leader, calls

    leader, calls = run(main())
    assert [call for call in calls if call[0] == leader] == [(leader, "a", 2, 4), (leader, "b", 2, 4), (leader, "c", 2, 4)]


def test_who_leaves_on_purpose_is_replaced_at_once():
    async def main():
        world = World()
        await living(world, "abc")
        await until(lambda: len(world.leaders()) == 1, 20)
        (first,) = world.leaders()
        await asyncio.sleep(20)
        world.members[first].leave()
        world.say(first)
        assert await until(lambda: len(world.leaders()) == 1 and world.leaders() != [first], 20) <= 8

    run(main())


def test_the_swarm_survives_a_claim_of_a_term_nobody_can_reach():
    async def main():
        world = World()
        forged = announcement("x", sequence=1, time=10.0**9, claim=Claim("claim", 2**53, (9,)))
        world.records["x"] = forged
        await living(world, "abc")
        await until(lambda: len(world.leaders()) == 1, 20)
        (leader,) = world.leaders()
        world.members[leader].receive("x", Poll(1, MODEL, Claim("claim", 2**53, (9,)), 10**9))
        assert world.leaders() == [leader] and world.members[leader].claim.term == 1

    run(main())


@pytest.mark.parametrize("role", ["claim", "candidate", "released"])
def test_a_term_that_somebody_merely_tells_us_is_nobodys_reign(role):
    """Or one message would make a peer refuse the routes of the true coordinator for ever."""

    async def main():
        world = World()
        await living(world, "abc")
        await until(lambda: len(world.leaders()) == 1, 20)
        for member in world.members.values():
            member.receive("x", Poll(1, MODEL, Claim(role, 10**9 + 3000, (9,)), 10**9))
        await asyncio.sleep(60.0)
        assert max(world.terms) == 1 and len(world.leaders()) == 1

    run(main())


def test_where_all_begin_anew_so_do_terms():
    async def main():
        world = World()
        world.records["old"] = announcement("old", sequence=1, time=10.0**9, claim=Claim("claim", 7, (9,)))
        await living(world, "a")
        await asyncio.sleep(3.0)
        assert world.terms[-1] == 7
        del world.records["old"]
        world.members["a"]._election._term = 0  # as of one that never heard of it
        await until(lambda: world.leaders() == ["a"], 60)
        assert world.terms[-1] == 1

    run(main())


def question(number: int = 1, **changes) -> RouteRequest:
    fields = dict(number=number, session=S, config_hash=MODEL, revision="r", numerics="float32", tokens_needed=10, prompt=5, output=5)
    return RouteRequest(**(fields | changes))


def answers(world: World) -> list:
    return [message for _, to, message in world.sent if to == "client"]


def test_it_answers_with_a_signed_route_and_repairs_one():
    async def main():
        world = World()
        await living(world, "ab")
        await asyncio.sleep(1)
        member = world.members["a"]
        member.receive("client", question())
        await asyncio.sleep(1)
        (answer,) = answers(world)
        advice = decode_advice(answer.advice)
        assert isinstance(answer, Routed) and answer.signature == b"a" and (advice.client, advice.coordinator) == ("client", "a")
        assert [hop.span for hop in advice.hops] == [Hop("", 0, 4).span]
        member.receive("client", question(2, old=(Hop("gone", 0, 2), Hop("b", 2, 4)), exclude=("gone",)))
        await asyncio.sleep(1)
        advice = decode_advice(answers(world)[-1].advice)
        assert advice.hops[-1].peer == "b" and advice.hops[-1].start <= 2

    run(main())


def test_it_plans_through_peers_of_several_classes_for_whoever_allows_that():
    async def main():
        world = World(spans=((3, 4),))
        world.records["x"] = announcement("x", sequence=1, spans=((0, 2),), claim=None)
        world.records["y"] = announcement("y", sequence=1, spans=((2, 4),), numerics="float32-int8", claim=None)
        world.records["z"] = announcement("z", sequence=1, spans=((2, 4),), numerics="float32-int4", claim=None)
        await living(world, "a")
        await asyncio.sleep(1)
        member = world.members["a"]
        member.receive("client", question(1))
        member.receive("client", question(2, numerics="float32-mixed"))
        member.receive("client", question(3, numerics="float32-mixed", old=(Hop("x", 0, 2), Hop("y", 2, 4)), exclude=("y",)))
        await asyncio.sleep(1)
        alone, mixed, mended = answers(world)
        assert alone.reason == "missing"
        assert [hop.peer for hop in decode_advice(mixed.advice).hops] == ["x", "y"] and [hop.peer for hop in decode_advice(mended.advice).hops] == ["x", "z"]

    run(main())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config_hash": "other"}, "elsewhere"),
        ({"tokens_needed": 10**6}, "missing"),
        ({"numerics": "int3"}, "missing"),
        ({"own": ((1, 2),)}, "missing"),
        ({"old": (Hop("a", 0, 3),)}, "missing"),
    ],
)
def test_what_it_cannot_plan_it_says_so(changes, reason):
    async def main():
        world = World()
        await living(world, "ab")
        await asyncio.sleep(1)
        world.members["a"].receive("client", question(**changes))
        await asyncio.sleep(1)
        assert [(answer.number, answer.reason) for answer in answers(world)] == [(1, reason)]

    run(main())


def test_nobody_is_answered_before_the_directory_was_read():
    async def main():
        world = World()
        world.add("a").receive("client", question())
        assert [answer.reason for answer in answers(world)] == ["elsewhere"]

    run(main())


def test_one_asker_cannot_fill_the_queue_and_work_is_divided_when_there_is_much():
    async def main():
        async def slowly(function, *arguments):
            await asyncio.sleep(1.0)
            return function(*arguments)

        world = World(think=slowly)
        await living(world, "ab")
        await asyncio.sleep(1)
        member = world.members["a"]
        for number in range(WAITING_EACH + 2):
            member.receive("client", question(number))
        assert [answer.number for answer in answers(world) if isinstance(answer, Unrouted)] == [WAITING_EACH, WAITING_EACH + 1]
        for number in range(round(3 * WINDOW)):
            member.receive(f"other{number}", question())
            await asyncio.sleep(1)
        assert member.claim.shards > 1
        await asyncio.sleep(10 * WINDOW)
        assert member.claim.shards == 1

    run(main())


def test_it_says_whether_it_leads_and_gives_way_to_a_higher_claim():
    async def main():
        world = World()
        await living(world, "a")
        await until(lambda: world.leaders() == ["a"], 20)
        world.members["a"].receive("s", Poll(7, MODEL))
        higher = Claim("claim", 9, (0,))
        world.members["a"].receive("s", Poll(8, MODEL, higher, 10**6))
        await asyncio.sleep(5.0)
        world.members["a"].receive("s", Poll(9, MODEL, higher, 10**6))
        assert world.leaders() == ["a"], "the directory knows of no such claim"
        world.records["s"] = announcement("s", sequence=10**6, time=10.0**9 + asyncio.get_running_loop().time(), claim=higher)
        world.members["a"].receive("s", Poll(10, MODEL, higher, 10**6))
        await until(lambda: world.leaders() == [], 3.0)
        world.members["a"].receive("s", Poll(11, MODEL))
        polled = [message for _, to, message in world.sent if to == "s" and isinstance(message, Polled)]
        assert [(message.number, message.leads) for message in polled] == [(7, True), (8, True), (9, True), (10, True), (11, False)]

    run(main())


def test_whoever_learns_the_id_of_anothers_session_cannot_move_or_end_it():
    async def main():
        world = World()
        await living(world, "ab")
        await asyncio.sleep(1)
        member = world.members["a"]
        member.receive("client", question())
        await asyncio.sleep(1)
        before = member._ledger.load(asyncio.get_running_loop().time()).shares
        member.receive("thief", question(exclude=("a",)))
        member.receive("thief", Progress(S, 5, True))
        await asyncio.sleep(1)
        assert before and member._ledger.load(asyncio.get_running_loop().time()).shares == before
        member.receive("client", question(2, tentative=True, exclude=tuple(before)))
        await asyncio.sleep(1)
        assert isinstance(answers(world)[-1], Routed) and member._ledger.load(asyncio.get_running_loop().time()).shares == before, "it may stay where it is"
        member.receive("client", Progress(S, 5, True))
        assert not member._ledger.load(asyncio.get_running_loop().time()).shares

    run(main())


def test_one_client_cannot_fill_the_ledger():
    async def main():
        world = World()
        await living(world, "a")
        await asyncio.sleep(1)
        member = world.members["a"]
        for number in range(PLACED_EACH + 3):
            member.receive("client", question(number, session=number.to_bytes(16, "big")))
            await asyncio.sleep(0.01)
        member.receive("other", question(0, session=b"other" * 3 + b"."))
        await asyncio.sleep(1)
        assert len(answers(world)) == PLACED_EACH + 3 and len(member._ledger) == PLACED_EACH + 1

    run(main())


def routed(world: World) -> list[str]:
    """The peers of the last answer."""
    return [hop.peer for hop in decode_advice(answers(world)[-1].advice).hops]


def planning(*peers: tuple[str, dict], **changes) -> list[list[str]]:
    """What "a" answers to the same question twice, from two sessions, where these are there beside it and whoever serves nothing useful."""
    chains = []

    async def main():
        world = World(spans=((0, 1),))
        await living(world, "a")
        for peer, facts in peers:
            world.records[peer] = announcement(peer, time=10.0**9 + 50, **facts)
        await asyncio.sleep(12)
        for number in (1, 2):
            world.members["a"].receive("client", question(number, session=bytes([number]) * 16, **changes))
            await asyncio.sleep(0.2)
            chains.append(routed(world))

    run(main())
    return chains


def test_the_second_of_two_sessions_goes_where_the_first_does_not():
    assert sorted(planning(("p", {}), ("q", {}))) == [["p"], ["q"]]


def test_sessions_that_a_peer_announces_count_too():
    busy = dict(sessions=5, busy=20)
    assert planning(("p", busy), ("q", dict(decode=0.0105)))[0] == ["q"]
    assert planning(("p", {}), ("q", dict(decode=0.0105)))[0] == ["p"]


def test_it_plans_with_what_the_client_measured_and_with_what_it_carries():
    ends = dict(own=((0, 1), (3, 4)))
    middle = dict(spans=((1, 3),))
    assert planning(("p", {}), ("q", dict(decode=0.011)), slower={"p": 3.0})[0] == ["q"]
    assert planning(("p", middle), ("q", middle), rtts={"p": 0.5, "q": 0.001}, **ends)[0][1] == "q"
    assert planning(("p", middle), ("q", middle), rtts={"q": 0.5, "p": 0.001}, **ends)[0][1] == "p"
    halves = [("p", dict(spans=((0, 2),), upload=1e4)), ("q", dict(spans=((0, 2),), decode=0.011)), ("r", dict(spans=((2, 4),)))]
    assert planning(*halves)[0][0] == "p" and planning(*halves, row_bytes=2**20)[0][0] == "q"
    for peer in halves:
        peer[1]["compresses"] = True
    assert planning(*halves, row_bytes=2**20, packed_bytes=1)[0][0] == "p"
    drafting = [("p", dict(spans=((0, 2),), rtts={"r": 0.1})), ("q", dict(spans=((0, 2),), decode=0.011, draft="small", rtts={"r": 0.1})), halves[2]]
    assert [planning(*drafting, guesses=wants)[0][0] for wants in (True, False)] == ["q", "p"]


def test_a_bug_over_what_one_stranger_says_does_not_end_the_peer(caplog):
    class Broken:
        def takes(self, sender, message):
            return True

        async def look_into(self, sender, message):
            raise ValueError("nobody thought of this")

    async def main() -> None:
        world = World()
        (task,) = await living(world, "a")
        await asyncio.sleep(1)
        world.members["a"].judge = Broken()
        world.members["a"].receive("stranger", Accuse(MODEL, b"", b"", (), None, Blob("float32", 1, memoryview(b""))))
        await asyncio.sleep(1)
        assert not task.done() and "nobody thought of this" in caplog.text
        task.cancel()

    run(main())


def test_a_bug_in_the_election_ends_neither_it_nor_the_peer(caplog):
    async def main() -> None:
        world = World()
        (task,) = await living(world, "a")
        election, looks = world.members["a"]._election, []
        wake = election.wake

        def startled(now: float):
            looks.append(now)
            if len(looks) < 3:
                raise ZeroDivisionError("nobody thought of this")
            return wake(now)

        election.wake = startled
        world.members["a"]._wake.set()
        await asyncio.sleep(30)
        assert not task.done() and 3 <= len(looks) < 40 and world.members["a"].leads and "nobody thought of this" in caplog.text
        task.cancel()

    run(main())
