"""A stream that was cut never looks finished. A thousand peers, each a process with a p2pd of its own, are killed in the middle of what they say, at any byte
and exactly where a frame ends; and a thousand connections are cut below p2pd, at any byte of what TCP carries.

Finished is what a call says it is: a search that found something, an End, a message that is whole. What arrived must be messages that were said, whole and in
their order; and the loss must be told, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2PDaemonError, PeerID
from hivemind.utils.multiaddr import Multiaddr

import swarm
from swarm.net.link import Ending, Kind, Link, Timing
from swarm.net.node import Node
from swarm.wire import Step, encode
from tests.attacks.mortal import HELLO, SERIES
from tests.net.helpers import eventually, is_running, step

KILLS, CUTS = 1000, 1000

SIDE_BY_SIDE = 3
"""Deaths at once: a peer takes most of a second to start, on a core of its own."""

START, DEADLINE = 60.0, Timing().dial + Timing().handshake + 2.0

KINDS, WHOMS = ("unary", "one-way", "two-way", "link"), ("python", "p2pd", "both")

SAID = sum(len(encode(message)) for message in SERIES)

SHAKEN = 400
"""Bytes in which a stream is opened over a connection that stands, and we have shaken hands, nearly always."""

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: a reset."""

REPLY = 40
"""Bytes of an answer to a search of which some are always missing: with its length and what hivemind wraps around it, it has more."""


class Watcher:
    """Our own node: who was lost, what arrived, and how links ended."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.arrived: dict[str, list[Step]] = defaultdict(list)
        self.lost: Counter[str] = Counter()
        self.endings: dict[str, list[Ending]] = defaultdict(list)
        self._changed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        node.links.subscribe(self._receive, self._lose)

    def _receive(self, peer: str, message: Step) -> None:
        self.arrived[peer].append(message)
        self._changed[peer].set()

    def _lose(self, peer: str) -> None:
        self.lost[peer] += 1
        self._changed[peer].set()

    async def until(self, peer: str, condition) -> bool:
        try:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    self._changed[peer].clear()
                    await self._changed[peer].wait()
        except TimeoutError:
            return False
        return True

    def fresh(self, peer: str) -> None:
        for noted in (self.arrived, self.lost, self.endings):
            noted.pop(peer, None)

    async def call(self, kind: str, peer: str) -> str:
        """What is wrong with how the call ended; nothing if it ended as it should."""
        if kind == "unary":
            return "a search found something" if await self.searched(peer) else ""
        if kind == "two-way":
            for number, message in enumerate(SERIES):
                self.node.links.send(peer, message)
                await self.until(peer, lambda number=number: len(self.arrived[peer]) > number or self.lost[peer])
                if self.lost[peer]:
                    break
        else:
            self.node.links.send(peer, step())
        if not await self.until(peer, lambda: self.lost[peer]):
            return "nobody was told of the loss"
        await asyncio.sleep(0.05)
        if self.lost[peer] != 1:
            return f"the loss was told {self.lost[peer]} times"
        if any(ending.kind is Kind.ENDED for ending in self.endings[peer]):
            return f"it looked finished: {self.endings[peer]}"
        whole = [encode(message) for message in self.arrived[peer]]
        if len(whole) == len(SERIES) or whole != [encode(message) for message in SERIES[: len(whole)]]:
            return f"{len(whole)} messages arrived, which are not the beginning of what was said"
        return ""

    async def searched(self, peer: str) -> bool:
        return await self.node.directory._node.protocol.call_find(PeerID.from_base58(peer), [DHTID(1)]) is not None

    async def connect(self, peer: str, addr: str) -> None:
        await self.node._daemon.p2p._client.connect(PeerID.from_base58(peer), [Multiaddr(addr.rpartition("/p2p/")[0])])


@contextlib.asynccontextmanager
async def watcher(monkeypatch, **options: object):
    node = await Node.start(**options)
    self, run = Watcher(node), Link.run

    async def noted(link: Link) -> Ending:
        ending = await run(link)
        self.endings[link.peer].append(ending)
        return ending

    monkeypatch.setattr(Link, "run", noted)
    try:
        yield self
    finally:
        await node.close()


class Graveyard:
    """The process from which mortals are forked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._born: dict[int, asyncio.Future[dict]] = {}
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.attacks.mortal", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(swarm.__file__).parents[1])},
        )  # fmt: skip
        self = cls(process)
        try:
            yield self
        finally:
            self._reader.cancel()
            process.kill()
            await process.wait()
            process._transport.close()

    async def _read(self) -> None:
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            self._born[said["number"]].set_result(said)

    @contextlib.asynccontextmanager
    async def mortal(self, order: dict):
        born = self._born[order["number"]] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        said = await asyncio.wait_for(born, START)
        try:
            yield said
        finally:
            for pid in said["pids"]:  # whoever was not to die; a pid is nobody else's so soon
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def order_of(number: int, dice: random.Random) -> dict:
    """Every kind of call with every victim, a third of them exactly where a frame ends."""
    kind, whom = KINDS[number % 4], WHOMS[number // 4 % 3]
    order = {"number": number, "kind": kind, "whom": whom, "pause": dice.choice((0.0, 0.0, 0.05))}
    if kind in ("one-way", "two-way") and dice.random() < 0.35:
        return order | {"frames": dice.randint(1, 9)}  # of SERIES there are eleven, at least
    return order | {"at": dice.randrange({"unary": REPLY, "link": HELLO}.get(kind, SAID))}


@pytest.mark.timeout(3600)
def test_a_thousand_kills(figure, monkeypatch):
    wrong: list[str] = []
    done: Counter[str] = Counter()
    worst, dice = 0.0, random.Random(3)
    orders = iter([order_of(number, dice) for number in range(KILLS)])

    async def kill(self: Watcher, graveyard: Graveyard) -> None:
        nonlocal worst
        for order in orders:
            async with graveyard.mortal(order) as said:
                peer = said["peer"]
                self.node.links.learn(peer, said["addrs"])
                if order["kind"] == "unary":
                    await self.connect(peer, said["addrs"][0])
                began = time.monotonic()
                fault = await self.call(order["kind"], peer)
                worst = max(worst, time.monotonic() - began)
                with contextlib.suppress(TimeoutError):
                    await eventually(lambda said=said, order=order: not is_running(said["pids"][order["whom"] == "p2pd"]))
                    done[order["kind"]] += 1
                if fault:
                    wrong.append(f"{order}: {fault}")
                    print(wrong[-1], flush=True)
                if sum(done.values()) % 100 == 0:
                    print(f"{sum(done.values())} kills, {time.monotonic() - start:.0f} s", flush=True)

    async def main() -> None:
        async with watcher(monkeypatch) as self, Graveyard.open() as graveyard, asyncio.TaskGroup() as tasks:
            for _ in range(SIDE_BY_SIDE):
                tasks.create_task(kill(self, graveyard))

    start = time.monotonic()
    asyncio.run(main())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))
    figure(3, f"{sum(done.values())} peers killed while they spoke: {kinds}", "0 look finished", f"{len(wrong)} do; all told within {worst:.1f} s")
    assert not wrong and sum(done.values()) == KILLS


