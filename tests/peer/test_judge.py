"""A coordinator that is told of a cheat: it tries for itself, plans without whoever is convicted, and does no harm to whoever is slandered."""

from __future__ import annotations

import asyncio
import random
import struct
from dataclasses import replace

import msgspec
import pytest

from swarm.core import Span
from swarm.machines.marks import MOST_SHOWN_BYTES, marks
from swarm.machines.probe import USUAL_ROOM
from swarm.peer.judge import CASES, REST, Judge
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView
from swarm.sim import toy
from swarm.wire import COMPRESSED, Accuse, Blob, Have, Message, Open, Statement, Step, decode_order, encode
from tests.net.virtual import run

MODEL, COMPONENTS, SPAN = "m", 6, Span(2, 4)


def rows(*values: float) -> Blob:
    return Blob("float32", 1, memoryview(struct.pack(f"{len(values)}f", *values)))


RECEIVED, RIGHT, WRONG = rows(1.0, 2.0, 3.0), rows(2.0, 4.0, 6.0), rows(2.0, 4.0, 9.0)


def values(blob: Blob) -> list[float]:
    return list(memoryview(bytes(blob.data)).cast("f"))


class Loud:
    """Numbers may usually be 0.1 apart, and are rounded to 0.05."""

    @staticmethod
    def share(one: Blob, other: Blob, components: int) -> float:
        return max(abs(x - y) for x, y in zip(values(one), values(other), strict=True)) / 0.1

    @staticmethod
    def nudged(blob: Blob, numerics: str, dice) -> Blob:
        return rows(*(value + 0.05 for value in values(blob)))


def by(gain: float, error: float = 0.0):
    """What layers that carry everything so far make of what they are given."""
    return lambda blob: rows(*(gain * value + error for value in values(blob)))


class World:
    """`witnesses` says what each peer makes of anything, or of what; the coordinator is "me"."""

    peer = "me"

    def __init__(self, witnesses, now: float = 0.0, likeness=toy) -> None:
        self.witnesses, self.now, self.asked = witnesses, now, []
        self.table = PeerTable()
        holders = dict.fromkeys([*witnesses, "accused", "accuser"])
        self.table.show(PeerView(peer, spans=(SPAN,), revision="r", numerics="float32") for peer in holders)
        clock = lambda: self.now  # noqa: E731
        self.judge = Judge(self, MODEL, COMPONENTS, self.table, lambda data: b"", toy.verify, likeness, clock, clock, random.Random(1))

    def learn(self, peer, addrs) -> None: ...

    def send(self, peer: str, message: Message) -> None:
        """To a peer, which answers at once."""
        if isinstance(message, Open):
            self.asked.append(peer)
            self._say(peer, Have(message.session, 1, 0, 0, 0, True))
        elif isinstance(message, Step) and (made := self.witnesses[peer]) is not None:
            self._say(peer, Step(message.session, 1, 2, 0, 0, (0, 0, 0), made(message.hidden) if callable(made) else made))
        elif isinstance(message, Step):
            self.judge.errands.lost(peer)

    def _say(self, peer: str, message: Message) -> None:
        asyncio.get_running_loop().call_soon(self.judge.errands.receive, peer, message)

    def banned(self) -> frozenset[str]:
        return self.table.shunned(self.now)


def accusation(made: Blob, received: Blob = RECEIVED, peer: str = "accused") -> Accuse:
    statement = encode(Statement(peer, "accuser", b"s" * 16, 1, "r", "float32", SPAN.start, SPAN.stop, 0, 3, marks(RECEIVED), marks(made)))
    return Accuse(MODEL, statement, toy.signed(peer, statement), (0, 0, 0), received, made)


def judged(world: World, told: Accuse) -> frozenset[str]:
    async def main() -> frozenset[str]:
        assert world.judge.takes("accuser", told)
        await world.judge.look_into("accuser", told)
        return world.banned()

    return run(main())


