"""The auditor's own bounds. How audits end is seen on a stage (tests/sim/test_cheats.py) and among real processes (tests/attacks/test_cheats.py)."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from swarm.client.audit import UNDER_WAY, Again, Auditor, Job, Made, Unclear, Wrong
from swarm.client.audit import Testimony as Told
from swarm.client.trust import Trust
from swarm.core import Hop, Sampling, Span
from swarm.errands import Redone
from swarm.machines.audits import Audits
from swarm.machines.limits import CREDIT
from swarm.machines.probe import USUAL_ROOM, Work
from swarm.machines.redone import drawn_alike
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView
from swarm.sim import toy
from swarm.wire import COMPRESSED, Blob, Drawn, Have, Order, Shown, Step, decode_order


def test_however_long_others_take_to_make_work_again_few_audits_wait_for_them():
    async def main() -> None:
        host = SimpleNamespace(trust=Trust(), peer="me", table=PeerTable(), clock=lambda: 0.0, components=4)
        host.table.show(PeerView(peer, spans=(Span(0, 4),), revision="r", numerics="float32") for peer in ("a", "b", "c"))
        auditor = Auditor(host, Audits(1.0), toy, random.Random(0))

        async def heard(job: Job, number: int) -> object:
            return "testimony"

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        auditor._hear, auditor._try = heard, never
        for number in range(3 * UNDER_WAY):
            auditor.turn(Job(number.to_bytes(16, "big"), 1, (Hop("a", 0, 4),), "r", "float32", (1, 2, 3), 2, Sampling(), True))
            await asyncio.sleep(0.001)
        assert len(auditor._tasks) == UNDER_WAY and not auditor._hearings
        await auditor.close()

    asyncio.run(main())


def test_who_is_lost_while_it_is_to_show_its_work_has_refused_once_and_its_neighbours_have_not():
    async def main() -> None:
        host = SimpleNamespace(trust=Trust(), peer="me", table=PeerTable(), clock=lambda: 0.0, say=lambda *_: None)
        auditor = Auditor(host, Audits(1.0), toy, random.Random(0))
        job = Job(b"s" * 16, 1, (Hop("a", 0, 2), Hop("b", 2, 4)), "r", "float32", (1, 2, 3), 2, Sampling(), True)
        other = replace(job, session=b"t" * 16)
        asks = [asyncio.ensure_future(auditor._ask(one, 0, 0, 2, doubts=True)) for one in (job, other)] + [asyncio.ensure_future(auditor._ask(job, 1, 2, 2))]
        await asyncio.sleep(0)
        auditor.lost("a")
        auditor.lost("b")
        assert all(isinstance(how, Unclear) for how in await asyncio.gather(*asks, return_exceptions=True))
        assert auditor.audits._records["a"].refused == 1 and "b" not in auditor.audits._records

    asyncio.run(main())


@pytest.mark.parametrize(("sampling", "times"), [(Sampling(temperature=1.0), 2), (Sampling(repetition_penalty=1.1), 2), (Sampling(), 1)])
def test_a_head_that_draws_another_token_by_lot_is_caught_when_it_does_so_again(sampling, times):
    """Both referees run alike, so a near tie has them contradict an honest head together."""
    banned: list[str] = []
    host = SimpleNamespace(clock=lambda: 0.0, distrust=lambda peer, until: banned.append(peer), advisers=None)
    auditor = Auditor(host, Audits(1.0), toy, random.Random(0))
    job = Job(b"s" * 16, 1, (Hop("head", 0, 4),), "r", "float32", (1, 2, 3, 4), 2, sampling, True)
    other = [Drawn(b"s" * 16, 1, 0, 0, 2, (3,)), Drawn(b"s" * 16, 1, 0, 0, 3, (9,))]
    assert drawn_alike(job.tokens, sampling, "float32", other) is False
    testimony = SimpleNamespace(made=SimpleNamespace(shown=SimpleNamespace(rows=None)))
    for time in range(1, times + 1):
        auditor._judge(job, "head", Wrong("head", testimony), testimony)
        assert banned == (["head"] if time == times else [])


@pytest.mark.parametrize("span", [Span(0, 2), Span(2, 4), Span(4, 6)], ids=["first", "middle", "head"])
def test_to_a_referee_it_is_a_session_of_somebody_with_ends_of_his_own(span):
    """It asks for room for an answer, as far as there is any, and what is not told is veiled, each time otherwise."""

    def seen(seed: int, free: int) -> tuple[Order, tuple[int, ...]]:
        said: list[object] = []

        async def main() -> None:
            host = SimpleNamespace(peer="me", components=6, wall=lambda: 0.0, say=lambda peer, message, *_: said.append(message))
            auditor = Auditor(host, Audits(1.0), toy, random.Random(seed))
            job = Job(b"s" * 16, 1, (Hop("a", 0, 6),), "r", "float32", (5, 6, 7, 8), 2, Sampling(), True)
            hidden = None if span.start == 0 else Blob("float32", 1, memoryview(bytes(12)))
            view = PeerView("b", spans=(span,), revision="r", numerics="float32", max_length=4096, free_tokens=free)
            again = asyncio.ensure_future(
                auditor._again(job, Hop("a", span.start, span.stop), view, Told(SimpleNamespace(shown=Shown(b"s" * 16, 1, 0, 0)), hidden, 0, 3))
            )
            await asyncio.sleep(0)
            opened = said[0]
            auditor.receive("b", Have(opened.session, 1, opened.to - 1, 0, 0, True))
            auditor.lost("b")
            await again

        asyncio.run(main())
        return decode_order(said[0].order), next(message.tokens for message in said if isinstance(message, Step))

    orders = [seen(seed, 4096) for seed in range(8)]
    for order, tokens in orders:
        assert 3 + USUAL_ROOM[0] <= order.until < order.limit <= 4 + USUAL_ROOM[1]
        assert order.until <= 3 + CREDIT, "no session is given more at once"
        assert (tokens == (5, 6, 7)) == (span != Span(2, 4))
    if span == Span(2, 4):
        assert len({token for _, tokens in orders for token in tokens}) > 20
    assert len({order.limit for order, _ in orders}) > 4
    assert len({order.sampling.seed for order, _ in orders}) == len(orders), "and no two have the same seed"
    assert seen(0, 40)[0].limit == 40 and seen(0, 0)[0].limit == 4


@pytest.mark.parametrize(("dtype", "asked"), [(COMPRESSED, {"new"}), ("float32", {"old", "new"})])
def test_who_knows_nothing_of_compressed_rows_is_no_referee_of_them(dtype, asked):
    """It would make exact rows, or none, and be taken for a liar."""
    seen: set[str] = set()

    async def main() -> None:
        host = SimpleNamespace(trust=Trust(), peer="me", table=PeerTable(), clock=lambda: 0.0, components=4)
        peers = {"suspect": True, "old": False, "new": True}
        host.table.show(PeerView(peer, spans=(Span(0, 2),), revision="r", numerics="float32", compresses=able) for peer, able in peers.items())
        auditor = Auditor(host, Audits(1.0), toy, random.Random(0))

        async def nothing(job: Job, suspect: Hop, view: PeerView, testimony: Told) -> None:
            seen.add(view.peer)

        auditor._again = nothing
        rows = Blob(dtype, 6, memoryview(bytes(24)))
        job = Job(bytes(16), 1, (Hop("suspect", 0, 2), Hop("b", 2, 4)), "r", "float32", (1, 2, 3), 2, Sampling(), True)
        with pytest.raises(Unclear):
            await auditor._verdict(job, 0, Told(Made(Shown(bytes(16), 1, -1, 0, rows=rows), None), None, 0, 1))

    asyncio.run(main())
    assert seen == asked


class Makers:
    """Referees, each of whom makes its own number of anything, and shows that a rounding is carried so far."""

    likeness = SimpleNamespace(share=lambda one, other, components: abs(one.data[0] - other.data[0]) / 10, nudged=lambda rows, numerics, dice: rows)
    dice = random.Random(0)

    def __init__(self, carried: int, makes: dict[str, int]) -> None:
        self.carried, self.makes, self.asked = carried, makes, list[str]()

    async def redo(self, view: PeerView, work=None) -> Redone:
        made = self.makes[view.peer] + self.carried * (view.peer in self.asked)
        self.asked.append(view.peer)
        hop, hidden = Hop(view.peer, 2, 4), Blob("float32", 1, memoryview(bytes(12)))
        return Redone(self, view, SimpleNamespace(rows=number(made), work=Work(hop, "r", "float32", 6, (1, 2, 3), hidden)))


def number(value: int) -> Blob:
    return Blob("float32", 1, memoryview(bytes([value]) * 12))


@pytest.mark.parametrize(
    ("carried", "made", "referees", "wrong"),
    [
        (0, 50, [50], None),
        (0, 65, [50, 50], "suspect"),
        (10, 65, [50, 50], None),
        (100, 90, [50, 50], "unclear"),
        (10, 90, [50, 50], "suspect"),
        (0, 50, [65, 50], "r0"),
        (10, 50, [65, 50], None),
        (100, 50, [90, 50], None),
        (10, 50, [90, 50], "r0"),
        (0, 65, [50], "unclear"),
    ],
)
def test_only_what_a_rounding_does_not_explain_is_wrong(carried, made, referees, wrong):
    async def main() -> str | None:
        host = SimpleNamespace(trust=Trust(), peer="me", table=PeerTable(), clock=lambda: 0.0, components=6)
        makes = {f"r{at}": value for at, value in enumerate(referees)}
        host.table.show(PeerView(peer, spans=(Span(2, 4),), revision="r", numerics="float32") for peer in ("suspect", *makes))
        errands = Makers(carried, makes)
        auditor = Auditor(host, Audits(1.0), errands.likeness, random.Random(0))
        ask = auditor._referees
        auditor._referees = lambda *about: sorted(ask(*about), key=lambda view: view.peer)

        async def again(job: Job, suspect: Hop, view: PeerView, testimony: Told) -> Again:
            return Again(await errands.redo(view))

        auditor._again = again
        job = Job(bytes(16), 1, (Hop("a", 0, 2), Hop("suspect", 2, 4), Hop("b", 4, 6)), "r", "float32", (1, 2, 3, 4), 2, Sampling(), True)
        try:
            found = await auditor._verdict(job, 1, Told(Made(Shown(bytes(16), 1, -1, 0, rows=number(made)), None), number(0), 0, 3))
        except Unclear:
            return "unclear"
        return None if found is None else found.peer

    assert asyncio.run(main()) == wrong
