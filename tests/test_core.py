"""The nouns: spans, layers as people spell them, covers."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core import (
    FIRST_SLAB,
    Hop,
    Sampling,
    Span,
    base_dtype,
    check_cover,
    digest_of,
    format_layers,
    is_mixed,
    is_rounded,
    longest_after_cut,
    may_serve,
    merge_spans,
    missing_spans,
    mixed,
    parse_layers,
    rounding,
    slab_after_cut,
    slab_size,
)
from swarm.errors import InvalidSampling, LayersOutOfRange, MalformedLayers


@pytest.mark.parametrize(
    ("numerics", "base", "how"),
    [("float32", "float32", None), ("bfloat16-int8", "bfloat16", "int8"), ("float16-int4", "float16", "int4"), ("bfloat16-awq", "bfloat16", None)],
)
def test_how_weights_are_rounded_is_in_the_name_of_a_class(numerics, base, how):
    assert (base_dtype(numerics), rounding(numerics), is_rounded(numerics)) == (base, how, how is not None)
    assert mixed(numerics) == mixed(mixed(numerics)) == f"{base}-mixed" and is_mixed(mixed(numerics)) and not is_mixed(numerics)
    assert may_serve(numerics, numerics) and may_serve(numerics, f"{base}-mixed") and not may_serve(numerics, "int8-mixed")


@pytest.mark.parametrize(
    "text, spans",
    [
        ("0:12", [(0, 14)]),
        ("0:4", [(0, 5)]),
        ("4:8", [(5, 9)]),
        ("8:12", [(9, 14)]),
        ("embed", [(0, 1)]),
        ("head", [(13, 14)]),
        ("embed,0:4,head", [(0, 5), (13, 14)]),
        ("0:4,head", [(1, 5), (13, 14)]),
        ("8:12,0:4", [(0, 5), (9, 14)]),
        ("4:8, 8:12", [(5, 14)]),
    ],
)
def test_layers_as_people_spell_them(text, spans):
    assert parse_layers(text, 12) == tuple(Span(*span) for span in spans)


@pytest.mark.parametrize("text", ["", "4", "4:", "8:4", "4:4", "a:b", "-1:4", "0:4;8:12", "heads"])
def test_what_is_not_layers_is_said_so(text):
    with pytest.raises(MalformedLayers):
        parse_layers(text, 12)


def test_layers_the_model_does_not_have_are_named_with_those_it_has():
    with pytest.raises(LayersOutOfRange, match="0:12"):
        parse_layers("8:13", 12)


spans_of = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 13)).map(lambda pair: Span(min(pair[0], 12), min(pair[0] + pair[1], 14))), min_size=1, max_size=4
)


@given(spans_of)
def test_spelling_and_reading_agree(spans):
    """All but a layer range that touches an end without it, beside nothing spelled out: `0:4` always means embed too."""
    merged = merge_spans(spans)
    spelled = format_layers(merged, 12)
    bare_end = any((span.start == 1 or span.stop == 13) and len(span) > 0 for span in merged) and "embed" not in spelled and "head" not in spelled
    if not bare_end:
        assert parse_layers(spelled, 12) == merged


@given(spans_of, spans_of)
def test_what_is_missing_and_what_is_there_make_the_whole(spans, wanted):
    for want in wanted:
        holes = missing_spans(spans, want)
        for component in range(want.start, want.stop):
            assert any(component in span for span in spans) != any(component in hole for hole in holes)


def test_a_cover_has_no_gap_no_overlap_and_reaches_the_end():
    check_cover([Hop("a", 0, 2), Hop("b", 2, 5)], 5)
    for hops in ([Hop("a", 0, 2)], [Hop("a", 0, 2), Hop("b", 3, 5)], [Hop("a", 0, 3), Hop("b", 2, 5)], []):
        with pytest.raises(ValueError):
            check_cover(hops, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(temperature=-0.1), dict(temperature=float("nan")), dict(temperature=float("inf")), dict(top_k=-1), dict(top_p=0), dict(top_p=1.1), dict(min_p=-1),
        dict(min_p=float("nan")), dict(repetition_penalty=0), dict(seed=-1), dict(seed=2**63), dict(logprobs=21), dict(stop_ids=tuple(range(257))),
    ],
)  # fmt: skip
def test_sampling_out_of_range_is_refused(wrong):
    with pytest.raises(InvalidSampling):
        Sampling(**wrong)


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_a_cache_that_is_cut_has_no_more_room_than_is_counted(longest, more, cut):
    """Under whatever limit it grew, and however little of it is left."""
    limit, cut = longest + more, min(cut, longest)
    left = slab_after_cut(slab_size(longest, limit), cut)
    assert cut <= left <= slab_size(longest_after_cut(longest, cut))
    assert left < 4 * max(cut, FIRST_SLAB), "the rest goes back"
    assert slab_after_cut(slab_size(longest), longest) == slab_size(longest), "and what is full stays as it is"


def test_a_digest_is_of_four_bytes_a_token_the_least_first():
    assert digest_of([1, 2**31 - 1]) == blake2b(bytes([1, 0, 0, 0, 255, 255, 255, 127]), digest_size=16).digest()
    assert len({digest_of([1, 2]), digest_of([2, 1]), digest_of([1]), digest_of([])}) == 4