def test_two_others_convict_and_the_accuser_is_none_of_them():
    world = World({"a": RIGHT, "b": RIGHT, "c": RIGHT})
    assert judged(world, accusation(WRONG)) == {"accused"}
    assert len(set(world.asked)) == 2 and not {"accuser", "accused"} & set(world.asked)
    world.now = world.judge.audits.until("accused") + 1
    assert not world.banned(), "bans end"


def test_the_accuser_is_no_witness():
    world = World({"a": RIGHT, "accuser": RIGHT})
    assert not judged(world, accusation(WRONG)) and set(world.asked) == {"a"}


def test_our_own_word_is_enough():
    world = World({"me": RIGHT, "a": WRONG, "b": WRONG})
    assert judged(world, accusation(WRONG)) == {"accused"} and set(world.asked) == {"me"}


@pytest.mark.parametrize(
    "witnesses",
    [{"a": RIGHT, "b": RIGHT}, {"me": RIGHT}, {"a": None, "b": None}, {}, {"a": WRONG, "b": RIGHT, "c": None}, {"a": WRONG, "b": None}],
    ids=["good work", "by our own word", "lost", "nobody", "one agrees", "one alone"],
)
def test_nobody_is_convicted_for_good_work_or_by_a_single_other(witnesses):
    assert not judged(World(witnesses), accusation(RIGHT))


def test_who_knows_nothing_of_compressed_rows_is_no_witness_of_them():
    """Older peers, though they stand first by lot, would make exact rows, or none."""
    made, wrong = (Blob(COMPRESSED, 1, memoryview(bytes(numbers))) for numbers in ((1, 0, 0, 2, 0, 0, 3, 0, 0), (1, 0, 0, 2, 0, 0, 4, 0, 0)))
    for told, found in ((made, frozenset()), (wrong, {"accused"})):
        world = World({"me": RIGHT, "old": RIGHT, "new": made, "newer": made})
        views = world.table.views
        world.table.show(replace(views[peer], compresses=peer.startswith("new")) for peer in list(views))
        assert judged(world, accusation(told)) == found and set(world.asked) <= {"new", "newer"} and world.asked


def test_what_is_not_in_the_peers_own_words_has_nobody_compute_anything():
    for told in (
        accusation(WRONG, rows(1.0, 2.0, 3.5)),
        msgspec.structs.replace(accusation(WRONG), signature=b"x" * 64),
        msgspec.structs.replace(accusation(RIGHT), rows=WRONG),
        msgspec.structs.replace(accusation(WRONG), statement=accusation(WRONG, peer="a").statement),
    ):
        world = World({"a": RIGHT, "b": RIGHT})
        assert not judged(world, told) and not world.asked


def test_accusations_are_looked_into_one_a_minute_of_each_and_few_at_once():
    async def main() -> None:
        world = World({"a": RIGHT, "b": RIGHT})
        told = accusation(WRONG)
        assert world.judge.takes("accuser", told) and not world.judge.takes("accuser", told)
        world.now += REST
        assert world.judge.takes("accuser", told)
        assert not world.judge.takes("b", msgspec.structs.replace(told, config_hash="another model"))
        cases = [asyncio.create_task(world.judge.look_into(f"accuser {number}", told)) for number in range(CASES)]
        await asyncio.sleep(0)
        assert not world.judge.takes("c", told)
        await asyncio.gather(*cases)
        assert world.judge.takes("c", told)

    run(main())


def test_a_witness_that_makes_no_sense_ends_nothing():
    """Its rows do not fit together: it is passed over as one that is lost, and the next is asked."""

    class Odd(World):
        def send(self, peer: str, message: Message) -> None:
            if not isinstance(message, Step) or peer == "b":
                return super().send(peer, message)
            self._say(peer, Step(message.session, 1, 2, 0, 0, (0,), Blob("float32", 2, memoryview(bytes(8)))))
            self._say(peer, Step(message.session, 1, 2, 0, 1, (0, 0), rows(1.0, 2.0)))

    world = Odd({"a": RIGHT, "b": RIGHT, "c": RIGHT, "d": RIGHT})
    assert not judged(world, accusation(RIGHT)) and "b" in world.asked


