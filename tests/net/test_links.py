"""Links over real p2pd streams."""

import asyncio
import contextlib
import struct
import time

from swarm import wire
from swarm.net.frames import one_frame
from swarm.net.link import Timing
from swarm.net.links import PROTOCOL
from tests.net.helpers import Collector, eventually, nodes, step


def test_messages_there_and_back_in_order_and_the_round_trip():
    async def main():
        async with nodes(2) as [one, two]:
            seen = Collector(one.links)
            Collector(two.links, echo=True)
            sizes = [4, 400, 70_000, 8192, 3_000_000, 4]
            for number in range(60):
                one.links.send(two.peer_id, step(number, sizes[number % 6], session=bytes([number % 3]) * 16))
            await seen.until(lambda seen: len(seen.messages) == 60)
            for session in range(3):
                found = [message for peer, message in seen.messages if message.session[0] == session and peer == two.peer_id]
                assert [message.start for message in found] == list(range(session, 60, 3))
                assert [message.hidden.data.nbytes for message in found] == [sizes[number % 6] // 4 * 4 for number in range(session, 60, 3)]
            assert not seen.lost
            assert 0 < await one.links.measure(two.peer_id) < 1
            assert await one.links.measure(one.peer_id) == 0

    asyncio.run(main())


def test_the_activations_arrive_as_they_were():
    async def main():
        async with nodes(2) as [one, two]:
            seen = Collector(two.links)
            data = bytes(range(256)) * 1000
            one.links.send(two.peer_id, wire.Step(bytes(16), 1, 2, 0, 7, (1, 2), wire.Blob("bfloat16", 64, memoryview(data)), (5,)))
            await seen.until(lambda seen: seen.messages)
            ((peer, message),) = seen.messages
            assert peer == one.peer_id and message.hidden.data == data and (message.start, message.tokens, message.micros) == (7, (1, 2), (5,))

    asyncio.run(main())


def test_tokens_pass_a_prompt():
    """Some 40 MB of one session are under way; small messages of another go there and back all the while."""

    async def main():
        async with nodes(2) as [one, two]:
            seen = Collector(one.links)
            Collector(two.links, echo=True)
            prompt, token = b"p" * 16, b"t" * 16
            one.links.send(two.peer_id, step(0, 40 * 2**20, session=prompt))
            trips: list[float] = []
            while not any(message.session == prompt for _, message in seen.messages):
                seen.messages.clear()
                one.links.send(two.peer_id, step(len(trips), session=token))
                trips.append(await seen.until(lambda seen: any(message.session == token for _, message in seen.messages)))
            assert len(trips) >= 3 and sorted(trips)[len(trips) // 2] < 0.5

    asyncio.run(main())


def test_both_dial_at_once():
    """Again and again: links are closed when idle, and both sides speak at the same moment."""

    async def main():
        async with nodes(2, Timing(heartbeat=0.1, idle=0.1)) as [one, two]:
            at_one, at_two = Collector(one.links), Collector(two.links)
            for number in range(10):
                one.links.send(two.peer_id, step(number))
                two.links.send(one.peer_id, step(number))
                for seen in (at_one, at_two):
                    await seen.until(lambda seen, number=number: len(seen.messages) == number + 1)
                await eventually(lambda: not one.links._pairs and not two.links._pairs)  # both have closed it
            for seen in (at_one, at_two):
                assert [message.start for _, message in seen.messages] == list(range(10)) and not seen.lost

    asyncio.run(main())


def test_a_clean_close_is_told_at_once():
    async def main():
        async with nodes(2) as [one, two]:
            at_one, at_two = Collector(one.links), Collector(two.links)
            one.links.send(two.peer_id, step(1))
            await at_two.until(lambda seen: seen.messages)
            await one.links.close()
            assert await at_two.until(lambda seen: seen.lost == [one.peer_id]) < 2.0
            assert not at_one.lost

    asyncio.run(main())


def test_garbage_on_a_stream_hurts_nobody():
    """A stranger with a p2pd of its own says what it likes; a real link beside it goes on."""

    async def main():
        async with nodes(3) as [one, two, stranger]:
            seen = Collector(two.links)
            p2p = stranger._daemon.p2p
            one.links.send(two.peer_id, step(0))
            await seen.until(lambda seen: seen.messages)
            hello = one_frame(wire.encode(wire.Hello(wire.VERSION)))
            garbage = [
                b"GET / HTTP/1.1\r\n\r\n",
                one_frame(wire.encode(wire.Hello(wire.VERSION + 9))),
                struct.pack(">IBI", 2**32 - 1, 1, 0) + bytes(10_000),
                hello + b"\xff" * 1000,
                hello + one_frame(b"\x91\x0b"),
                hello + (struct.pack(">IBI", 2**16, 0, 7) + bytes(2**16)) * 1100,  # a message of 72 MB
            ]
            for words in garbage:
                _, reader, writer = await p2p.call_binary_stream_handler(p2p_id(two), PROTOCOL)
                writer.write(words)
                with contextlib.suppress(ConnectionError):
                    while await asyncio.wait_for(reader.read(2**16), 10):  # until the stream is closed
                        pass
                writer.close()
            begin = time.monotonic()
            one.links.send(two.peer_id, step(1))
            await seen.until(lambda seen: [message.start for peer, message in seen.messages if peer == one.peer_id] == [0, 1])
            assert one.peer_id not in seen.lost and time.monotonic() - begin < 2.5

    asyncio.run(main())


def p2p_id(node):
    return node._daemon.p2p.peer_id
