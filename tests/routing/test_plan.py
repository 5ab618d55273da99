import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.routes import LAYERS
from bench.routes import swarm as regional_swarm
from swarm.core import Hop, ModelShape, Span, check_cover
from swarm.errors import MissingLayers, UsageError
from swarm.routing import PeerView, Request, candidates, choose_class, cover, plan, repair
from swarm.routing.atlas import Atlas, by_class
from swarm.routing.cover import cheapest_ring
from tests.routing.worlds import brute_force, expected, layer_dp, owners, some_load, swarm

SEEDS = range(60)


def request_of(rng: random.Random, components: int, **more) -> Request:
    rtts = {f"peer{n:04}": rng.uniform(0.001, 0.3) for n in range(6) if rng.random() < 0.5}
    prompt, output, row_bytes = rng.choice([1, 30, 2000]), rng.choice([0, 1, 200]), rng.choice([0, 100, 8192])
    return Request(components, prompt=prompt, output=output, source_rtts=rtts, row_bytes=row_bytes, **more)


def own_ends(kind: str, components: int) -> tuple[Span, ...]:
    embed, head = Span(0, 1), Span(components - 1, components)
    return {"none": (), "embed": (embed,), "head": (head,), "both": (embed, head)}[kind]


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("own", ["none", "embed", "head", "both"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_route_is_the_cheapest_of_all_covers(seed, own, loaded):
    rng = random.Random(seed)
    components = rng.randint(3, 6)
    peers = swarm(rng, rng.randint(1, 6), components, spans=rng.choice([1, 1, 2]))
    request = request_of(rng, components, source="client", own=own_ends(own, components))
    load = some_load(rng, peers) if loaded else None
    route = plan(peers, request, load)
    fixed = {c: "client" for span in request.own for c in range(span.start, span.stop)}
    assert route.cost == pytest.approx(brute_force(peers, request, fixed, load), rel=1e-9, abs=1e-9)
    assert route.cost == pytest.approx(expected(owners(route), peers, request, load), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_in_larger_swarms_it_equals_the_plain_layer_dp(seed, loaded):
    rng = random.Random(seed)
    components = rng.choice([12, 24])
    peers = swarm(rng, 30, components, known=rng.choice([0.0, 0.1, 0.5, 1.0]), spans=rng.choice([1, 3]))
    request = request_of(rng, components)
    load = some_load(rng, peers) if loaded else None
    assert plan(peers, request, load).cost == pytest.approx(layer_dp(peers, request, load), rel=1e-9)


@pytest.mark.parametrize("visits", [0, 100])
@pytest.mark.parametrize("seed", range(12))
def test_a_sweep_in_32_bits_loses_nothing(monkeypatch, seed, visits):
    """Neither where it is followed by visits, nor where it is given up because too many rings cost nearly the same."""
    rng = random.Random(seed)
    peers = swarm(rng, 30, 12, known=rng.choice([0.0, 0.5]))
    if seed % 3 == 0:
        peers = [replace(view, decode=0.01 + rng.choice([0, 1e-9]), prefill=0.001, head_weight=1.0, rtts={}) for view in peers]
    request, load = request_of(rng, 12), rng.choice([None, some_load(rng, peers)])
    in_64_bits = plan(peers, request, load)
    monkeypatch.setattr(cover, "MANY", 0)
    monkeypatch.setattr(cover, "VISITS", visits)
    assert plan(peers, request, load).cost == pytest.approx(in_64_bits.cost, rel=1e-11)
    assert in_64_bits.cost == pytest.approx(layer_dp(peers, request, load), rel=1e-9)


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(2, 8))
@settings(max_examples=100, deadline=None)
def test_a_route_uses_only_who_may_serve_what_it_holds(rng, count, components):
    peers = [
        replace(view, state=rng.choice([*["online"] * 3, "joining", "leaving"]), free_tokens=rng.choice([99, 100]), max_length=rng.choice([99, 999]))
        for view in swarm(rng, count, components, holes=True)
    ]
    request = request_of(rng, components, tokens_needed=rng.choice([1, 100]), exclude=frozenset(view.peer for view in peers if rng.random() < 0.2))
    fit = {
        view.peer: view
        for view in peers
        if view.state == "online" and view.peer not in request.exclude and min(view.free_tokens, view.max_length) >= request.tokens_needed
    }
    covered = {c for view in fit.values() for span in view.spans for c in range(span.start, span.stop)}
    try:
        route = plan(peers, request)
    except MissingLayers as error:
        assert {c for span in error.spans for c in range(span.start, span.stop)} == set(range(components)) - covered != set()
        return
    check_cover(route.hops, components)
    assert len(covered) == components
    assert all(fit[hop.peer].holds(hop.span) and hop.addrs == fit[hop.peer].addrs for hop in route.hops)


@given(st.randoms(use_true_random=False), st.integers(2, 6), st.integers(2, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_order_of_reading_does_not_change_the_route(rng, count, components, alike):
    peers = swarm(rng, count, components)
    if alike:
        peers = [replace(view, decode=0.01, prefill=0.001, head_weight=1.0, rtts={}) for view in peers]
    request = request_of(rng, components)
    shuffled = rng.sample(peers, len(peers))
    assert plan(shuffled, request) == plan(peers, request)
    assert choose_class(by_class(shuffled), None, components) == ("", "")


def test_ties_fall_to_the_lowest_peer_id_and_the_fewest_hops():
    peers = [PeerView(peer, spans=(Span(0, 4), Span(4, 8))) for peer in ("c", "a", "b")]
    assert plan(peers, Request(8)).hops == (Hop("a", 0, 8),)


def test_one_peer_may_be_several_hops():
    peers = [PeerView("a", spans=(Span(0, 2), Span(4, 6)), decode=0.001), PeerView("b", spans=(Span(1, 5),), decode=1.0)]
    assert plan(peers, Request(6)).hops == (Hop("a", 0, 2), Hop("b", 2, 4), Hop("a", 4, 6))


def test_a_span_is_entered_and_left_in_the_middle():
    near = {"a": 0.002, "b": 0.002, "c": 0.002}
    peers = [
        PeerView("a", spans=(Span(0, 6),), decode=0.02, rtts=near),
        PeerView("b", spans=(Span(2, 8),), decode=0.001, rtts=near),
        PeerView("c", spans=(Span(5, 12),), decode=0.01, rtts=near),
    ]
    assert plan(peers, Request(12)).hops == (Hop("a", 0, 2), Hop("b", 2, 8), Hop("c", 8, 12))


def test_the_way_back_counts():
    """Two heads: the nearer one to the middle is far from the first hop."""
    peers = [
        PeerView("first", spans=(Span(0, 4),), rtts={"far": 0.2, "near": 0.02}),
        PeerView("far", spans=(Span(4, 8),), rtts={"first": 0.2}),
        PeerView("near", spans=(Span(4, 8),), decode=0.011, rtts={"first": 0.02}),
    ]
    assert [hop.peer for hop in plan(peers, Request(8)).hops] == ["first", "near"]


def test_the_client_that_keeps_everything_asks_nobody():
    route = plan([], Request(4, source="me", own=(Span(0, 4),)))
    assert route.hops == (Hop("me", 0, 4),) and route.cost == 0


def test_predictions():
    peers = [
        PeerView("12D3KooWaaaaaaaa", spans=(Span(0, 3),), decode=0.010, prefill=0.001, rtts={"12D3KooWbbbbbbbb": 0.040}),
        PeerView("12D3KooWbbbbbbbb", spans=(Span(3, 6),), decode=0.020, prefill=0.002, head_weight=2.0),
    ]
    route = plan(peers, Request(6, prompt=10, output=100, source_rtts={"12D3KooWaaaaaaaa": 0.030}))
    assert route.compute == pytest.approx((0.0205, 0.080)) and route.network == pytest.approx((0.020, 0.020))
    assert [leg.prefill for leg in route.legs] == pytest.approx([0.00205, 0.004])
    assert route.approach == pytest.approx(0.030)
    assert route.cost == pytest.approx(0.030 + 10 * (0.00205 + 0.004) + 100 * (0.0205 + 0.040) + 101 * 0.040 + 101 * 0.040)
    assert route.seconds_per_token == pytest.approx(0.1405) and route.queue == (0, 0)


def test_a_relay_of_one_layer_is_found_where_links_break_the_triangle_inequality():
    """Where breakpoints alone would not look: `relay` begins before and ends after the layer at which passing through it is cheapest."""
    near, far = 0.001, 1.0
    peers = [
        PeerView("a", spans=(Span(0, 6),), rtts={"b": far, "relay": near}),
        PeerView("b", spans=(Span(6, 10),)),
        PeerView("relay", spans=(Span(0, 10),), decode=0.1, rtts={"b": near}),
    ]
    route = plan(peers, Request(10))
    assert route.cost == pytest.approx(layer_dp(peers, Request(10)), rel=1e-9)
    assert "relay" in [hop.peer for hop in route.hops]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"free_tokens": 10}, "without free cache space for 64 positions"),
        ({"max_length": 10}, "whose limit is below the 64 positions needed"),
        ({"cache_tokens": 10, "free_tokens": 10}, "whose limit is below the 64 positions needed"),
        ({"state": "leaving"}, "that are leaving"),
        ({"state": "joining"}, "that are still joining"),
        ({"peer": "gone"}, "that have just failed or refused"),
    ],
)
def test_missing_layers_says_why_those_who_hold_them_are_out(change, reason):
    peers = [PeerView("a", spans=(Span(0, 5),)), replace(PeerView("b", spans=(Span(3, 9),)), **change), PeerView("c", spans=(Span(9, 10),))]
    with pytest.raises(MissingLayers) as caught:
        plan(peers, Request(10, tokens_needed=64, exclude=frozenset({"gone"})))
    assert str(caught.value).startswith(f"layers 4:8 are served only by peers {reason}; try again later")
    assert caught.value.spans == (Span(5, 9),) and caught.value.layers == "4:8"


