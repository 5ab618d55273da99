"""Links under every timing, in virtual time: who dials, who stays, what strangers may say, and that messages arrive in order or a loss is told."""

import asyncio
import struct
from math import inf

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swarm import wire
from swarm.errors import PeerLost
from swarm.net.frames import WRITE, one_frame
from swarm.net.identity import Identity
from swarm.net.link import BUFFER, SLOWEST, STUCK, Timing
from swarm.net.links import PROTOCOL, RESTING, WAGON, LinkPool
from swarm.net.pair import MAX_OUTBOX, MAX_STREAMS, MAX_UNREAD
from swarm.net.uplink import Uplink
from tests.net.helpers import Collector, step
from tests.net.virtual import FakeP2P, Network, run

PEERS = sorted(Identity(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)).peer_id for seed in range(3))
MORE = [Identity(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)).peer_id for seed in range(3, 6)]
"""Further strangers."""


async def pools(network: Network, timing: Timing | None = None) -> list[tuple[LinkPool, Collector]]:
    found = [await LinkPool.start(FakeP2P(network, peer), timing) for peer in PEERS[:2]]
    return [(links, Collector(links)) for links in found]


async def chatter(network: Network, links: LinkPool, to: str, count: int, spread: float) -> None:
    """Messages of two sessions, numbered, at random times."""
    for number in range(count):
        await asyncio.sleep(network.random.choice([0, network.random.uniform(0, spread)]))
        links.send(to, step(number, session=bytes([number % 2]) * 16, size=network.random.choice([4, 400, 150_000])))


def heard(seen: Collector) -> list[list[int]]:
    return [[message.start for _, message in seen.messages if message.session[0] == session] for session in (0, 1)]


@pytest.mark.parametrize("idle", [120.0, 0.3], ids=["", "idle"])
def test_both_dial_whenever_they_like_and_nothing_is_lost_doubled_or_reordered(idle):
    """With `idle` links are closed and dialled again all the time, which must not be seen either."""

    async def main(seed: int) -> None:
        network = Network(seed)
        (one, at_one), (two, at_two) = await pools(network, Timing(heartbeat=0.25, idle=idle))
        spread = network.random.choice([0.02, 0.3, 1.5])
        await asyncio.gather(chatter(network, one, two.peer, 12, spread), chatter(network, two, one.peer, 12, spread))
        await asyncio.sleep(0.2 if idle > 1 else 10)
        expected = [list(range(0, 12, 2)), list(range(1, 12, 2))]
        await at_one.until(lambda seen: heard(seen) == expected, 30)
        await at_two.until(lambda seen: heard(seen) == expected, 30)
        await asyncio.sleep(3)
        assert at_one.lost == at_two.lost == []
        assert network.open_streams() == len(one._pairs) == len(two._pairs) == (1 if idle > 1 else 0)
        await asyncio.gather(one.close(), two.close())
        assert network.open_streams() == len(one._pairs) == len(two._pairs) == 0

    for seed in range(150):
        run(main(seed))


def test_whatever_breaks_messages_keep_their_order_and_a_loss_is_told():
    async def main(seed: int) -> None:
        network = Network(seed)
        (one, at_one), (two, at_two) = await pools(network, Timing(heartbeat=0.25))
        network.broken = 0.2

        async def break_things() -> None:
            for _ in range(8):
                await asyncio.sleep(network.random.uniform(0, 0.8))
                network.cut_one()
            network.broken = 0.0

        await asyncio.gather(break_things(), chatter(network, one, two.peer, 40, 0.3), chatter(network, two, one.peer, 40, 0.3))
        await asyncio.sleep(5)
        for seen in (at_one, at_two):
            for numbers in heard(seen):
                assert numbers == sorted(set(numbers))
        if not at_one.lost and not at_two.lost:
            assert heard(at_one) == heard(at_two) == [list(range(0, 40, 2)), list(range(1, 40, 2))]
        for links, seen in ((one, at_two), (two, at_one)):  # and when all is quiet they can talk
            links.send(PEERS[1] if links is one else PEERS[0], step(99))
            await seen.until(lambda seen: seen.messages and seen.messages[-1][1].start == 99, 5)
        await asyncio.sleep(3)
        assert network.open_streams() == 1
        await asyncio.gather(one.close(), two.close())

    for seed in range(150):
        run(main(seed))


