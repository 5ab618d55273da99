"""Private swarms: who is let in, at the handshake and in the directory, for how long, and who is put out again."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
from types import SimpleNamespace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord
from hivemind.utils.serializer import MSGPackSerializer

from swarm import wire
from swarm.errors import BadSwarmKey, ProtocolError
from swarm.net.directory import DhtDirectory
from swarm.net.frames import one_frame
from swarm.net.identity import Identity
from swarm.net.members import AHEAD, DAY, TOLD, Members, SwarmKey, add_revocation, write_invitation
from swarm.net.records import BadRecords, Guard, check, key_of, seal, shard_of
from tests.net.helpers import Collector, announcement, step
from tests.net.test_links_virtual import PEERS, Network, Stranger, pools
from tests.net.virtual import run

ALICE, BOB, EVE = (Identity.ephemeral() for _ in range(3))
NOW = 1_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def key(tmp_path) -> SwarmKey:
    return SwarmKey.create(tmp_path / "our.key")


def members(key: SwarmKey, peer: str, clock: Clock | None = None, days: float = 1.0) -> Members:
    return Members(key.public, key.invite(peer, days, NOW), clock or Clock())


def refused(who: Members, peer: str, membership: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        who.admit(peer, wire.Hello(1, membership=membership))
    return str(caught.value)


def test_a_member_is_let_in_and_nobody_else(key, tmp_path):
    alice = members(key, ALICE.peer_id)
    alice.admit(BOB.peer_id, members(key, BOB.peer_id).hello())
    assert "shows no membership" in refused(alice, EVE.peer_id, b"")
    assert "another peer's" in refused(alice, EVE.peer_id, members(key, BOB.peer_id).own), "stolen from Bob"
    other = SwarmKey.create(tmp_path / "other.key")
    assert "not signed with this swarm's key" in refused(alice, EVE.peer_id, other.invite(EVE.peer_id, 1.0, NOW))
    forged = wire.Signed(wire.encode(wire.Member(key.public, EVE.peer_id, NOW, NOW + DAY)), EVE.sign(b"x"))
    assert "not signed" in refused(alice, EVE.peer_id, wire.encode(forged))
    for nonsense in (b"x", b"\x00" * 100, members(key, EVE.peer_id).own[:-1]):
        refused(alice, EVE.peer_id, nonsense)


def test_memberships_end(key):
    clock = Clock()
    alice, bob = members(key, ALICE.peer_id, clock), members(key, BOB.peer_id)
    alice.admit(BOB.peer_id, bob.hello())
    assert alice.expelled() == []
    clock.now = NOW + DAY
    assert "expired" in refused(alice, BOB.peer_id, bob.own)
    assert alice.expelled() == [BOB.peer_id] and alice.expelled() == [], "whoever is linked already goes too, once"
    clock.now = NOW - AHEAD - 1
    assert "future" in refused(alice, BOB.peer_id, bob.own)


def test_a_revocation_is_passed_on_and_holds_until_the_next_invitation(key):
    clock = Clock()
    alice, bob, carol = members(key, ALICE.peer_id, clock), members(key, BOB.peer_id), members(key, EVE.peer_id, clock)
    alice.admit(BOB.peer_id, bob.hello())
    revocation = key.revoke(BOB.peer_id, NOW + 1)
    carol.learn([revocation])
    alice.admit(EVE.peer_id, carol.hello())  # any member brings the news
    assert alice.expelled() == [BOB.peer_id] and "revoked" in refused(alice, BOB.peer_id, bob.own)
    alice.learn([key.revoke(BOB.peer_id, NOW - 5)])
    assert "revoked" in refused(alice, BOB.peer_id, bob.own), "an older one changes nothing"
    clock.now = NOW + 2
    alice.admit(BOB.peer_id, wire.Hello(1, membership=key.invite(BOB.peer_id, 1.0, NOW + 2)))


def test_only_the_owner_revokes_and_a_membership_is_no_revocation(key, tmp_path):
    alice, bob = members(key, ALICE.peer_id), members(key, BOB.peer_id)
    other = SwarmKey.create(tmp_path / "other.key")
    alice.learn([other.revoke(BOB.peer_id, NOW + 1), bob.own, b"nonsense"])
    alice.admit(BOB.peer_id, bob.hello())
    assert "undecodable" in refused(alice, BOB.peer_id, key.revoke(BOB.peer_id, NOW))


def test_every_revocation_is_told_in_turn_and_a_hello_stays_small(key):
    alice = members(key, ALICE.peer_id)
    peers = [Identity.ephemeral().peer_id for _ in range(3 * TOLD)]
    alice.learn([key.revoke(peer, NOW) for peer in peers])
    told = set()
    for _ in range(3):
        hello = alice.hello()
        assert len(wire.encode(hello)) < 4096 and len(hello.revocations) == TOLD
        told |= {wire.decode_revocation(wire.decode_signed(data).record).peer for data in hello.revocations}
    assert told == set(peers)


def test_files_of_owner_and_member(key, tmp_path):
    path = tmp_path / "our.key"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(BadSwarmKey, match="there already"):
        SwarmKey.create(path)
    now = Clock()
    owner = Members.open(path, ALICE.peer_id, now)
    write_invitation(tmp_path / "bob", SwarmKey.read(path).invite(BOB.peer_id, 1.0, NOW))
    bob = Members.open(tmp_path / "bob", BOB.peer_id, now)
    owner.admit(BOB.peer_id, bob.hello())
    bob.admit(ALICE.peer_id, owner.hello())
    with pytest.raises(BadSwarmKey, match="invites .*--identity"):
        Members.open(tmp_path / "bob", EVE.peer_id, now)
    with pytest.raises(BadSwarmKey, match="needs the swarm's own key"):
        SwarmKey.read(tmp_path / "bob")
    (tmp_path / "nonsense").write_text("swarm-key 123\n")
    for wrong in (tmp_path / "nonsense", tmp_path / "nowhere"):
        with pytest.raises(BadSwarmKey):
            Members.open(wrong, BOB.peer_id, now)
    add_revocation(path, SwarmKey.read(path).revoke(BOB.peer_id, NOW + 1))
    assert owner.expelled() == [BOB.peer_id], "read from beside the key while it runs"
    late = Clock()
    late.now = NOW + 2 * DAY
    with pytest.raises(BadSwarmKey, match="expired"):
        Members.open(tmp_path / "bob", BOB.peer_id, late)


# --- on the wire --------------------------------------------------------------------------------------------------------------------------------------------


def private(network_members: dict[str, Members | None]):
    """Two nodes on virtual wires, as members of what they are members of."""

    async def main() -> tuple[Collector, Collector]:
        network = Network(0, longest=0.01)
        (one, at_one), (two, at_two) = await pools(network)
        for pool in (one, two):
            pool._world = dataclasses.replace(pool._world, members=network_members[pool.peer])
        one.send(two.peer, step(1))
        await asyncio.sleep(8.0)
        await asyncio.gather(one.close(), two.close())
        return at_one, at_two

    return run(main())


def test_members_are_linked_and_strangers_are_not_whoever_of_the_two_minds(key):
    one, two = PEERS[:2]
    for ours, theirs, linked in (
        (members(key, one), members(key, two), True),
        (members(key, one), None, False),
        (None, members(key, two), False),
        (members(key, one), members(key, EVE.peer_id), False),
    ):
        at_one, at_two = private({one: ours, two: theirs})
        assert bool(at_two.messages) == linked and (two in at_one.lost) != linked


def test_whoever_is_revoked_while_a_second_stream_waits_is_not_let_in_over_that(key):
    async def main() -> bool:
        network = Network(0, longest=0.01)
        (one, _), _ = await pools(network)
        guest, clock = PEERS[2], Clock()
        ours = members(key, one.peer, clock)
        one._world = dataclasses.replace(one._world, members=ours)
        first, second = [await Stranger.meet(network, one.peer, guest) for _ in range(2)]
        first.say(members(key, guest).hello())
        await asyncio.sleep(0.1)
        second.say(members(key, guest).hello())
        await asyncio.sleep(0.1)
        assert one._pairs[guest].link is not None and one._pairs[guest]._held
        ours.learn([key.revoke(guest, NOW + 1)])
        for peer in ours.expelled():
            one.expel(peer)
        await asyncio.sleep(0.1)
        return guest in one._pairs and one._pairs[guest].link is not None

    assert not run(main())


def test_a_full_list_of_the_revoked_still_hears_of_those_on_it(key, monkeypatch):
    monkeypatch.setattr("swarm.net.members.MOST_REVOKED", 1)
    alice = members(key, ALICE.peer_id)
    alice.learn([key.revoke(BOB.peer_id, NOW - 1), key.revoke(EVE.peer_id, NOW)])
    alice.admit(BOB.peer_id, members(key, BOB.peer_id).hello())
    alice.learn([key.revoke(BOB.peer_id, NOW + 1)])
    assert alice.expelled() == [BOB.peer_id]


def test_a_stranger_learns_nothing_before_it_is_sent_away(key):
    async def main() -> bytes:
        network = Network(0, longest=0.01)
        (one, _), _ = await pools(network)
        one._world = dataclasses.replace(one._world, members=members(key, one.peer))
        stranger = await Stranger.meet(network, one.peer)
        stranger.say(wire.Hello(wire.VERSION), step(1))
        return await stranger.answer()

    assert run(main()) == one_frame(wire.encode(wire.End("members only")))


def test_the_directory_takes_records_of_members_alone(key):
    now = 1000.0
    clock = Clock()
    clock.now = now
    alice = Members(key.public, key.invite(ALICE.peer_id, 1.0, now), clock)
    record = announcement(BOB.peer_id, time=now)
    member = msgspec.structs.replace(record, membership=key.invite(BOB.peer_id, 1.0, now))
    assert check(BOB.peer_id, seal(member, BOB), now + 20, now, alice).peer == BOB.peer_id
    check(BOB.peer_id, seal(record, BOB), now + 20, now)
    with pytest.raises(ProtocolError, match="shows no membership"):
        check(BOB.peer_id, seal(record, BOB), now + 20, now, alice)
    key_bytes = DHTID.generate(source=key_of(record.config_hash, shard_of(BOB.peer_id))).to_bytes()
    for said, good in ((member, True), (record, False)):
        value = seal(said, BOB)
        stored = DHTRecord(key_bytes, MSGPackSerializer.dumps(BOB.peer_id), MSGPackSerializer.dumps(value), now + 20)
        assert Guard(clock=clock, members=alice).validate(stored) == good

        async def searched(key: str, value: bytes = value) -> dict:
            return {BOB.peer_id: (value, now + 20)} if key == key_of(record.config_hash, shard_of(BOB.peer_id)) else {}

        directory = DhtDirectory(None, ALICE, SimpleNamespace(alone=False), BadRecords(), clock=clock, members=alice)
        directory._search = searched
        assert [found.peer for found in asyncio.run(directory.read(record.config_hash))] == ([BOB.peer_id] if good else [])


def test_a_membership_that_is_met_in_record_after_record_is_verified_once(key, monkeypatch):
    verified = []

    class Counting:
        @staticmethod
        def from_public_bytes(public: bytes):
            verified.append(public)
            return Ed25519PublicKey.from_public_bytes(public)

    monkeypatch.setattr("swarm.net.members.Ed25519PublicKey", Counting)
    owner, clock = members(key, ALICE.peer_id), Clock()
    membership = key.invite(BOB.peer_id, 1.0, clock.now)
    forged = membership[:-1] + bytes([membership[-1] ^ 1])
    for _ in range(5):
        owner.check(BOB.peer_id, membership)
        assert refused(owner, EVE.peer_id, membership) and refused(owner, BOB.peer_id, forged)
    assert len(verified) == 1 + 5, "what is forged is never remembered as good"
    owner.learn([key.revoke(BOB.peer_id, clock.now)])
    assert refused(owner, BOB.peer_id, membership), "nor is what was good for ever"
