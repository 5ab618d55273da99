"""A small model that guesses for a larger one: on a thread of its own, one token after the other, a little ahead of what is asked for.

Knows the span model, caches and the sampler, as the engine does; not what becomes of its guesses. It draws with the session's own noise, so where it is unsure
of a sampled token it errs as the large model would.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from swarm.core import Sampling
from swarm.machines.limits import STEP
from swarm.peer.drafting import Drafter

if TYPE_CHECKING:
    from swarm.model.cache import KVCache
    from swarm.model.span import SpanModel

log = logging.getLogger(__name__)

KIND = "model"

STOCK = STEP
"""Guesses kept ready beyond those that have been taken: a step's worth. More are computed in vain where the first is wrong."""

UNLIKELY, FAR_AHEAD = 0.01, 48
"""How likely the last of many guesses must be that are told to somebody else, and how many these are at most. They choose what pays: on a ring whose trip is as
long as a hundred positions of its slowest hop, one that is right once in a hundred times does."""

MEMORY = 20
"""Tokens over which it is reckoned how often they were right."""

PORTION = 512
"""Positions of a prompt that are read at once."""

MOST_LINES = 64
"""Sessions that are guessed for at once. Nobody reserves their caches: who is not asked any more gives up its own."""

IDLE = 10.0
"""Seconds without being asked after which a line gives way to one that is. To read its tokens again takes a moment."""


class DraftModel:
    """The whole of a small model. `line` makes a drafter for one session. `most` positions are held of all together. Close it."""

    def __init__(self, model: SpanModel, name: str, *, most: int, clock: Callable[[], float]) -> None:
        self._model, self.name, self._most, self._clock = model, name, most, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="swarm-draft")
        self._seats: dict[DraftLine, tuple[float, int]] = {}
        """Lines with a cache: when they were asked last, and how long they were; who was asked longest ago comes first."""
        self._closed = False
        self.tokens = 0
        """Guessed so far."""

    @property
    def max_length(self) -> int:
        return self._model.max_length

    def line(self, ready: Callable[[], None]) -> DraftLine:
        """`ready` is called in the event loop whenever there is one guess more."""
        return DraftLine(self, ready)

    def seat(self, line: DraftLine, length: int) -> bool:
        """Whether a line that is asked now may have a cache for so many positions; it goes if not."""
        self._seats.pop(line, None)
        now = self._clock()
        while self._closed or len(self._seats) >= MOST_LINES or length + sum(held for _, held in self._seats.values()) > self._most:
            oldest = next(iter(self._seats), None)
            if oldest is None or now - self._seats[oldest][0] < IDLE:
                line.rest()
                return False
            self.ended(oldest)
            oldest.rest()
        self._seats[line] = now, length
        return True

    def new_cache(self) -> KVCache:
        return self._model.new_cache(0, self._model.head + 1)

    def ended(self, line: DraftLine) -> None:
        self._seats.pop(line, None)

    def close(self) -> None:
        self._closed = True
        for line in self._seats:
            line.rest()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def submit(self, cache: KVCache, cut: int, feed: Sequence[int], history: Sequence[int], sampling: Sampling | None) -> asyncio.Future[int | None]:
        return asyncio.get_running_loop().run_in_executor(self._thread, self._run, cache, cut, feed, history, sampling)

    # --- on the thread ----------------------------------------------------------------------------------------------------------------------------------------

    def _run(self, cache: KVCache, cut: int, feed: Sequence[int], history: Sequence[int], sampling: Sampling | None) -> int | None:
        """Cut the cache and read on from there; draw the token behind that, if there is a sampling to draw with."""
        from swarm.model.sampling import DrawRequest, draw
        from swarm.model.span import Row

        cache.truncate(cut)
        wanted = () if sampling is None else (len(feed) - 1,)
        (logits_KV,) = self._model.run(0, self._model.head + 1, [Row(cache, cut, feed, None, wanted)])
        if sampling is None:
            return None
        self.tokens += 1
        return draw(logits_KV, [DrawRequest(sampling, cut + len(feed), history)])[0].token


