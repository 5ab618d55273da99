"""The asyncio face of swarm: `Client` and what it owns. A client knows one model, reads the directory of its peers, and hands out sessions.

Owns its network, its own hops if it keeps its ends, and the tasks that refresh the directory and renew leases; `close` ends them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from swarm.client.advice import Advisers
from swarm.client.audit import Auditor
from swarm.client.chronicle import Chronicle
from swarm.client.classes import ClassChoice
from swarm.client.distances import Distances
from swarm.client.earlier import Earlier
from swarm.client.options import check_options, check_seconds, is_number
from swarm.client.session import Session, Token
from swarm.client.trust import Trust
from swarm.client.whisper import MakeLine
from swarm.compose import Connection, KeepEnds, OpenedModel, TensorLikeness, check_peer_ids, connect, ends_with, keep_ends, open_draft, open_model
from swarm.core import CLIENT, Hop, ModelShape, PeerId, SessionId, Span, base_dtype, texts
from swarm.errands import Likeness
from swarm.errors import OR_RESUME, Closed, PeerLost, RemoteError, SwarmError, TimedOut, UsageError
from swarm.machines.audits import USUAL, Audits
from swarm.machines.client import GUESSED, ClientSession
from swarm.machines.effects import Send
from swarm.peer.hops import HopRoom
from swarm.routing.compression import compresses
from swarm.routing.peers import PeerTable
from swarm.routing.route import Route
from swarm.routing.slow import Slowness
from swarm.wire import COMPRESSED, ITEM_SIZE, LIFETIME, RENEW_EVERY, Announcement, Message, Open, Prepare, SessionMessage, row_size

__all__ = ["Client", "Session", "Token"]

log = logging.getLogger(__name__)

KEEP_EVERY = 10.0
"""Seconds between signs of life for every session; hops forget one after 30."""

LOOK_AGAIN = 0.2
"""Seconds between looks at the directory while a session cannot be opened yet."""

MOMENT = 0.001
"""Seconds left for an answer whose time ran out while its session was opened: it ends as one that was late, not as one that asked for no time."""

PATIENCE = 10.0
"""Seconds to wait for somebody to serve missing layers before giving up."""


class Client:
    """Use it as `async with Client(model, initial_peers=[…]) as client`, or call `start` and `close`.

    `model` is a hub id or a folder. `initial_peers` are multiaddrs of any peers of the swarm, or a single one. `dtype` asks for peers of one numerics class
    ("float32", …); without it the class with the cheapest route is taken. `mixed` lets a chain mix peers that have rounded the weights with others of the same
    dtype, whoever is fastest; a repair may then go on with other tokens. `compress` lets peers send activations in eight bits where their line is slow: sooner,
    and with other tokens. `own_ends` holds embed and head here, so that no peer is told tokens: they see
    activations alone, from which much can be guessed (docs/security.md). With `reuse`, a session that begins as an earlier one of this client did is computed
    from there; peers keep ended sessions for it for some minutes (not with own ends, where tokens are hidden). `own_layers`, such as "0:2,22:24", are kept
    beside the ends. `trust` are ids of peers: only those serve, unless `trusted_only` is False. `audit` is the share of a proven peer's hops, and the least of
    anybody's, whose work another one is asked to make again; 0 is none. With `speculate`, the first hop guesses what comes next where that pays, which changes
    no token; `draft` is a small model, whole and with the same tokens, that guesses here for it (of use where the first hop is near). `identity` is a file with
    the client's key; without it every client is somebody new. `swarm_key` is the file of a private swarm, or its invitation for this `identity`.
    `patience` is how long to wait, in seconds, for somebody to serve missing layers; `timeout` how long `start` may take. `token` is for gated models on the
    hub.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        initial_peers: Sequence[str] | str = (),
        dtype: str | None = None,
        mixed: bool = False,
        compress: bool = False,
        own_ends: bool = False,
        own_layers: str | None = None,
        trust: Sequence[str] | str = (),
        trusted_only: bool | None = None,
        audit: float = USUAL,
        reuse: bool = True,
        speculate: bool = True,
        draft: str | os.PathLike[str] | None = None,
        identity: str | None = None,
        swarm_key: str | None = None,
        patience: float = PATIENCE,
        token: str | None = None,
        timeout: float | None = None,
        **unknown: Any,
    ) -> None:
        check_options("Client", unknown, Client)
        if not isinstance(model, str | os.PathLike) or not str(model):
            raise UsageError(f"a model is a hub id such as Qwen/Qwen3-8B, or a folder, and cannot be {model!r}; swarm.demo_model() is one")
        check_seconds(timeout)
        if not is_number(patience) or not patience >= 0:
            raise UsageError(f"patience is a number of seconds from 0 on, and cannot be {patience!r}")
        if mixed and dtype is not None and base_dtype(dtype) != dtype:
            raise UsageError(f"mixed takes rounded and exact peers alike, dtype {dtype} only some of them; name {base_dtype(dtype)}, or leave out one")
        self.model = str(model)
        self._timeout = timeout
        self.patience = patience
        self.table = PeerTable()
        self.advisers: Advisers | None = None
        self.slowness = Slowness()
        self.earlier = Earlier(reuse)
        self.wall: Callable[[], float] = time.time
        self.own: tuple[Span, ...] = ()
        self.records: Sequence[Announcement] = ()
        """What the directory said last."""
        self.chronicle = Chronicle()
        self.own_addrs: tuple[str, ...] = ()
        self.ahead = GUESSED if speculate else 0
        self.draft: MakeLine | None = None
        self._draft_name = None if draft is None else str(draft)
        self._initial_peers = texts(initial_peers, "initial_peers are addresses of peers, such as those that swarm-serve and swarm-bootstrap print")
        if not is_number(audit) or not 0 <= audit <= 1:
            raise UsageError(f"audit is the share of hops that are audited, from 0 (none) to 1 (all), and cannot be {audit!r}")
        self.audits = Audits(audit)
        self.auditor: Auditor | None = None
        self.trust = Trust.of(check_peer_ids(texts(trust, "trust are ids of peers, such as swarm-serve prints")), trusted_only)
        self._dtype, self._mixed, self._compress = dtype, mixed, compress
        self._ends: Callable[..., Any] | None = ends_with(own_layers) if own_layers is not None else keep_ends if own_ends else None
        self._identity, self._swarm_key, self._token = identity, swarm_key, token
        self._opened: OpenedModel | None = None
        self._connection: Connection | None = None
        self._distances: Distances | None = None
        self._random: random.Random = random.SystemRandom()
        self._sessions: dict[SessionId, Session] = {}
        self._room: HopRoom | None = None
        self._stack = contextlib.AsyncExitStack()
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False
        self._dead: SwarmError | None = None

    async def __aenter__(self) -> Client:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> Client:
        """Open the tokenizer and config, join the DHT. Raises UsageError without anybody to ask, ModelNotFound, NotAModel, HubUnreachable, MalformedAddress,
        NoBootstrap, TimedOut."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._start()
        except TimeoutError as error:
            await self.close()
            limit = "" if self._timeout is None else f" within {self._timeout:g} s"
            raise TimedOut(f"could not join the swarm{limit}; allow more time, or check that the network is up and the initial peers are right") from error
        except BaseException:
            await self.close()
            raise
        return self

    @classmethod
    async def over(
        cls,
        opened: OpenedModel,
        connection: Connection,
        generator: random.Random,
        ends: KeepEnds | None = None,
        wall: Callable[[], float] = time.time,
        mixed: bool = False,
        audit: float = 0.0,
        likeness: Likeness | None = None,
        compress: bool = False,
    ) -> Client:
        """A client for a model that is open and a network that is joined already; it closes neither. Ids of sessions and seeds come from `generator`, the time
        by which peers announce from `wall`. Audited work is compared by `likeness`."""
        self = cls(opened.shape.name, mixed=mixed, audit=audit, compress=compress)
        self._random, self.wall = generator, wall
        try:
            await self._begin(opened, connection, ends, likeness)
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self) -> None:
        if not self._initial_peers:
            raise UsageError(
                "there are no public peers yet; name one with initial_peers=[…] (swarm-serve and swarm-bootstrap print theirs), or start some on this machine "
                "with swarm.LocalSwarm"
            )
        opened = await open_model(self.model, token=self._token)
        draft = await self._open_draft(opened)
        ends = self._ends
        connection = await self._stack.enter_async_context(
            connect(self._initial_peers, identity=self._identity, listen=ends is not None, swarm_key=self._swarm_key)
        )
        self.wall = connection.wall
        if ends is None:
            self.draft = None if draft is None else draft.line
        await self._begin(opened, connection, ends and partial(ends, draft=draft))

    async def _open_draft(self, opened: OpenedModel) -> Any:
        if self._draft_name is None or not self.ahead:
            return None
        draft = await asyncio.to_thread(open_draft, self._draft_name, opened.checkpoint, token=self._token)
        self._stack.callback(draft.close)
        return draft

    async def _begin(self, opened: OpenedModel, connection: Connection, ends: KeepEnds | None, likeness: Likeness | None = None) -> None:
        self._opened, self._connection = opened, connection
        links = connection.links
        self._distances = distances = Distances(links, self.table, self._random)
        if self.audits.rate("") > 0:
            dice = random.Random(self._random.random()) if type(self._random) is random.Random else self._random
            self.auditor = Auditor(self, self.audits, likeness or TensorLikeness(), dice)
            self._stack.push_async_callback(self.auditor.close)
        links.subscribe(self._receive, self._lost)
        if not self.trust.only:  # a coordinator plans with whomever it likes, and would learn whom we trust
            self.advisers = Advisers(links.peer, links.send, links.learn, connection.verify, self.clock, self._random.random)
        await self.refresh()
        if ends is not None:
            if self._dtype is None:
                self._dtype = self._usual_dtype(opened)
            own = await self._stack.enter_async_context(ends(opened, connection, self._dtype))
            self.own, self.own_addrs, self._room = own.spans, connection.addrs, own.room
            self._dtype = own.numerics
            await distances.measure()
            await self._stack.enter_async_context(_task(distances.keep_measuring(), "measure"))
        await self._stack.enter_async_context(_task(self._keep_refreshing(), "refresh"))
        await self._stack.enter_async_context(_task(self._keep_leases(), "leases"))
        await self._stack.enter_async_context(_task(self._watch(), "watch"))

    async def close(self) -> None:
        """Close every session and leave the network. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self.auditor is not None:  # sessions wait for it to end
            await self.auditor.close()
        self._let_go(self.earlier.close())
        for session in list(self._sessions.values()):
            await session.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        await self._stack.aclose()

    # --- answers ----------------------------------------------------------------------------------------------------------------------------------------------

    def session(self) -> Session:
        """A conversation that keeps its caches between turns."""
        if self._closed or self._opened is None:
            raise Closed("this client is not open; use `async with`, or `await client.start()`")
        if self._dead is not None:
            raise self._dead
        revision, numerics = self._choice(self._opened).choose()
        if self._room is not None and self._opened.revision is None:  # our files are too few to tell; we take whoever serves, and our own ends follow
            self._room.offer = replace(self._room.offer, revision=revision)
        session = Session(self, self._random.randbytes(16), revision, numerics, lambda: self._random.getrandbits(63))
        self._sessions[session.id] = session
        return session

    async def ready_session(self, *, timeout: float | None = None) -> Session:
        """A session, after waiting up to `patience` seconds for somebody to serve every layer. Raises MissingLayers, TimedOut after `timeout` seconds."""
        check_seconds(timeout)
        give_up, looks = self.clock() + self.patience, 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        return self.session()
                    except UsageError:  # of peers that served another revision or dtype when we last looked
                        if looks:
                            raise
                    except RemoteError as error:
                        if self.clock() >= give_up:
                            raise
                        if looks == 1:
                            log.warning("%s; waiting up to %.0f s for somebody", error, give_up - self.clock())
                    await self.refresh()
                    looks += 1
                    await asyncio.sleep(LOOK_AGAIN)
        except TimeoutError:
            raise TimedOut("the time allowed for this answer ran out while looking for peers; allow more time") from None

    def check(self, prompt: str, **options: Any) -> None:
        """Raises UsageError for a prompt, or options as for `Session.stream`, that no session will take, so that nobody is waited for in vain."""
        self._unopened.check(prompt, **options)

    def check_tokens(self, tokens: Sequence[int], **options: Any) -> None:
        """The same of token ids, and options as for `Session.stream_details`."""
        self._unopened.check_tokens(tokens, **options)

    async def generate(self, prompt: str, **options: Any) -> str:
        """The answer to a prompt; options as for `Session.stream`."""
        async with await self._checked("generate", prompt, options) as session:
            with _never_resumed():
                return await session.generate(prompt, **options)

    async def stream(self, prompt: str, **options: Any) -> AsyncIterator[str]:
        """The answer to a prompt, in pieces as they come."""
        async with await self._checked("stream", prompt, options) as session, contextlib.aclosing(session.stream(prompt, **options)) as pieces:
            with _never_resumed():
                async for piece in pieces:
                    yield piece

    async def generate_tokens(self, tokens: Sequence[int], **options: Any) -> list[int]:
        """Token ids in, new token ids out; options as for `Session.stream_details`."""
        check_options("generate_tokens", options, Session.stream_details)
        self._unopened.check_tokens(tokens, **options)
        async with await self._timed(options) as session:
            with _never_resumed():
                return [token async for token in session.stream_tokens(tokens, **options)]

    # --- what sessions need -----------------------------------------------------------------------------------------------------------------------------------

    @property
    def peer(self) -> PeerId:
        return self._network.links.peer

    @property
    def failed(self) -> asyncio.Future[SwarmError]:
        """Done when the network below is gone for good: this client cannot be used any more."""
        return self._network.failed

    @property
    def components(self) -> int:
        return self._model.shape.components

    @property
    def shape(self) -> ModelShape:
        return self._model.shape

    @property
    def checkpoint(self) -> Any:
        """The model's files, as they were opened: configuration, tokenizer, names of tensors."""
        return self._model.checkpoint

    @property
    def max_length(self) -> int:
        return self._model.shape.max_length

    @property
    def vocab(self) -> int:
        return self._model.shape.vocab

    @property
    def eos(self) -> tuple[int, ...]:
        return self._model.eos

    @property
    def text(self) -> Any:
        return self._model.text

    def reach(self, length: int) -> int:
        return self._model.shape.reach(length)

    def compresses(self, numerics: str, one: Hop, other: Hop) -> bool | None:
        if not self._compress:
            return False
        return compresses(one, other, self.table.views, ITEM_SIZE.get(base_dtype(numerics), 4) * self.shape.hidden, self.packed_bytes)

    @property
    def packed_bytes(self) -> int:
        return row_size(COMPRESSED, self.shape.hidden) if self._compress else 0

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    def send(self, peer: PeerId, message: SessionMessage) -> None:
        if isinstance(message, Open | Prepare):
            message = msgspec.structs.replace(message, signature=self._network.sign(message.order))
        self._network.links.send(peer, message)

    def say(self, peer: PeerId, message: Message, addrs: Sequence[str] = ()) -> None:
        """Beside a session."""
        if addrs and peer != self.peer:
            self._network.links.learn(peer, addrs)
        if isinstance(message, SessionMessage):
            self.send(peer, message)
        else:
            self._network.links.send(peer, message)

    def verify(self, peer: PeerId, data: bytes, signature: bytes) -> bool:
        return self._network.verify(peer, data, signature)

    def distrust(self, peer: PeerId, until: float) -> None:
        """Use a peer no more until then, nor what came of it."""
        self.table.ban(peer, until)
        self._let_go(self.earlier.forsake(peer))
        for session in list(self._sessions.values()):
            session.distrust(peer)

    def learn(self, route: Route) -> None:
        for hop in route.hops:
            if hop.peer != self.peer:
                self._network.links.learn(hop.peer, hop.addrs)

    async def prepare(self, route: Route) -> None:
        """With ends of our own: reach out to whoever must reach us, so that it works from behind a NAT."""
        before_us = {one.peer for one, other in zip(route.hops, route.hops[1:], strict=False) if other.peer == self.peer and one.peer != self.peer}
        for peer in sorted(before_us):
            with contextlib.suppress(PeerLost):
                await self._network.links.measure(peer)

    async def refresh(self) -> None:
        """Read the directory now. Concurrent callers share one reading; a failed one keeps what was known."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read(), name="directory")
        await asyncio.shield(self._refreshing)

    def forget(self, session: SessionId) -> None:
        ended = self._sessions.pop(session, None)
        if ended is not None and ended.glance is not None:
            self.chronicle.repaired(self.wall(), session.hex()[:8], ended.glance.reroutes)

    # --- what there is to see ---------------------------------------------------------------------------------------------------------------------------------

    @property
    def sessions(self) -> list[Session]:
        """Those that are open, in an order that does not hang on when they were opened."""
        return [self._sessions[session] for session in sorted(self._sessions)]

    @property
    def silent(self) -> frozenset[PeerId]:
        """Who failed us and has not been heard of since, or had no answer for the last `look`."""
        mute: frozenset[PeerId] = frozenset() if self._distances is None else self._distances.mute
        return self.table.shunned(self.clock(), forgive=True) | mute

    @property
    def pings(self) -> Mapping[PeerId, float]:
        """Round trips that looks have found, in seconds."""
        return {} if self._distances is None else self._distances.seen

    @property
    def rtts(self) -> Mapping[PeerId, float]:
        """Round trips by which routes are planned, in seconds: none without own ends."""
        return {} if self._distances is None else self._distances.rtts

    async def look(self) -> None:
        """Read the directory and measure how far away some peers are. Who could not be reached is tried again each time, and silent until it can be."""
        await self.refresh()
        if self._distances is not None:
            await self._distances.look()

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    @property
    def member(self) -> bool:
        """Whether this client says that it belongs to a private swarm."""
        return self._swarm_key is not None

    @property
    def _network(self) -> Connection:
        if self._connection is None:
            raise Closed("this client is not open; use `async with`, or `await client.start()`")
        return self._connection

    @property
    def _model(self) -> OpenedModel:
        if self._opened is None:
            raise Closed("this client is not open; use `async with`, or `await client.start()`")
        return self._opened

    def _choice(self, opened: OpenedModel) -> ClassChoice:
        return ClassChoice(self, opened.shape, opened.revision, self._dtype, self._mixed)

    def _usual_dtype(self, opened: OpenedModel) -> str | None:
        return self._choice(opened).usual_dtype()

    def _let_go(self, resting: Iterable[ClientSession]) -> None:
        """Tell the hops of sessions that rest that they need not be kept."""
        for machine in resting:
            for effect in machine.close():
                if isinstance(effect, Send):
                    self.send(effect.peer, effect.message)

    async def _read(self) -> None:
        try:
            model = self._model.shape.config_hash
            self.records = records = self.trust.admitted(await self._network.directory.read(model))
            for why in self.table.update(records, self.components):
                log.warning("an announcement is passed over: %s", why)
            if self.advisers is not None:
                self.advisers.know(model, records, self.wall())
        except RemoteError as error:
            log.info("could not read the directory: %s", error)

    @property
    def _unopened(self) -> Session:
        """A session that is not begun: whatever can be said of a question before anybody serves it, it says."""
        return Session(self, bytes(16), "", "", lambda: 0)

    async def _checked(self, method: str, prompt: str, options: dict[str, Any]) -> Session:
        check_options(method, options, Session.stream)
        self.check(prompt, **options)
        return await self._timed(options)

    async def _timed(self, options: dict[str, Any]) -> Session:
        """A session, its waiting taken off the caller's `timeout`."""
        began, timeout = self.clock(), options.get("timeout")
        session = await self.ready_session(timeout=timeout)
        if timeout is not None:
            options["timeout"] = max(timeout - (self.clock() - began), MOMENT)
        return session

    async def _watch(self) -> None:
        """Our own daemon's death ends every answer with a clear error: nothing will arrive any more."""
        self._dead = error = await asyncio.shield(self._network.failed)
        for session in list(self._sessions.values()):
            session.abort(error)

    async def _keep_refreshing(self) -> None:
        """As often as peers renew what they say, so that a repair can be planned at once; without sessions as often as it takes to begin one with peers that
        are still there."""
        idle = 0.0
        while True:
            await asyncio.sleep(RENEW_EVERY)
            idle += RENEW_EVERY
            if self._sessions or idle + RENEW_EVERY > LIFETIME:
                await self.refresh()
                idle = 0.0

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY)
            for session in list(self._sessions.values()):
                session.keep()

    def _receive(self, sender: PeerId, message: Message) -> None:
        if self.auditor is not None and self.auditor.receive(sender, message):
            return
        if self._room is not None:
            self._room.receive(sender, message)
        if self.advisers is not None:
            self.advisers.receive(sender, message)
        if isinstance(message, SessionMessage) and message.to == CLIENT and (session := self._sessions.get(message.session)) is not None:
            session.receive(sender, message)

    def _lost(self, peer: PeerId) -> None:
        if self._room is not None:
            self._room.lost(peer)
        if self.advisers is not None:
            self.advisers.lost(peer)
        if self.auditor is not None:
            self.auditor.lost(peer)
        for session in list(self._sessions.values()):
            session.lost(peer)


@contextlib.contextmanager
def _never_resumed() -> Iterator[None]:
    """Of a session that nobody holds, an error does not say that it may be resumed."""
    try:
        yield
    except SwarmError as error:
        error.args = (str(error).removesuffix(OR_RESUME), *error.args[1:])
        raise


@contextlib.asynccontextmanager
async def _task(life, name: str) -> AsyncIterator[None]:
    """A task that ends with its owner."""
    task = asyncio.create_task(life, name=name)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
