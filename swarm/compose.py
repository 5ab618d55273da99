"""Which real adapters stand behind the ports: the one module that knows both the shells and what they run on.

Commands and `Client` come here to be put together; tests put the same shells together with fakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.core import ModelShape, PeerId, Span, base_dtype, check_layers, is_mixed, is_rounded, merge_spans, parse_layers
from swarm.errors import InvalidConfig, NotAModel, UsageError
from swarm.peer.hops import HopRoom
from swarm.ports import Directory, Guise, Links, Meters, Notes
from swarm.wire import Blob

if TYPE_CHECKING:
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.measure import Speed
    from swarm.model.span import SpanModel
    from swarm.model.text import Text
    from swarm.net.reach import Reach
    from swarm.peer.drafter import DraftModel
    from swarm.peer.drafting import Drafter
    from swarm.peer.holding import Holding, Loader, ServingEngine
    from swarm.peer.offer import Offer
    from swarm.peer.pace import Fit
    from swarm.peer.server import Peer

DRAFT_CACHE = 2 * 2**30
"""Bytes of what a draft model may keep of all the sessions it guesses for, in its own numbers; slabs that have just doubled take up to twice that."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model as a client knows it: no weights."""

    checkpoint: Checkpoint
    shape: ModelShape
    revision: str | None
    text: Text
    eos: tuple[int, ...]


async def open_model(model: str, *, token: str | None = None) -> OpenedModel:
    """Config, tokenizer and revision of a hub id or folder. Raises ModelNotFound, NotAModel, HubUnreachable."""

    def read() -> OpenedModel:
        from swarm.model.checkpoint import Checkpoint
        from swarm.model.text import Text

        checkpoint = Checkpoint.open(model, token=token)
        folder = checkpoint.small_files()
        text = Text.open(folder)
        try:
            revision = checkpoint.revision
        except NotAModel:
            revision = None  # part of the weights: enough for a client, who then takes the revision that is served
        return OpenedModel(checkpoint, checkpoint.shape, revision, text, text.stop_ids(_eos(folder, checkpoint.config)))

    return await asyncio.to_thread(read)


def _eos(folder: Path, config: Any) -> Any:
    """What the model says ends an answer: its generation config, or else its config."""
    try:
        said = json.loads((folder / "generation_config.json").read_text())
    except (OSError, ValueError):
        said = {}
    return said.get("eos_token_id", getattr(config, "eos_token_id", None))


@dataclass(frozen=True, slots=True)
class Connection:
    """Our place in the network."""

    links: Links
    directory: Directory
    addrs: tuple[str, ...]
    sign: Callable[[bytes], bytes]
    verify: Callable[[PeerId, bytes, bytes], bool]
    """Whether this peer signed these bytes."""
    failed: Any
    """A future that is done when the network below us is gone for good."""
    wall: Callable[[], float] = time.time
    """The swarm's time."""
    guise: Callable[[], AbstractAsyncContextManager[Guise]] | None = None
    """Another name for a while, where one is let in."""


@contextlib.asynccontextmanager
async def connect(
    initial_peers: Sequence[str] = (),
    *,
    identity: str | None = None,
    listen: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    announce: Sequence[str] = (),
    serve_relay: bool = False,
    max_upload: float | None = None,
    swarm_key: str | None = None,
    debug: bool = False,
) -> AsyncIterator[Connection]:
    """Join the DHT: as a peer that others reach (`listen`), or as a client that only reaches out. `serve_relay` lets others reach each other through us;
    `max_upload` bounds what we send, in bytes per second; `swarm_key` is the file that makes us a member of a private swarm.

    Raises BadSwarmKey, BadIdentity, IdentityInUse, PortInUse, MalformedAddress, NoBootstrap.
    """
    from swarm.model.sources import cache_folder
    from swarm.net.identity import Identity, verify
    from swarm.net.members import Members
    from swarm.net.node import Node
    from swarm.net.passing import passing

    with Identity.claimed(identity) if identity else contextlib.nullcontext(Identity.ephemeral()) as me:
        node = await Node.start(
            identity=me,
            initial_peers=list(initial_peers),
            host=host,
            port=port,
            announce_addrs=list(announce) or None,
            client_mode=not listen,
            serve_relay=serve_relay,
            max_upload=max_upload,
            members=None if swarm_key is None else Members.open(swarm_key, me.peer_id),
            debug=debug,
            memory=cache_folder() / "peers",
        )
        try:
            guise = passing if swarm_key is None else None
            yield Connection(node.links, node.directory, tuple(node.addrs), me.sign, verify, node.failed, node.clock, guise)
        finally:
            await node.close()


