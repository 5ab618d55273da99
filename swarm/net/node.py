"""A node: one identity, one footing (a p2pd and a place in the DHT), the links and the directory, all in the running event loop. The composition of this room.

Whoever starts a node closes it. When its p2pd dies or hangs, the node finds itself another in its place, with the same identity and at the same port: links are
lost, and made again when somebody has something to say; what it has announced is announced again. What models and sessions are, it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from hivemind.p2p import P2PDaemonError, PeerID

from swarm.core import PeerId
from swarm.errors import IdentityInUse, InvalidConfig, MalformedAddress, PortInUse, RemoteError, SwarmError
from swarm.net import guards, reach
from swarm.net.addresses import Entrance, dialable, entrance, listen_addr, most_public_first
from swarm.net.clock import SwarmClock
from swarm.net.daemon import LOOPBACK, Daemon, DaemonError, flags_of
from swarm.net.directory import DhtDirectory
from swarm.net.footing import JOIN, Footing, Ground, explained, through
from swarm.net.guards.decoding import set_logging
from swarm.net.identity import Identity
from swarm.net.link import Timing
from swarm.net.links import LinkPool
from swarm.net.members import Members
from swarm.net.records import BadRecords, Guard
from swarm.net.remembered import Remembered
from swarm.net.uplink import Uplink

log = logging.getLogger(__name__)

PROBE = 3.0
"""Seconds to look for somebody who uses our identity. Found or refused, the answer takes milliseconds; a frozen holder is nobody we could harm."""

LOOK = 5.0
"""Seconds between two looks at who is a member no more, and at the file of those revoked."""

MAX_ADDRS = 8
"""Addresses we tell others: a machine with many virtual networks has dozens, and each costs whoever dials us an attempt."""

PAUSE = 2.0
"""Seconds between two attempts to start p2pd again."""

PATIENCE = 60.0
"""Seconds in which p2pd may fail MOST_FALLS times, or may not start at all, before we give up: the port was taken, or the network is gone."""

MOST_FALLS = 6

REMEMBER = 60.0
"""Seconds between two notes of who is there."""

MAX_ENTRANCES = 16
"""Through how many peers at most a node enters, again or at first: p2pd knocks at all of them at once."""


class Node:
    peer_id: PeerId
    addrs: tuple[str, ...]
    """Full multiaddrs at which others may dial us, the most public first. Empty for a node that does not listen."""
    clock: SwarmClock
    """The time by which peers announce."""
    links: LinkPool
    directory: DhtDirectory
    failed: asyncio.Future[SwarmError]
    """Done with an error once our p2pd is gone and cannot be started again: nothing will work any more, and a new node must be started."""

    def __init__(self, ground: Ground, entrances: Sequence[Entrance], others: Sequence[Entrance]) -> None:
        self._ground, self._entrances, self._others = ground, tuple(entrances), tuple(others)
        self._stack = contextlib.AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self.peer_id, self.clock = ground.identity.peer_id, ground.clock
        self.failed = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls,
        identity: Identity | None = None,
        initial_peers: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        announce_addrs: Sequence[str] | None = None,
        client_mode: bool = False,
        listen: bool | None = None,
        serve_relay: bool = False,
        use_relay: bool = False,
        timing: Timing | None = None,
        max_upload: float | None = None,
        members: Members | None = None,
        debug: bool = False,
        memory: Path | None = None,
    ) -> Node:
        """Join the swarm behind `initial_peers`, or begin one. `identity` None is a fresh one.

        A node in `client_mode` stores nothing for others and, unless told to `listen`, cannot be dialled. `announce_addrs` replace what we believe our
        addresses to be (a port forwarded by a router, a proxy). `max_upload` bounds what all links together send, in bytes per second; `members`
        are those of a private swarm, and nobody else is linked with or believed. `serve_relay` lets
        others reach each other through us; `use_relay` asks the initial peers to do that for us. In the folder `memory` peers of the swarm are noted,
        through whom we enter another time as well.

        Raises MalformedAddress, InvalidConfig, PortInUse, IdentityInUse, NoBootstrap.
        """
        identity = identity or Identity.ephemeral()
        listen = not client_mode if listen is None else listen
        places = [entrance(text) for text in initial_peers]
        others: list[Entrance] = []
        remembered = Remembered(memory, initial_peers) if memory is not None and places else None
        if remembered is not None:
            others = [place for place in remembered.read() if place.peer not in {identity.peer_id, *(one.peer for one in places)}][:MAX_ENTRANCES]
        entrances = [place for place in places if place.peer != identity.peer_id]
        if places and not entrances:
            raise IdentityInUse(identity.peer_id)
        for text in announce_addrs or ():
            if dialable(text, identity.peer_id) is None:
                raise MalformedAddress(text, announced=True)
        set_logging(debug)
        guards.install()
        held = None
        if listen:
            _probe_port(host, port)
        else:
            listen_addr(host, port)
        if not identity.fresh and entrances:
            await _probe_identity(identity, [*entrances, *others], debug)
        if listen:
            held = _hold_port(host, port)
            port = held.getsockname()[1]
        flags = flags_of(host, port, announce_addrs or (), client_mode, listen, serve_relay, use_relay)
        clock = SwarmClock()
        self = cls(Ground(identity, flags, client_mode, Guard(BadRecords(), clock, members), clock, debug, (host, port)), entrances, others)
        if held is not None:
            self._stack.callback(held.close)
        try:
            await self._start(timing, Uplink(max_upload), members)
            if remembered is not None:
                self._stack.push_async_callback(_cancel, asyncio.ensure_future(self._remember(remembered)))
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self, timing: Timing | None, uplink: Uplink, members: Members | None) -> None:
        ground = self._ground
        self._footing = await Footing.start(ground, self._entrances, self._others)
        self._stack.push_async_callback(self._leave)
        async with self._in_time():
            self.links = await LinkPool.start(self._daemon.p2p, timing, uplink, members)
        self._stack.push_async_callback(self.links.close)
        if members is not None:
            self._stack.push_async_callback(_cancel, asyncio.ensure_future(_keep_out(members, self.links)))
        self.directory = DhtDirectory(self._footing.dht, ground.identity, self._footing.membership, ground.guard.bad, ground.client_mode, ground.clock, members)
        self._stack.push_async_callback(self.directory.close)
        async with self._in_time():
            self.addrs = await self._addresses()
        self._stack.push_async_callback(_cancel, asyncio.ensure_future(self._supervise()))

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """For what our own p2pd is asked at the start, which takes it milliseconds: nobody looks yet whether it hangs. Raises SwarmError."""
        try:
            async with asyncio.timeout(JOIN):
                yield
        except TimeoutError:
            raise SwarmError(f"the libp2p daemon of {self.peer_id} does not answer; is this machine overloaded? Start this node again") from None

    @property
    def _daemon(self) -> Daemon:
        return self._footing.daemon

    async def _leave(self) -> None:
        await self._footing.close()

    async def _addresses(self) -> tuple[str, ...]:
        _, found = await self._daemon.p2p._client.identify()
        return tuple(f"{addr}/p2p/{self.peer_id}" for addr in most_public_first(found)[:MAX_ADDRS])

    # --- when p2pd is gone --------------------------------------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        loop, falls = asyncio.get_running_loop(), deque[float](maxlen=MOST_FALLS)
        try:
            while True:
                how = await self._footing.gave_way()
                falls.append(loop.time())
                if len(falls) == MOST_FALLS and falls[-1] - falls[0] < PATIENCE:
                    raise SwarmError(f"it failed {MOST_FALLS} times in {PATIENCE:g} seconds")
                log.warning("the libp2p daemon of %s %s; starting another", self.peer_id, how)
                await self._stand_up_again()
                log.info("the libp2p daemon of %s runs again", self.peer_id)
        except Exception as error:  # whatever it is: nobody is left who would start p2pd again
            if not self.failed.done():
                self.failed.set_result(SwarmError(f"the libp2p daemon of {self.peer_id} ended and cannot be started again ({error}); start this node again"))

    async def _stand_up_again(self) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self.links.fall()
        while True:
            await self._footing.close()
            try:
                await self._stand_on(await Footing.start(self._ground, self._entrances, self._ways_in()))
                return
            except (SwarmError, P2PDaemonError, OSError, EOFError):
                if loop.time() - begin > PATIENCE:
                    raise
            await asyncio.sleep(PAUSE)

    async def _stand_on(self, new: Footing) -> None:
        old, self._footing = self._footing, new
        new.dht.protocol.storage = old.dht.protocol.storage  # what we keep for others outlives p2pd
        async with asyncio.timeout(JOIN):
            await self.links.stand_on(new.daemon.p2p)
        try:
            await self.directory.stand_on(new.dht, new.membership)
        except RemoteError as error:
            log.warning("could not announce again: %s", error)

    def _ways_in(self) -> list[Entrance]:
        """Peers whom we know beside those through whom we entered first: whoever began a swarm has no other."""
        known = {place.peer: place for place in (*self._others, *reversed(self.directory.ways_in()))}
        return [place for peer, place in reversed(known.items()) if peer not in {one.peer for one in self._entrances}][:MAX_ENTRANCES]

    async def _remember(self, remembered: Remembered) -> None:
        try:
            while True:
                await asyncio.sleep(REMEMBER)
                remembered.write(self.directory.ways_in())
        finally:  # a short visit, too
            remembered.write(self.directory.ways_in())

    async def close(self) -> None:
        """End everything this node started: links say goodbye, then the DHT, then p2pd. Idempotent; a second caller waits for the first."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._stack.aclose())
        await asyncio.shield(self._closing)


