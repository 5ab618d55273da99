"""The client room's scissors: where a text must end because a stop string turned up in it. Pure text in, text out; knows nothing of tokens or models.

Stop strings are the client's business because they lie across token borders: the ring runs on, and what overshoots is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarm.errors import UsageError


class StopStrings:
    """Cuts a text that arrives in pieces before the stop string that is complete first; of several complete at once, before the longest.

    "Complete first", not "begins first", so that the answer does not hang on how the text was cut into pieces, and nobody waits for the rest of a long
    stop string when a short one is already there.
    """

    def __init__(self, stops: Iterable[str] | str = ()) -> None:
        """A single string is one stop string. Raises UsageError for an empty one, which would end every text at once, and for anything but text."""
        if not isinstance(stops, Iterable):
            raise UsageError(f"stop is a text, or several, and cannot be {stops!r}; leave it out to have none")
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        for stop in self._stops:
            if not isinstance(stop, str) or not stop:
                raise UsageError(f"a stop string is a text of at least one character, and cannot be {stop!r}; leave it out to have none")
        self._held = ""
        self.stopped = False
        self.matched: str | None = None
        """The stop string that ended the text."""

    def feed(self, piece: str) -> tuple[str, bool]:
        """Take in the next piece. Returns the text now safe to show, which never holds any part of a stop string, and whether the text has ended."""
        if self.stopped:
            return "", True
        text = self._held + piece
        if found := self._first(text):
            end, start = found
            self.stopped, self.matched, self._held = True, text[start:end], ""
            return text[:start], True
        shown = len(text) - self._undecided(text)
        self._held = text[shown:]
        return text[:shown], False

    def finish(self) -> str:
        """What was held back, once nothing follows: it did not become a stop string after all."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, int] | None:
        """(end, start) of the stop string complete first. What `_held` kept is enough of the past: a stop string begun earlier would have been held."""
        return min(((at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0), default=None)

    def _undecided(self, text: str) -> int:
        """Length of the longest suffix with which some stop string begins: the least that must be held back."""
        longest = max(map(len, self._stops), default=1) - 1
        return next((n for n in range(min(longest, len(text)), 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