async def probe_reach(initial_peers: Sequence[str], *, host: str, port: int, announce: Sequence[str] = ()) -> Reach:
    """Whether others would reach a peer that stands here. Raises MalformedAddress, InvalidConfig, PortInUse, and SwarmError without a network."""
    from swarm.net.node import probe

    return await probe(initial_peers, host, port, announce)


def _veil(key: bytes) -> Callable[[bytes, int, int], int]:
    """Hides token ids on their way from our own first hop to our own last one. Its own inverse: an id XOR 31 bits that only this process can make."""

    def veil(session: bytes, position: int, token: int) -> int:
        mask = hashlib.blake2b(position.to_bytes(8, "big"), key=key, salt=session, digest_size=4).digest()
        return token ^ (int.from_bytes(mask, "big") & 0x7FFFFFFF)

    return veil


@dataclass(frozen=True, slots=True)
class OwnEnds:
    spans: tuple[Span, ...]
    numerics: str
    room: HopRoom


KeepEnds = Callable[[OpenedModel, Connection, str | None], AbstractAsyncContextManager[OwnEnds]]
"""How a client comes to its own ends, in the numerics that it asks for."""


class TensorLikeness:
    """Implements `errands.Likeness`; loads torch once somebody compares."""

    def share(self, one: Blob, other: Blob, components: int) -> float:
        from swarm.model.likeness import share

        return share(one, other, components)

    def nudged(self, rows: Blob, numerics: str, dice: Callable[[int], bytes]) -> Blob:
        from swarm.model.likeness import nudged

        return nudged(rows, numerics, dice)


def check_peer_ids(peers: Sequence[str]) -> Sequence[str]:
    """Raises UsageError for what can be nobody's."""
    from swarm.net.identity import public_key

    for peer in peers:
        if public_key(peer) is None:
            raise UsageError(f"{peer!r:.80} is no peer id; one begins with 12D3KooW and has 52 characters, and swarm-serve prints its own")
    return peers


def own_spans(layers: str, shape: ModelShape) -> tuple[Span, ...]:
    """Both ends of a model, with layers that touch them. Raises UsageError."""
    ends = (Span(0, 1), Span(shape.head, shape.components))
    spans = merge_spans((*ends, *(parse_layers(layers, shape.layers) if layers else ())))
    if len(spans) > 2:
        raise UsageError(f"own layers go on from an end of the model, and {layers!r} does not; write some like 0:2,{shape.layers - 2}:{shape.layers}")
    return spans


def ends_with(layers: str) -> KeepEnds:
    """`keep_ends`, with these layers beside them. Raises MalformedLayers."""
    check_layers(layers)
    return partial(keep_ends, layers=layers)


@contextlib.asynccontextmanager
async def keep_ends(
    opened: OpenedModel, connection: Connection, dtype: str | None, layers: str = "", draft: DraftModel | None = None
) -> AsyncIterator[OwnEnds]:
    """Hold embed and head in this process: the same hop room that serves peers, for one client, which is ourselves."""
    from swarm.model.span import SpanModel
    from swarm.peer.engine import Engine
    from swarm.peer.offer import Offer

    shape = opened.shape
    spans = own_spans(layers, shape)
    rounds = dtype is not None and (is_rounded(dtype) or is_mixed(dtype))  # others do, or may; our own ends are exact all the same
    model = await asyncio.to_thread(SpanModel.load, opened.checkpoint, spans, dtype=base_dtype(dtype) if dtype and rounds else dtype)
    offer = Offer(opened.revision or "", dtype if dtype and rounds else model.numerics, shape.components, spans, shape.max_length, vocab=shape.vocab)
    key, drafters = secrets.token_bytes(32), drafters_of(draft)
    async with run_ends(Engine(model), offer, connection, clock=time.monotonic, verify=connection.verify, key=key, drafters=drafters) as own:
        yield own