def test_a_dial_that_fails_while_the_peers_own_waits_makes_room_for_it():
    """We are the smaller, so our stream should stay and theirs is held; then ours breaks before it was answered."""

    async def breaks(network: Network, one: LinkPool, at_one: Collector, two: LinkPool, at_two: Collector) -> bool:
        one.send(two.peer, step(1))
        two.send(one.peer, step(2))
        while not (at_one.messages or at_two.messages):
            await asyncio.sleep(0.001)
            ours = next((pair for pair in network.streams if pair[0].opened_by == one.peer), None)
            mine = one._pairs[two.peer]
            if ours is not None and ours[0]._under_way and mine._held and mine.link is None and two._pairs[one.peer].link is None:  # its Hello never arrives
                for writer in ours:
                    writer._under_way.clear()
                    writer.close()
                await at_one.until(lambda seen: seen.messages)
                await at_two.until(lambda seen: seen.messages)
                assert not at_one.lost and not at_two.lost
                return True
        return False

    async def main(seed: int) -> bool:
        network = Network(seed)
        (one, at_one), (two, at_two) = await pools(network)
        try:
            return await breaks(network, one, at_one, two, at_two)
        finally:  # a stream that is still on its way would begin a life when the loop's tasks were already told to end
            await asyncio.gather(one.close(), two.close())

    assert sum(run(main(seed)) for seed in range(60)) > 5


def test_a_message_that_an_idle_close_cuts_is_sent_again_whole():
    async def main() -> None:
        network = Network(0)
        (one, at_one), (two, at_two) = await pools(network)
        one.send(two.peer, step(0))
        await at_two.until(lambda seen: seen.messages)
        two._pairs[one.peer].link.finish("idle")
        await asyncio.sleep(0.02)
        one.send(two.peer, step(1, size=50_000_000))
        one.send(two.peer, step(2))
        await at_two.until(lambda seen: len(seen.messages) == 3)
        assert [(message.start, len(message.hidden)) for _, message in at_two.messages] == [(0, 1), (1, 12_500_000), (2, 1)]
        assert len(network.streams) == 2 and not at_one.lost and not at_two.lost

    run(main())


def test_a_peer_that_began_anew_is_believed_after_a_moment():
    """It lost our link (a frozen machine that was thawed, say) while ours still looks alive: its new stream takes over, and we are told of the loss once."""

    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, _), (two, at_two) = await pools(network)
        one.send(two.peer, step(1))
        await at_two.until(lambda seen: seen.messages)
        one._pairs[two.peer].lose("as if silent")
        network.streams[0][0]._later = lambda *args: None  # and nothing of it reaches the other side
        one.send(two.peer, step(2))
        await at_two.until(lambda seen: len(seen.messages) == 2)
        assert at_two.lost == [one.peer]
        await asyncio.sleep(5)
        assert at_two.lost == [one.peer] and network.open_streams() == 1

    run(main())


class Stranger:
    """Speaks raw bytes on a stream to a pool."""

    @classmethod
    async def meet(cls, network: Network, peer: str, me: str = PEERS[2]) -> "Stranger":
        self = cls()
        stranger = network.peers.get(me) or FakeP2P(network, me)
        _, self.reader, self.writer = await stranger.call_binary_stream_handler(network.peers[peer].peer_id, PROTOCOL)
        return self

    def say(self, *messages: wire.Message | bytes) -> None:
        for message in messages:
            self.writer.write(message if isinstance(message, bytes) else one_frame(wire.encode(message)))

    async def answer(self) -> bytes:
        """Everything the pool says until it closes."""
        return await asyncio.wait_for(self.reader.read(), 60)


HELLO = wire.Hello(wire.VERSION)