def test_only_what_no_peer_could_ever_take_is_a_matter_of_length():
    request = Request(4, tokens_needed=64)
    short = [PeerView("a", spans=(Span(0, 2),)), PeerView("b", spans=(Span(2, 4),), cache_tokens=40), PeerView("b2", spans=(Span(2, 4),), max_length=50)]

    def longest(*others: PeerView) -> int | None:
        with pytest.raises(MissingLayers) as caught:
            plan([*short, *others], request)
        return caught.value.longest

    assert longest() == 50
    assert longest(PeerView("c", spans=(Span(2, 3),), state="joining", cache_tokens=0)) is None
    assert longest(PeerView("c", spans=(Span(2, 3),), free_tokens=0)) is None
    short[0] = PeerView("a", spans=(Span(0, 1),))
    assert longest() is None


def test_missing_layers_names_every_hole():
    with pytest.raises(MissingLayers) as caught:
        plan([PeerView("a", spans=(Span(1, 3), Span(5, 9)))], Request(10))
    assert str(caught.value).startswith("layers embed,2:4,head are served by nobody; start a peer for them (swarm-serve")
    assert caught.value.spans == (Span(0, 1), Span(3, 5), Span(9, 10)) and caught.value.layers == "embed,2:4,head"
    with pytest.raises(MissingLayers, match="layers 0:8 are served by nobody"):
        plan([], Request(10))


