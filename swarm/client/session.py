"""A session that drives a chain: text or tokens in, tokens out, whatever happens to the peers in between.

The machine decides what the wire means; this shell finds routes, waits with deadlines, and turns tokens into an async stream. It does not know which network
carries the frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from swarm.client.planner import Planner, Surroundings
from swarm.client.report import RouteReport, Stopwatch
from swarm.client.stops import StopStrings
from swarm.core import PeerId, Sampling, SessionId
from swarm.errors import Closed, EmptyPrompt, MissingLayers, PeerLost, PromptTooLong, Refused, SwarmError, TimedOut, UsageError
from swarm.machines.client import ClientSession
from swarm.machines.effects import Deliver, Effect, Reroute, Send
from swarm.routing.route import Route
from swarm.wire import Broken, Drawn, Have, Logprobs, SessionMessage

log = logging.getLogger(__name__)

USUAL_ANSWER = 256
"""New tokens when the caller names no number."""

FIRST_TOKEN = 30.0
"""Seconds to the first token of a chain beyond four times the prediction: queues and cold caches are not predicted."""

NEXT_TOKEN = 5.0
"""Seconds to the next token at least, and ten times the usual gap: silence of processes is noticed by their links, this is for the rest."""


OVERDUE = "the time allowed for this answer is over; allow more time, or resume the session"


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer. `finish` is "stop" or "length" on the last one; a stop token is the last one and not part of the text."""

    id: int
    logprobs: Logprobs | None = None
    finish: str | None = None


class Host(Surroundings, Protocol):
    """What a session needs of its client."""

    own_addrs: tuple[str, ...]

    @property
    def max_length(self) -> int: ...

    @property
    def vocab(self) -> int: ...

    @property
    def eos(self) -> tuple[int, ...]: ...

    @property
    def text(self) -> Any: ...

    def reach(self, length: int) -> int: ...

    def send(self, peer: PeerId, message: SessionMessage) -> None: ...

    def learn(self, route: Route) -> None: ...

    async def prepare(self, route: Route) -> None: ...

    def forget(self, session: SessionId) -> None: ...


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as messages, beside the session's tokens. What follows `answered_from` in them is the answer to the last message."""

    messages: tuple[dict[str, str], ...] = ()
    answered_from: int = 0

    def asked(self, question: str, history: Sequence[int], text: Any) -> list[dict[str, str]]:
        """The conversation so far and one more question. A question that got no answer is withdrawn. Templates bring their own space around an answer."""
        answer = history[self.answered_from :]
        said = [{"role": "assistant", "content": text.decode(answer).strip()}] if answer else []
        return [*(self.messages if answer else self.messages[:-1]), *said, {"role": "user", "content": question}]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a turn adds: `ids` after the first `keep` tokens of the history. `messages` are the whole conversation if that is what the tokens spell."""

    ids: Sequence[int]
    keep: int
    messages: tuple[dict[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer on its way from tokens to text: what its two halves hold back outlives a turn that broke off, so that `resume` loses no letter."""

    cutter: StopStrings
    detokenizer: Any


