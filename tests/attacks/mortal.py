"""Peers that die in the middle of what they say. `python mortal.py` reads orders from stdin, one line of JSON each, and forks a process for every one: a whole
peer with a p2pd of its own, which prints who it is, waits to be spoken to, and kills (SIGKILL) whom it was told to kill at exactly the byte it was told.

An order: `kind` is "unary" (it is searched), "one-way" (at the first message it says its whole SERIES), "two-way" (it echoes) or "link" (it shakes hands);
`whom` is "python" (and p2pd lives on, which then closes the stream as if nothing were wrong), "p2pd" or "both" (as on Linux, where p2pd dies with its parent);
`at` is how many bytes leave before, or `frames`, how many frames do; `pause` are seconds for these to get away. `number` comes back with what is printed.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import functools
import json
import logging
import os
import select
import signal
import struct
import sys
import time
from types import SimpleNamespace

from swarm.net import daemon
from swarm.net.frames import HEADER_SIZE, one_frame
from swarm.net.guards.protocol import GuardedProtocol
from swarm.net.node import Node
from swarm.wire import VERSION, Hello, encode
from tests.net.helpers import step

SERIES = [step(start, size) for start, size in enumerate((4, 70_000, 8, 65_500, 200_000, 4, 4, 16))]
"""What is said: messages of one fragment and of several."""

HELLO = len(one_frame(encode(Hello(VERSION, "swarm"))))

LONGEST = 60
"""Seconds after which nobody may be left."""

STUCK = 50
"""Seconds after which whoever is still there says where: of some thousands one never told that it was born, and nobody knows why."""


class Fuse:
    """Counts what is written, once it is lit, and strikes."""

    def __init__(self, order: dict, p2pd: int) -> None:
        self._order, self._p2pd = order, p2pd
        self._bytes, self._frames, self._rest = order.get("at"), order.get("frames"), b""
        self.lit = self._struck = False
        self._write = asyncio.StreamWriter.write
        asyncio.StreamWriter.write = lambda writer, data: self._wrote(writer, bytes(data))

    def light(self) -> None:
        self.lit = not self._struck

    def _wrote(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        left = self._left(data) if self.lit else None
        if left is None:
            self._write(writer, data)
            return
        self._write(writer, data[:left])
        self._flush(writer)
        time.sleep(self._order["pause"])
        self._strike()

    def _left(self, data: bytes) -> int | None:
        """How many of these bytes still leave; None if all do, and it is not yet time."""
        if self._bytes is not None:
            if len(data) < self._bytes:
                self._bytes -= len(data)
                return None
            return self._bytes
        at = 0
        while self._frames and len(data) - at >= HEADER_SIZE:  # each write is whole frames
            at += HEADER_SIZE + struct.unpack_from(">I", data, at)[0]
            self._frames -= 1
        return None if self._frames else at

    def _flush(self, writer: asyncio.StreamWriter) -> None:
        """What asyncio still holds would die with us."""
        transport = writer.transport
        descriptor, held = transport.get_extra_info("socket").fileno(), transport._buffer
        while held:
            select.select([], [descriptor], [], 1)
            del held[: os.write(descriptor, held)]

    def _strike(self) -> None:
        if self._order["whom"] != "python":
            os.kill(self._p2pd, signal.SIGKILL)
        if self._order["whom"] != "p2pd":
            os.kill(os.getpid(), signal.SIGKILL)
        self.lit, self._struck = False, True


async def live(order: dict) -> None:
    kind, fuses = order["kind"], list[Fuse]()
    if order["whom"] == "python":  # p2pd is not to die with us
        daemon.sys = SimpleNamespace(platform="elsewhere", executable=sys.executable)
    if kind == "unary":
        GuardedProtocol.rpc_find = lights(fuses, GuardedProtocol.rpc_find)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    node = await Node.start()
    fuses.append(fuse := Fuse(order, node._daemon.pid))

    def told(peer: str, message: object) -> None:
        fuse.light()
        for answer in SERIES if kind == "one-way" else [message]:
            node.links.send(peer, answer)

    node.links.subscribe(told, lambda peer: None)
    if kind == "link":
        fuse.light()
    print(json.dumps({"number": order["number"], "peer": node.peer_id, "addrs": node.addrs, "pids": [os.getpid(), node._daemon.pid]}), flush=True)
    await asyncio.sleep(LONGEST)


def lights(fuses: list[Fuse], answer):
    @functools.wraps(answer)  # hivemind reads its annotations
    async def found(self: GuardedProtocol, request: object, context: object) -> object:
        for fuse in fuses:
            fuse.light()
        return await answer(self, request, context)

    return found


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getpid()
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            faulthandler.dump_traceback_later(STUCK, file=sys.__stderr__)
            logging.disable()  # who is killed complains of what becomes of it
            if os.getppid() == parent:
                asyncio.run(live(json.loads(line)))
            os._exit(0)


if __name__ == "__main__":
    main()
