import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.core import Span, missing_spans, whole
from swarm.errors import DoesNotFit
from swarm.routing import PeerView, choose_spans
from swarm.routing.flow import tokens_per_second
from swarm.routing.placement import Ground, Places, _water, better_place, still_better, windows
from tests.routing.worlds import swarm

SIZES = [5, *[10] * 8, 8]  # embed, eight layers, head


def serve(name: str, start: int, stop: int, **more) -> PeerView:
    return PeerView(name, spans=(Span(start, stop),), **more)


def join(peers: list[PeerView], budget: int, sizes: list[int] | None = None, speed: float = 0.01, region: str = "") -> Span:
    sizes = sizes or SIZES
    return choose_spans(peers, len(sizes), sizes, budget, speed, region)


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


def moves(peers: list[PeerView], me: PeerView, budget: int, components: int = 10) -> Span | None:
    return better_place(peers, me, components, [10] * components, budget)


def test_who_alone_holds_something_stays():
    """However slow its place is and however badly others would need it."""
    me = serve("me", 0, 5, decode=0.001)
    assert moves([me, serve("b", 5, 10, decode=1.0)], me, 50) is None
    assert moves([me, serve("b", 5, 10, decode=1.0), serve("c", 0, 5, decode=1.0)], me, 50) is not None


def test_a_host_that_still_loads_does_not_stand_in():
    """Or answers would find nobody while we load ourselves, though both of us have announced something by then."""
    others = [serve("a", 0, 5), serve("b", 0, 5), serve("c", 5, 10)]
    me = serve("me", 0, 5)
    assert moves([me, *others], me, 50) == Span(5, 10)
    assert moves([me, *(replace(view, state="joining") if view.peer in "ab" else view for view in others)], me, 50) is None


def test_a_gap_is_closed_by_who_can_be_spared_and_not_by_who_would_open_one():
    sole, spare = serve("a", 0, 5), serve("b", 2, 5)
    assert moves([sole, spare], spare, 30) == Span(5, 8)
    assert moves([sole, spare], sole, 50) == Span(5, 10)  # seven served instead of five: the spare one still holds three
    assert moves([sole], sole, 50) is None


def test_a_thin_place_is_repaired_before_it_breaks():
    """Layers 2 to 6 have four hosts and layers 6 to 10 one, all fast. Throughput hangs on the slow ones before them, so nothing is gained but safety."""
    slow, thin = [serve(name, 0, 2, decode=0.1) for name in "ab"], serve("c", 6, 10, decode=0.001)
    spare = [serve(name, 2, 6, decode=0.001) for name in "defg"]
    assert moves([*slow, thin, *spare], spare[0], 40) == Span(6, 10)
    assert moves([*slow, thin, *spare[1:], serve("d", 6, 10, decode=0.001)], spare[1], 40) is None


def test_where_it_is_already_is_no_move():
    everywhere = [serve(name, start, start + 5) for name, start in (("a", 0), ("b", 0), ("c", 5), ("d", 5))]
    assert all(moves(everywhere, me, 50) is None for me in everywhere)


def test_little_is_no_reason_and_a_lot_is():
    """Eight hosts of one half against seven of the other are worth no reload, four against one are."""
    assert moves([serve(f"left{at}", 0, 5) for at in range(8)] + [serve(f"right{at}", 5, 10) for at in range(7)], serve("left0", 0, 5), 50) is None
    assert moves([serve(f"left{at}", 0, 5) for at in range(4)] + [serve("right0", 5, 10)], serve("left0", 0, 5), 50) is not None


def test_two_that_decide_at_once_do_not_both_leave():
    """Each sees the other hold the place at its first look. At the second each finds the other announced elsewhere, and stays."""
    a, b, slow = serve("a", 0, 5, decode=0.001), serve("b", 0, 5, decode=0.001), [serve("c", 5, 10, decode=1.0), serve("d", 5, 10, decode=1.0)]
    before = [a, b, *slow]
    assert moves(before, a, 50) == moves(before, b, 50) == Span(5, 10)
    announced = [replace(view, spans=(Span(5, 10),), state="joining") for view in (a, b)]
    assert not still_better(before, [*announced, *slow], a, Span(5, 10), 10)
    assert not still_better(before, [*announced, *slow], b, Span(5, 10), 10)
    assert still_better(before, [announced[0], b, *slow], a, Span(5, 10), 10)


def test_of_two_that_would_close_one_gap_the_smaller_id_goes():
    spare = [serve(name, 0, 5, head_weight=0.05) for name in "abc"]
    announced = [replace(view, spans=(Span(5, 10),), state="joining") for view in spare]
    assert moves(spare, spare[0], 50) == moves(spare, spare[1], 50) == Span(5, 10)
    now = [announced[0], announced[1], spare[2]]
    assert still_better(spare, now, spare[0], Span(5, 10), 10)
    assert not still_better(spare, now, spare[1], Span(5, 10), 10)
    assert not still_better(now, now, spare[0], Span(5, 10), 10)  # the other had been on its way before


