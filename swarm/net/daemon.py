"""Our own p2pd: the libp2p daemon that hivemind talks to, as a child process that never outlives us and never dies unnoticed.

hivemind's `P2P.create` starts the daemon too, but keeps it to itself: nobody awaits it (its death goes unnoticed and every call then hangs), it survives a
`kill -9` of its parent, its sockets lie open in /tmp, and its identity check crashes on Ed25519. So the process is started here, and hivemind gets
a `P2P` that is connected to it. This file knows p2pd's flags and exit habits, nothing of links or records.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from importlib.resources import files

from hivemind.p2p import P2P, P2PDaemonError
from hivemind.p2p.p2p_daemon_bindings import p2pclient
from hivemind.utils.multiaddr import Multiaddr

from swarm.errors import SwarmError
from swarm.net.addresses import listen_addr
from swarm.net.guards.calls import guard_calls
from swarm.net.identity import Identity
from swarm.spawning import spawn

log = logging.getLogger(__name__)

STARTUP = 15.0
"""Seconds from the start of p2pd to its "Peer ID:" line. 0.2 on an idle machine; the rest is for a busy one and for initial peers far away."""

IDLE_TIMEOUT = 30
"""Seconds after which p2pd ends by itself if we never connect to it: the net below the net, where no parent-death signal exists (macOS)."""

LOOPBACK = ("127.0.0.1", "::1")

_TERMINATE = 2.0
"""Seconds p2pd has to leave by itself (it takes 0.03) before it is killed."""

PREFIX = "swarm-p2pd-"

ABANDONED = 60.0
"""Seconds after which a directory without a locked lock is nobody's. A new one has none for a moment."""

SOFT_MEMORY, HARD_MEMORY = 192, 1024
"""MiB. From the first on Go collects garbage harder, beyond the second the system gives p2pd no more: it ends, and is started again. What strangers can make it
hold is theirs to choose otherwise, since it sets itself no limits: streams that are never used, one window of flow control each. It takes 30 at rest."""

_LEASH = f"""
import ctypes, os, resource, signal, sys
parent = int(sys.argv[1])
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
resource.setrlimit(resource.RLIMIT_DATA, ({HARD_MEMORY << 20}, {HARD_MEMORY << 20}))
if os.getppid() == parent:
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Run by a small python that then becomes p2pd: ask Linux to kill us when our parent dies (PR_SET_PDEATHSIG survives exec), and give up if it just did. A
`preexec_fn` would do the same after a fork of our own process, whose compute threads may hold any lock at that moment. 20 ms."""


def flags_of(
    host: str, port: int, announce: Sequence[str], client_mode: bool, listen: bool, serve_relay: bool = False, use_relay: bool = False
) -> tuple[str, ...]:
    """How p2pd is told what kind of node it is."""
    outside = listen and host not in LOOPBACK
    flags = ["-dhtClient" if client_mode else "-dhtServer", "-connManager", "-tls", "-relay"]
    flags += [f"-relayService={int(serve_relay)}", f"-autoRelay={int(use_relay)}", f"-autonat={int(outside)}", f"-natPortMap={int(outside)}"]
    flags.append(f"-hostAddrs={listen_addr(host, port)}" if listen else "-noListenAddrs")
    if announce:
        flags.append("-announceAddrs=" + ",".join(announce))
    return tuple(flags)


class DaemonError(SwarmError):
    """p2pd did not start. `output` is what it said; the node turns it into a clearer error where it can."""

    def __init__(self, output: str) -> None:
        super().__init__(f"the libp2p daemon did not start: {output or 'it said nothing'}")
        self.output = output


