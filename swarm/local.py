"""A whole swarm on this machine: a bootstrap and real peers as processes of their own, over loopback. For trying things out, for tests and for benchmarks.

Knows the commands that start peers and how processes are ended; what they say to one another is theirs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from swarm.core import base_dtype, check_layers, rounding, texts
from swarm.errors import SwarmError, UsageError
from swarm.far.emulator import CLIENT, Emulator
from swarm.far.line import Distance

log = logging.getLogger(__name__)

START = 120.0
"""Seconds a process that is not ready yet may leave its log as it is. Importing torch takes a few on a busy machine; fetching and loading a large span may take
an hour, but says something every minute."""

LOOK = 0.5
"""Seconds between two looks at the log of a process that is waited for."""

DRAIN = 15.0
"""Seconds a stopped peer has to drain and leave before it is killed."""

SETTINGS = frozenset(
    "SWARM_" + option
    for option in (
        *("LAYERS", "DTYPE", "QUANTIZE", "COMPILE", "DEVICE", "THREADS", "CACHE_TOKENS", "MAX_MEMORY", "MAX_DISK", "INITIAL_PEERS", "HOST", "PORT", "ANNOUNCE"),
        *("OFFLOAD", "ON_DISK", "DRAFT", "IDENTITY", "PUBLIC_NAME", "MAX_UPLOAD", "POLITE", "DRAIN", "SWARM_KEY", "COORDINATOR", "REGION", "DEBUG"),
        *("READY_FD", "LIFELINE_FD", "MODEL", "PRINT_CONFIG"),
    )
)
"""What swarm-serve and swarm-bootstrap read from the environment as if it were a flag. Written out, since reading arguments is the business of the hands."""


class LocalProcess:
    """One process with everything it started. It dies when this one does: it holds the read end of a pipe that only we keep open."""

    def __init__(self, module: str, arguments: Sequence[str], log_file: BinaryIO, environment: dict[str, str]) -> None:
        ready, tell = os.pipe()
        self._lifeline, hold = os.pipe()
        command = [sys.executable, "-P", "-m", module, *arguments, "--ready-fd", str(tell), "--lifeline-fd", str(self._lifeline)]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=(tell, self._lifeline),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**_plain_environment(), **environment},
            )
        finally:
            os.close(tell)
            os.close(self._lifeline)
        self._hold: int | None = hold
        self._ready: int | None = ready
        self._frozen: list[psutil.Process] = []
        self.pid = self._process.pid
        self.facts: dict[str, Any] = {}

    def wait_ready(self, patience: float, log_path: Path) -> None:
        """Until it says so, ends, or has added nothing to its log for `patience` seconds. Raises what its own last sentence says, as UsageError where its exit
        status does, and otherwise SwarmError with the end of its log."""
        fd = self._ready
        if fd is None:
            return
        said, length, heard = b"", 0, time.monotonic()
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([fd], [], [], min(LOOK, patience))
            if readable:
                part = os.read(fd, 4096)
                if not part:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(LOOK)  # of itself, or its status would be of our doing
                    self.kill()
                    raise _why_it_ended(self._process.returncode, log_path)
                said += part
            elif log_path.stat().st_size != length:
                length, heard = log_path.stat().st_size, time.monotonic()
            elif time.monotonic() - heard > patience:
                self.kill()
                raise SwarmError(f"a peer process has said nothing for {patience:g} s and is not ready; the end of its log:\n{_tail(log_path)}")
        os.close(fd)
        self._ready = None
        self.facts = json.loads(said)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """kill -9 of the whole process tree."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._release()

    def stop(self, patience: float = DRAIN) -> None:
        """As Ctrl-C: drains, announces leaving, ends. Killed if it takes longer than `patience` seconds."""
        if self.is_alive():
            self.thaw()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                log.warning("process %d did not leave in %.0f s; killing it", self.pid, patience)
        self.kill()

    def freeze(self) -> None:
        """SIGSTOP to the whole tree: alive, but silent."""
        self._frozen = self._tree()
        for process in self._frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        for process in self._frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self._frozen = []

    def _tree(self) -> list[psutil.Process]:
        if not self.is_alive():
            return []  # its pid may be somebody else's by now
        try:
            process = psutil.Process(self.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _release(self) -> None:
        for fd in (self._hold, self._ready):
            if fd is not None:
                os.close(fd)
        self._hold = self._ready = None


class LocalPeer(LocalProcess):
    """A serving peer: `peer_id`, `pid`, `layers`, `is_alive()`, `kill()`, `stop()`, `freeze()`, `thaw()`."""

    @property
    def peer_id(self) -> str:
        return self.facts["peer_id"]

    @property
    def addrs(self) -> tuple[str, ...]:
        return tuple(self.facts["addrs"])

    @property
    def layers(self) -> str:
        return self.facts["layers"]


NEAR = Distance()

Links = Distance | float | Sequence[Sequence[Distance | float]]
"""How far peers are from one another: all equally far, or row by row from each one to each, a number being seconds one way."""


def _distance(given: Any) -> Distance:
    """Raises UsageError for what is none: the emulator would find out when somebody dials, and nobody would hear of it."""
    if isinstance(given, Distance):
        return given
    if not isinstance(given, Real):
        raise UsageError(f"links are one Distance for all, or rows of one from each peer to each, a number being seconds one way, and cannot be {given!r:.80}")
    try:
        return Distance(float(given))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _rows(links: Any) -> Distance | list[list[Distance]]:
    if not isinstance(links, Iterable) or isinstance(links, str):
        return _distance(links)
    return [[_distance(entry) for entry in row] if isinstance(row, Iterable) else [_distance(row)] for row in links]


def _between(links: Distance | list[list[Distance]], client_link: Distance) -> Callable[[int, int], Distance]:
    def distance(one: int, other: int) -> Distance:
        if CLIENT in (one, other):
            return client_link
        return links if isinstance(links, Distance) else links[one][other]

    return distance


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


class LocalSwarm:
    """A bootstrap peer and one serving peer for each entry of `layers` (a single text is one peer's), ready when the constructor returns.

    `model` is a folder or hub id. `dtype` (`bfloat16-int8` rounds weights) and `threads` are handed to every peer, `arguments` as well (further flags of
    swarm-serve). With `swarm_key`, a file that `swarm-bootstrap keygen` made, the swarm is private. Logs of all processes are in `folder`. A process that says
    nothing for `start` seconds before it is ready is given up; `ready` is called with how many peers are, whenever one more is. Use it in a `with`, or call
    `close`.

    With `links` the peers are as far from one another as that says, and clients on this machine `client_link` from each: everything between them goes through
    a proxy in this process, at a loopback address of each peer's own (Linux has them all; elsewhere they must be set up). Who dials the bootstrap is near.

    Raises UsageError for no layers or such as the model does not have, and for what a peer says the caller can mend, SwarmError when a process does not start
    for another reason.
    """

    def __init__(
        self,
        model: str,
        layers: Sequence[str] | str,
        *,
        dtype: str | None = None,
        threads: int | None = None,
        arguments: Sequence[str] = (),
        swarm_key: str | os.PathLike[str] | None = None,
        start: float = START,
        ready: Callable[[int], None] | None = None,
        links: Links | None = None,
        client_link: Distance | float = NEAR,
    ) -> None:
        self.model = str(model)
        spans = texts(layers, 'layers are those of each peer, such as ["0:6", "6:12"]')
        if not spans:
            raise UsageError('a local swarm needs at least one peer, such as layers=["0:12"]')
        self._check(spans)
        self._links = None if links is None else _rows(links)
        clients = _distance(client_link)
        self._check_links(len(spans))
        self.peers: list[LocalPeer] = []
        self._start = start
        self._threads = threads or max(1, (os.cpu_count() or 1) // 2)
        quantize = ["--quantize", method] if dtype and (method := rounding(dtype)) else []
        private = [] if swarm_key is None else ["--swarm-key", os.fspath(swarm_key)]
        self._arguments = [*private, *(["--dtype", base_dtype(dtype)] if dtype else []), *quantize, *arguments]
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-local-")))
        self._count = self._far = 0
        self._emulator: Emulator | None = None
        if self._links is not None:
            self._emulator = Emulator(_between(self._links, clients))
            self._stack.callback(self._emulator.close)
        try:
            self._bootstrap = self._spawn(
                LocalProcess, "swarm.cli.bootstrap", ["--host", "127.0.0.1", "--port", "0", "--identity", str(self.folder / "bootstrap.key"), *private]
            )
            self._wait(self._bootstrap)
            self.initial_peers: list[str] = list(self._bootstrap.facts["addrs"])
            self.peers = [self._spawn(LocalPeer, "swarm.cli.serve", self._serve(entry)) for entry in spans]
            for count, peer in enumerate(self.peers, 1):
                self._wait(peer)
                if ready is not None:
                    ready(count)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalSwarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, layers: str, *, arguments: Sequence[str] = ()) -> LocalPeer:
        """Start one more peer and wait until it serves."""
        self._check([layers])
        self._check_links(self._far + 1)
        peer = self._spawn(LocalPeer, "swarm.cli.serve", [*self._serve(layers), *arguments])
        self.peers.append(peer)
        self._wait(peer)
        return peer

    def cut(self, one: int, other: int) -> None:
        """End what connects two peers, by number, and let nothing new connect them. Raises UsageError for a swarm without `links`, or with fewer peers."""
        self._distant.cut(*self._numbered(one, other))

    def mend(self, one: int, other: int) -> None:
        """Let them connect again."""
        self._distant.mend(*self._numbered(one, other))

    def close(self) -> None:
        """Kill every process. Idempotent."""
        self._stack.close()

    @property
    def _distant(self) -> Emulator:
        if self._emulator is None:
            raise UsageError("peers of this swarm are linked directly; give it `links`, such as links=Distance(0.02)")
        return self._emulator

    def _numbered(self, *numbers: int) -> tuple[int, ...]:
        if wrong := [number for number in numbers if not 0 <= number < len(self.peers)]:
            raise UsageError(f"there is no peer {wrong[0]}; those of this swarm are numbered from 0 to {len(self.peers) - 1}")
        return numbers

    def _check_links(self, peers: int) -> None:
        links = self._links
        if links is not None and not isinstance(links, Distance) and (len(links) < peers or any(len(row) < peers for row in links)):
            raise UsageError(f"links say nothing of peer {peers - 1}: give {peers} rows of {peers} seconds one way, or one Distance for all")

    def _check(self, spans: Sequence[str]) -> None:
        """What a peer would say of its layers, before it takes the seconds to start."""
        from swarm.model.sources import layers_of

        layers = layers_of(self.model)
        for entry in spans:
            check_layers(entry, layers)

    def _serve(self, layers: str) -> list[str]:
        peers = [text for address in self.initial_peers for text in ("--initial-peers", address)]
        return [self.model, "--layers", layers, "--host", "127.0.0.1", "--threads", str(self._threads), *peers, *self._arguments, *self._place()]

    def _place(self) -> list[str]:
        """At a distance: where to listen, and what to tell others instead."""
        if self._emulator is None:
            return []
        number, target, host = self._far, _free_port(), f"127.0.{1 + self._far // 250}.{2 + self._far % 250}"
        self._far += 1
        return ["--port", str(target), "--announce", f"/ip4/{host}/tcp/{self._emulator.listen(number, host, target)}"]

    def _spawn(self, kind: Any, module: str, arguments: Sequence[str]) -> Any:
        path = self.folder / f"{self._count}-{module.rsplit('.', 1)[-1]}.log"
        self._count += 1
        with path.open("wb") as log_file:
            process = kind(module, arguments, log_file, {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(self._threads)})
        process.log_path = path
        self._stack.callback(process.kill)
        return process

    def _wait(self, process: Any) -> None:
        process.wait_ready(self._start, process.log_path)


def _plain_environment() -> dict[str, str]:
    """Ours, without the settings of commands: SWARM_PORT or SWARM_IDENTITY are meant for one peer, not for each of several. What is no setting stays, such as
    SWARM_CACHE: in another place the hashes of a model's files would be reckoned again."""
    return {name: value for name, value in os.environ.items() if name not in SETTINGS}


def _why_it_ended(status: int, log_path: Path) -> SwarmError:
    """Every command ends a failure with one sentence that names what to do, and with a status that says who can. Anything else is a crash, of which the log
    tells most."""
    said = re.fullmatch(r"swarm-[a-z]+: (?!this is a bug)(.+)", _tail(log_path, 1))
    if said and status == UsageError.exit_status:
        return UsageError(said[1])
    if said and status == SwarmError.exit_status:
        return SwarmError(said[1])
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return SwarmError(f"a peer process {how}; the end of its log:\n{_tail(log_path)}")


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
