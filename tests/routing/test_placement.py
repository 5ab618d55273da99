import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core import Span, missing_spans, whole
from swarm.errors import DoesNotFit
from swarm.routing import PeerView, choose_spans
from swarm.routing.placement import windows
from tests.routing.worlds import swarm

SIZES = [5, *[10] * 8, 8]  # embed, eight layers, head


def serve(name: str, start: int, stop: int, **more) -> PeerView:
    return PeerView(name, spans=(Span(start, stop),), **more)


def join(peers: list[PeerView], budget: int, sizes: list[int] | None = None, speed: float = 0.01) -> Span:
    sizes = sizes or SIZES
    return choose_spans(peers, len(sizes), sizes, budget, speed)


def test_windows_take_the_ends_along():
    assert windows(SIZES, 30) == [Span(0, 3), Span(2, 5), Span(3, 6), Span(4, 7), Span(5, 8), Span(6, 8), Span(7, 10), Span(8, 10)]
    assert Span(0, 10) in windows(SIZES, sum(SIZES))


def test_an_end_too_large_for_a_layer_beside_it_stands_alone_or_is_left_to_others():
    assert windows([25, 10, 10, 10, 30], 30) == [Span(0, 1), Span(1, 4), Span(2, 4), Span(3, 4), Span(4, 5)]
    assert windows([99, 10, 10, 99], 20) == [Span(1, 3), Span(2, 3)]
    assert windows([5, 10, 5], 15) == [Span(0, 2), Span(1, 3), Span(2, 3)]


def test_one_layer_must_fit():
    with pytest.raises(DoesNotFit, match="not even one layer fits"):
        join([], 9)


def test_newcomers_fill_the_model_in_order_and_leave_no_fragments():
    peers: list[PeerView] = []
    for name in "abcd":
        span = join(peers, 30)
        peers.append(PeerView(name, spans=(span,)))
    assert not missing_spans([view.spans[0] for view in peers], whole(10))


def test_a_hole_comes_before_anything_else():
    peers = [serve("a", 0, 6, decode=9.0), serve("b", 7, 10)]
    assert 6 in join(peers, 10)
    assert Span(6, 7).start in join(peers, 40)


def test_without_holes_the_least_covered_window():
    everywhere = [serve("a", 0, 10), serve("b", 0, 10)]
    assert join([*everywhere, serve("c", 0, 5)], 50).start >= 4
    assert join([*everywhere, serve("c", 5, 10)], 50).start == 0
    assert join([serve("slow", 0, 5, decode=0.1), serve("fast", 5, 10, decode=0.001)], 50).start == 0


def test_ties_fall_to_the_lowest_start():
    assert join([serve("a", 0, 10)], 10, [1, *[10] * 8, 1]) == Span(1, 2)
    assert join([serve("a", 0, 10, decode=0.0)], 10, [1, *[10] * 8, 1], speed=0.0) == Span(1, 2)


def test_the_leaving_are_not_counted_and_the_joining_are():
    assert join([serve("a", 0, 5, state="leaving"), serve("b", 5, 10)], 50).start == 0
    assert join([serve("a", 0, 5, state="joining")], 50).stop == 10


@given(st.randoms(use_true_random=False), st.integers(0, 6), st.integers(3, 10))
@settings(max_examples=150, deadline=None)
def test_placement_fits_covers_holes_first_and_ignores_the_order_of_reading(rng: random.Random, count: int, components: int):
    peers = swarm(rng, count, components, holes=True) if count else []
    sizes = [rng.randint(1, 30) for _ in range(components)]
    budget = rng.randint(min(sizes[1:-1]), sum(sizes))
    span = join(peers, budget, sizes)
    assert sum(sizes[span.start : span.stop]) <= budget and span.stop <= components
    holes = missing_spans([own for view in peers for own in view.spans], whole(components))
    reachable = any(c in window for hole in holes for c in range(hole.start, hole.stop) for window in windows(sizes, budget))
    assert any(c in span for hole in holes for c in range(hole.start, hole.stop)) == reachable
    assert join(rng.sample(peers, len(peers)), budget, sizes) == span