@pytest.mark.parametrize(
    "words, answered",
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], []),
        ([], []),
        ([b"\0\0"], []),
        ([struct.pack(">IBI", 5000, 1, 0) + bytes(5000)], []),
        ([one_frame(b"\xc1")], []),
        ([step(1)], []),
        ([wire.End("")], []),
        ([wire.Hello(wire.VERSION + 5)], [wire.End("version")]),
        ([wire.Hello(0)], [wire.End("version")]),
        ([HELLO, HELLO], [HELLO, wire.End("protocol")]),
        ([HELLO, b"\xff" * 100], []),
        ([HELLO, one_frame(b"\x93\x63\x01\x02"), wire.End("bye")], [HELLO]),  # what a newer peer may say is passed over
        ([HELLO, one_frame(b"\x93\xc0\x01\x02")], [HELLO, wire.End("protocol")]),
        ([HELLO, one_frame(wire.encode(wire.Broken(bytes(16), 0, 0, 0, "x"))[:-1])], [HELLO, wire.End("protocol")]),
        ([wire.Hello(wire.VERSION + 1), step(1), wire.End("bye")], [HELLO]),
    ],
)
def test_what_strangers_say_first_ends_their_stream_and_nothing_else(words, answered):
    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), (two, at_two) = await pools(network)
        one.send(two.peer, step(1))
        stranger = await Stranger.meet(network, two.peer)
        stranger.say(*words)
        said = await stranger.answer()
        expected = b"".join(one_frame(wire.encode(wire.Hello(wire.VERSION, "swarm") if message is HELLO else message)) for message in answered)
        assert said == expected
        one.send(two.peer, step(2))
        await at_two.until(lambda seen: [message.start for peer, message in seen.messages if peer == one.peer] == [1, 2])
        assert one.peer not in at_two.lost and not at_one.lost
        assert PEERS[2] not in two._pairs
        await asyncio.gather(one.close(), two.close())

    run(main())


def test_one_stranger_has_few_streams_and_silent_ones_are_closed():
    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, _), _ = await pools(network)
        strangers = [await Stranger.meet(network, one.peer) for _ in range(MAX_STREAMS + 3)]
        await asyncio.sleep(0.1)
        assert network.open_streams() == MAX_STREAMS
        await asyncio.sleep(Timing().handshake)
        assert network.open_streams() == 0 and not one._pairs
        assert [await stranger.answer() for stranger in strangers] == [b""] * len(strangers)

    run(main())


def test_our_own_sleep_is_no_silence_of_others():
    """A suspended machine, a loop that was busy for long: what arrived meanwhile counts before anybody is called silent."""

    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), (two, at_two) = await pools(network)
        one.send(two.peer, step(1))
        await asyncio.sleep(5)
        asyncio.get_running_loop().now += 60
        await asyncio.sleep(5)
        assert at_one.lost == at_two.lost == []

    run(main())


def test_heartbeats_keep_a_quiet_link_and_silence_ends_it():
    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), (two, at_two) = await pools(network)
        one.send(two.peer, step(1))
        await asyncio.sleep(60)
        assert at_one.lost == at_two.lost == [] and network.open_streams() == 1
        network.streams[0][1]._later = lambda *args: None  # nothing comes from two any more
        took = await at_one.until(lambda seen: seen.lost)
        assert 2.0 < took < 3.5
        assert at_one.lost == [two.peer]

    run(main())


def test_a_flood_of_pings_ends_the_link():
    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), _ = await pools(network)
        stranger = await Stranger.meet(network, one.peer)
        stranger.say(HELLO, *[wire.Ping(1)] * 1000)
        assert await at_one.until(lambda seen: seen.lost) < 1.0, "long before its silence would end it"

    run(main())


