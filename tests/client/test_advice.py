"""Advice: whom a client asks for routes, what it believes of the answers, and what it does with those who give none or bad ones. In virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from swarm.client.advice import ANSWER, ANSWER_RUNNING, AUDIT, BAD, PROMISES, SILENT, Advisers, Question
from swarm.core import Hop, Span
from swarm.routing.atlas import Atlas
from swarm.routing.plan import plan
from swarm.routing.route import Request
from swarm.routing.table import PeerView
from swarm.wire import MOST_NAMED, Advice, Claim, Progress, Routed, RouteRequest, Unrouted, encode
from tests.net.helpers import announcement
from tests.net.virtual import run

S = b"s" * 16
VIEWS = [
    PeerView("p", ("addr-p",), (Span(0, 2),), decode=0.01, version=7),
    PeerView("q", ("addr-q",), (Span(2, 4),), decode=0.01, version=7),
    PeerView("slow", ("addr-s",), (Span(2, 4),), decode=0.10, version=7),
    PeerView("going", ("addr-g",), (Span(2, 4),), decode=0.01, version=7, state="leaving"),
]
GOOD = (Hop("p", 0, 2, (), 7), Hop("q", 2, 4, (), 7))
DEAR = (Hop("p", 0, 2, (), 7), Hop("slow", 2, 4, (), 7))


class Scene:
    """A client's advisers, and what each candidate answers: a function of the request, or None for silence."""

    def __init__(self, *, claims=("c",), standbys=("d", "e", "f"), chance=0.5, shards=1, term=3) -> None:
        self.atlas, self.sent, self.says = Atlas(VIEWS), [], {}
        self.chance = chance
        self.advisers = Advisers(
            "me", self._send, lambda peer, addrs: None, lambda peer, data, signature: signature == peer.encode(), self.clock, lambda: self.chance
        )
        records = [announcement(name, claim=Claim("claim", term + at, (1,), shards)) for at, name in enumerate(claims)]
        records += [announcement(name, claim=Claim("candidate", 0, (9 - at,))) for at, name in enumerate(standbys)]
        self.advisers.know("c0ffee", records, 10.0**9)

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    def _send(self, peer, message) -> None:
        self.sent.append((peer, message))
        if isinstance(message, RouteRequest) and (says := self.says.get(peer)) is not None:
            asyncio.get_running_loop().call_later(0.05, self.advisers.receive, peer, says(peer, message))

    async def ask(self, *, session=S, running=False, old=None, tentative=False, **changes):
        self.sent.clear()
        request = Request(4, **changes)
        return await self.advisers.route(Question(session, ("", ""), request, old, running, tentative), self.atlas)

    @property
    def asked(self) -> list[str]:
        return [peer for peer, message in self.sent if isinstance(message, RouteRequest)]


def advises(hops=GOOD, *, signed=None, by=None, promise=1.0, **changes):
    def answer(peer, message):
        fields = dict(number=message.number, client="me", coordinator=by or peer, term=3, hops=hops, cost=1.0, seconds_per_token=promise)
        body = encode(Advice(**(fields | changes)))
        return Routed(message.number, body, signed or peer.encode())

    return answer


def nothing(reason):
    return lambda peer, message: Unrouted(message.number, reason)


def test_the_coordinators_route_is_taken_with_our_own_predictions_and_addresses():
    async def main():
        scene = Scene()
        scene.says["c"] = advises((Hop("p", 0, 2, ("false",), 7), GOOD[1]), promise=0.5)
        route = await scene.ask()
        ours = plan(scene.atlas, Request(4))
        assert scene.asked == ["c"] and (route.planner, route.term, route.promise, route.standby) == ("c", 3, 0.5, False)
        assert route.hops == ours.hops and route.cost == ours.cost and route.hops[0].addrs == ("addr-p",)

    run(main())


def test_nobody_is_asked_before_there_is_a_coordinator():
    async def main():
        scene = Scene(claims=())
        assert await scene.ask() is None and not scene.sent

    run(main())


def test_after_a_silent_coordinator_its_standbys_are_asked_best_first_and_it_is_left_alone_for_a_while():
    async def main():
        scene = Scene()
        scene.says["d"] = advises()
        assert (route := await scene.ask()).planner == "d" and route.standby and scene.asked == ["c", "d"] and scene.clock() == pytest.approx(ANSWER + 0.05)
        assert (await scene.ask()).planner == "d" and scene.asked == ["d"]
        await asyncio.sleep(SILENT)
        await scene.ask()
        assert scene.asked == ["c", "d"]

    run(main())


def test_an_answer_that_stands_still_waits_for_one_candidate_only_and_not_for_long():
    async def main():
        scene = Scene()
        scene.says["d"] = advises()
        assert await scene.ask(running=True) is None and scene.asked == ["c"] and scene.clock() == pytest.approx(ANSWER_RUNNING)

    run(main())


def test_who_has_just_failed_as_a_hop_is_not_asked():
    async def main():
        scene = Scene()
        scene.says["d"] = advises()
        assert (await scene.ask(running=True, exclude=frozenset({"c"}))).planner == "d"

    run(main())


