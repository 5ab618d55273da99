"""Who belongs to a private swarm: its key pair, the memberships that it signs, and those that it has taken back. Files of one line each, and checks with the
public key alone; knows no network. What arrives from others is decoded in `wire`.

Whoever has the swarm's key file owns the swarm: it can invite, revoke, and is a member under any identity. An invited peer has a file with a membership for its
own peer id, of no use to anybody else.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarm import wire
from swarm.core import PeerId
from swarm.errors import BadSwarmKey, ProtocolError
from swarm.net.identity import _write_new as write_new

log = logging.getLogger(__name__)

OWN_DAYS = 365.0
"""Days for which an owner's process makes itself a member, at each start."""

DAY = 86400.0

AHEAD = 3600.0
"""Seconds that a membership may come from the future: the owner's clock and ours."""

TOLD = 16
"""Revocations that one Hello carries; the next one carries others."""

MOST_REVOKED = 4096

_KEY, _MEMBER, _REVOKED = "swarm-key", "swarm-member", "swarm-revoked"


class SwarmKey:
    """The key pair of a private swarm."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> SwarmKey:
        """A new one, in a new file that its owner alone can read. Raises BadSwarmKey: it never overwrites one."""
        self = cls(Ed25519PrivateKey.generate())
        try:
            if not write_new(Path(path).expanduser(), _line(_KEY, self._key.private_bytes_raw())):
                raise BadSwarmKey(f"{path} is there already, and a swarm's key cannot be made again; name a file that does not exist yet")
        except OSError as error:
            raise BadSwarmKey(f"cannot write the swarm key {path}: {error.strerror or error}; name another file") from error
        return self

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SwarmKey:
        """Raises BadSwarmKey."""
        kind, data = _read(path)
        if kind != _KEY:
            raise BadSwarmKey(f"{path} is an invitation, and this needs the swarm's own key; name the file that `swarm-bootstrap keygen` made")
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    def invite(self, peer: PeerId, days: float, now: float) -> bytes:
        """A membership, as others are shown it."""
        return self._signed(wire.Member(self.public, peer, now, now + days * DAY))

    def revoke(self, peer: PeerId, now: float) -> bytes:
        """Every membership of a peer that was made until now is void."""
        return self._signed(wire.Revocation(self.public, peer, now))

    def _signed(self, record: wire.Member | wire.Revocation) -> bytes:
        data = wire.encode(record)
        return wire.encode(wire.Signed(data, self._key.sign(data)))


def write_invitation(path: str | os.PathLike[str], membership: bytes) -> None:
    """Raises BadSwarmKey."""
    try:
        if not write_new(Path(path).expanduser(), _line(_MEMBER, membership)):
            raise BadSwarmKey(f"{path} is there already; name a file that does not exist yet with --out")
    except OSError as error:
        raise BadSwarmKey(f"cannot write the invitation {path}: {error.strerror or error}; name another file with --out") from error


def add_revocation(path: str | os.PathLike[str], revocation: bytes) -> Path:
    """Beside the key or invitation file, where whoever runs with that file finds it. Raises BadSwarmKey."""
    beside = revoked_beside(path)
    try:
        with beside.open("ab") as file:
            file.write(_line(_REVOKED, revocation))
    except OSError as error:
        raise BadSwarmKey(f"cannot write the revocation to {beside}: {error.strerror or error}; check who may write there") from error
    return beside


def revoked_beside(path: str | os.PathLike[str]) -> Path:
    path = Path(path).expanduser()
    return path.with_name(path.name + ".revoked")


class Members:
    """What one node knows of who belongs to its swarm. `own` is its own membership."""

    def __init__(self, public: bytes, own: bytes, clock: Callable[[], float] = time.time, revoked: Path | None = None) -> None:
        self.public, self.own = public, own
        self._clock, self._file, self._read_at = clock, revoked, -1.0
        self._revoked: dict[PeerId, tuple[float, bytes]] = {}
        self._met: dict[PeerId, bytes] = {}
        """What those showed whom we are linked with, or were."""
        self._turn = 0
        self.refresh()

    @classmethod
    def open(cls, path: str | os.PathLike[str], peer: PeerId, clock: Callable[[], float] = time.time) -> Members:
        """As `--swarm-key` has it: the swarm's own key, or an invitation for this peer. Raises BadSwarmKey."""
        kind, data = _read(path)
        if kind == _KEY:
            key = SwarmKey(Ed25519PrivateKey.from_private_bytes(data))
            return cls(key.public, key.invite(peer, OWN_DAYS, clock()), clock, revoked_beside(path))
        try:
            member = wire.decode_member(wire.decode_signed(data).record)
            self = cls(member.swarm, data, clock, revoked_beside(path))
            if member.peer != peer:
                raise BadSwarmKey(f"{path} invites {member.peer}, and this is {peer}; name that peer's key with --identity, or ask for another invitation")
            self.check(peer, data)
        except ProtocolError as error:
            raise BadSwarmKey(f"the invitation {path} is not valid: {error}; ask the swarm's owner for a new one") from error
        return self

    def hello(self) -> wire.Hello:
        """With our membership, and some of the revocations that we know."""
        self.refresh()
        known = [revocation for _, revocation in self._revoked.values()]
        start, self._turn = self._turn % max(len(known), 1), self._turn + TOLD
        return wire.Hello(wire.VERSION, membership=self.own, revocations=tuple((known + known)[start : start + min(TOLD, len(known))]))

    def admit(self, peer: PeerId, hello: wire.Hello) -> None:
        """Raises ProtocolError for whoever is no member."""
        self.check(peer, hello.membership)
        self._met[peer] = hello.membership
        self.learn(hello.revocations)
        self.check(peer, hello.membership)

    def check(self, peer: PeerId, membership: bytes) -> None:
        """Raises ProtocolError unless it makes this peer a member now."""
        if not membership:
            raise ProtocolError("shows no membership of this swarm")
        member, now = wire.decode_member(self._checked(membership)), self._clock()
        if member.swarm != self.public or member.peer != peer:
            raise ProtocolError("the membership is of another swarm, or another peer's")
        if member.expires <= now:
            raise ProtocolError("the membership has expired")
        if member.issued > now + AHEAD:
            raise ProtocolError("the membership comes from the future; is a clock wrong?")
        revoked, _ = self._revoked.get(peer, (-1.0, b""))
        if member.issued <= revoked:
            raise ProtocolError("the membership was revoked")

    def learn(self, revocations: Iterable[bytes]) -> None:
        """From another member, or our file: only the swarm's own count."""
        for data in revocations:
            try:
                revocation = wire.decode_revocation(self._checked(data))
            except ProtocolError as error:
                log.info("a revocation is passed over: %s", error)
                continue
            before, _ = self._revoked.get(revocation.peer, (-1.0, b""))
            room = revocation.peer in self._revoked or len(self._revoked) < MOST_REVOKED
            if revocation.swarm == self.public and revocation.time > before and room:
                self._revoked[revocation.peer] = revocation.time, data

    def refresh(self) -> None:
        """Read the file of revocations again if it has changed."""
        try:
            if self._file is None or (changed := self._file.stat().st_mtime) == self._read_at:
                return
            self._read_at = changed
            self.learn(data for kind, data in map(_parsed, self._file.read_bytes().splitlines()) if kind == _REVOKED)
        except OSError:
            return  # nobody was revoked yet

    def expelled(self) -> list[PeerId]:
        """Of those whom we have met, who is no member any more."""
        self.refresh()
        gone = []
        for peer, membership in self._met.items():
            try:
                self.check(peer, membership)
            except ProtocolError:
                gone.append(peer)
        for peer in gone:
            del self._met[peer]
        return gone

    def _checked(self, data: bytes) -> bytes:
        """The record that the swarm's key has signed."""
        return _record(self.public, data)