@contextlib.asynccontextmanager
async def run_ends(
    engine: ServingEngine,
    offer: Offer,
    connection: Connection,
    *,
    clock: Callable[[], float],
    verify: Callable[[PeerId, bytes, bytes], bool],
    key: bytes,
    drafters: Callable[[Callable[[], None]], Sequence[Drafter]] = lambda ready: (),
) -> AsyncIterator[OwnEnds]:
    """A hop room for one client, which is ourselves. `key` hides token ids from the hops between."""
    from swarm.machines.ledger import CacheLedger

    me = connection.links.peer
    more: dict[str, Any] = {"veil": _veil(key), "only": me, "sign": connection.sign, "drafters": drafters}
    room = HopRoom(connection.links, engine, offer, CacheLedger(2**40, 1), clock=clock, verify=verify, **more)
    engine.results = room
    tasks = (asyncio.create_task(engine.run(), name="own ends"), asyncio.create_task(_keep_ticking(room), name="own leases"))
    try:
        yield OwnEnds(offer.spans, offer.numerics, room)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _keep_ticking(room: HopRoom) -> None:
    """Own hops whose farewell was lost go when their lease does."""
    from swarm.peer.server import TICK

    while True:
        await asyncio.sleep(TICK)
        room.tick()


def _journal_weight(shape: ModelShape) -> float:
    """A row of a journal in layers' worth of cache. Keys and values of a layer may be smaller than the activations between layers."""
    kv = max(shape.kv_bytes_per_token, default=0)
    return shape.row_bytes / kv if kv else 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """What a peer serves of a model: loaded and measured."""

    checkpoint: Checkpoint
    model: SpanModel
    speed: Speed
    speed_of: tuple[str, ...] = ()
    known: Fit | None = None
    """As in `peer.holding.Holding`."""


def open_draft(model: str, checkpoint: Checkpoint, *, token: str | None = None) -> DraftModel:
    """A small model, whole, that guesses for the one of `checkpoint`. Blocks. Raises InvalidConfig where its tokens are others, ModelNotFound, NotAModel."""
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.span import SpanModel
    from swarm.model.text import Text
    from swarm.peer.drafter import DraftModel

    draft = Checkpoint.open(model, token=token)
    same = draft.shape.vocab == checkpoint.shape.vocab
    with contextlib.suppress(NotAModel):  # peers need no tokenizer
        same = Text.open(draft.small_files()).is_as(Text.open(checkpoint.small_files()))
    if not same:
        raise InvalidConfig(
            f"the draft model {model} has other tokens than {checkpoint.name}, so its guesses would mean nothing; choose a smaller model of the same family"
        )
    most = DRAFT_CACHE // max(sum(draft.shape.kv_bytes_per_token), 1)
    return DraftModel(SpanModel.load(draft, [Span(0, draft.shape.components)]), draft.shape.name, most=most, clock=time.monotonic)


def drafters_of(draft: DraftModel | None) -> Callable[[Callable[[], None]], Sequence[Drafter]]:
    """What a hop room asks for whenever a session begins."""
    return lambda ready: () if draft is None else (draft.line(ready),)


def meters(device: str) -> Meters:
    """Of this machine, for a peer that computes there."""
    from swarm.host.meters import MachineMeters
    from swarm.model.devices import resolve

    return MachineMeters(*resolve(device))


def processor_name() -> str:
    """Of this machine, for people."""
    from swarm.host.meters import processor

    return processor("cpu")


