"""The room `gateway`, its socket: an ASGI app on an address, in the loop that is there, until it is told to stop. Knows uvicorn; not what the app does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from swarm.errors import InvalidConfig, PortInUse

BACKLOG = 2048


class _Server(uvicorn.Server):
    """Signals are its owner's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Listening:
    url: str
    serving: asyncio.Task[None]
    """Ends with an error if the server does."""


@contextlib.asynccontextmanager
async def listening(app: Any, bound: socket.socket, drain: float = 0.0) -> AsyncIterator[Listening]:
    """Serve an app on what `bind` gave, while inside. At the end no new connections are taken, and requests that run have `drain` seconds to finish."""
    with contextlib.closing(bound):
        bound.listen(BACKLOG)
        # Of lifespan events there are none: whoever builds the app owns what it needs. Whole seconds, because uvicorn's type says so.
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=max(round(drain), 1), server_header=False)
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[bound]), name="http")
        address, number = bound.getsockname()[:2]
        shown = "127.0.0.1" if address == "0.0.0.0" else "[::1]" if address == "::" else f"[{address}]" if ":" in address else address
        try:
            yield Listening(f"http://{shown}:{number}", task)
        except BaseException:
            server.config.timeout_graceful_shutdown = 1
            raise
        finally:
            server.should_exit = True
            await asyncio.wait({task})


def bind(host: str, port: int) -> socket.socket:
    """A socket of our own, of which nobody hears before `listening`. Raises PortInUse, InvalidConfig: at once, not when everything else has been started."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidConfig(f"cannot listen on {host!r} ({error.strerror or error}); give --host an address of this machine, such as 127.0.0.1") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host, port) from error
        raise InvalidConfig(
            f"cannot listen on {host} port {port} ({error.strerror}); give --host an address of this machine and --port one you may use"
        ) from error
    return bound
