"""Who a peer is: an Ed25519 key, and the libp2p peer id that carries its public half.

This file knows the two encodings libp2p uses (the private key file that p2pd reads, and the peer id) and nothing of networks: a signature can be checked
with the peer id alone, without hivemind and without asking anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarm.core import PeerId
from swarm.errors import BadIdentity, IdentityInUse

log = logging.getLogger(__name__)

_PRIVATE_HEADER = bytes.fromhex("08011240")
"""Protobuf `PrivateKey {key_type: Ed25519, data: 64 bytes}`, where data is the 32-byte seed followed by the 32-byte public key."""

_PEER_ID_HEADER = bytes.fromhex("0024" + "08011220")
"""Multihash "identity", 36 bytes, of protobuf `PublicKey {key_type: Ed25519, data: 32 bytes}`: what makes every such peer id begin with 12D3KooW."""

_RSA_KEY_TYPE = bytes.fromhex("0800")

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {letter: value for value, letter in enumerate(_ALPHABET)}


class Identity:
    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.fresh = False
        """Made a moment ago: nobody else can be using it."""
        self._public = key.public_key().public_bytes_raw()
        self.peer_id: PeerId = _base58(_PEER_ID_HEADER + self._public)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def ephemeral(cls) -> Identity:
        """A fresh identity that no file remembers."""
        self = cls(Ed25519PrivateKey.generate())
        self.fresh = True
        return self

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> Identity:
        """Read an identity file, or write a new one readable by its owner alone. Its folder must be there: a mistyped one would make the peer somebody new.

        Raises BadIdentity.
        """
        path = Path(path).expanduser()  # a config file may say ~/peer.key
        try:
            data = _read(path)
            if data is None:
                identity = cls.ephemeral()
                if _write_new(path, identity.to_bytes()):
                    return identity
                data = _read(path) or b""
        except OSError as error:
            if not path.parent.exists():
                raise BadIdentity(
                    f"there is no folder {path.parent} for the identity file {path.name}; make it, or name another file with --identity"
                ) from error
            raise BadIdentity(f"cannot use the identity file {path}: {error.strerror or error}; choose another with --identity") from error
        return cls.from_bytes(data, str(path))

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, path: str | os.PathLike[str]) -> Iterator[Identity]:
        """As `load_or_create`, and nobody else on this machine can claim the same file meanwhile: the first peers of a swarm have no others to ask whether
        somebody answers to their name. The kernel gives the lock back however this process ends, and p2pd does not inherit it.

        Raises BadIdentity, IdentityInUse.
        """
        identity = cls.load_or_create(path)
        with contextlib.ExitStack() as stack:
            try:
                fcntl.flock(stack.enter_context(Path(path).expanduser().open("rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise IdentityInUse(identity.peer_id) from error
            except OSError as error:  # a file system without locks: the swarm is still asked where there is one
                log.debug("cannot lock the identity file %s: %s", path, error)
            yield identity

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "the identity") -> Identity:
        if data.startswith(_RSA_KEY_TYPE):
            raise BadIdentity(f"{name} holds an RSA key, but a peer here needs an Ed25519 one; name a file that does not exist yet with --identity")
        if len(data) != len(_PRIVATE_HEADER) + 64 or not data.startswith(_PRIVATE_HEADER):
            raise BadIdentity(f"{name} is no Ed25519 identity file ({len(data)} bytes); delete it, or name one that does not exist yet with --identity")
        seed, public = data[4:36], data[36:]
        identity = cls(Ed25519PrivateKey.from_private_bytes(seed))
        if identity._public != public:
            raise BadIdentity(f"{name} is damaged (its two halves do not belong together); delete it, or name one that does not exist yet with --identity")
        return identity

    def to_bytes(self) -> bytes:
        """The private key as p2pd reads it from a file."""
        return _PRIVATE_HEADER + self._key.private_bytes_raw() + self._public

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


def verify(peer_id: PeerId, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made by the owner of `peer_id`. False for anything malformed, too."""
    public = public_key(peer_id)
    if public is None or len(signature) != 64:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_key(peer_id: PeerId) -> bytes | None:
    """The Ed25519 key inside a peer id, None if there is none."""
    if len(peer_id) != 52:  # what base58 makes of these 38 bytes, always; anything else is not worth the big-number arithmetic
        return None
    number = 0
    for letter in peer_id:
        digit = _DIGITS.get(letter)
        if digit is None:
            return None
        number = number * 58 + digit
    # the leading zero byte of the multihash is the leading "1" of the text, and not part of the number
    if peer_id[0] != "1" or number.bit_length() > 37 * 8:
        return None
    data = number.to_bytes(38, "big")
    return data[6:] if data.startswith(_PEER_ID_HEADER) else None


def is_peer_id(text: str) -> bool:
    """Whether this can be the id of any libp2p peer. Ours are Ed25519, but a plain hivemind node with an RSA identity ("Qm…") may serve as an initial peer."""
    return public_key(text) is not None or (len(text) == 46 and text.startswith("Qm") and all(letter in _DIGITS for letter in text))


def _base58(data: bytes) -> str:
    number, letters = int.from_bytes(data, "big"), []
    while number:
        number, digit = divmod(number, 58)
        letters.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(letters))


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                log.warning("others on this machine may read the identity file %s; run: chmod 600 %s", path, path)
            return file.read(4096)
    except FileNotFoundError:
        return None


def _write_new(path: Path, data: bytes) -> bool:
    """Put a whole file in place at once, private from birth: whoever reads it sees all of it or nothing. False if somebody else was faster."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True
