"""Multiaddrs as people type them and as strangers announce them. The first kind gets a clear error, the second is skipped."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.multiaddr.exceptions import Error as MultiaddrError

from swarm.core import PeerId
from swarm.errors import InvalidConfig, MalformedAddress
from swarm.net.identity import is_peer_id

MAX_TEXT = 512

PARSE_ERRORS = (MultiaddrError, ValueError, LookupError, TypeError)
"""What the multiaddr library raises for text that is none: mostly its own errors, but also what its codecs let through."""


class Entrance(NamedTuple):
    """An initial peer: where to knock, and who should answer."""

    peer: PeerId
    addr: Multiaddr
    text: str


def entrance(text: str) -> Entrance:
    """Read one initial peer. Raises MalformedAddress."""
    try:
        addr = Multiaddr(text.strip())
        peer = str(addr["p2p"])
    except PARSE_ERRORS as error:
        raise MalformedAddress(text) from error
    bare = dialable(text, peer)
    if bare is None or text.count("/p2p/") != 1 or "/p2p-circuit" in text or not is_peer_id(peer):
        raise MalformedAddress(text)
    return Entrance(peer, bare, f"{bare}/p2p/{peer}")


def dialable(text: str, peer: PeerId) -> Multiaddr | None:
    """The address without the peer id at its end, or None if nothing can be dialled there: unparsable, no TCP, somebody else's, or no real host."""
    if len(text) > MAX_TEXT:
        return None
    try:
        addr = Multiaddr(text.strip())
        if text.strip().endswith(f"/p2p/{peer}"):
            addr = addr.decapsulate(f"/p2p/{peer}")
        elif "/p2p/" in text and not text.rstrip("/").endswith("/p2p-circuit"):
            return None
        protocols = [protocol.name for protocol in addr.protocols()]
        if protocols[:2] in (["ip4", "tcp"], ["ip6", "tcp"]):
            host = ipaddress.ip_address(addr[protocols[0]])
            if host.is_unspecified or host.is_multicast:
                return None
        elif len(protocols) < 2 or protocols[0] not in ("dns", "dns4", "dns6") or protocols[1] != "tcp":
            return None
        return addr if int(addr["tcp"]) else None
    except PARSE_ERRORS:
        return None


def listen_addr(host: str, port: int) -> str:
    """Where p2pd shall listen. TCP alone: libp2p's QUIC would open a second, UDP port that no option of ours mentions."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise InvalidConfig(f"{host!r} is no IP address to listen on; use 127.0.0.1 for this machine alone or 0.0.0.0 for all its networks") from None
    if not 0 <= port < 2**16:
        raise InvalidConfig(f"port {port} is out of range; choose one up to 65535, or 0 for any free one")
    return f"/ip{ip.version}/{ip}/tcp/{port}"


def most_public_first(addrs: Iterable[Multiaddr]) -> list[str]:
    """Sorted so that who can take only a few takes the most useful ones."""

    def rank(text: str) -> int:
        try:
            host = ipaddress.ip_address(text.split("/")[2])
        except ValueError:
            return 0
        return 2 if host.is_loopback or host.is_link_local else 0 if host.is_global else 1

    return sorted((str(addr) for addr in addrs), key=lambda text: (rank(text), text))