SHAPE = ModelShape("m", 8, 1000, 100, 1000, "x", (5, *range(10**9, 9 * 10**9, 10**9), 7), (0, *(10**5 for _ in range(8)), 0), row_bytes=2000)


@pytest.mark.parametrize(
    ("holders", "scale", "positions", "clause", "memory"),
    [
        ([], 1.0, 0, "start a peer for them", 13 * 10**9),
        ([], 2.0, 0, "start a peer for them", 26 * 10**9),
        ([], 1.0, 500, "start a peer for them", 13 * 10**9 + 2 * 500 * 10**5 + 500 * 2000),
        ([PeerView("full", spans=(Span(6, 8),), free_tokens=9)], 1.0, 500, "try again later, or start another peer for them", 13_101_000_000),
        ([PeerView("gone", spans=(Span(6, 8),))], 0.5, 0, "try again later, or start another peer for them", 6_500_000_000),
    ],
)
def test_missing_layers_says_how_much_memory_would_fill_the_hole(holders, scale, positions, clause, memory):
    peers = [PeerView("a", spans=(Span(0, 6),)), PeerView("b", spans=(Span(8, 10),)), *holders]
    with pytest.raises(MissingLayers) as caught:
        plan(peers, Request(10, tokens_needed=positions, exclude=frozenset({"gone"}), shape=SHAPE, scale=scale))
    cache = f" and a cache of {positions} positions" if positions else ""
    words = f"{clause} (swarm-serve with --layers 5:7): weights{cache} take about {memory / 1e9:.1f} GB of memory, on one more machine or shared by several"
    assert str(caught.value).endswith(words)
    assert caught.value.memory == memory