def judged_again(world: World, told: Accuse, times: int) -> frozenset[str]:
    async def main() -> frozenset[str]:
        for _ in range(times):
            await world.judge.look_into("accuser", told)
            if world.banned():
                break
        return world.banned()

    return run(main())


def test_two_liars_do_not_convict_by_accusing_again_and_again():
    """The first trial may go wrong, where the lot names both; afterwards it takes more of them."""
    trials = 0
    for seed in range(8):
        world = World({"a": RIGHT, "b": RIGHT, "c": RIGHT, "sybil": WRONG, "other sybil": WRONG})
        world.judge._dice.seed(seed)
        if not judged(world, accusation(RIGHT)):
            trials += 1
            assert not judged_again(world, accusation(RIGHT), 100)
    assert trials


def test_a_cheat_gains_nothing_by_being_accused_of_good_work():
    world = World({"a": RIGHT, "b": RIGHT, "c": RIGHT})
    assert not judged_again(world, accusation(RIGHT), 100)
    assert judged(world, accusation(WRONG)) == {"accused"} and set(world.asked) == {"a", "b", "c"}
    lame = World({"a": RIGHT, "b": RIGHT, "c": None})
    assert not judged_again(lame, accusation(RIGHT), 5)
    assert judged(lame, accusation(WRONG)) == {"accused"}, "who does not answer does not count"


def test_an_accusation_with_more_than_anybody_was_shown_is_not_looked_into():
    world = World({"a": RIGHT})
    much = Blob("float32", 2**20, memoryview(bytes(MOST_SHOWN_BYTES + 2**22)))
    assert not world.judge.takes("accuser", msgspec.structs.replace(accusation(WRONG), hidden=much))
    assert not world.judge.takes("accuser", msgspec.structs.replace(accusation(WRONG), rows=much))
    assert world.judge.takes("accuser", accusation(WRONG))


def test_to_a_witness_it_is_a_session_that_wants_an_answer():
    orders = []

    class Seen(World):
        def send(self, peer: str, message: Message) -> None:
            if isinstance(message, Open):
                orders.append(decode_order(message.order))
            super().send(peer, message)

    judged(Seen({"a": RIGHT, "b": RIGHT}), accusation(WRONG))
    assert len(orders) == 4 and all(3 + USUAL_ROOM[0] <= order.until < order.limit <= 4 + USUAL_ROOM[1] for order in orders)


@pytest.mark.parametrize(
    ("gain", "error", "verdict"),
    [(1, 0.09, "acquitted"), (1, 0.15, "convicted"), (10, 0.15, "acquitted"), (10, 0.5, "left open"), (10, 2.0, "convicted")],
)
def test_where_layers_carry_a_rounding_far_that_is_no_reason_to_convict(gain, error, verdict):
    """A client chooses what it accuses others of, and could choose what makes the most of a rounding."""
    world = World({"a": by(gain), "b": by(gain), "c": by(gain)}, likeness=Loud)
    banned = judged(world, accusation(by(gain, error)(RECEIVED)))
    assert banned == ({"accused"} if verdict == "convicted" else frozenset())
    assert bool(world.judge._acquitted) == (verdict == "acquitted")


@pytest.mark.parametrize("makes", [lambda blob: None, lambda blob: rows(float("nan"), 0, 0)], ids=["nothing", "nonsense"])
def test_who_does_not_show_how_far_a_rounding_is_carried_contradicts_nobody(makes):
    def lame(blob: Blob) -> Blob:
        return RIGHT if blob == RECEIVED else makes(blob) or rows()

    world = World({"a": lame, "b": lame}, likeness=Loud)
    assert not judged(world, accusation(WRONG)) and not world.judge._acquitted
