"""When two results can be of the same work: within what is usual, or within what a rounding of what goes in makes of it in this model, up to a bound."""

from __future__ import annotations

import pytest

from swarm.core import Sampling
from swarm.machines.redone import CARRIED, MOST, NEAR, TIE, can_be, drawn_alike
from swarm.wire import Drawn, Logprobs

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("found", "carried", "expected"),
    [
        (0.0, 0.0, True),
        (1.0, 0.0, True),
        (1.1, 0.0, False),
        (1.1, 0.5, False),
        (1.1, 0.6, True),
        (MOST, MOST, True),
        (MOST + 0.1, MOST, None),
        (CARRIED * 10 + 0.1, 10.0, False),
        (1.1, INF, None),
        (1.1, NAN, None),
        (INF, 10.0, False),
        (NAN, 10.0, None),
    ],
)
def test_who_contradicts_must_show_that_it_is_not_the_model(found, carried, expected):
    assert can_be(found, carried) is expected


def says(token: int, **likely: float) -> list[Drawn]:
    """A head that draws this token at position 2, with the log-probabilities of the tokens t3, t9, …"""
    top = tuple(sorted(((int(name[1:]), value) for name, value in likely.items()), key=lambda pair: -pair[1]))
    return [Drawn(b"s" * 16, 1, 0, 0, 2, (token,), logprobs=(Logprobs(likely[f"t{token}"], top),))]


@pytest.mark.parametrize(("numerics", "near"), [("float32", TIE), ("bfloat16", NEAR)])
def test_a_token_that_was_nearly_as_likely_may_be_drawn_and_how_nearly_depends_on_the_model(numerics, near):
    def drew(behind: float, carried: float | None = None) -> bool | None:
        moved = () if carried is None else says(3, t3=-1.0, t9=-1.0 - behind - carried)
        return drawn_alike((1, 2, 9), Sampling(), numerics, says(3, t3=-1.0, t9=-1.0 - behind), moved)

    assert drew(0.9 * near) and drew(1.5 * near) is False
    assert drew(1.5 * near, 0.1 * near) is False and drew(1.5 * near, near) is True
    assert drew((MOST + 1) * near, near) is False and drew((MOST + 1) * near, 10 * near) is None
    assert drawn_alike((1, 2, 7), Sampling(), numerics, says(3, t3=-1.0), says(3, t3=-2.0)) is False, "it is not among the likeliest at all"
    assert drawn_alike((1, 2, 3), Sampling(), numerics, says(3, t3=-1.0)) is True


@pytest.mark.parametrize("numerics", ["float32", "bfloat16"])
def test_what_stands_behind_a_near_tie_is_not_vouched_for(numerics):
    """It was not drawn again, so a lie may hide there; and whoever has found that lie must not be convicted by one who stopped before it."""
    assert drawn_alike((1, 2, 9), Sampling(), numerics, says(3, t3=-1.0, t9=-1.0)) is True
    assert drawn_alike((1, 2, 9, 5), Sampling(), numerics, says(3, t3=-1.0, t9=-1.0)) is None
    assert drawn_alike((1, 2, 9, 5), Sampling(), numerics, says(3, t3=-1.0, t9=-9.0)) is False
