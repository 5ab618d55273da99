from dataclasses import replace
from math import isfinite

import msgspec
import pytest

from swarm import wire
from swarm.core import Span
from swarm.errors import ProtocolError
from swarm.routing import PeerView, Request
from swarm.routing.placement import choose_spans
from swarm.routing.plan import plan
from swarm.routing.table import FASTEST, LIGHTEST, NARROWEST
from swarm.wire import STATES


def announcement(**changes) -> wire.Announcement:
    record = wire.Announcement(
        1, "p", ("/ip4/1.2.3.4/tcp/1",), "m", "c", "rev", "float32", 10, ((0, 4), (4, 6), (8, 9)), 0.01, 0.002, 4096, 1024, 2048, "online", 7, 0.0,
        head_weight=1.5, rtts={"q": 0.04},
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def test_a_view_is_an_announcement_reduced():
    assert PeerView.of(announcement(), 10) == PeerView(
        "p", ("/ip4/1.2.3.4/tcp/1",), (Span(0, 6), Span(8, 9)), 0.01, 0.002, 1.5, 4096, 1024, 2048, "online", {"q": 0.04}, "rev", "float32"
    )


def test_a_state_that_nobody_knows_is_not_taken_for_serving():
    for state in STATES:
        assert PeerView.of(announcement(state=state), 10).state == state
    with pytest.raises(ProtocolError, match="no state that is known"):
        PeerView.of(announcement(state="on\x1bline"), 10)


@pytest.mark.parametrize("spans", [((3, 3),), ((4, 2),), ((0, 11),)])
def test_nonsense_is_the_strangers_fault(spans):
    with pytest.raises(ProtocolError):
        PeerView.of(announcement(spans=spans), 10)


@pytest.mark.parametrize("components", [9, 1000, 2**45])
def test_how_many_components_there_are_is_not_for_others_to_say(components):
    """Whoever plans would make room for all of them."""
    with pytest.raises(ProtocolError):
        PeerView.of(announcement(components=components, spans=((0, components),)), 10)


def test_nobody_takes_no_time_at_all():
    assert PeerView.of(announcement(decode=0.0), 10).decode == FASTEST


def test_what_no_route_can_name_or_reckon_with_is_not_taken_over():
    """One stranger that announces such things would else end the planning of everybody else."""
    odd = announcement(addrs=("/dns4/" + "x" * 300 + "/tcp/1", "/ip4/1.2.3.4/tcp/1"), spans=((9, 10),), head_weight=0.0, upload=5e-324)
    honest = PeerView("q", (), (Span(0, 10),), revision="rev", numerics="float32")
    view = PeerView.of(odd, 10)
    assert view.addrs == ("/ip4/1.2.3.4/tcp/1",) and view.head_weight == LIGHTEST and view.upload == NARROWEST
    few = [replace(honest, spans=(Span(0, 9),)), view]
    assert isfinite(plan(few, Request(10, row_bytes=2**24)).seconds_per_token)
    assert choose_spans(few, 10, (1,) * 10, 3, 0.01)
    assert PeerView.of(announcement(upload=0.0), 10).upload == 0.0, "which says that nobody knows"
