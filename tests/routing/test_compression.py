"""Rows are compressed where the sender's line is slow enough, and both ends can."""

from __future__ import annotations

import pytest

from swarm.core import Hop, Span
from swarm.routing.compression import compresses
from swarm.routing.plan import plan
from swarm.routing.route import Request
from swarm.routing.table import PeerView
from swarm.wire import COMPRESSED, row_size

MEGABIT = 1e6 / 8

SIZES = 3840, row_size(COMPRESSED, 960)
"""Of a row of 960 numbers, in float32 and compressed."""


@pytest.mark.parametrize(
    ("upload", "able", "found"),
    [(10 * MEGABIT, True, True), (22 * MEGABIT, True, True), (23 * MEGABIT, True, False), (0.0, True, False), (10 * MEGABIT, False, None)],
)
def test_it_is_the_line_that_decides(upload, able, found):
    views = {"a": PeerView("a", upload=upload, compresses=True), "b": PeerView("b", compresses=able)}
    assert compresses(Hop("a", 0, 2), Hop("b", 2, 4), views, *SIZES) is found
    assert compresses(Hop("me", 0, 2), Hop("a", 2, 4), views, *SIZES) is False, "a client's own line is not known"
    assert compresses(Hop("a", 0, 2), Hop("a", 2, 4), views, *SIZES) is False


def test_routes_of_a_client_that_lets_peers_compress_are_priced_by_the_bytes_that_travel():
    """The faster of two first halves has a line so slow that only compressed rows make up for it, and only where it can compress them."""
    row, packed = SIZES

    def planned(packed_bytes: int, able: bool = True) -> tuple[str, float]:
        fast = PeerView("fast", spans=(Span(0, 2),), decode=0.010, upload=10 * MEGABIT, compresses=able)
        near = PeerView("near", spans=(Span(0, 2),), decode=0.012, compresses=True)
        last = PeerView("last", spans=(Span(2, 4),), decode=0.010, compresses=True)
        route = plan([fast, near, last], Request(4, output=1000, row_bytes=row, packed_bytes=packed_bytes))
        return route.hops[0].peer, route.legs[0].carry

    assert planned(0) == planned(packed, able=False) == ("near", 0.0)
    assert planned(packed) == ("fast", packed / (10 * MEGABIT))
