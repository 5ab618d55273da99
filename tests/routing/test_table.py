import msgspec
import pytest

from swarm import wire
from swarm.core import Span
from swarm.errors import ProtocolError
from swarm.routing import Latencies, PeerView


def announcement(**changes) -> wire.Announcement:
    record = wire.Announcement(
        1, "p", ("/ip4/1.2.3.4/tcp/1",), "m", "c", "rev", "float32", 10, ((0, 4), (4, 6), (8, 9)), 0.01, 0.002, 4096, 1024, 2048, "online", 7, 0.0,
        head_weight=1.5, rtts={"q": 0.04},
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def test_a_view_is_an_announcement_reduced():
    assert PeerView.of(announcement()) == PeerView(
        "p", ("/ip4/1.2.3.4/tcp/1",), (Span(0, 6), Span(8, 9)), 0.01, 0.002, 1.5, 4096, 1024, 2048, "online", {"q": 0.04}, "rev", "float32"
    )


@pytest.mark.parametrize("spans", [((3, 3),), ((4, 2),), ((0, 11),)])
def test_nonsense_is_the_strangers_fault(spans):
    with pytest.raises(ProtocolError):
        PeerView.of(announcement(spans=spans))


def test_latencies_are_half_the_round_trip_and_the_mean_where_both_measured():
    table = Latencies([PeerView("a", rtts={"b": 0.04, "c": 0.10}), PeerView("b", rtts={"a": 0.08, "b": 9.0}), PeerView("c")], None, {"c": 0.02})
    assert table.between("a", "b") == table.between("b", "a") == pytest.approx(0.03)
    assert table.between("c", "a") == pytest.approx(0.05)
    assert table.between(None, "c") == pytest.approx(0.01)
    assert table.between("b", "b") == 0
    assert table.default == table.between("b", "c") == table.between(None, "stranger") == pytest.approx(0.03)


def test_what_the_client_measured_joins_what_peers_measured_of_it():
    assert Latencies([PeerView("a", rtts={"me": 0.04})], "me", {"a": 0.08}).between("me", "a") == pytest.approx(0.03)


def test_without_a_measurement_all_are_twenty_milliseconds_apart():
    assert Latencies([PeerView("a"), PeerView("b", rtts={"a": float("nan"), "c": float("inf"), "d": -1.0})]).between("a", "b") == 0.020


def test_the_matrix_says_the_same():
    views = [PeerView("a", rtts={"b": 0.04, "x": 0.5}), PeerView("b", rtts={"a": 0.08}), PeerView("c", rtts={"a": 0.2})]
    table = Latencies(views, "me", {"b": 0.06})
    names = ["c", "b", "nobody", "a", "me"]
    assert table.matrix(names).tolist() == [[table.between(one, other) for other in names] for one in names]
    assert table.matrix([]).shape == (0, 0)
