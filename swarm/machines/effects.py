"""What a machine asks its shell to do. The shell does them in order and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.core import PeerId
from swarm.wire import Blob, Logprobs, SessionMessage


@dataclass(frozen=True, slots=True)
class Send:
    peer: PeerId
    message: SessionMessage


@dataclass(frozen=True, slots=True)
class Compute:
    """Run the hop's components over positions [start, start + len(tokens)). `draw` are the offsets whose next token the head draws, or of which it gives what
    the order asks for instead; `history` holds every
    token before `start` where the sampling needs it. Jobs and truncations of one hop are done in the order they were asked for; a job that a later Truncate
    voids (`start` at or above its length) may be skipped. `serial` comes back with the result, whose rows are to `compress` if it says so.
    """

    serial: int
    start: int
    tokens: tuple[int, ...]
    hidden: Blob | None
    draw: tuple[int, ...] = ()
    history: tuple[int, ...] = ()
    compress: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut the cache to `length` positions before any job asked for later."""

    length: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The hop is over: free its cache and reservation."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rest:
    """The hop is over, and what it holds may spare its client's next session some work: keep it until the room is wanted."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """A token of the answer, for the caller. `finish` is "stop" or "length" on the last one. Where the turn reads, `rows` of positions from `position` on, and
    the token that stands there."""

    position: int
    token: int
    logprobs: Logprobs | None = None
    finish: str | None = None
    micros: tuple[int, ...] = ()
    rows: Blob | None = None


@dataclass(frozen=True, slots=True)
class Reroute:
    """The chain broke at hop `hop`; the session waits for `open` with a new route."""

    hop: int
    peer: PeerId
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Newcomers of the route that was prepared hold nearly all there is; with a `reason`, they never will."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Passed:
    """Positions below `length` have been computed by every hop, the last one too."""

    length: int


Effect = Send | Compute | Truncate | Forget | Rest | Deliver | Reroute | Prepared | Passed


@dataclass(frozen=True, slots=True)
class Draw:
    """The head's answer for one asked offset: the token of `position`."""

    position: int
    token: int
    logprobs: Logprobs | None = None