def test_of_several_holes_the_memory_is_that_of_all_and_of_a_model_whose_sizes_are_unknown_there_is_no_word():
    peers = [PeerView("a", spans=(Span(1, 3), Span(5, 9)))]
    with pytest.raises(MissingLayers, match=r"take about 7\.0 GB") as caught:
        plan(peers, Request(10, shape=SHAPE))
    assert caught.value.memory == 7 * 10**9 + 12
    with pytest.raises(MissingLayers, match=r"take about 0\.1 MB"):
        plan([PeerView("a", spans=(Span(1, 10),))], Request(10, shape=SHAPE))
    for shape in (None, replace(SHAPE, component_bytes=())):
        with pytest.raises(MissingLayers, match=r"--layers embed,2:4,head\)$") as caught:
            plan(peers, Request(10, shape=shape))
        assert caught.value.memory is None


def test_misuse_is_a_value_error():
    with pytest.raises(ValueError, match="choose_class"):
        plan([PeerView("a", spans=(Span(0, 4),), numerics="x"), PeerView("b", spans=(Span(0, 4),), numerics="y")], Request(4))
    with pytest.raises(ValueError, match="two views"):
        plan([PeerView("a", spans=(Span(0, 4),))] * 2, Request(4))
    with pytest.raises(ValueError, match="peer id"):
        Request(4, own=(Span(0, 1),))
    for own in [(Span(1, 2),), (Span(3, 4), Span(0, 1)), (Span(0, 5),), (Span(0, 3), Span(2, 4))]:
        with pytest.raises(ValueError, match="ends"):
            Request(4, source="me", own=own)


def classes() -> list[PeerView]:
    both = (Span(0, 4),)
    return [
        PeerView("a", spans=both, revision="old", numerics="float32", decode=0.02),
        PeerView("b", spans=both, revision="new", numerics="float32", decode=0.03),
        PeerView("c", spans=both, revision="new", numerics="bfloat16", decode=0.01),
        PeerView("d", spans=(Span(0, 2),), revision="new", numerics="int8", decode=0.001),
    ]


@pytest.mark.parametrize(
    ("revision", "numerics", "chosen"),
    [
        (None, None, ("new", "bfloat16")),
        ("new", None, ("new", "bfloat16")),
        ("new", "float32", ("new", "float32")),
        (None, "float32", ("old", "float32")),
        ("old", None, ("old", "float32")),
    ],
)
def test_choose_class_takes_the_cheapest_that_covers(revision, numerics, chosen):
    assert choose_class(by_class(classes()), revision, 4, numerics) == chosen


def test_choose_class_respects_what_the_request_needs():
    peers = [replace(view, free_tokens=10) if view.peer == "c" else view for view in classes()]
    assert choose_class(by_class(peers), "new", 4, request=Request(4, tokens_needed=64)) == ("new", "float32")


def test_choose_class_says_what_is_wrong():
    with pytest.raises(UsageError, match=r"another revision of this model \(new, old\) than yours \(mine\)"):
        choose_class(by_class(classes()), "mine", 4)
    with pytest.raises(UsageError, match="no peer serves this model in float16; ask for one of these: bfloat16, float32, int8"):
        choose_class(by_class(classes()), "new", 4, "float16")
    with pytest.raises(MissingLayers, match="layers 1:2 are served by nobody"):
        choose_class(by_class(classes()), "new", 4, "int8")
    with pytest.raises(MissingLayers, match="layers 0:2 are served by nobody"):
        choose_class({}, None, 4)