class Session:
    """Keeps the KV caches of a chain between turns. One turn at a time. Close it, or use it as `async with`."""

    def __init__(self, host: Host, session: SessionId, revision: str, numerics: str, draw_seed: Callable[[], int]) -> None:
        self._host = host
        self._machine = ClientSession(session, host.peer, revision, numerics, reach=host.reach)
        self._planner = Planner(host, revision, numerics)
        self._route: Route | None = None
        self._events: asyncio.Queue[tuple[int, Effect]] = asyncio.Queue()
        self._stopwatch = Stopwatch()
        self._draw_seed = draw_seed
        self._turn_running = False
        self._sick: str | None = None
        self._silences = 0
        self._chain_answers = False
        self._trouble: dict[PeerId, float] = {}
        self._closed = False
        self._aborted: SwarmError | None = None
        self._driver: asyncio.Task[None] | None = None
        self._answer: asyncio.Queue[Token | SwarmError] | None = None
        self._last: tuple[Sampling, Reading | None, int] | None = None
        self._chat: Chat | None = Chat()
        self._began = 0

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- what a caller asks -----------------------------------------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> tuple[int, ...]:
        """Every token of the conversation so far, prompts and answers."""
        return tuple(self._machine.history)

    @property
    def route(self) -> RouteReport:
        """The chain in use. Raises UsageError before the first turn."""
        if self._route is None:
            raise UsageError("this session has no route yet; generate something first")
        return self._stopwatch.report(self._route)

    @property
    def longest_gap(self) -> float:
        """Seconds between the two successive tokens of one turn that were furthest apart."""
        return self._stopwatch.longest_gap

    async def generate(self, prompt: str, **options: Any) -> str:
        """The answer to a prompt, whole. Options as for `stream`."""
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
    ) -> AsyncGenerator[str, None]:
        """The answer to a prompt, in pieces as they come. With `chat`, the prompt is a user's next message of a conversation in the model's own chat format.

        `seed` None draws one, so that sampled answers differ; a given seed gives one answer. Raises UsageError for what the caller can mend, MissingLayers
        when nobody serves some layers (the session can go on with `resume`), TimedOut after `timeout` seconds.
        """
        asked = self._message(prompt) if chat else self._appended(self._host.text.encode(prompt, continues=bool(self._machine.history)))
        sampling = self._sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed, stop_ids, ignore_eos, None)
        async with contextlib.aclosing(self._text(asked, sampling, self._reading(stop), max_new_tokens, timeout)) as pieces:
            async for piece in pieces:
                yield piece

    async def stream_tokens(self, tokens: Sequence[int], **options: Any) -> AsyncGenerator[int, None]:
        """Token ids in, new token ids out, the stop token included. Options as for `stream_details`."""
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
    ) -> AsyncGenerator[Token, None]:
        """As `stream_tokens`, with log-probabilities (natural log; `logprobs` alternatives) and the reason of the end."""
        sampling = self._sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed, stop_ids, ignore_eos, logprobs)
        async with contextlib.aclosing(self._turn(self._appended(self._ids(tokens)), sampling, max_new_tokens, timeout)) as turn:
            async for token in turn:
                yield token

    async def resume(self, *, max_new_tokens: int | None = None, timeout: float | None = None) -> AsyncGenerator[str, None]:
        """Go on with an answer that broke off, with the sampling it began with, in pieces of text."""
        if self._last is None:
            raise UsageError("there is nothing to resume: no answer broke off")
        sampling, reading, left = self._last
        async with contextlib.aclosing(self._text(self._appended([]), sampling, reading or self._reading(), max_new_tokens or left, timeout)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """End the session everywhere. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._driver is not None:
                self._driver.cancel()
                self.abort(Closed("this session was closed; open another"))
            self._do(self._machine.close())
            self._host.forget(self._machine.session)

    # --- what the client's shell hands on ---------------------------------------------------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: SessionMessage) -> None:
        if isinstance(message, Have):
            self._do(self._machine.have(sender, message))
        elif isinstance(message, Drawn):
            self._do(self._machine.drawn(sender, message))
        elif isinstance(message, Broken):
            self._do(self._machine.broken(sender, message))

    def lost(self, peer: PeerId) -> None:
        self._do(self._machine.lost(peer))

    def abort(self, error: SwarmError) -> None:
        """The network below is gone: whoever waits for a token hears of it."""
        self._aborted = error
        if self._answer is not None:
            self._answer.put_nowait(error)

    def keep(self) -> None:
        self._do(self._machine.keep())

    # --- a turn -----------------------------------------------------------------------------------------------------------------------------------------------

    def _sampling(self, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop_ids, ignore_eos, logprobs) -> Sampling:
        ends = tuple(dict.fromkeys((*stop_ids, *(() if ignore_eos else self._host.eos))))
        drawn = self._draw_seed() if seed is None else seed
        return Sampling(temperature, top_k, top_p, min_p, repetition_penalty, drawn, ends, logprobs)

    def _reading(self, stop: Sequence[str] | str = ()) -> Reading:
        return Reading(StopStrings(stop), self._host.text.detokenizer())

    def _appended(self, ids: Sequence[int]) -> Prompt:
        return Prompt(ids, len(self._machine.history))

    def _message(self, message: str) -> Prompt:
        """The whole conversation is put into the model's format anew, as chat servers do: a template may write earlier messages differently once others follow.
        Caches are kept as far as the tokens are the same."""
        if self._chat is None:
            raise UsageError("this session goes on from a plain prompt; open another session for a chat")
        if not message:
            raise EmptyPrompt
        history = self._machine.history
        messages = self._chat.asked(message, history, self._host.text)
        ids = self._host.text.encode_chat(messages)
        keep = next((at for at, (old, new) in enumerate(zip(history, ids, strict=False)) if old != new), min(len(history), len(ids) - 1))
        return Prompt(ids[keep:], keep, tuple(messages))

    def _ids(self, tokens: Sequence[int]) -> list[int]:
        """Checked here: a token that no model has would be taken for a fault of the peers."""
        vocab = self._host.vocab
        try:
            ids = [operator.index(token) for token in tokens]
        except TypeError as error:
            raise UsageError(f"token ids are whole numbers ({error})") from error
        if wrong := [token for token in ids if not 0 <= token < vocab]:
            raise UsageError(f"{wrong[0]} is no token of this model; ids go from 0 to {vocab - 1}")
        return ids

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
        if self._closed:
            raise Closed("this session is closed; open another")
        if self._aborted is not None:
            raise self._aborted
        if self._turn_running:
            raise UsageError("a session answers one turn at a time; wait for the last one, or open another session")
        max_new = self._check_length(prompt, max_new)
        deadline = None if timeout is None else self._host.clock() + timeout
        end = began = self._began = prompt.keep + len(prompt.ids)
        ended = False
        self._turn_running = True
        if prompt.keep < len(self._machine.history):
            self._do(self._machine.cut(prompt.keep))
        self._machine.begin(prompt.ids, sampling, max_new)
        if prompt.ids:
            self._chat = None if prompt.messages is None else Chat(prompt.messages, began)
        answer = self._answer = asyncio.Queue()
        driver = self._driver = asyncio.create_task(self._drive(answer, began, deadline), name="turn")
        try:
            while True:
                token = await answer.get()
                if isinstance(token, SwarmError):
                    end = len(self._machine.history)
                    raise token
                end += 1
                ended = token.finish is not None
                yield token
                if ended:
                    return
        finally:
            driver.cancel()
            await asyncio.wait({driver})
            self._turn_running, self._answer, self._driver = False, None, None
            self._stopwatch.pause()
            if self._machine.running or len(self._machine.history) > end:
                self._do(self._machine.cut(end))
            left = began + max_new - end
            over = ended or left <= 0 or (reading is not None and reading.cutter.stopped)
            self._last = None if over else (sampling, reading, left)

    async def _drive(self, answer: asyncio.Queue[Token | SwarmError], began: int, deadline: float | None) -> None:
        """See a turn through, whether or not its reader is waiting: a repair must not wait for somebody who reads slowly."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._follow(answer)
        except TimeoutError:
            self._break_off(answer, TimedOut(OVERDUE, tuple(self._machine.history[began:])))
        except SwarmError as error:
            if isinstance(error, (MissingLayers, PeerLost, Refused, TimedOut)):
                error.partial = tuple(self._machine.history[began:])
            self._break_off(answer, error)
        except Exception as error:
            log.exception("a turn failed in a way nobody foresaw")
            self._break_off(answer, SwarmError(f"this is a bug: {error!r}"))

    def _break_off(self, answer: asyncio.Queue[Token | SwarmError], error: SwarmError) -> None:
        """End the turn with an error, after the tokens that came home while a way out was sought: they are in the history, so the reader must see them."""
        while not self._events.empty():
            _, effect = self._events.get_nowait()
            if isinstance(effect, Deliver):
                answer.put_nowait(Token(effect.token, effect.logprobs, effect.finish))
        answer.put_nowait(error)

    async def _follow(self, answer: asyncio.Queue[Token | SwarmError]) -> None:
        await self._open_turn()
        while True:
            effect = await self._next()
            if isinstance(effect, Reroute):
                await self._reroute(effect)
                continue
            self._sick, self._silences, self._chain_answers = None, 0, True
            self._trouble.clear()
            self._stopwatch.token(self._host.clock(), effect.micros)
            answer.put_nowait(Token(effect.token, effect.logprobs, effect.finish))
            if effect.finish is not None:
                return

    def _check_length(self, prompt: Prompt, max_new: int | None) -> int:
        length = prompt.keep + len(prompt.ids)
        if not length:
            raise EmptyPrompt
        if max_new is not None and max_new < 1:
            raise UsageError(f"max_new_tokens must be at least 1, not {max_new}")
        room = self._host.max_length - length
        if room < 1 or (max_new or 0) > room:
            raise PromptTooLong(length + (max_new or 1), self._host.max_length)
        return max_new if max_new is not None else min(USUAL_ANSWER, room)

    async def _open_turn(self) -> None:
        """Take the route of the last turn again, unless it broke meanwhile."""
        while not self._events.empty():
            self._events.get_nowait()
        if self._route is None or self._sick is not None:
            self._sick = None
            await self._find_route()
        else:
            await self._open(self._route)

    async def _next(self) -> Deliver | Reroute:
        """The next thing that concerns the current chain. Silence beyond reason counts as a break of the chain, the same hops to be tried again."""
        patience = self._silence_allowed()
        try:
            async with asyncio.timeout(patience):
                while True:
                    chain, effect = await self._events.get()
                    if chain == self._machine.chain or isinstance(effect, Deliver):
                        return effect  # type: ignore[return-value]
        except TimeoutError:
            return Reroute(-1, "", "silent", f"no token for {patience:.0f} s")

    def _silence_allowed(self) -> float:
        if self._chain_answers:
            return NEXT_TOKEN + 10 * self._stopwatch.usual_gap
        predicted = sum(leg.prefill for leg in self._route.legs) * len(self._machine.history) if self._route else 0.0
        return FIRST_TOKEN + 4 * predicted

    # --- routes -----------------------------------------------------------------------------------------------------------------------------------------------

    async def _reroute(self, broken: Reroute) -> None:
        """Replace what failed and go on. A hop that only forgot us is opened again; a silent chain is tried once more, then planned anew."""
        self._stopwatch.reroutes += 1
        log.info("the chain broke at hop %d (%s): %s %s", broken.hop, broken.peer, broken.reason, broken.detail)
        if broken.reason == "silent":
            await self._after_silence(broken)
            return
        if broken.reason == "unknown" and self._sick != "unknown" and self._route is not None:
            self._sick = "unknown"
            await self._open(self._route)
            return
        self._sick = None
        if broken.peer == self._host.peer and (broken.reason != "lost" or self._route is None):
            raise Refused(f"this client's own hop failed: {broken.detail}", broken.reason)
        if broken.reason == "leaving":
            await self._move_off(broken.peer)
            return
        failure: PeerLost | Refused = PeerLost(f"peer {broken.peer} was lost again and again; try again later, or resume the session")
        if broken.reason in ("refused", "overloaded", "failed"):
            failure = Refused(
                f"peer {broken.peer} says no and nobody can take its place ({broken.detail}); try again later, or resume the session", broken.reason
            )
        since = self._trouble.setdefault(broken.peer, self._host.clock())
        if self._host.clock() > since + self._host.patience:
            raise failure
        if broken.peer == self._host.peer and self._route is not None:  # the last peer lost its way to our own head; we are still here
            await self._open(self._route)
            return
        await self._find_route(failure if isinstance(failure, Refused) else None)

    async def _after_silence(self, broken: Reroute) -> None:
        """Every link lives and no token comes: some hop hangs, and nobody knows which. Try the same hops once, then others, then give up."""
        self._silences += 1
        if self._silences == 1 and self._route is not None:
            await self._open(self._route)
            return
        if self._silences > 2:
            raise PeerLost(f"{broken.detail}, and none from the peers tried instead; try again later, or resume the session")
        for hop in self._route.hops if self._route is not None else ():
            if hop.peer != self._host.peer:
                self._host.table.shun(hop.peer, self._host.clock())
        self._route = None
        await self._find_route()

    async def _move_off(self, peer: PeerId) -> None:
        """A peer that leaves still answers for a while: change over if somebody can take its place now, stay with it if not."""
        length = len(self._machine.history)
        try:
            route = await self._planner.find(self._route, length, self._machine.goal, patience=0, begun=True)
        except MissingLayers:
            log.info("%s is leaving and nobody can take its place yet; staying with it", peer)
        else:
            await self._open(route)

    async def _find_route(self, refusal: Refused | None = None) -> None:
        length = len(self._machine.history)
        await self._open(await self._planner.find(self._route, length, self._machine.goal, refusal, begun=length > self._began))

    async def _open(self, route: Route) -> None:
        """Raise the chain over a route."""
        self._host.learn(route)
        if self._host.own:
            await self._host.prepare(route)
        self._route = route
        self._stopwatch.opened()
        self._chain_answers = False
        hops = [replace(hop, addrs=self._host.own_addrs) if hop.peer == self._host.peer else hop for hop in route.hops]
        self._do(self._machine.open(hops))

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._host.send(effect.peer, effect.message)
                continue
            if isinstance(effect, Reroute):
                if effect.reason not in ("unknown", "silent") and effect.peer != self._host.peer:
                    self._host.table.shun(effect.peer, self._host.clock())
                if not self._turn_running:
                    self._sick = effect.reason
            self._events.put_nowait((self._machine.chain, effect))
