"""What the tests of `swarm/net` share: messages to send, a collector to await, nodes that are closed, and child processes that may be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import swarm
from swarm import wire
from swarm.net.link import Timing
from swarm.net.node import Node

SESSION = bytes(16)


def step(start: int = 0, size: int = 4, session: bytes = SESSION) -> wire.Step:
    return wire.Step(session, 0, 0, 0, start, (1,), wire.Blob("float32", 1, memoryview(bytes(size // 4 * 4))))


def announcement(peer: str, **changes: object) -> wire.Announcement:
    fields = dict(
        version=wire.VERSION, peer=peer, addrs=(), model="toy", config_hash="c0ffee", revision="r", numerics="float32", components=4, spans=((0, 4),),
        decode=0.01, prefill=0.001, cache_tokens=100, free_tokens=100, max_length=100, state="online", sequence=1, time=time.time(),
    )  # fmt: skip
    return wire.Announcement(**(fields | changes))


class Collector:
    """Subscribes to links and lets tests await what arrives."""

    def __init__(self, links, echo: bool = False) -> None:
        self.messages: list[tuple[str, wire.Message]] = []
        self.lost: list[str] = []
        self._links, self._echo = links, echo
        self._changed = asyncio.Event()
        links.subscribe(self._receive, self._lose)

    def _receive(self, peer: str, message: wire.Message) -> None:
        self.messages.append((peer, message))
        self._changed.set()
        if self._echo:
            self._links.send(peer, message)

    def _lose(self, peer: str) -> None:
        self.lost.append(peer)
        self._changed.set()

    async def until(self, condition, within: float = 10.0) -> float:
        """Wait until condition(self) holds; returns how long that took."""
        loop = asyncio.get_running_loop()
        begin = loop.time()

        async def wait() -> None:
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(wait(), within)
        return loop.time() - begin


@contextlib.asynccontextmanager
async def nodes(count: int, timing: Timing | None = None, **kwargs) -> AsyncIterator[list[Node]]:
    """The first is the bootstrap of the others; all know each other's addresses."""
    started: list[Node] = []
    try:
        for _ in range(count):
            started.append(await Node.start(initial_peers=started[0].addrs if started else (), timing=timing, **kwargs))
        for node in started:
            for other in started:
                if other is not node:
                    node.links.learn(other.peer_id, other.addrs)
        yield started
    finally:
        for node in reversed(started):
            await node.close()


class Child:
    """A peer in a process of its own (`child.py`) that echoes session messages."""

    def __init__(self, process: asyncio.subprocess.Process, said: dict) -> None:
        self.process, self.peer_id, self.addrs, self.p2pd = process, said["peer_id"], said["addrs"], said["p2pd"]

    @classmethod
    async def start(cls, *initial_peers: str, identity: Path | None = None) -> Child:
        environment = os.environ | {"PYTHONPATH": str(Path(swarm.__file__).parents[1])}
        arguments = [*(["--identity", str(identity)] if identity else []), *initial_peers]
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("child.py")), *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            assert line, "the child did not start; see its stderr"
            return cls(process, json.loads(line))
        except BaseException:
            if process.returncode is None:
                process.kill()
            await process.wait()
            process._transport.close()
            raise

    def signal(self, which: signal.Signals, p2pd: bool = False) -> None:
        os.kill(self.p2pd if p2pd else self.process.pid, which)

    async def close(self) -> None:
        for pid in (self.p2pd, self.process.pid):
            if pid == self.process.pid and self.process.returncode is not None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.process.wait()
        self.process._transport.close()


@contextlib.asynccontextmanager
async def child(*initial_peers: str, **kwargs) -> AsyncIterator[Child]:
    started = await Child.start(*initial_peers, **kwargs)
    try:
        yield started
    finally:
        await started.close()


def is_running(pid: int) -> bool:
    """A zombie does not run: in a container without an init nobody collects it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was looked at, or while it was
        return False


async def eventually(condition, within: float = 5.0) -> float:
    """Poll something that sends no event (the state of another process); returns how long it took."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within:
            raise TimeoutError(f"still not after {within} s")
        await asyncio.sleep(0.02)
    return time.monotonic() - begin
