"""A session as its caller holds it: turns of text or tokens in, text or tokens out, one after another.

It knows options, text and turns. What keeps the tokens coming, whatever happens to the peers in between, is its `Chain`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from swarm.client.chain import Chain, Network
from swarm.client.chat import Chat, Prompt
from swarm.client.options import answer_length, check_options, check_seconds, token_ids, whole
from swarm.client.report import RouteReport
from swarm.client.stops import StopStrings
from swarm.client.turn import Turn
from swarm.core import PeerId, Sampling, SessionId
from swarm.errors import Closed, EmptyPrompt, InvalidSampling, PromptTooLong, SwarmError, UsageError
from swarm.wire import LOGITS, LOOP, REPLIES, Blob, Logprobs, SessionMessage

ROOM = 64
"""Positions by which the room of a conversation that is read grows, where its caller does not say how long it will become."""

WINDOW, WINDOW_POSITIONS = 32 * 2**20, 4096
"""Bytes of logits, and positions of hidden states, that are asked for at once: what comes home waits in memory, here and on the way."""

LEAVING = 0.5
"""Seconds for a turn to end that nobody reads any more, before another one is refused."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer. `finish` is "stop" or "length" on the last one; a stop token is the last one and not part of the text."""

    id: int
    logprobs: Logprobs | None = None
    finish: str | None = None


