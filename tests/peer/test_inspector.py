"""How often a coordinator inspects, and whom: newcomers soon, the proven seldom, nobody where there is nobody to compare with."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import pytest

from swarm.core import Span
from swarm.errands import Redone
from swarm.machines.audits import PROVEN, Audits
from swarm.peer.inspector import SELDOM, SOON, Inspector, Stretch
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView
from swarm.sim import toy
from swarm.wire import Blob
from tests.net.virtual import run

FRONT, BACK = Span(0, 3), Span(3, 6)


def inspector(**spans: Span) -> Inspector:
    table = PeerTable()
    table.show(PeerView(peer, spans=(span,), revision="r", numerics="float32") for peer, span in spans.items())
    judge = SimpleNamespace(table=table, audits=Audits(), errands=None, verify=toy.verify)
    return Inspector(judge, 6, 1000, lambda: 0.0, lambda: 0.0, random.Random(1))


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
    assert inspector(a=Span(0, 1), b=Span(0, 1), c=Span(1, 5), d=Span(5, 6))._choose_class() is None, "embeddings are not compared"
    assert inspector(c=Span(1, 5), d=Span(5, 6), e=Span(5, 6))._choose_class() is not None, "heads are"


class Errand:
    """Everybody makes the same, and at once."""

    likeness = toy

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def redo(self, view: PeerView, work) -> Redone:
        self.asked.append(view.peer)
        return Redone(self, view, SimpleNamespace(work=work, rows=Blob("float32", 1, memoryview(bytes(4 * len(work.tokens))))))


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


class Makers:
    """Each makes its own, and shows that a rounding is carried so far."""

    likeness = SimpleNamespace(share=lambda one, other, components: abs(one.data[0] - other.data[0]) / 10, nudged=lambda rows, numerics, dice: rows)
    dice = random.Random(0)

    def __init__(self, carried: int, **makes: int) -> None:
        self.carried, self.makes, self.asked = carried, makes, list[str]()

    async def redo(self, view: PeerView, work) -> Redone:
        again = view.peer in self.asked
        self.asked.append(view.peer)
        made = self.makes[view.peer] + self.carried * again
        return Redone(self, view, SimpleNamespace(work=work, rows=Blob("float32", 1, memoryview(bytes([made]) * 4 * len(work.tokens)))))


@pytest.mark.parametrize(("carried", "makes", "banned"), [(0, 15, {"odd"}), (10, 15, set()), (100, 60, set()), (20, 90, {"odd"})])
def test_what_a_rounding_explains_convicts_nobody(carried, makes, banned):
    one = inspector(a=Span(1, 3), b=Span(1, 3), odd=Span(1, 3))
    errands, convicted = Makers(carried, a=50, b=50, odd=50 + makes), set[str]()
    one._judge.convict = convicted.add

    async def main() -> None:
        rows = Blob("float32", 1, memoryview(bytes(8)))
        for seed in range(8):
            one._dice.seed(seed)
            errands.asked.clear()
            await one._compare(errands, Stretch(("r", "float32"), 1, (0, 0), rows, 64))

    run(main())
    assert convicted == banned
