"""A swarm of honest processes, an honest observer here, and strangers in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import swarm
from swarm.net.link import Timing
from swarm.net.node import Node

HERE = Path(__file__).parent
KEY = "c0ffee"
DEADLINE = 120.0
"""Seconds for a process to start or a stranger to have done his worst: other tests may run beside."""


class Process:
    """A program of this folder. Prints lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.facts: dict = {}

    @classmethod
    async def start(cls, program: str, options: dict, *arguments: str) -> Process:
        environment = os.environ | {"PYTHONPATH": str(Path(swarm.__file__).parents[1])}
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / program), json.dumps(options), *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        return cls(process)

    async def says(self, within: float = DEADLINE) -> dict:
        line = await asyncio.wait_for(self.process.stdout.readline(), within)
        assert line, "the process ended; see its stderr"
        return json.loads(line)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def tree(self) -> list[psutil.Process]:
        try:
            one = psutil.Process(self.process.pid)
            return [one, *one.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def p2pd(self) -> psutil.Process:
        return next(process for process in self.tree() if process.name() == "p2pd")

    def memory(self) -> dict[str, float]:
        """MiB by name."""
        return {("p2pd" if process.name() == "p2pd" else "python"): process.memory_info().rss / 2**20 for process in self.tree()}

    def signal(self, which: signal.Signals, whom: str = "both") -> None:
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):  # a p2pd dies with its parent
                if whom in ("both", "p2pd" if process.name() == "p2pd" else "python"):
                    process.send_signal(which)

    async def close(self) -> None:
        for process in reversed(self.tree() if self.alive else []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await self.process.wait()
        self.process._transport.close()


@dataclass
class World:
    honest: list[Process]
    observer: Node
    stack: contextlib.AsyncExitStack = field(repr=False)

    @property
    def ways(self) -> list[str]:
        return [addr for peer in self.honest for addr in peer.facts["ways"]]

    @property
    def ids(self) -> set[str]:
        return {peer for process in self.honest for peer in process.facts["all"]}

    async def stranger(self, attack: str, **options: object) -> Process:
        """One who begins. He says something when he has done his worst."""
        process = await Process.start("stranger.py", {"attack": attack, **options}, *self.ways)
        self.stack.push_async_callback(process.close)
        return process

    async def attacked(self, attack: str, within: float = DEADLINE, **options: object) -> dict:
        return await (await self.stranger(attack, **options)).says(within)

    async def join(self, **options: object) -> Process:
        process = await Process.start("honest.py", options, *self.ways[:2])
        self.stack.push_async_callback(process.close)
        process.facts = await process.says()
        self.honest.append(process)
        return process

    async def read(self) -> tuple[set[str], float]:
        """Whom of the honest the observer sees, and how long that took."""
        begin = time.monotonic()
        records = await self.observer.directory.read(KEY)
        return {record.peer for record in records} & self.ids, time.monotonic() - begin

    async def all_seen(self, within: float = 60.0) -> None:
        begin = time.monotonic()
        while (await self.read())[0] != self.ids:
            assert time.monotonic() - begin < within, "the swarm did not come together"
            await asyncio.sleep(0.5)

    def blacklisted(self) -> int:
        blacklist = self.observer.directory._node.blacklist
        return sum(peer in self.ids for peer in (one.to_base58() for one in blacklist.banned_peers.data))

    def well(self) -> bool:
        return all(peer.alive for peer in self.honest)


@contextlib.asynccontextmanager
async def world(count: int, timing: Timing | None = None, **options: object) -> AsyncIterator[World]:
    """`count` honest peers who know one another, and an observer."""
    async with contextlib.AsyncExitStack() as stack:
        first = await Process.start("honest.py", options)
        stack.push_async_callback(first.close)
        first.facts = await first.says()
        others = [await Process.start("honest.py", options, *first.facts["addrs"]) for _ in range(count - 1)]
        for other in others:
            stack.push_async_callback(other.close)
        for other in others:
            other.facts = await other.says()
        observer = await Node.start(initial_peers=first.facts["addrs"], client_mode=True, timing=timing)
        stack.push_async_callback(observer.close)
        self = World([first, *others], observer, stack)
        for peer in self.honest:
            observer.links.learn(peer.facts["peer_id"], peer.facts["addrs"])
        await self.all_seen()
        yield self