class Daemon:
    """One p2pd. `p2p` is hivemind's view of it; `died` is done once the process is gone, for whatever reason, and `deaf` once nobody reads any
    more what it says of calls."""

    p2p: P2P
    died: asyncio.Task[int]

    def __init__(self) -> None:
        self._directory, self._lock = _new_directory()
        self._closed = False
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=5)

    @property
    def deaf(self) -> asyncio.Task[None]:
        return self.p2p._client.control._read_task

    async def answers(self, deadline: float) -> bool:
        """Whether p2pd says who it is."""
        try:
            async with asyncio.timeout(deadline):
                await self.p2p._client.identify()
        except (P2PDaemonError, OSError, EOFError):
            return False
        return True

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @classmethod
    async def start(cls, identity: Identity, flags: Sequence[str], debug: bool = False, startup: float = STARTUP) -> Daemon:
        """Start p2pd with these flags and connect to it. Raises DaemonError."""
        self = cls()
        try:
            async with asyncio.timeout(startup):
                await self._start(identity, flags, debug)
        except TimeoutError:
            await self.close()
            raise DaemonError(f"not ready after {startup:.0f} seconds; {' / '.join(self._last_lines)}") from None
        except (OSError, EOFError, P2PDaemonError) as error:
            await self.close()
            raise DaemonError(str(error)) from error
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self, identity: Identity, flags: Sequence[str], debug: bool) -> None:
        key = os.path.join(self._directory, "identity")
        control = os.path.join(self._directory, "p2pd.sock")
        descriptor = os.open(key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(descriptor, identity.to_bytes())
        os.close(descriptor)
        command = [str(files("hivemind.hivemind_cli") / "p2pd"), f"-listen=/unix{control}", f"-id={key}", f"-idleTimeout={IDLE_TIMEOUT}s", *flags]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]
        environment = os.environ | {"GOMEMLIMIT": f"{SOFT_MEMORY}MiB", "GOLOG_LOG_LEVEL": "info" if debug else "fatal", "GOLOG_LOG_FMT": "json"}
        self._process = await spawn(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is for us alone: we drain, and need the network for it
        )
        self.died = asyncio.ensure_future(self._process.wait())
        ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.ensure_future(self._read_output(ready))
        await asyncio.wait({ready, self._reader}, return_when=asyncio.FIRST_COMPLETED)
        os.unlink(key)  # read by now, or never
        if not ready.done():
            raise DaemonError(" / ".join(self._last_lines))
        self.p2p = await _connect(control, os.path.join(self._directory, "client.sock"))

    async def _read_output(self, ready: asyncio.Future[None]) -> None:
        assert self._process is not None and self._process.stdout is not None
        while True:
            try:
                line = (await self._process.stdout.readline()).decode(errors="replace")
            except ValueError:  # a line beyond the reader's limit: a goroutine dump; what is left of it comes next
                continue
            if not line:
                return
            self._last_lines.append(line.strip()[:500])
            log.debug("p2pd: %s", line.strip())
            if line.startswith("Peer ID:") and not ready.done():
                ready.set_result(None)

    async def close(self) -> None:
        if hasattr(self, "p2p"):
            await self.p2p.shutdown()
        if self._process is not None:
            for stop in (self._process.terminate, self._process.kill):
                if self._process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        stop()
                    await asyncio.wait({self.died}, timeout=_TERMINATE)
            self._process._transport.close()  # type: ignore[attr-defined]  # its pipe, too, which asyncio would leave to the garbage collector
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        if not self._closed:
            self._closed = True
            shutil.rmtree(self._directory, ignore_errors=True)
            os.close(self._lock)


def _new_directory() -> tuple[str, int]:
    """A private directory for sockets, and the lock that says it is in use. Takes the chance to remove those whose owners were killed: the kernel frees a lock
    with its process, in whatever container that ran."""
    base = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"  # a socket's path has 107 bytes at most
    with contextlib.suppress(OSError):
        for entry in os.scandir(base):
            if entry.name.startswith(PREFIX):
                _remove_if_abandoned(entry)
    directory = tempfile.mkdtemp(prefix=PREFIX, dir=base)
    lock = os.open(os.path.join(directory, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return directory, lock


def _remove_if_abandoned(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):  # somebody else's, gone already, or locked: its owner lives
        about = entry.stat(follow_symlinks=False)
        if about.st_uid == os.getuid() and time.time() - about.st_mtime > ABANDONED:
            lock = os.open(os.path.join(entry.path, "lock"), os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)


async def _connect(control: str, listen: str) -> P2P:
    """What `P2P.replicate` does, with the socket on which p2pd reaches us in our private directory: it believes whatever peer id is said there."""
    p2p = P2P()
    p2p._alive = True
    p2p._daemon_listen_maddr, p2p._client_listen_maddr = Multiaddr(f"/unix{control}"), Multiaddr(f"/unix{listen}")
    p2p._client = await p2pclient.Client.create(p2p._daemon_listen_maddr, p2p._client_listen_maddr)
    guard_calls(p2p._client.control)
    for task in (p2p._client.control._read_task, p2p._client.control._write_task):
        task.add_done_callback(_forget)
    await p2p._ping_daemon()
    return p2p


def _forget(task: asyncio.Task[None]) -> None:
    """hivemind never looks at these two. When p2pd dies they fail, `Daemon.died` has told so already, and asyncio would print tracebacks."""
    if not task.cancelled():
        task.exception()
