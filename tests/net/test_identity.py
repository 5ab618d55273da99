import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import BadIdentity, IdentityInUse
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
    path.parent.mkdir()
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
    "content",
    [b"", b"hello", bytes(68), bytes.fromhex("08011240") + bytes(64), bytes.fromhex("080012a80430"), None],
    ids=["empty", "text", "zeros", "a key of zeros", "another kind of key", "more than a key"],
)
def test_a_broken_file_is_said_to_be_one(tmp_path, content):
    if content is None:  # drawn here: names of tests stay the same from run to run
        content = Identity.ephemeral().to_bytes() + b"\0"
    path = tmp_path / "identity"
    path.write_bytes(content)
    with pytest.raises(BadIdentity, match="identity"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_a_folder_is_no_identity(tmp_path):
    with pytest.raises(BadIdentity):
        Identity.load_or_create(tmp_path)


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(BadIdentity, match=r"there is no folder .*mistyped for the identity file peer\.key; make it"):
        Identity.load_or_create(tmp_path / "mistyped" / "peer.key")
    assert not list(tmp_path.iterdir())


def test_the_home_of_its_owner_may_be_written_as_people_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Identity.claimed("~/peer.key") as identity:
        assert Identity.load_or_create(tmp_path / "peer.key").peer_id == identity.peer_id


def test_one_at_a_time_may_claim_a_file(tmp_path):
    path = tmp_path / "identity"
    with Identity.claimed(path) as identity:
        with pytest.raises(IdentityInUse, match=identity.peer_id), Identity.claimed(path):
            pass
        with Identity.claimed(tmp_path / "another") as other:
            assert other.peer_id != identity.peer_id
    with Identity.claimed(path) as again:
        assert again.peer_id == identity.peer_id


def test_a_claim_ends_with_its_process_although_a_child_lives_on(tmp_path):
    path = tmp_path / "identity"
    script = f"""
import subprocess
from swarm.net.identity import Identity
with Identity.claimed({str(path)!r}):
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    child.wait()
"""
    with subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(IdentityInUse), Identity.claimed(path):
                pass
            holder.kill()
            holder.wait()
            os.kill(child, 0)
            with Identity.claimed(path):
                pass
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)