def test_who_is_lost_while_asked_is_not_waited_for():
    async def main():
        scene = Scene()
        scene.says["d"] = advises()
        asyncio.get_running_loop().call_later(0.01, scene.advisers.lost, "c")
        assert (await scene.ask()).planner == "d" and scene.clock() < 0.1

    run(main())


@pytest.mark.parametrize("reason", ["missing", "busy", "elsewhere"])
def test_who_has_no_route_is_not_blamed(reason):
    async def main():
        scene = Scene()
        scene.says |= {"c": nothing(reason), "d": advises()}
        for _ in range(2):
            assert (await scene.ask()).planner == "d" and scene.asked == ["c", "d"]

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        lambda peer, message: Routed(message.number, b"\xff\xff", peer.encode()),
        advises(signed=b"forged"),
        advises(by="d"),
        advises(client="somebody"),
        advises(number=99),
        advises(GOOD[:1]),
        advises((GOOD[0], Hop("q", 1, 4, (), 7))),
        advises((Hop("p", 0, 4, (), 7),)),
        advises((GOOD[1], GOOD[0])),
        advises((Hop("me", 0, 2), GOOD[1])),
    ],
    ids=["garbage", "forged", "another's", "for another", "of another question", "half", "overlap", "not held", "order", "ends we do not keep"],
)
def test_bad_advice_is_not_taken_and_logged_once_and_not_asked_for_again_for_long(answer, caplog):
    caplog.set_level("INFO", logger="swarm.client.advice")

    async def main():
        scene = Scene(standbys=())
        scene.says["c"] = answer
        assert await scene.ask() is None and scene.asked == ["c"]
        await asyncio.sleep(BAD / 2)
        assert await scene.ask() is None and not scene.asked
        assert [record.getMessage().split(":")[0] for record in caplog.records] == ["c, asked for routes, gives bad advice"]
        await asyncio.sleep(BAD / 2)
        scene.says["c"] = advises()
        assert (await scene.ask()).planner == "c"

    run(main())


def test_a_route_through_a_peer_we_will_not_have_is_bad_advice():
    async def main():
        scene = Scene(standbys=())
        scene.says["c"] = advises()
        assert await scene.ask(exclude=frozenset({"q"})) is None
        assert scene.sent[0][1].exclude == ("q",) and await scene.ask() is None

    run(main())


def test_in_a_mended_route_survivors_may_be_leaving_or_about_to_move_but_nobody_else_may():
    async def main():
        scene, old = Scene(), plan(VIEWS, Request(4))
        scene.atlas.put(replace(VIEWS[0], state="joining", spans=(Span(2, 4),)))
        for name in "cdef":
            scene.says[name] = advises(DEAR)
        mended = await scene.ask(old=old, exclude=frozenset({"q"}))
        assert mended.hops == (old.hops[0], replace(DEAR[1], addrs=("addr-s",)))
        assert await scene.ask(exclude=frozenset({"q"})) is None

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        advises(term=2),
        advises(lifetime=0.01),
        advises((GOOD[0], Hop("q", 2, 4, (), 8))),
        advises((GOOD[0], Hop("unseen", 2, 4, (), 7))),
        advises((GOOD[0], Hop("going", 2, 4, (), 7))),
    ],
    ids=["old term", "expired", "another span", "unknown peer", "peer that leaves"],
)
def test_who_knows_less_or_more_than_we_do_is_asked_again_soon(answer):
    async def main():
        scene = Scene(standbys=())
        scene.says["c"] = answer
        assert await scene.ask() is None
        scene.says["c"] = advises()
        assert await scene.ask() is None and not scene.asked
        await asyncio.sleep(SILENT)
        assert (await scene.ask()).planner == "c"

    run(main())


def test_only_who_was_asked_may_answer():
    async def main():
        scene = Scene(standbys=())
        scene.says["c"] = advises()
        asyncio.get_running_loop().call_later(0.01, lambda: scene.advisers.receive("x", Unrouted(1, "missing")))
        assert (await scene.ask()).planner == "c"

    run(main())


def test_who_avoids_more_peers_than_a_question_names_plans_for_itself():
    async def main():
        scene = Scene()
        scene.says["c"] = advises()
        assert await scene.ask(exclude=frozenset(f"peer{at}" for at in range(MOST_NAMED + 1))) is None and not scene.asked

    run(main())


def test_several_sessions_ask_at_once():
    async def main():
        scene = Scene()
        scene.says["c"] = advises()
        routes = await asyncio.gather(*(scene.ask(session=bytes([number]) * 16) for number in range(5)))
        assert [route.planner for route in routes] == ["c"] * 5 and not scene.advisers._waiting

    run(main())


def test_now_and_then_the_price_is_compared_and_a_dear_route_is_refused():
    async def main():
        scene = Scene(standbys=())
        scene.says["c"] = advises(DEAR)
        assert (await scene.ask()).hops[1].peer == "slow"
        scene.chance = 0.5 / AUDIT
        assert await scene.ask() is None
        scene.chance = 0.5
        assert await scene.ask() is None and not scene.asked

    run(main())