# --- repair -----------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("own", ["none", "embed", "head", "both"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_repair_is_the_cheapest_that_keeps_the_survivors(seed, own, loaded):
    rng = random.Random(1000 + seed)
    components = rng.randint(3, 6)
    peers = swarm(rng, rng.randint(2, 6), components)
    request = request_of(rng, components, source="client", own=own_ends(own, components))
    route = plan(peers, request)
    serving = sorted({hop.peer for hop in route.hops} - {"client"})
    lost = set(rng.sample(serving, rng.randint(1, len(serving))))
    left = [view for view in peers if view.peer not in lost]
    kept = [hop for hop in route.hops if hop.peer not in lost]
    fixed = {c: hop.peer for hop in kept for c in range(hop.start, hop.stop)}
    cuts = frozenset(edge for hop in kept for edge in (hop.start, hop.stop))
    load = some_load(rng, peers) if loaded else None
    best = brute_force(left, request, fixed, load, cuts)
    try:
        mended = repair(left, request, route, lost, load)
    except MissingLayers:
        assert best == float("inf")
        return
    assert set(kept) <= set(mended.hops) and not lost & {hop.peer for hop in mended.hops}
    assert mended.cost == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert mended.cost == pytest.approx(expected(owners(mended), left, request, load, cuts), rel=1e-9, abs=1e-9)


def chain(*names: str, spare: bool = True) -> list[PeerView]:
    peers = [PeerView(peer, spans=(Span(2 * at, 2 * at + 2),)) for at, peer in enumerate(names)]
    return peers + [PeerView(f"{view.peer}2", spans=view.spans, decode=0.02) for view in peers] if spare else peers


@pytest.mark.parametrize("lost", [{"a"}, {"b"}, {"d"}, {"a", "d"}, {"a", "b"}, {"a", "c"}, {"a", "b", "c", "d"}])
def test_holes_anywhere_are_filled_and_nothing_else_moves(lost):
    peers = chain("a", "b", "c", "d")
    route = plan(peers, Request(8))
    assert [hop.peer for hop in route.hops] == ["a", "b", "c", "d"]
    mended = repair(peers, Request(8), route, lost)
    assert mended.hops == tuple(Hop(hop.peer + "2" * (hop.peer in lost), hop.start, hop.stop) for hop in route.hops)


def test_a_hole_across_the_seam_is_planned_as_one():
    """Whoever has both ends spares the way back, although it is slower than the best of either end."""
    peers = [*chain("a", "b", "c"), PeerView("ends", spans=(Span(0, 2), Span(4, 6)), decode=0.022)]
    route = plan(peers, Request(6, exclude=frozenset({"ends"})))
    assert repair(peers, Request(6), route, {"a", "c"}).hops == (Hop("ends", 0, 2), Hop("b", 2, 4), Hop("ends", 4, 6))


def test_survivors_stay_when_full_leaving_or_no_longer_announced():
    peers = chain("a", "b", "c")
    route = plan(peers, Request(6, tokens_needed=64))
    later = [replace(view, free_tokens=0, state="leaving") if view.peer == "a" else view for view in peers if view.peer != "c"]
    mended = repair(later, Request(6, tokens_needed=64), route, {"b"})
    assert [hop.peer for hop in mended.hops] == ["a", "b2", "c"]
    assert mended.compute[2] == route.compute[2] > 0


def test_survivors_that_moved_or_are_excluded_are_replaced():
    peers = chain("a", "b", "c")
    route = plan(peers, Request(6))
    later = [replace(view, spans=(Span(2, 4),)) if view.peer == "a" else view for view in peers]
    mended = repair(later, Request(6, exclude=frozenset({"c"})), route, {"b"})
    assert [hop.peer for hop in mended.hops] == ["a2", "b2", "c2"]


@pytest.mark.parametrize("version, stays", [(7, True), (8, False), (0, False)])
def test_survivors_that_are_about_to_move_stay_until_they_have(version, stays):
    """They announce where to, and serve meanwhile; from the moment on in which they unload under another version."""
    peers = [replace(view, version=7) for view in chain("a", "b", "c")]
    route = plan(peers, Request(6))
    later = [replace(view, spans=(Span(2, 4),), state="joining", version=version) if view.peer == "a" else view for view in peers]
    assert [hop.peer for hop in repair(later, Request(6), route, {"b"}).hops] == ["a" if stays else "a2", "b2", "c"]