def test_who_does_not_read_is_given_up():
    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), (two, _) = await pools(network)
        big = step(0, size=MAX_OUTBOX // 10)
        for _ in range(12):
            one.send(two.peer, big)
        await at_one.until(lambda seen: seen.lost)
        assert at_one.lost == [two.peer]
        one.send(two.peer, step(1))
        await asyncio.sleep(1)
        assert at_one.lost == [two.peer]

    run(main())


@pytest.mark.parametrize(("payload", "pause"), [(b"x", 1.0), (b"x" * 900, 1.0), (bytes(2**14), 10.0)], ids=["a byte a second", "a little", "slowly"])
def test_who_holds_a_place_with_a_message_that_never_ends_loses_it(payload, pause):
    """Bytes keep coming, so it is not silent; no message is ever whole."""

    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), _ = await pools(network)
        stranger = await Stranger.meet(network, one.peer)
        stranger.say(HELLO)

        async def drip() -> None:
            while True:
                stranger.writer.write(len(payload).to_bytes(4, "big") + b"\0" + bytes(4) + payload[:1])
                for letter in range(1, len(payload), max(1, len(payload) // 40)):
                    await asyncio.sleep(pause / 40)
                    stranger.writer.write(payload[letter : letter + max(1, len(payload) // 40)])
                await asyncio.sleep(pause / 40)

        dripping = asyncio.ensure_future(drip())
        took = await at_one.until(lambda seen: seen.lost, within=60)
        dripping.cancel()
        assert took < 30.0

    run(main())


@pytest.mark.parametrize("size", [2**20, 3 * 2**20], ids=["", "for longer than an idle link lives"])
def test_a_slow_line_may_take_its_time_for_a_large_message(size):
    async def main() -> None:
        network = Network(0, longest=0.01)
        network.rate = 4 * SLOWEST
        (one, at_one), (two, at_two) = await pools(network)
        one.send(two.peer, step(0, size=size))
        await at_two.until(lambda seen: seen.messages, within=300)
        assert at_one.lost == at_two.lost == []

    run(main())


def test_who_reads_nothing_is_given_up_long_before_its_queue_is_full():
    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), (two, _) = await pools(network)
        one.send(two.peer, step(0))
        await asyncio.sleep(1)

        async def never() -> None:
            await asyncio.sleep(1e6)

        one._pairs[two.peer].link.stream.writer.drain = never
        one.send(two.peer, step(1, size=2**20))
        took = await at_one.until(lambda seen: seen.lost, within=60)
        assert took < STUCK + 2

    run(main())


def test_a_line_that_we_ration_ourselves_is_no_peer_that_reads_nothing():
    """All links share `--max-upload`, so one of them may have to wait long for its turn."""

    async def main() -> None:
        network = Network(0, longest=0.01)
        one, two = LinkPool(FakeP2P(network, PEERS[0]), uplink=Uplink(WRITE / (1.2 * STUCK))), LinkPool(FakeP2P(network, PEERS[1]))
        at_one, at_two = Collector(one), Collector(two)
        for pool in (one, two):
            await pool.stand_on(pool._p2p)
        one.send(two.peer, step(0, size=2 * WRITE))
        await at_two.until(lambda seen: seen.messages, within=4 * STUCK)
        assert at_one.lost == at_two.lost == []

    run(main())


def test_what_all_links_hold_together_has_an_end(monkeypatch):
    monkeypatch.setattr("swarm.net.links.MAX_HELD", 4 * 2**20)

    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, at_one), _ = await pools(network)
        strangers = [await Stranger.meet(network, one.peer, peer) for peer in MORE]
        piece = (2**16).to_bytes(4, "big") + b"\0" + (7).to_bytes(4, "big") + bytes(2**16)
        for count, stranger in zip((12, 16, 56), strangers, strict=True):
            stranger.say(HELLO)
            stranger.writer.write(piece * count)  # 0.75, 1 and 3.5 MiB of one message
            await asyncio.sleep(1 if count < 50 else 0)
        await at_one.until(lambda seen: seen.lost)
        await asyncio.sleep(1)
        assert at_one.lost == [MORE[2]]  # who holds most
        assert sum(pair.held for pair in one._pairs.values()) <= 4 * 2**20

    run(main())


def test_a_link_that_serves_nobody_makes_room_for_a_newcomer(monkeypatch):
    monkeypatch.setattr("swarm.net.links.MAX_PEERS", 2)

    async def main() -> None:
        network = Network(0, longest=0.01)
        (one, _), _ = await pools(network)
        strangers = [await Stranger.meet(network, one.peer, peer) for peer in MORE[:2]]

        async def ping() -> None:
            while True:
                for stranger in strangers:
                    stranger.say(wire.Ping(0))
                await asyncio.sleep(1)

        for stranger in strangers:
            stranger.say(HELLO)
        pinging = asyncio.ensure_future(ping())
        await asyncio.sleep(RESTING / 2)
        early = await Stranger.meet(network, one.peer, MORE[2])
        early.say(HELLO)
        assert await early.answer() == b""
        await asyncio.sleep(RESTING)
        late = await Stranger.meet(network, one.peer, MORE[2])
        late.say(HELLO)
        assert await late.answer() != b""
        pinging.cancel()

    run(main())


def test_unknown_and_malformed_peers_are_lost():
    async def main() -> None:
        (one, at_one), _ = await pools(Network(0))
        for peer in (PEERS[2], "nobody", "", "0OIl"):
            one.send(peer, step(1))
            await at_one.until(lambda seen, peer=peer: seen.lost == [peer])
            at_one.lost.clear()
            with pytest.raises(PeerLost):
                await one.measure(peer)
            at_one.lost.clear()

    run(main())


def test_messages_to_ourselves_arrive_later_in_the_same_loop():
    async def main() -> None:
        (one, at_one), _ = await pools(Network(0))
        message = step(1)
        one.send(one.peer, message)
        assert not at_one.messages
        await at_one.until(lambda seen: seen.messages == [(one.peer, message)])
        assert await one.measure(one.peer) == 0.0
        await one.close()
        one.send(one.peer, message)
        await asyncio.sleep(0.1)
        assert len(at_one.messages) == 1
        with pytest.raises(PeerLost):
            await one.measure(PEERS[1])

    run(main())


def test_a_bug_in_the_shell_costs_one_message_only(caplog):
    async def main() -> None:
        network = Network(0)
        (one, _), (two, at_two) = await pools(network)

        def receive(peer, message):
            if message.start == 1:
                raise RuntimeError("a bug")
            at_two._receive(peer, message)

        two.subscribe(receive, at_two._lose)
        for number in range(3):
            one.send(two.peer, step(number))
        await at_two.until(lambda seen: [message.start for _, message in seen.messages] == [0, 2])
        assert "a bug" in caplog.text and not at_two.lost

    run(main())


def test_closing_sends_what_was_queued_then_says_goodbye():
    async def main() -> None:
        network = Network(0)
        (one, at_one), (two, at_two) = await pools(network)
        one.send(two.peer, step(0))
        await at_two.until(lambda seen: seen.messages)
        for number in range(1, 20):
            one.send(two.peer, step(number, size=100_000))
        await asyncio.gather(one.close(), one.close())
        await at_two.until(lambda seen: seen.lost)
        assert [message.start for _, message in at_two.messages] == list(range(20))
        assert at_two.lost == [one.peer] and at_one.lost == []

    run(main())


@pytest.mark.parametrize("rate", [5e4, 1e5, inf])
def test_what_a_slow_line_sends_is_gauged_and_a_fast_one_is_not_told_from_none(rate):
    """However far the peer is; and an answer's tokens that are sent meanwhile take turns with it."""

    async def main(seed: int) -> None:
        network = Network(seed)
        network.rate = rate
        (one, _), (two, at_two) = await pools(network)
        await one.measure(two.peer)
        gauging = asyncio.ensure_future(one.gauge(two.peer))
        await asyncio.sleep(1.0)
        began = asyncio.get_running_loop().time()
        one.send(two.peer, step(1))
        await at_two.until(lambda seen: seen.messages)
        assert asyncio.get_running_loop().time() - began < 0.3 + (WRITE + BUFFER + WAGON) / rate, "it waited for the whole train"
        assert rate == inf or not gauging.done()
        assert rate == pytest.approx(await gauging, rel=0.1)
        await asyncio.gather(one.close(), two.close())

    for seed in range(10):
        run(main(seed))


def test_a_train_that_is_not_answered_is_a_loss():
    async def main() -> None:
        network = Network(1)
        (one, _), (two, _) = await pools(network)
        await one.measure(two.peer)
        two._receive = None
        gauging = asyncio.ensure_future(one.gauge(two.peer))
        await asyncio.sleep(0)
        await two.close()
        with pytest.raises(PeerLost):
            await gauging
        with pytest.raises(PeerLost):
            await one.gauge(one.peer)
        await one.close()

    run(main())


@pytest.mark.parametrize(("onward", "bound"), [(False, MAX_UNREAD), (True, MAX_OUTBOX)], ids=["of what it asked for", "of what it is to go on with"])
def test_little_waits_for_a_peer_that_does_not_read(onward, bound):
    async def main() -> None:
        network = Network(0)
        (one, at_one), (two, at_two) = await pools(network)
        one.send(two.peer, step(0))
        await at_two.until(lambda seen: seen.messages)
        pair = one._pairs[two.peer]
        await asyncio.sleep(0.01)
        assert not pair.held
        size, most = 2**23, 0
        rows = wire.Rows(b"s" * 16, 1, 0, 0, 0, wire.Blob("float32", 1, memoryview(bytes(size))))
        shown = wire.Shown(b"t" * 16, 1, 0, 0, rows=rows.rows)
        for number in range(2 * MAX_OUTBOX // size):  # all at once: nothing leaves meanwhile
            one.send(two.peer, step(1, size=size) if onward and not number else (rows, shown)[number % 2])
            most = max(most, pair.held)
        assert bound - 2 * size < most <= bound
        await asyncio.sleep(0.01)
        assert at_one.lost == [two.peer] and not pair.held

    run(main())