def test_of_two_claims_the_higher_term_counts():
    async def main():
        scene = Scene(claims=("c", "b"))
        scene.says["b"] = advises(term=4)
        assert scene.advisers.coordinator == "b" and (await scene.ask()).planner == "b"

    run(main())


def test_who_promises_too_much_is_passed_over_but_not_for_the_lies_of_others():
    async def main():
        for promise, seconds, trusted in ((0.001, 1.0, False), (0.0, 1.0, False), (0.001, 0.001, True), (0.06, 9.0, True)):
            scene = Scene(standbys=())
            scene.says["c"] = advises(promise=promise)
            route = await scene.ask()
            for _ in range(PROMISES):
                scene.advisers.kept(route, seconds)
            assert (await scene.ask() is not None) == trusted, promise

    run(main())


def test_work_that_is_divided_goes_to_standbys_by_session():
    async def main():
        scene = Scene(shards=3)
        first = {scene.advisers.order(bytes([number]) * 16)[0] for number in range(64)}
        assert first == {"c", "d", "e"}
        assert all(len(set(scene.advisers.order(bytes([number]) * 16))) == 3 for number in range(64))

    run(main())


def reports(scene) -> list:
    return [(peer, message) for peer, message in scene.sent if isinstance(message, Progress)]


def test_whoever_planned_hears_how_the_session_goes_and_when_it_is_over():
    async def main():
        scene = Scene()
        scene.says["c"] = advises()
        await scene.ask(prompt=20)
        scene.advisers.progress(S, 25)
        for _ in range(2):
            scene.advisers.progress(S, 27, ended=True)
        assert reports(scene) == [("c", Progress(S, 5)), ("c", Progress(S, 7, True))]

    run(main())


def test_a_session_that_may_stay_where_it_is_counts_there():
    async def main():
        scene = Scene()
        scene.says |= {"c": advises(), "d": advises()}
        await scene.ask(prompt=20)
        scene.advisers._avoid("c", SILENT, "is asked by others")
        assert (await scene.ask(prompt=30, tentative=True)).planner == "d" and scene.sent[0][1].tentative
        scene.advisers.progress(S, 35)
        assert reports(scene) == [("c", Progress(S, 15))]

    run(main())


def test_whoever_planned_hears_when_others_mend_the_route():
    async def main():
        for says in ({"d": advises()}, {}):
            scene = Scene(standbys=("d",))
            scene.says["c"] = advises()
            await scene.ask(prompt=20)
            scene.advisers._avoid("c", SILENT, "is silent")
            scene.says = says
            await scene.ask(prompt=30)
            scene.advisers.progress(S, 35)
            assert reports(scene) == [("c", Progress(S, 10, True)), *([("d", Progress(S, 5))] if says else [])]

    run(main())


def test_where_all_coordinators_begin_anew_so_do_terms():
    async def main():
        scene = Scene(term=9)
        scene.says["c"] = advises(term=1)
        assert await scene.ask() is None
        await asyncio.sleep(SILENT)
        scene.advisers.know("c0ffee", [announcement("c", claim=Claim("claim", 1, (1,)))], 10.0**9)
        assert (await scene.ask()).planner == "c"

    run(main())


def test_a_hop_that_knows_a_newer_term_is_believed_once():
    async def main():
        scene = Scene(standbys=())
        scene.says["c"] = advises()
        route = await scene.ask()
        assert not scene.advisers.stale("p", route, 3), "that is the one we know"
        assert scene.advisers.stale("p", route, 9) and not scene.advisers.stale("p", route, 10)
        assert await scene.ask() is None
        assert not scene.advisers.stale("q", plan(scene.atlas, Request(4)), 9), "nobody advised it"

    run(main())


def test_a_hop_that_makes_up_a_term_silences_nobody_for_long():
    async def main():
        scene = Scene()
        scene.says |= {"c": advises(), "d": advises()}
        assert scene.advisers.stale("p", await scene.ask(), 2**53)
        assert (await scene.ask()).planner == "d"
        await asyncio.sleep(SILENT)
        assert (await scene.ask()).planner == "c"

    run(main())


def test_a_client_says_what_a_row_takes_and_what_a_compressed_one_and_whether_it_wants_guesses():
    async def main():
        scene = Scene()
        scene.says["c"] = nothing("missing")
        await scene.ask(row_bytes=3840, packed_bytes=1020, guesses=False)
        return scene.sent[0][1]

    asked = run(main())
    assert (asked.row_bytes, asked.packed_bytes, asked.guesses) == (3840, 1020, False)


def test_a_client_with_its_own_ends_says_how_far_it_is_from_whom():
    async def main():
        scene = Scene()
        scene.says["c"] = nothing("missing")
        await scene.ask(source="me", source_rtts={"p": 0.02}, own=(Span(0, 1), Span(3, 4)))
        ours = scene.sent[0][1]
        await scene.ask(source="me", source_rtts={"p": 0.02})
        return ours, scene.sent[0][1]

    ours, others = run(main())
    assert (ours.own, ours.rtts) == (((0, 1), (3, 4)), {"p": 0.02}) and (others.own, others.rtts) == ((), {}), "whose route does not end there need not say"