class Host(Network, Protocol):
    """What a session needs of its client."""

    @property
    def max_length(self) -> int: ...

    @property
    def vocab(self) -> int: ...

    @property
    def eos(self) -> tuple[int, ...]: ...

    @property
    def text(self) -> Any: ...

    def forget(self, session: SessionId) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer on its way from tokens to text: what its two halves hold back outlives a turn that broke off, so that `resume` loses no letter."""

    cutter: StopStrings
    detokenizer: Any


class Session:
    """Keeps the KV caches of a chain between turns. One turn at a time. Close it, or use it as `async with`."""

    def __init__(self, host: Host, session: SessionId, revision: str, numerics: str, draw_seed: Callable[[], int]) -> None:
        self.id = session
        self._host = host
        self._chain = Chain(host, session, revision, numerics)
        self._draw_seed = draw_seed
        self._rests = asyncio.Event()
        """Set while no turn runs."""
        self._rests.set()
        self._closed = False
        self._aborted: SwarmError | None = None
        self._running: Turn | None = None
        self._last: tuple[Sampling, Reading | None, int] | None = None
        self._chat: Chat | None = Chat()
        self._turn_began = 0.0
        self._reasons: tuple[object, tuple[str, ...]] | None = None
        """Why the route through these hops was taken."""

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- what a caller asks -----------------------------------------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> tuple[int, ...]:
        """Every token of the conversation so far, prompts and answers."""
        return tuple(self._chain.history)

    @property
    def route(self) -> RouteReport:
        """The chain in use. Raises UsageError before the first turn."""
        if (report := self._chain.report) is None:
            raise UsageError("this session has no route yet; generate something first")
        return report

    @property
    def running(self) -> bool:
        """Whether an answer is being given."""
        return not self._rests.is_set()

    @property
    def progress(self) -> tuple[int, int, float]:
        """Tokens before the answer that is given now, tokens of it so far, and when it began, by the client's clock."""
        return self._chain.began, len(self._chain.history) - self._chain.began, self._turn_began

    @property
    def glance(self) -> RouteReport | None:
        """As `route`, without reasons; None before there is one."""
        return self._chain.glance

    @property
    def reasons(self) -> Sequence[str]:
        """Why its route is as it is, where that has been found out."""
        return self._reasons[1] if self._reasons is not None and self._reasons[0] == self._places() else ()

    async def find_reasons(self) -> None:
        """Once for each route, and beside the event loop, since that plans a few."""
        places = self._places()
        if places and (self._reasons is None or self._reasons[0] != places):
            self._reasons = places, tuple(await asyncio.to_thread(self.route.why))

    def _places(self) -> tuple[tuple[PeerId, int, int], ...]:
        glance = self._chain.glance
        return tuple((hop.peer_id, hop.start, hop.stop) for hop in glance.hops) if glance is not None else ()

    @property
    def longest_gap(self) -> float:
        """Seconds between the two successive tokens of one turn that were furthest apart."""
        return self._chain.longest_gap

    async def generate(self, prompt: str, **options: Any) -> str:
        """The answer to a prompt, whole. Options as for `stream`."""
        check_options("generate", options, self.stream)
        return "".join([piece async for piece in self.stream(prompt, **options)])

    async def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str = (),
        stop_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        chat: bool = False,
        timeout: float | None = None,
        **unknown: Any,
    ) -> AsyncGenerator[str, None]:
        """The answer to a prompt, in pieces as they come. With `chat`, the prompt is a user's next message of a conversation in the model's own chat format.

        `seed` None draws one, so that sampled answers differ; a given seed gives one answer. Raises UsageError for what the caller can mend, MissingLayers
        when nobody serves some layers (the session can go on with `resume`), TimedOut after `timeout` seconds.
        """
        check_options("stream", unknown, self.stream)
        await self._rested()
        asked = self._asked(prompt, chat)
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}
        sampling = self._sampling(seed=seed, stop_ids=stop_ids, ignore_eos=ignore_eos, **drawing)
        async with contextlib.aclosing(self._text(asked, sampling, self._reading(stop), max_new_tokens, timeout)) as pieces:
            async for piece in pieces:
                yield piece

    async def stream_tokens(self, tokens: Sequence[int], **options: Any) -> AsyncGenerator[int, None]:
        """Token ids in, new token ids out, the stop token included. Options as for `stream_details`."""
        check_options("stream_tokens", options, self.stream_details)
        async with contextlib.aclosing(self.stream_details(tokens, **options)) as details:
            async for token in details:
                yield token.id

    async def stream_details(
        self,
        tokens: Sequence[int],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        timeout: float | None = None,
        **unknown: Any,
    ) -> AsyncGenerator[Token, None]:
        """As `stream_tokens`, with log-probabilities (natural log; `logprobs` alternatives) and the reason of the end."""
        check_options("stream_details", unknown, self.stream_details)
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}
        sampling = self._sampling(seed=seed, stop_ids=stop_ids, ignore_eos=ignore_eos, logprobs=logprobs, **drawing)
        await self._rested()
        async with contextlib.aclosing(self._turn(self._appended(token_ids(tokens, self._host.vocab)), sampling, max_new_tokens, timeout)) as turn:
            async for token in turn:
                yield token

    async def resume(self, *, max_new_tokens: int | None = None, timeout: float | None = None, **unknown: Any) -> AsyncGenerator[str, None]:
        """Go on with an answer that broke off, with the sampling it began with, in pieces of text."""
        check_options("resume", unknown, self.resume)
        await self._rested()
        if self._last is None:
            raise UsageError("there is nothing to resume: no answer broke off")
        sampling, reading, left = self._last
        async with contextlib.aclosing(self._text(self._appended([]), sampling, reading or self._reading(), max_new_tokens or left, timeout)) as pieces:
            async for piece in pieces:
                yield piece

    async def read(
        self,
        tokens: Sequence[int],
        *,
        keep: int | None = None,
        first: int | None = None,
        what: str = LOGITS,
        limit: int | None = None,
        timeout: float | None = None,
        **unknown: Any,
    ) -> AsyncGenerator[Blob, None]:
        """Append tokens to the first `keep` of the conversation (None: all), draw nothing, and give what the model makes of every position from `first` on
        (None: the last one alone), in order: its "logits", float32, or the "hidden" states that the head's matrix is given. What was computed before `first` is
        not computed again. `limit` is how long the conversation may become: peers reserve so much.
        """
        check_options("read", unknown, self.read)
        await self._rested()
        if what not in REPLIES or what == LOOP:
            raise UsageError(f"what is read is 'logits' or 'hidden', and cannot be {what!r}")
        ids, history = token_ids(tokens, self._host.vocab), len(self._chain.history)
        keep = history if keep is None else whole(keep, "keep")
        if not 0 <= keep <= history:
            raise UsageError(f"keep is how many of the {history} tokens of this conversation stay, and cannot be {keep}")
        length = keep + len(ids)
        if not length:
            raise EmptyPrompt
        if length > self._host.max_length:
            raise PromptTooLong(length, self._host.max_length)
        first = length - 1 if first is None else whole(first, "first")
        if not 0 <= first < length:
            raise UsageError(f"first is a position from 0 to {length - 1}, and cannot be {first}")
        check_seconds(timeout)
        deadline = None if timeout is None else self._host.clock() + timeout
        goal = min(max(length, limit or 0, -(-length // ROOM) * ROOM), self._host.max_length)
        window = max(WINDOW // (4 * self._host.vocab), 1) if what == LOGITS else WINDOW_POSITIONS
        wanted, held = [*self._chain.history[:keep], *ids], keep
        for begin in range(first, length, window):
            end = min(begin + window, length)
            kept = min(held, end)
            async with contextlib.aclosing(self._rows(kept, wanted[kept:end], begin, goal, what, deadline)) as rows:
                async for blob in rows:
                    yield blob
            held = end

    def check(self, prompt: str, *, chat: bool = False, stop: Sequence[str] | str = (), **options: Any) -> None:
        """Raises UsageError where `stream` would not begin with this, whoever serves. Asks nobody."""
        StopStrings(stop)
        self._check(self._asked(prompt, chat), **options)

    def check_tokens(self, tokens: Sequence[int], **options: Any) -> None:
        """As `check`, of what `stream_details` is given."""
        self._check(self._appended(token_ids(tokens, self._host.vocab)), **options)

    async def close(self) -> None:
        """End the session everywhere. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._running is not None:
                self._running.stop()
                self.abort(Closed("this session was closed; open another"))
            if self._host.auditor is not None:
                self._host.auditor.after_hearing(self.id, self._end)
            else:
                self._end()

    def _end(self) -> None:
        self._chain.close()
        self._host.forget(self.id)

    # --- what the client's shell hands on ---------------------------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: SessionMessage) -> None:
        self._chain.receive(sender, message)

    def lost(self, peer: PeerId) -> None:
        self._chain.lost(peer)

    def abort(self, error: SwarmError) -> None:
        """The network below is gone: whoever waits for a token hears of it."""
        self._aborted = error
        if self._running is not None:
            self._running.abort(error)

    def distrust(self, peer: PeerId) -> None:
        self._chain.distrust(peer)

    def keep(self) -> None:
        self._chain.keep()

    # --- a turn -----------------------------------------------------------------------------------------------------------------------------------------------

    def _sampling(self, *, seed: int | None = None, stop_ids: Sequence[int] = (), ignore_eos: bool = False, **drawing: Any) -> Sampling:
        if not isinstance(stop_ids, Iterable):
            raise InvalidSampling(f"stop_ids are token ids in a list, and cannot be {stop_ids!r}")
        ends = tuple(dict.fromkeys((*stop_ids, *(() if ignore_eos else self._host.eos))))
        return Sampling(seed=self._draw_seed() if seed is None else seed, stop_ids=ends, **drawing)

    def _reading(self, stop: Sequence[str] | str = ()) -> Reading:
        return Reading(StopStrings(stop), self._host.text.detokenizer())

    def _asked(self, prompt: str, chat: bool) -> Prompt:
        if not isinstance(prompt, str):
            raise UsageError(
                f"a prompt is text, a str, and cannot be {prompt!r:.80}; token ids go to stream_tokens of a session, or generate_tokens of a client"
            )
        if chat:
            return self._message(prompt)
        return self._appended(self._host.text.encode(prompt, continues=bool(self._chain.history)))

    def _appended(self, ids: Sequence[int]) -> Prompt:
        return Prompt(ids, len(self._chain.history))

    def _message(self, message: str) -> Prompt:
        if self._chat is None:
            raise UsageError("this session goes on from a plain prompt; open another session for a chat")
        if not message:
            raise EmptyPrompt
        return self._chat.ask(message, self._chain.history, self._host.text)

    async def _text(self, prompt: Prompt, sampling: Sampling, reading: Reading, max_new: int | None, timeout: float | None) -> AsyncGenerator[str, None]:
        """Tokens of a turn as text. A stop string ends the turn where the text before it ends; what overshot leaves the history."""
        cutter, detokenizer = reading.cutter, reading.detokenizer
        async with contextlib.aclosing(self._turn(prompt, sampling, max_new, timeout, reading)) as turn:
            async for token in turn:
                if token.finish == "stop" and token.id in sampling.stop_ids:
                    break
                shown, stopped = cutter.feed(detokenizer.feed(token.id))
                if shown:
                    yield shown
                if stopped:
                    return
            shown, stopped = cutter.feed(detokenizer.finish())
            if shown := shown + ("" if stopped else cutter.finish()):
                yield shown

    async def _turn(
        self, prompt: Prompt, sampling: Sampling, max_new: int | None, timeout: float | None, reading: Reading | None = None
    ) -> AsyncGenerator[Token, None]:
        self._check_free()
        end = began = prompt.keep + len(prompt.ids)
        max_new = answer_length(began, max_new, self._host.max_length)
        check_seconds(timeout)
        deadline = None if timeout is None else self._host.clock() + timeout
        ended = withdrawn = False
        chat_before = self._chat
        self._rests.clear()
        self._turn_began = self._host.clock()
        self._chain.begin(prompt.keep, prompt.ids, sampling, max_new)
        if prompt.ids:
            self._chat = None if prompt.messages is None else Chat(prompt.messages, began)
        turn = self._running = Turn(self._chain, began, deadline)
        try:
            while True:
                came = await turn.get()
                if isinstance(came, SwarmError):
                    withdrawn = isinstance(came, UsageError) and len(self._chain.history) == began  # asked for what cannot be: as if it had not been
                    end = prompt.keep if withdrawn else len(self._chain.history)
                    raise came
                if came.rows is not None:
                    continue  # of a turn that read
                end += 1
                ended = came.finish is not None
                yield Token(came.token, came.logprobs, came.finish)
                if ended:
                    return
        finally:
            await turn.close()
            self._running = None
            self._chain.end(end)
            left = began + max_new - end
            stopped = reading.cutter.matched if reading is not None else None
            self._last = None if ended or withdrawn or left <= 0 or stopped else (sampling, reading, left)
            if withdrawn:
                self._chat = chat_before
            elif self._chat is not None:
                self._chat = replace(self._chat, stopped=stopped)
            self._rests.set()

    async def _rows(self, keep: int, ids: Sequence[int], first: int, goal: int, what: str, deadline: float | None) -> AsyncGenerator[Blob, None]:
        """One turn that reads, to its last position."""
        self._check_free()
        self._rests.clear()
        self._turn_began = self._host.clock()
        self._chain.begin_reading(keep, ids, first, goal, what)
        self._chat = self._last = None
        turn = self._running = Turn(self._chain, len(self._chain.history), deadline)
        try:
            while True:
                came = await turn.get()
                if isinstance(came, SwarmError):
                    raise came
                if came.rows is not None:
                    yield came.rows
                    if came.finish is not None:
                        return
        finally:
            await turn.close()
            self._running = None
            self._chain.end(len(self._chain.history))
            self._rests.set()

    def _check_free(self) -> None:
        if self._closed:
            raise Closed("this session is closed; open another")
        if self._aborted is not None:
            raise self._aborted
        if not self._rests.is_set():
            raise UsageError("a session answers one turn at a time; wait for the last one, or open another session")

    async def _rested(self) -> None:
        """A turn whose reader left it without closing it (`break` in an `async for`) ends as soon as the loop gets to that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                await self._rests.wait()

    def _check(self, prompt: Prompt, *, max_new_tokens: int | None = None, timeout: float | None = None, **drawing: Any) -> None:
        answer_length(prompt.keep + len(prompt.ids), max_new_tokens, self._host.max_length)
        check_seconds(timeout)
        self._sampling(**drawing)
