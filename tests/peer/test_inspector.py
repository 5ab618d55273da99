"""How often a coordinator inspects, and whom: newcomers soon, the proven seldom, nobody where there is nobody to compare with."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

from swarm.core import Span
from swarm.machines.audits import PROVEN, Audits
from swarm.peer.inspector import SELDOM, SOON, Inspector
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView
from swarm.sim import toy
from swarm.wire import Blob
from tests.net.virtual import run

FRONT, BACK = Span(0, 3), Span(3, 6)


def inspector(**spans: Span) -> Inspector:
    table = PeerTable()
    table.show(PeerView(peer, spans=(span,), revision="r", numerics="float32") for peer, span in spans.items())
    judge = SimpleNamespace(table=table, audits=Audits(), errands=None)
    return Inspector(judge, 6, 1000, toy.alike, lambda: 0.0, lambda: 0.0, random.Random(1))


def test_newcomers_are_looked_at_soon_and_the_proven_seldom():
    one = inspector(a=FRONT, b=FRONT, c=BACK)
    assert one._pause() == SOON and one._choose_class() == ("r", "float32")
    for peer in "ab":
        for _ in range(PROVEN):
            one._judge.audits.passed(peer)
    assert one._pause() == SELDOM, "c cannot be compared with anybody"
    one._judge.audits.unsure("b")
    assert one._pause() == SOON


def test_where_nobody_holds_what_another_does_nothing_is_asked():
    assert inspector(a=FRONT, b=BACK)._choose_class() is None
    assert inspector(a=Span(0, 1), b=Span(0, 1), c=Span(1, 5), d=Span(5, 6), e=Span(5, 6))._choose_class() is None, "ends are not compared"


class Errand:
    """Everybody makes the same, and at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, view: PeerView, work) -> Blob:
        self.asked.append(view.peer)
        return Blob("float32", 1, memoryview(bytes(4 * len(work.tokens))))


def test_of_many_the_newcomer_is_chosen_most_often():
    one, errand = inspector(new=FRONT, **{f"old{number}": FRONT for number in range(9)}, back=BACK), Errand()

    async def main() -> None:
        for _ in range(200):
            for number in range(9):
                one._judge.audits._of(f"old{number}").passed = PROVEN
            one._judge.audits._of("new").passed = 0
            await one.walk(errand, ("r", "float32"))

    run(main())
    seen = Counter(errand.asked)
    assert seen["new"] > 1.5 * max(seen[f"old{number}"] for number in range(9)) > 0