class Scissors:
    """A proxy before a peer, which cuts what passes after so many bytes on their way back, with a goodbye of TCP's own or without, and then lets nobody in."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.left, self.rude, self.closed = math.inf, False, False
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._servers: list[asyncio.Server] = []

    async def listen(self, port: int = 0) -> str:
        """At another address. Raises OSError."""
        self._servers.append(await asyncio.start_server(self._dialled, "127.0.0.1", port))
        return f"/ip4/127.0.0.1/tcp/{self._servers[-1].sockets[0].getsockname()[1]}"

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self.cut()

    async def _dialled(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        pair = writer, far_writer
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, far_writer, there=True), self._pump(far_reader, writer, there=False))
        except OSError:
            pass
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: bool) -> None:
        while data := await reader.read(2**14):
            if not there and len(data) >= self.left:
                writer.write(data[: int(self.left)])
                self.cut()
                return
            self.left -= 0 if there else len(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    def cut(self) -> None:
        self.left, self.closed = math.inf, True
        for end in [end for pair in self._pairs for end in pair]:
            if self.rude:
                end.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
                end.transport.abort()
            end.close()


@contextlib.asynccontextmanager
async def behind_scissors():
    """A peer that answers, tells everybody the proxy's address for its own, and can be told how: with SERIES, or with the same."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    node = await Node.start(announce_addrs=[f"/ip4/127.0.0.1/tcp/{port}"])
    scissors = Scissors(node._ground.at[1])
    scissors.echoes = False
    node.links.subscribe(lambda peer, message: [node.links.send(peer, answer) for answer in ([message] if scissors.echoes else SERIES)], lambda peer: None)
    await scissors.listen(port)
    try:
        yield node, scissors
    finally:
        scissors.close()
        await node.close()


@pytest.mark.timeout(3600)
def test_a_thousand_cuts(figure, monkeypatch):
    """What a network does: TCP's connection is reset, or ended, in the middle of what TLS and the multiplexer make of our frames."""
    wrong: list[str] = []
    done: Counter[str] = Counter()
    worst, dice, start = 0.0, random.Random(4), time.monotonic()

    async def main() -> None:
        nonlocal worst
        # nobody can dial us, or the peer might do so past the proxy
        async with watcher(monkeypatch, client_mode=True) as self, behind_scissors() as (node, scissors):
            peer = node.peer_id
            self.node.links.learn(peer, node.addrs)
            for number in range(CUTS):
                kind, scissors.closed = KINDS[number % 4], False
                scissors.echoes, scissors.rude = kind == "two-way", dice.random() < 0.5
                try:
                    await self.connect(peer, node.addrs[0])
                except P2PDaemonError:  # a dial that failed libp2p does not try again for seconds, but at another address
                    await self.connect(peer, f"{await scissors.listen()}/p2p/{peer}")
                self.fresh(peer)
                scissors.left = dice.randrange({"unary": REPLY, "link": SHAKEN}.get(kind, SAID))
                began = time.monotonic()
                if fault := await self.call(kind, peer):
                    wrong.append(f"{number} {kind}: {fault}")
                    print(wrong[-1], flush=True)
                worst = max(worst, time.monotonic() - began)
                done[kind] += 1
                scissors.cut()
                await self.until(peer, lambda: not node.links._pairs and not self.node.links._pairs)
                if number % 100 == 99:
                    print(f"{number + 1} cuts, {time.monotonic() - start:.0f} s", flush=True)

    asyncio.run(main())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()))
    figure(3, f"{sum(done.values())} connections cut: {kinds}", "0 look finished", f"{len(wrong)} do; all told within {worst:.1f} s")
    assert not wrong and sum(done.values()) == CUTS