class DraftLine(Drafter):
    """One session's tokens as the small model sees them: those that are known, and its own guesses behind."""

    def __init__(self, model: DraftModel, ready: Callable[[], None]) -> None:
        self._model, self._ready = model, ready
        self._cache: KVCache | None = None
        """None before it is asked, and after others needed the room."""
        self._sampling = Sampling()
        self._line: list[int] = []
        self._known = 0
        """So many of the line are the session's own."""
        self._cached = 0
        """So many have been read, and are still what stands there."""
        self._age = 0
        """Rises when a guess turns out wrong: what is being computed then is of no use."""
        self._taken = 0
        self._right = 0.7
        """How often it was, lately."""
        self._works = self._over = False

    def opened(self, sampling: Sampling) -> None:
        self._sampling = replace(sampling, logprobs=None)

    def offers(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> str | None:
        self._follow(tokens, fresh, sure)
        end, held = len(tokens) + len(fresh), len(tokens)
        self._taken = end
        self._asked()
        if end >= len(self._line) or any(self._line[at] != (tokens[at] if at < held else fresh[at - held]) for at in range(sure, end)):
            return None
        return KIND

    def take(self, tokens: Sequence[int], fresh: Sequence[int], most: int) -> list[int]:
        end = len(tokens) + len(fresh)
        taken = self._line[end : end + most]
        self._taken = end + len(taken)
        self._work()
        return taken

    def ready(self, tokens: Sequence[int], fresh: Sequence[int]) -> int:
        return len(self._line) - len(tokens) - len(fresh)

    def missed(self, length: int) -> None:
        self._known = min(self._known, length)

    def closed(self) -> None:
        self._over = True
        self._model.ended(self)
        self.rest()

    def rest(self) -> None:
        """Hold nothing, and compute nothing, until it is asked again."""
        self._cache, self._cached, self._age = None, 0, self._age + 1

    def ahead_of(self, history: Sequence[int]) -> list[int]:
        """What follows this history, as far as it is guessed already; as far as it is likely to be right, it goes on."""
        self._follow(history, (), len(history))
        self._taken = len(history) + min(int(math.log(UNLIKELY) / math.log(self._right)), FAR_AHEAD) - STOCK
        self._asked()
        return self._line[len(history) :]

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    def _follow(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> None:
        """Take over what has become known; guesses end where it is something else."""
        line, held = self._line, len(tokens)
        for at in range(self._known, sure):
            token = tokens[at] if at < held else fresh[at - held]
            if at < len(line):
                self._right = min(max(self._right + ((line[at] == token) - self._right) / MEMORY, 0.1), 0.99)
                if line[at] == token:
                    continue
            del line[at:]
            line.append(token)
            self._cached, self._age = min(self._cached, at), self._age + 1
        self._known = max(self._known, sure)

    def _asked(self) -> None:
        if not self._over and self._model.seat(self, len(self._line)):
            self._cache = self._cache or self._model.new_cache()
            self._work()

    def _work(self) -> None:
        cache = self._cache
        if (
            self._works
            or cache is None
            or not self._known
            or len(self._line) - max(self._taken, self._known) >= STOCK
            or len(self._line) >= self._model.max_length
        ):
            return
        cut = min(self._cached, len(self._line) - 1)
        feed = tuple(self._line[cut : cut + PORTION])
        draws = cut + len(feed) == len(self._line)
        history = tuple(self._line) if draws and self._sampling.repetition_penalty != 1 else ()
        self._works = True
        self._cached = cut + len(feed)
        job = self._model.submit(cache, cut, feed, history, self._sampling if draws else None)
        job.add_done_callback(partial(self._done, self._age))

    def _done(self, age: int, job: asyncio.Future[int | None]) -> None:
        self._works = False
        if self._over or job.cancelled():
            return
        if (error := job.exception()) is not None:
            log.warning("the draft model failed, and guesses no more for this session: %r", error)
            self.closed()
            return
        token = job.result()
        if token is not None and age == self._age:
            self._line.append(token)
            self._ready()
        self._work()
