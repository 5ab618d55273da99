"""Room: client. What callers may say, held against what can be meant by it: options by name, numbers, seconds, token ids, lengths. Pure.

Each check raises UsageError, whose text says what would be right. Knows neither sessions nor the network.
"""

from __future__ import annotations

import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

from swarm.errors import EmptyPrompt, PromptTooLong, UsageError

USUAL_ANSWER = 256
"""New tokens when the caller names no number."""


def whole(value: Any, name: str) -> int:
    """An int, or what is as good as one. Raises UsageError."""
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} is a whole number, and cannot be {value!r}") from None


def check_seconds(timeout: Any) -> None:
    """Raises UsageError for what no answer could keep to."""
    if timeout is not None and not (is_number(timeout) and 0 < timeout < math.inf):
        raise UsageError(f"timeout is a number of seconds above 0, or None for no limit, and cannot be {timeout!r}")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_options(method: str, options: Iterable[str], taker: Callable[..., Any]) -> None:
    """Options are handed on to `taker`; one that it does not know is said to be none of `method`, which is what the caller called. Raises UsageError."""
    known = [name for name, one in inspect.signature(taker).parameters.items() if one.kind is one.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(f"{method} has no option {name}; {f'did you mean {near[0]}? ' if near else ''}it has {', '.join(known)}")


def token_ids(tokens: Any, vocab: int) -> list[int]:
    """Checked here: a token that no model has would be taken for a fault of the peers."""
    if not isinstance(tokens, Iterable) or isinstance(tokens, str):
        raise UsageError(f"token ids are a sequence of whole numbers, and cannot be {tokens!r:.80}; text goes to stream or generate")
    ids = [whole(token, "a token id") for token in tokens]
    if wrong := [token for token in ids if not 0 <= token < vocab]:
        raise UsageError(f"{wrong[0]} is no token of this model; ids go from 0 to {vocab - 1}")
    return ids


def answer_length(length: int, max_new: Any, most: int) -> int:
    """How many new tokens may follow a prompt of so many, where the model takes at most `most` in all."""
    if not length:
        raise EmptyPrompt
    if max_new is not None:
        max_new = whole(max_new, "max_new_tokens")
        if max_new < 1:
            raise UsageError(f"max_new_tokens must be at least 1, not {max_new}")
    room = most - length
    if room < 1 or (max_new or 0) > room:
        raise PromptTooLong(length + (max_new or 1), most)
    return max_new if max_new is not None else min(USUAL_ANSWER, room)