@functools.lru_cache(maxsize=4096)
def _record(public: bytes, data: bytes) -> bytes:
    """Cached, since a signature costs 0.1 ms and every membership is met in each record, at every read, of a member."""
    signed = wire.decode_signed(data)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, signed.record)
    except (InvalidSignature, ValueError):
        raise ProtocolError("not signed with this swarm's key") from None
    return signed.record


def _line(kind: str, data: bytes) -> bytes:
    return f"{kind} {base64.b64encode(data).decode()}\n".encode()


def _parsed(line: bytes) -> tuple[str, bytes]:
    kind, _, text = line.decode(errors="replace").strip().partition(" ")
    try:
        return kind, base64.b64decode(text, validate=True)
    except ValueError:
        return "", b""


def _read(path: str | os.PathLike[str]) -> tuple[str, bytes]:
    path = Path(path).expanduser()
    try:
        kind, data = _parsed(path.read_bytes()[:8192])
        readable = path.stat().st_mode & 0o077
    except OSError as error:
        raise BadSwarmKey(f"cannot read the swarm key {path}: {error.strerror or error}; name the file that you were given with --swarm-key") from error
    if kind not in (_KEY, _MEMBER) or (kind == _KEY and len(data) != 32):
        raise BadSwarmKey(f"{path} is neither a swarm's key nor an invitation; `swarm-bootstrap keygen` makes the one, `swarm-bootstrap invite` the other")
    if kind == _KEY and readable:
        log.warning("others on this machine may read the swarm key %s; run: chmod 600 %s", path, path)
    return kind, data
