"""Rows are compressed where the sender's line is slow enough, and both ends can."""

from __future__ import annotations

import pytest

from swarm.core import Hop
from swarm.routing.compression import compresses
from swarm.routing.table import PeerView

MEGABIT = 1e6 / 8


@pytest.mark.parametrize(
    ("upload", "able", "found"),
    [(10 * MEGABIT, True, True), (22 * MEGABIT, True, True), (23 * MEGABIT, True, False), (0.0, True, False), (10 * MEGABIT, False, None)],
)
def test_it_is_the_line_that_decides(upload, able, found):
    views = {"a": PeerView("a", upload=upload, compresses=True), "b": PeerView("b", compresses=able)}
    assert compresses(Hop("a", 0, 2), Hop("b", 2, 4), views, 960, 3840) is found
    assert compresses(Hop("me", 0, 2), Hop("a", 2, 4), views, 960, 3840) is False, "a client's own line is not known"
    assert compresses(Hop("a", 0, 2), Hop("a", 2, 4), views, 960, 3840) is False