async def probe(initial_peers: Sequence[str], host: str, port: int, announce: Sequence[str] = ()) -> reach.Reach:
    """What `swarm-doctor` asks: whether a node that listened here would be reached. Raises MalformedAddress, InvalidConfig, PortInUse, SwarmError."""
    for text in announce:
        if dialable(text, "") is None:
            raise MalformedAddress(text, announced=True)
    guards.install()
    _probe_port(host, port)

    def flags(use_relay: bool = False) -> list[str]:
        at = 0 if use_relay else port
        return [*flags_of(host, at, announce, client_mode=False, listen=True, serve_relay=False, use_relay=use_relay)]

    return await reach.probe(initial_peers, flags, port, announce, outside=host not in LOOPBACK)


def _probe_port(host: str, port: int) -> None:
    """p2pd listens with SO_REUSEPORT: two of them would share a port, and each get half of the other's visitors."""
    family = socket.AF_INET6 if listen_addr(host, port).startswith("/ip6") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise InvalidConfig(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --host and --port") from error
            raise PortInUse(host, port) from error


def _hold_port(host: str, port: int) -> socket.socket:
    """Bound and never listening: keeps the port ours while p2pd is started another time, and lets p2pd listen there, which shares ports."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


async def _probe_identity(identity: Identity, entrances: list[Entrance], debug: bool) -> None:
    """Ask the swarm, under a passing name, whether somebody already answers to ours. hivemind's own check crashes on Ed25519."""
    try:
        probe = await Daemon.start(Identity.ephemeral(), ["-dhtClient", "-tls", "-noListenAddrs", *through(entrances)], debug)
    except DaemonError as error:
        raise explained(error, entrances, ("", 0)) from error
    try:
        async with asyncio.timeout(PROBE):
            await _find(probe, identity.peer_id)
    except (P2PDaemonError, OSError, EOFError):
        return
    finally:
        await probe.close()
    raise IdentityInUse(identity.peer_id)


async def _find(probe: Daemon, peer: PeerId) -> None:
    """Returns when somebody answers to this peer id. Raises P2PDaemonError when nobody knows it, or nobody answers where it was."""
    while True:
        try:
            await probe.p2p._client.connect(PeerID.from_base58(peer), [])
            return
        except P2PDaemonError as error:
            if "failed to find any peer in table" not in str(error):
                raise
        await asyncio.sleep(0.1)  # connected already, but p2pd does not count its initial peers as acquaintances yet


async def _keep_out(members: Members, links: LinkPool) -> None:
    """Whose membership ends, or is revoked, while it is linked with us."""
    while True:
        await asyncio.sleep(LOOK)
        for peer in members.expelled():
            links.expel(peer)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
