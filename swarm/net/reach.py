"""Whether others reach us: somebody who has no connection to us yet is asked to dial us, and tells what came of it, what the time is there, and where we seem
to be.

Whoever is asked dials only hosts at which it sees the asking machine itself, so that nobody can be made to knock elsewhere, and a few at a time. A protocol of
its own beside the links: it is asked under a passing name, by whoever is about to join under another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hivemind.p2p import P2P, P2PDaemonError, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.utils.multiaddr import Multiaddr

from swarm import wire
from swarm.core import PeerId
from swarm.errors import ProtocolError
from swarm.net.addresses import Entrance, dialable, entrance, most_public_first
from swarm.net.daemon import Daemon, DaemonError
from swarm.net.identity import Identity

PROTOCOL = "/swarm/reach/1"

KNOCK = 5.0
"""Seconds for a dial: TCP and TLS are four round trips."""

AT_ONCE = 8
"""Requests answered at the same time; more are not answered."""

EACH_PEER, EACH_HOST = 2, 4
"""Of one peer, and of all that are seen at one host: a dial that nobody answers holds a place for seconds."""

LARGEST = 4096
"""Bytes of a question or an answer."""

MAPPED = 4.0
"""Seconds that a router is given to map a port."""

RELAYED = 25.0
"""Seconds for a place at a relay: libp2p first finds out that it cannot be reached, which takes it some fifteen."""

LOOK = 0.5

FAILURES = (P2PDaemonError, OSError, EOFError, ProtocolError)


class Knocker:
    """Answers others' questions."""

    def __init__(self, p2p: P2P, wall: Callable[[], float] = time.time) -> None:
        self._p2p, self._wall = p2p, wall
        self._running = Counter[str]()
        """Requests under way: all, by peer, and by host."""

    async def __call__(self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A stream of somebody's."""
        most = {"all": AT_ONCE, f"peer {info.peer_id}": EACH_PEER, f"host {host_of(str(info.addr))}": EACH_HOST}
        try:
            if all(self._running[who] < count for who, count in most.items()):
                self._running.update(most.keys())
                try:
                    async with asyncio.timeout(2 * KNOCK):
                        question = wire.decode_dial_back(await _read(reader))
                        await _write(writer, await self._answer(question, info.addr))
                finally:
                    self._running.subtract(most.keys())
                    self._running = +self._running
        except (*FAILURES, TimeoutError):
            pass
        finally:
            writer.close()

    async def _answer(self, question: wire.DialBack, seen_at: Multiaddr) -> wire.DialledBack:
        results = await asyncio.gather(*(self._knock(question.peer, text, seen_at) for text in question.addrs))
        return wire.DialledBack(tuple(results), self._wall(), host_of(str(seen_at)))

    async def _knock(self, peer: PeerId, text: str, seen_at: Multiaddr) -> str:
        addr = dialable(text, peer)
        if addr is None or host_of(str(addr)) != host_of(str(seen_at)):
            return "not dialled: it is not where you are seen to be"
        return await dial(self._p2p, peer, addr)


async def dial(p2p: P2P, peer: PeerId, addr: Multiaddr) -> str:
    """Nothing if this peer answers there, or else why not. The connection is given up again."""
    try:
        who = PeerID.from_base58(peer)
        if any(connected.peer_id == who for connected in await p2p.list_peers()):  # and it is not ours to cut
            return "connected already, which tells nothing"
        async with asyncio.timeout(KNOCK):
            await p2p._client.connect(who, [addr])
    except (P2PDaemonError, OSError, EOFError, ValueError) as error:
        return _reason(str(error))
    except TimeoutError:
        return "no answer in time"
    with contextlib.suppress(*FAILURES):
        await p2p._client.disconnect(who)
    return ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one initial peer said. `results` are pairs of an address of ours and why it could not be dialled, "" if it could; `offset` is by how many seconds
    its clock is ahead of ours, at most `trip` / 2 wrong. `error` is why it said nothing."""

    entrance: str
    results: tuple[tuple[str, str], ...] = ()
    seen_at: str = ""
    offset: float = 0.0
    trip: float = 0.0
    error: str = ""

    @property
    def reached(self) -> tuple[str, ...]:
        """Where it reached us."""
        return tuple(addr for addr, why in self.results if not why)


@dataclass(frozen=True, slots=True)
class Reach:
    """`addrs` are what this machine would announce. `relayed` is an address by way of a relay at which we were reached, "" for none, None if not tried."""

    addrs: tuple[str, ...]
    answers: tuple[Answer, ...]
    relayed: str | None = None


async def probe(initial_peers: Sequence[str], flags: Callable[..., list[str]], port: int, announce: Sequence[str] = (), *, outside: bool = True) -> Reach:
    """Stand where a peer would stand, and have every initial peer dial us there. `flags` makes those of p2pd (`node.flags`). Raises DaemonError."""
    places = [entrance(text) for text in initial_peers]
    me = Identity.ephemeral()
    standing = await Daemon.start(me, flags())
    try:
        if outside:
            await asyncio.sleep(MAPPED)
        addrs = await _addrs(standing)
        asking = await Daemon.start(Identity.ephemeral(), ["-dhtClient", "-tls", "-relay", "-noListenAddrs"])
        try:
            answers = tuple(await asyncio.gather(*(_ask(asking.p2p, place, me.peer_id, addrs, port, announce) for place in places)))
            relayed = None
            if places and not any(answer.reached for answer in answers):
                relayed = await _relayed(asking.p2p, flags, places)
            return Reach(addrs, answers, relayed)
        finally:
            await asking.close()
    finally:
        await standing.close()


async def _ask(p2p: P2P, place: Entrance, me: PeerId, addrs: Sequence[str], port: int, announce: Sequence[str]) -> Answer:
    who = PeerID.from_base58(place.peer)
    try:
        async with asyncio.timeout(KNOCK):
            await p2p._client.connect(who, [place.addr])
    except (*FAILURES, TimeoutError) as error:
        return Answer(place.text, error=f"it does not answer ({_reason(str(error)) or 'in time'})")
    try:
        async with asyncio.timeout(2 * KNOCK):
            first = await _question(p2p, who, wire.DialBack(me, ()))
            seen = first.seen_at
            given = [*announce, *addrs, *([f"/ip{6 if ':' in seen else 4}/{seen}/tcp/{_port(addrs, port)}"] if seen else [])]
            wanted = list(dict.fromkeys(text for text in given if host_of(text) == seen))[:4]
            said = await _question(p2p, who, wire.DialBack(me, tuple(wanted)))
            began, wall = time.perf_counter(), time.time()
            clock = await _question(p2p, who, wire.DialBack(me, ()))
            trip = time.perf_counter() - began
            return Answer(place.text, tuple(zip(wanted, said.results, strict=False)), seen, clock.now - (wall + trip / 2), trip)
    except (*FAILURES, TimeoutError) as error:
        return Answer(place.text, error=f"it cannot tell ({_reason(str(error)) or 'no answer in time'}): an older version, or it answers too many")


async def _relayed(asking: P2P, flags: Callable[..., list[str]], places: Sequence[Entrance]) -> str:
    """Where we are reached by way of an initial peer, once it relays for us."""
    me = Identity.ephemeral()
    try:
        standing = await Daemon.start(me, [*flags(use_relay=True), "-b", "-bootstrapPeers=" + ",".join(place.text for place in places)])
    except DaemonError:
        return ""
    try:
        async with asyncio.timeout(RELAYED):
            while True:
                for text in await _addrs(standing):
                    if "/p2p-circuit" in text and not await dial(asking, me.peer_id, Multiaddr(text)):
                        return text
                await asyncio.sleep(LOOK)
    except TimeoutError:
        return ""
    finally:
        await standing.close()


async def _question(p2p: P2P, who: PeerID, question: wire.DialBack) -> wire.DialledBack:
    _, reader, writer = await p2p.call_binary_stream_handler(who, PROTOCOL)
    try:
        await _write(writer, question)
        return wire.decode_dialled_back(await _read(reader))
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(2), "big")
    if size > LARGEST:
        raise ProtocolError(f"{size} bytes where at most {LARGEST} are expected")
    return await reader.readexactly(size)


async def _write(writer: asyncio.StreamWriter, message: wire.DialBack | wire.DialledBack) -> None:
    data = wire.encode(message)
    writer.write(len(data).to_bytes(2, "big") + data)
    await writer.drain()


async def _addrs(daemon: Daemon) -> tuple[str, ...]:
    _, found = await daemon.p2p._client.identify()
    return tuple(most_public_first(found))


def _port(addrs: Sequence[str], port: int) -> str:
    """On which we listen: where any free one was asked for, the one that was taken."""
    return str(port) if port else next((text.split("/")[4] for text in addrs if text.count("/") >= 4), "0")


def host_of(text: str) -> str:
    """The second part of a multiaddr."""
    return text.split("/")[2] if text.count("/") > 1 else ""


def _reason(text: str) -> str:
    """What p2pd says, without its preamble."""
    return " ".join(text.split(" * ")[-1].split())[-160:]