def open_notes() -> Notes:
    """What was measured at earlier starts, beside the hashes of files."""
    from swarm.host.notes import FileNotes
    from swarm.model.sources import cache_folder

    return FileNotes(cache_folder() / "measured")


@dataclass(frozen=True, slots=True)
class Contribution:
    """What an identity of this machine has served, in seconds and tokens, as far as it was written down."""

    peer: PeerId
    seconds: float
    tokens: int


def contributions() -> list[Contribution]:
    """Of every identity that has served here, the one that has served most first."""
    from swarm.host.notes import FileNotes
    from swarm.model.sources import cache_folder
    from swarm.peer.past import PEER

    found = FileNotes(cache_folder() / "measured").of_kind(PEER)
    ours = [Contribution(about[1], figures.get("uptime", 0.0), int(figures.get("tokens", 0))) for about, figures in found.items() if len(about) == 2]
    return sorted(ours, key=lambda one: (-one.tokens, -one.seconds, one.peer))


def speed_of(checkpoint: Checkpoint, model: SpanModel, *, compiles: bool, on_disk: Sequence[str] = ()) -> tuple[str, ...]:
    """All that the speed of what was loaded depends on."""
    from swarm.host.meters import processor
    from swarm.model.measure import threads

    spans, layout = ",".join(f"{span.start}:{span.stop}" for span in model.spans), model.layout
    device = ",".join((*layout.devices, *(f"{i} streamed" for i in sorted(layout.streamed)), *(f"{name} on disk" for name in on_disk)))
    what = (checkpoint.shape.config_hash, checkpoint.revision or "", model.numerics, spans)
    return ("speed", *what, device, f"{threads()} threads", "compiled" if compiles else "eager", processor(layout.entry))


def holding(part: Part, cache_tokens: int, position_bytes: float = 0.0) -> Holding:
    """What a peer can serve of what was loaded."""
    from swarm.peer.holding import Holding
    from swarm.peer.offer import Offer

    shape, speed = part.checkpoint.shape, part.speed
    offer = Offer(
        part.checkpoint.revision or "",
        part.model.numerics,
        shape.components,
        part.model.spans,
        shape.max_length,
        journal=_journal_weight(shape),
        version=int(time.time() * 1000),  # rises across restarts too
        vocab=shape.vocab,
    )
    return Holding(part.model, offer, speed.decode, speed.prefill, speed.head_weight, cache_tokens, position_bytes, part.speed_of, part.known)


def serving_peer(
    connection: Connection,
    shape: ModelShape,
    held: Holding,
    *,
    name: str = "",
    region: str = "",
    max_upload: float | None = None,
    coordinate: bool = True,
    loader: Loader | None = None,
    compiles: bool = False,
    meters: Meters | None = None,
    polite: bool = False,
    notes: Notes | None = None,
    lasts: bool = False,
    draft: DraftModel | None = None,
) -> Peer:
    """A peer that serves what it is given; run it with `serve`. With `coordinate` it stands for election as coordinator of its model, with `loader` it moves to
    other layers where they are needed more; if it `compiles`, its layers become faster while it serves. `meters`, `polite` and `notes` as in `Peer`, and
    whether its identity `lasts`. `draft` guesses for sessions whose first hop it is."""
    from swarm.peer.engine import Engine
    from swarm.peer.improving import improve
    from swarm.peer.server import About, Peer

    engine = Engine()
    return Peer(
        connection.links,
        connection.directory,
        engine,
        held,
        About(shape.name, shape.config_hash, connection.addrs, name, region, max_upload, lasts, "" if draft is None else draft.name, shape.vocab),
        clock=time.monotonic,
        wall=connection.wall,
        verify=connection.verify,
        sign=connection.sign if coordinate else None,
        attest=connection.sign,
        likeness=TensorLikeness(),
        guise=connection.guise,
        loader=loader,
        improve=partial(improve, engine) if compiles else None,
        seed=secrets.randbits(64),
        meters=meters,
        polite=polite,
        notes=notes,
        drafters=drafters_of(draft),
    )
