import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import BadIdentity
from swarm.net.identity import Identity, is_peer_id, public_key, verify


def test_a_signature_is_checked_with_the_peer_id_alone():
    identity = Identity.ephemeral()
    signature = identity.sign(b"hello")
    assert identity.peer_id.startswith("12D3KooW")
    assert verify(identity.peer_id, b"hello", signature)
    assert not verify(identity.peer_id, b"hullo", signature)
    assert not verify(Identity.ephemeral().peer_id, b"hello", signature)
    assert not verify(identity.peer_id, b"hello", signature[:-1])


@given(st.text(max_size=60) | st.text(alphabet="123DKooW", min_size=52, max_size=52))
def test_any_text_may_be_asked_for_its_key(text):
    assert public_key(text) is None or len(public_key(text)) == 32
    assert not verify(text, b"", bytes(64)) or public_key(text)
    is_peer_id(text)


@given(st.binary(min_size=32, max_size=32))
def test_every_key_gives_a_peer_id_that_contains_it(seed):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    assert public_key(Identity(key).peer_id) == key.public_key().public_bytes_raw()


def test_the_file_is_kept_private_and_gives_the_same_peer(tmp_path):
    path = tmp_path / "deep" / "identity"
    old_mask = os.umask(0)
    try:
        first = Identity.load_or_create(path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path).peer_id == first.peer_id
    assert [entry.name for entry in path.parent.iterdir()] == ["identity"]


def test_two_who_create_the_same_file_at_once_are_the_same_peer(tmp_path):
    found, gate = [], threading.Barrier(8)

    def create() -> None:
        gate.wait()
        found.append(Identity.load_or_create(tmp_path / "identity").peer_id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(68), bytes.fromhex("08011240") + bytes(64), bytes.fromhex("080012a80430"), Identity.ephemeral().to_bytes() + b"\0"]
)
def test_a_broken_file_is_said_to_be_one(tmp_path, content):
    path = tmp_path / "identity"
    path.write_bytes(content)
    with pytest.raises(BadIdentity, match="identity"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_a_folder_is_no_identity(tmp_path):
    with pytest.raises(BadIdentity):
        Identity.load_or_create(tmp_path)