def test_a_hole_nobody_fills_is_named_without_blaming_full_survivors():
    peers = [replace(view, free_tokens=0) for view in chain("a", "b", "c", spare=False)]
    route = plan(peers, Request(6))
    with pytest.raises(MissingLayers, match="layers 1:3 are served only by peers that have just failed or refused") as caught:
        repair(peers, Request(6, tokens_needed=64), route, {"b"})
    assert caught.value.layers == "1:3"


def test_a_survivor_may_take_over_part_of_a_hole_as_a_hop_of_its_own():
    peers = [PeerView("a", spans=(Span(0, 4),)), PeerView("b", spans=(Span(2, 4),), decode=0.0001, rtts={"a": 0.0}), PeerView("c", spans=(Span(4, 6),))]
    route = plan(peers, Request(6))
    assert [hop.peer for hop in route.hops] == ["a", "b", "c"]
    assert repair(peers, Request(6), route, {"b"}).hops == (Hop("a", 0, 2), Hop("a", 2, 4), Hop("c", 4, 6))


def test_the_ring_of_the_cover_room_alone():
    work = np.array([[1.0, np.inf], [np.inf, 1.0]])
    assert cheapest_ring(work, np.array([[0.0, 3.0], [3.0, 0.0]]), np.zeros(2)) == [0, 1]


def test_of_very_many_peers_a_shortlist_costs_a_route_next_to_nothing(monkeypatch):
    excess = []
    for seed in range(4):
        atlas, request = Atlas(regional_swarm(1200, 20, seed)), Request(LAYERS + 2, prompt=128)
        listed = plan(atlas, request).cost
        with monkeypatch.context() as patch:
            patch.setattr(candidates, "EXACT", 10**9)
            excess.append(listed / plan(atlas, request).cost - 1)
    assert 0 <= min(excess) and max(excess) <= 0.05 and sum(excess) / len(excess) <= 0.01


def test_whoever_lacks_layers_in_one_format_is_told_which_to_ask_for_and_which_to_serve_in():
    whole = (Span(0, 4),)
    peers = [PeerView("a", spans=(Span(0, 2),), numerics="float32"), PeerView("b", spans=whole, numerics="bfloat16")]
    with pytest.raises(MissingLayers) as caught:
        choose_class(by_class(peers), None, 4, "float32")
    assert "ask for a format in which all layers are served: bfloat16 (--dtype" in str(caught.value)
    assert "--layers 1:2 --dtype float32)" in str(caught.value)
    with pytest.raises(MissingLayers) as caught:
        choose_class(by_class(peers[:1]), None, 4, "float32")
    assert "ask for a format" not in str(caught.value), "there is none"
    with pytest.raises(MissingLayers, match=r"--layers 1:2 --dtype float32 --quantize int8\)"):
        choose_class(by_class([PeerView("a", spans=(Span(0, 2),), numerics="float32-int8")]), None, 4)


def drafted(apart: float, slower: float, output: int = 200, guesses: bool = True) -> str:
    """Who comes first: of two peers beside a second hop, the one that has a draft model and is so many times slower, or the other."""
    rtts = {"a": 2 * apart, "b": 2 * apart}
    first, second = (Span(0, 3),), PeerView("c", spans=(Span(3, 6),), rtts=rtts)
    peers = [PeerView("a", spans=first), PeerView("b", spans=first, decode=0.01 * slower, draft="small"), second]
    request = Request(6, output=output, guesses=guesses)
    route = plan(peers, request)
    assert route.cost == pytest.approx(
        min(plan([peer, second], request).cost + extra for peer, extra in ((peers[0], apart * output * guesses), (peers[1], 0.0)))
    )
    return route.hops[0].peer


def test_a_first_hop_with_a_draft_model_is_preferred_where_that_saves_more_than_it_costs():
    assert drafted(apart=0.05, slower=1.5) == "b"
    assert drafted(apart=0.05, slower=9.0) == "a"
    assert drafted(apart=0.001, slower=1.5) == "a"
    assert drafted(apart=0.05, slower=1.5, guesses=False) == "a", "who wants none has nothing of it"
