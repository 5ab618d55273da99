"""The socket below the gateway, and the page alone, as a status command serves it."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request

import pytest

from swarm.errors import InvalidConfig, PortInUse
from swarm.gateway.serving import bind, listening
from swarm.gateway.view import view_app
from swarm.gateway.watch import Lookout
from tests.gateway.pretend import Client, build, gateway, seen


async def fetch(url: str) -> bytes:
    def read() -> bytes:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.read()

    return await asyncio.to_thread(read)


def test_the_page_alone_is_served_without_a_chat_box():
    async def main() -> tuple[bytes, dict]:
        async def look():
            return seen((0, 4))

        async with listening(view_app(Lookout(look, asyncio.get_running_loop().time)), bind("127.0.0.1", 0)) as here:
            return await fetch(f"{here.url}/"), json.loads(await fetch(f"{here.url}/swarm.json"))

    page, said = asyncio.run(main())
    assert b"Who serves what" in page and said["gateway"] == {} and said["overview"]["served"] is True


def test_a_port_that_is_taken_and_an_address_that_is_nowhere():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse):
        bind("127.0.0.1", taken.getsockname()[1])
    for host in ("203.0.113.5", "no such host"):
        with pytest.raises(InvalidConfig, match="cannot listen on"):
            bind(host, 0)


def test_a_request_that_runs_is_let_finish_when_the_gateway_leaves_and_no_new_one_is_taken():
    async def main() -> tuple[bytes, bool]:
        client, leaves = Client(), asyncio.Event()
        ready = client.ready_session

        async def slow(**options):
            leaves.set()
            await asyncio.sleep(0.3)  # real time: a socket cannot wait in a virtual one
            return await ready(**options)

        client.ready_session = slow
        async with listening(build(gateway(client)), bind("127.0.0.1", 0), drain=30) as here:
            port = int(here.url.rpartition(":")[2])
            body = json.dumps({"model": "m", "prompt": "hi"}).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await leaves.wait()
        said = await reader.read()
        writer.close()
        try:
            await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return said, True
        return said, False

    said, refused = asyncio.run(main())
    assert said.startswith(b"HTTP/1.1 200") and b"hello" in said and refused


def test_a_picture_is_shown_again_for_a_moment_and_then_another_is_taken():
    async def main() -> list[int]:
        now, looks = [0.0], []

        async def look():
            looks.append(len(looks))
            return seen((0, 4))

        lookout, taken = Lookout(look, lambda: now[0]), []
        for now[0] in (0.0, 1.4, 1.6, 3.0):
            await lookout.now()
            taken.append(len(looks))
        return taken

    assert asyncio.run(main()) == [1, 1, 2, 2]


def test_a_look_that_failed_does_not_end_the_lookout():
    async def main() -> int:
        looks = 0

        async def look():
            nonlocal looks
            looks += 1
            if looks == 1:
                raise PortInUse("x", 1)
            return seen((0, 4))

        lookout = Lookout(look, asyncio.get_running_loop().time)
        running = asyncio.create_task(lookout.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not running.done()
        await lookout.now()
        running.cancel()
        await asyncio.wait({running})
        return looks

    assert asyncio.run(main()) == 2
