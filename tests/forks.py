"""Commands as processes of their own, without what an interpreter takes to load torch, transformers and hivemind: one process has loaded them, and forks.

What is forked is the command with its arguments, environment, files, signals and exit status, as the operating system would start it. That it starts from
nothing is for those tests that ask for the fixture `started`. Linux alone; elsewhere everything is started.

What is read from the environment when modules load has been read when a command is forked. How many threads torch takes is set once more, and a command whose
environment differs in another of these settings (READ) is started. What the interpreter itself reads, PYTHONPATH and the like, and how OpenMP waits, are those
of the process that forks.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import psutil

LOADED = (
    *("swarm.cli.serve", "swarm.cli.bootstrap", "swarm.cli.gateway", "swarm.cli.generate", "swarm.compose", "swarm.net.node", "swarm.net.guards"),
    *("swarm.peer.server", "swarm.peer.engine", "swarm.model.span", "swarm.model.text", "swarm.model.measure", "swarm.model.loading"),
    *("transformers.models.llama.modeling_llama", "swarm.gateway.app", "swarm.gateway.serving", "uvloop"),
)
"""What a command loads sooner or later. One that is missing here costs time, and nothing else."""

READ = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_CACHE_HOME", "HOME")
"""How the names begin of settings that modules read when they load: where the hub's cache is, whether the hub may be asked."""

HIGH = 500
"""Above the numbers of files that anybody gives a child."""


class Nursery:
    """The process that forks, for as long as the tests of one process run. Begun with the first that is wanted."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._environment = dict(os.environ)  # not that of the test which happens to be the first that wants it

    def subprocess(self) -> SimpleNamespace:
        """What stands in for the module."""
        return SimpleNamespace(**{**vars(subprocess), "Popen": functools.partial(Fork, self)})

    def may_fork(self, environment: Mapping[str, str]) -> bool:
        """Whether its modules have read what they would read there."""
        return _read(environment) == _read(self._environment)

    def ask(self, files: list[int], **request: Any) -> Any:
        with self._lock:
            if self._process is None:
                self._begin()
            socket.send_fds(self._door, [json.dumps(request).encode()], files)
            if not (said := self._door.recv(4096)):
                raise OSError("the process that forks has ended; what it said is above")
            return json.loads(said)

    def _begin(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", "-c", "from tests.forks import main; main()", str(theirs.fileno())]
            here = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, env={**self._environment, **here})

    def close(self) -> None:
        if self._process is not None:
            self._door.close()
            self._process.wait()


class Fork(subprocess.Popen):
    """Pipes and waits are Popen's own. Anything but one of our commands is started as ever, and so is one in an environment that the nursery does not have."""

    def __init__(self, nursery: Nursery, args: list[str], **options: Any) -> None:
        self._nursery = nursery
        ours = args[:3] == [sys.executable, "-P", "-m"] and args[3].startswith("swarm.cli.")
        self._forked = ours and nursery.may_fork(os.environ if options.get("env") is None else options["env"])
        super().__init__(args, **options)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startup, creation, shell, *rest):  # type: ignore[override]
        if not self._forked:
            return super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startup, creation, shell, *rest)
        child_in, _, _, child_out, _, child_err = pipes = rest[:6]
        files = [own if given == -1 else given for own, given in enumerate((child_in, child_out, child_err))] + list(pass_fds)
        environment = dict(os.environ if env is None else env)
        self.pid = self._nursery.ask(files, argv=args[3:], environment=environment, numbers=[0, 1, 2, *pass_fds], folder=os.getcwd())
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not self._forked:
            return super()._try_wait(wait_flags)
        while (found := self._nursery.ask([], pid=self.pid))[0] == 0 and not wait_flags:
            time.sleep(0.01)
        return tuple(found)

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if not self._forked:
            return super()._internal_poll(*arguments, **options)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(status)
            except OSError:
                pass  # the nursery is closed, as when the interpreter ends
            finally:
                self._waitpid_lock.release()
        return self.returncode


def main() -> None:
    """Of the process that forks: until whoever asks is gone."""
    door = socket.socket(fileno=int(sys.argv[1]))
    for module in LOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or every child would soon have a copy of all that was loaded
    while True:
        said, files, _, _ = socket.recv_fds(door, 2**20, 16)
        if not said:
            return
        asked = json.loads(said)
        if "pid" in asked:
            door.send(json.dumps(os.waitpid(asked["pid"], os.WNOHANG)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            door.close()
            _live(files, **asked)
        for file in files:
            os.close(file)
        door.send(json.dumps(pid).encode())


def threads_of(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """With how many torch would begin: a command's own setting goes before that of its environment, and without one it is a thread for each core."""
    named = [value for name, value in pairwise(argv) if name == "--threads"] + [argument[10:] for argument in argv if argument.startswith("--threads=")]
    for text in (*named[-1:], environment.get("SWARM_THREADS", ""), environment.get("OMP_NUM_THREADS", "")):
        if text.isdecimal() and int(text):
            return int(text)
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _read(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ)}


def _live(files: list[int], argv: list[str], environment: dict[str, str], numbers: list[int], folder: str) -> None:
    """As a process that was just started."""
    import torch

    status: Any = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        kept = [fcntl.fcntl(file, fcntl.F_DUPFD, HIGH) for file in files]
        for file in files:
            os.close(file)
        for file, number in zip(kept, numbers, strict=True):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = argv
        torch.set_num_threads(threads_of(argv, environment))
        status = importlib.import_module(argv[0]).main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
