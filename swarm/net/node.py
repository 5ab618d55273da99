"""A node: one identity, one p2pd, one place in the DHT, the links and the directory, all in the running event loop. The composition of this room.

Whoever starts a node closes it. It knows what can go wrong at the start and says it in terms of the person at the keyboard; what models and sessions are, it
does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Sequence

from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2PDaemonError, PeerID

from swarm.core import PeerId
from swarm.errors import IdentityInUse, MalformedAddress, NoBootstrap, PortInUse, SwarmError
from swarm.net.addresses import Entrance, dialable, entrance, listen_addr, most_public_first
from swarm.net.daemon import Daemon, DaemonError
from swarm.net.directory import RPC_DEADLINE, DhtDirectory
from swarm.net.hardening import harden, set_logging
from swarm.net.identity import Identity
from swarm.net.joining import Membership
from swarm.net.link import Timing
from swarm.net.links import LinkPool
from swarm.net.members import Members
from swarm.net.records import BadRecords, Guard
from swarm.net.uplink import Uplink

JOIN = 10.0
"""Seconds for any initial peer to answer: two attempts at TCP, TLS and negotiation across the world."""

PROBE = 3.0
"""Seconds to look for somebody who uses our identity. Found or refused, the answer takes milliseconds; a frozen holder is nobody we could harm."""

LOOK = 5.0
"""Seconds between two looks at who is a member no more, and at the file of those revoked."""

LOOPBACK = ("127.0.0.1", "::1")

MAX_ADDRS = 8
"""Addresses we tell others: a machine with many virtual networks has dozens, and each costs whoever dials us an attempt."""


class Node:
    peer_id: PeerId
    addrs: tuple[str, ...]
    """Full multiaddrs at which others may dial us, the most public first. Empty for a node that does not listen."""
    links: LinkPool
    directory: DhtDirectory
    failed: asyncio.Future[SwarmError]
    """Done with an error once our p2pd is gone without our doing: every link is lost, nothing will work again, and a new node must be started."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
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
    ) -> Node:
        """Join the swarm behind `initial_peers`, or begin one. `identity` None is a fresh one.

        A node in `client_mode` stores nothing for others and, unless told to `listen`, cannot be dialled. `announce_addrs` replace what we believe our
        addresses to be (a port forwarded by a router, a proxy). `max_upload` bounds what all links together send, in bytes per second; `members`
        are those of a private swarm, and nobody else is linked with or believed. `serve_relay` lets
        others reach each other through us; `use_relay` asks the initial peers to do that for us.

        Raises MalformedAddress, InvalidConfig, PortInUse, IdentityInUse, NoBootstrap.
        """
        identity = identity or Identity.ephemeral()
        listen = not client_mode if listen is None else listen
        places = [entrance(text) for text in initial_peers]
        entrances = [place for place in places if place.peer != identity.peer_id]  # remembered peers may include ourselves
        if places and not entrances:
            raise IdentityInUse(identity.peer_id)
        for text in announce_addrs or ():
            if dialable(text, identity.peer_id) is None:
                raise MalformedAddress(text, announced=True)
        set_logging(debug)
        harden()
        if listen:
            _probe_port(host, port)
        else:
            listen_addr(host, port)
        if not identity.fresh and entrances:
            await _probe_identity(identity, entrances, debug)
        flags = _flags(host, port, announce_addrs or (), entrances, client_mode, listen, serve_relay, use_relay)
        self = cls()
        self.peer_id = identity.peer_id
        try:
            await self._start(identity, entrances, flags, client_mode, timing, debug, (host, port), Uplink(max_upload), members)
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(
        self,
        identity: Identity,
        entrances: list[Entrance],
        flags: list[str],
        client_mode: bool,
        timing: Timing | None,
        debug: bool,
        at: tuple[str, int],
        uplink: Uplink,
        members: Members | None,
    ) -> None:
        try:
            daemon = await Daemon.start(identity, flags, debug)
        except DaemonError as error:
            raise _explained(error, entrances, at) from error
        self._daemon = daemon
        self._stack.push_async_callback(daemon.close)
        watch = asyncio.ensure_future(self._watch(daemon))
        self._stack.push_async_callback(_cancel, watch)

        guard = Guard(BadRecords(), members=members)
        try:
            async with asyncio.timeout(JOIN):
                node = await DHTNode.create(
                    p2p=daemon.p2p,
                    node_id=DHTID.generate(source=self.peer_id),  # a place in the DHT that nobody can choose, not even its owner
                    initial_peers=[place.text for place in entrances] or None,
                    client_mode=client_mode,
                    record_validator=guard,
                    wait_timeout=RPC_DEADLINE,
                    bootstrap_timeout=JOIN / 2,
                    strict=False,  # a clock three seconds off is refused otherwise
                    cache_locally=False,  # we always want the latest, so a cache answers nothing and only holds what strangers sent
                    cache_nearest=0,
                    cache_on_store=False,
                    cache_refresh_before_expiry=0,
                )
        except (RuntimeError, TimeoutError) as error:
            raise _nobody(entrances) from error
        node.protocol._validate_dictionary = guard.prune
        self._stack.push_async_callback(_leave, node, daemon)
        self.links = await LinkPool.start(daemon.p2p, timing, uplink, members)
        self._stack.push_async_callback(self.links.close)
        if members is not None:
            self._stack.push_async_callback(_cancel, asyncio.ensure_future(_keep_out(members, self.links)))
        membership = Membership(node, daemon.p2p, entrances)
        self._stack.push_async_callback(_cancel, asyncio.ensure_future(membership.keep()))
        self.directory = DhtDirectory(node, identity, membership, guard.bad, client_mode, members=members)
        self._stack.push_async_callback(self.directory.close)
        self.addrs = await self._addresses()

    async def _addresses(self) -> tuple[str, ...]:
        _, found = await self._daemon.p2p._client.identify()
        return tuple(f"{addr}/p2p/{self.peer_id}" for addr in most_public_first(found)[:MAX_ADDRS])

    async def _watch(self, daemon: Daemon) -> None:
        status = await asyncio.shield(daemon.died)
        if not self.failed.done():
            self.failed.set_result(SwarmError(f"the libp2p daemon of {self.peer_id} ended (status {status}); start this node again"))

    async def close(self) -> None:
        """End everything this node started: links say goodbye, then the DHT, then p2pd. Idempotent; a second caller waits for the first."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._stack.aclose())
        await asyncio.shield(self._closing)


def _flags(
    host: str, port: int, announce: Sequence[str], entrances: list[Entrance], client_mode: bool, listen: bool, serve_relay: bool, use_relay: bool
) -> list[str]:
    outside = listen and host not in LOOPBACK
    flags = ["-dhtClient" if client_mode else "-dhtServer", "-connManager", "-tls", "-relay"]
    flags += [f"-relayService={int(serve_relay)}", f"-autoRelay={int(use_relay)}", f"-autonat={int(outside)}", f"-natPortMap={int(outside)}"]
    flags.append(f"-hostAddrs={listen_addr(host, port)}" if listen else "-noListenAddrs")
    if announce:
        flags.append("-announceAddrs=" + ",".join(announce))
    return flags + _through(entrances)


def _through(entrances: list[Entrance]) -> list[str]:
    return ["-b", "-bootstrapPeers=" + ",".join(place.text for place in entrances)] if entrances else []


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
                raise SwarmError(f"cannot listen on {host} port {port}: {error.strerror}; choose another with --host and --port") from error
            raise PortInUse(host, port) from error


async def _probe_identity(identity: Identity, entrances: list[Entrance], debug: bool) -> None:
    """Ask the swarm, under a passing name, whether somebody already answers to ours. hivemind's own check crashes on Ed25519."""
    try:
        probe = await Daemon.start(Identity.ephemeral(), ["-dhtClient", "-tls", "-noListenAddrs", *_through(entrances)], debug)
    except DaemonError as error:
        raise _explained(error, entrances, ("", 0)) from error
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


def _explained(error: DaemonError, entrances: list[Entrance], at: tuple[str, int]) -> SwarmError:
    if "address already in use" in error.output:
        return PortInUse(*at)
    if "bootstrap" in error.output or (entrances and "not ready" in error.output):
        return _nobody(entrances)
    return error


def _nobody(entrances: list[Entrance]) -> NoBootstrap:
    names = ", ".join(place.text for place in entrances)
    return NoBootstrap(f"none of the initial peers answered: {names}; check that one of them runs (swarm-bootstrap) and that this machine can reach it")


async def _keep_out(members: Members, links: LinkPool) -> None:
    """Whose membership ends, or is revoked, while it is linked with us."""
    while True:
        await asyncio.sleep(LOOK)
        for peer in members.expelled():
            links.expel(peer)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _leave(node: DHTNode, daemon: Daemon) -> None:
    """hivemind tells p2pd to forget each handler and waits for its answer, which a dead p2pd never gives."""
    if daemon.died.done():
        return
    with contextlib.suppress(P2PDaemonError, OSError):
        async with asyncio.timeout(1.0):
            await node.shutdown()