@given(st.randoms(use_true_random=False), st.integers(2, 9), st.integers(3, 10))
@settings(max_examples=150, deadline=None)
def test_a_move_never_opens_a_hole_and_is_worth_it(rng: random.Random, count: int, components: int):
    views = swarm(rng, count, components, holes=rng.random() < 0.3)
    views = [replace(view, spans=view.spans[:1]) for view in views]
    me, sizes = rng.choice(views), [rng.randint(1, 9) for _ in range(components)]
    budget = rng.randint(max(sizes), sum(sizes))
    place = better_place(views, me, components, sizes, budget)
    assert better_place(rng.sample(views, len(views)), me, components, sizes, budget) == place
    if place is None:
        return
    moved = [replace(view, spans=(place,)) if view is me else view for view in views]
    missing = [sum(map(len, missing_spans([span for view in each for span in view.spans], whole(components)))) for each in (views, moved)]
    assert place not in me.spans and sum(sizes[place.start : place.stop]) <= budget
    assert missing[1] < missing[0] or missing == [0, 0]
    assert still_better(views, views, me, place, components)
    assert not missing[0] or better_place(moved, replace(me, spans=(place,)), components, sizes, budget) != me.spans[0]


@given(st.randoms(use_true_random=False), st.integers(2, 8), st.integers(4, 10))
@settings(max_examples=60, deadline=None)
def test_moves_come_to_an_end(rng: random.Random, count: int, components: int):
    views = swarm(rng, count, components)
    budgets = {view.peer: max(len(span) for span in view.spans) for view in views}
    views = [replace(view, spans=(max(view.spans, key=len),)) for view in views]
    for _ in range(12):
        places = [better_place(views, me, components, [1] * components, budgets[me.peer]) for me in views]
        mover = next((at for at, place in enumerate(places) if place), None)
        if mover is None:
            return
        views[mover] = replace(views[mover], spans=(places[mover],))
    raise AssertionError("still moving")


@given(st.randoms(use_true_random=False), st.integers(1, 9), st.integers(3, 10))
@settings(max_examples=100, deadline=None)
def test_levels_are_fair(rng: random.Random, count: int, components: int):
    """The fair half of a level is what peers really can give at once: weighed it is all they have, and its least comes near the maximal flow."""
    views = swarm(rng, count, components)
    ground = Ground.of(views, components)
    assert float(ground.fair_N @ ground.weight_N) == pytest.approx(float(ground.supplies.rate_P.sum()))
    assert 0.8 * tokens_per_second(views, components) <= ground.fair_N.min() <= tokens_per_second(views, components) * (1 + 1e-9)


@given(st.randoms(use_true_random=False), st.integers(2, 9), st.integers(3, 10))
@settings(max_examples=100, deadline=None)
def test_indispensable_is_who_leaves_a_hole(rng: random.Random, count: int, components: int):
    views = [replace(view, spans=view.spans[:1]) for view in swarm(rng, count, components)]
    others, rooms = views[1:], [Span(start, stop) for start in range(components) for stop in range(start + 1, components + 1)]
    places = Places(Ground.of(others, components), rooms, 1.0)
    for at, room in enumerate(rooms):
        peers = [*others, replace(views[0], spans=(room,))]
        missing = len_of_holes(peers, components)
        leave_a_hole = sum(len_of_holes([view for view in peers if view is not gone], components) > missing for gone in peers)
        assert (places.missing_W[at], places.indispensable_W[at]) == (missing, leave_a_hole)


def len_of_holes(peers: list[PeerView], components: int) -> int:
    return sum(map(len, missing_spans([span for view in peers for span in view.spans], whole(components))))


def test_water_rises_from_the_lowest_levels():
    levels = np.array([[1.0, 3.0, 2.0], [5.0, 1.0, np.inf], [0.0, 0.0, 0.0]])
    weights = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0], [1.0, 1.0, 2.0]])
    assert list(_water(levels, weights, 2.0)) == pytest.approx([2.5, 2.0, 0.5])


def test_of_places_alike_the_one_its_region_lacks():
    far = [serve(f"far{at}", 0, 10, region="far") for at in range(6)]
    left, right = serve("left", 0, 5, region="near"), serve("right", 5, 10, region="far")
    sizes = [1, *[10] * 9]
    assert join([*far, left, right], 51, sizes, region="near") == Span(5, 10)
    assert join([*far, replace(left, region="far"), replace(right, region="near")], 51, sizes, region="near") == Span(0, 6)
    slow = replace(left, decode=20 * left.decode, prefill=20 * left.prefill)
    many = [serve(f"more{at}", 0, 10, region="far") for at in range(30)]
    assert join([*far, *many, slow, replace(right, region="near")], 51, sizes, region="near") == Span(0, 6), "what it needs more, not what abuts"
