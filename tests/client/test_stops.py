"""Stop strings: however a text is cut into pieces, what is shown ends where the naive reading of the whole text says."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swarm.client.stops import StopStrings
from swarm.errors import UsageError


def naive(text, stops):
    """Read the text character by character; the first stop string that is complete ends it, the longest one if there are several."""
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, complete))], True
    return text, False


def cut(text, borders):
    edges = sorted({0, len(text), *(border % (len(text) + 1) for border in borders)})
    return [text[a:b] for a, b in pairwise(edges)]


letters = st.text("ab\n", max_size=30)


@given(letters, st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4), st.lists(st.integers(0, 100), max_size=20))
@example("aab", ["ab"], [1, 2])
@example("aabab\n", ["abab\n", "ba"], [3])
@example("abab", ["aba\n", "b"], [])
def test_pieces_end_where_the_whole_text_does(text, stops, borders):
    scissors, shown, expected = StopStrings(stops), "", naive(text, stops)
    for piece in cut(text, borders):
        safe, stopped = scissors.feed(piece)
        shown += safe
        assert expected[0].startswith(shown)
        assert stopped == scissors.stopped
        if stopped:
            break
    assert (shown + scissors.finish(), scissors.stopped) == expected
    if scissors.stopped:
        assert scissors.matched in stops
        assert text.startswith(shown + scissors.matched)


@given(letters, st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=3))
def test_no_more_is_held_back_than_could_become_a_stop_string(text, stops):
    scissors, shown = StopStrings(stops), ""
    for end, piece in enumerate(text, start=1):
        safe, stopped = scissors.feed(piece)
        shown += safe
        if stopped:
            break
        held = text[len(shown) : end]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_the_one_complete_first_wins_and_then_the_longest():
    assert StopStrings(["abcd", "c"]).feed("xabcd") == ("xab", True)
    assert StopStrings(["c", "bc"]).feed("abc") == ("a", True)


def test_nothing_follows_the_end():
    scissors = StopStrings("\n\n")
    assert scissors.feed("one\n") == ("one", False)
    assert scissors.feed("\ntwo") == ("", True)
    assert scissors.matched == "\n\n"
    assert scissors.feed("three") == ("", True)
    assert scissors.finish() == ""


def test_what_was_held_back_comes_out_at_the_end():
    scissors = StopStrings(["END"])
    assert scissors.feed("the EN") == ("the ", False)
    assert scissors.finish() == "EN"
    assert scissors.finish() == ""


def test_without_stop_strings_everything_passes_at_once():
    scissors = StopStrings()
    assert scissors.feed("anything") == ("anything", False)
    assert scissors.finish() == ""


@pytest.mark.parametrize("stops", [[""], "", ["ok", ""], [3], [None]])
def test_a_stop_string_must_be_some_text(stops):
    with pytest.raises(UsageError, match="at least one character"):
        StopStrings(stops)
