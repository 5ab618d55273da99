"""Room: cli. What it takes to be a well-behaved process: one loop, signals, logging, errors as one sentence, a key of its own, and two pipes to the parent that
started us.

Knows exit statuses; nothing of models, and of networks only who we are.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn

import psutil

from swarm.cli.screen import Harmless
from swarm.errors import OR_RESUME, SwarmError

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

FULL = (errno.ENOSPC, errno.EDQUOT)

CLEANUP = 2.0
"""Seconds that a second Ctrl-C leaves for saying goodbye to the network; then the process ends whatever it is doing."""


class Stop:
    """SIGINT and SIGTERM. While somebody waits in `asked`, the first signal only asks, and whoever serves may drain. Any other signal insists: the main task
    is cancelled and has CLEANUP seconds to close what it opened. One more ends the process where it stands."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._graceful = self._insisted = False
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()

    async def asked(self, *failing: asyncio.Future[Any]) -> None:
        """Until we are asked to stop. `failing` should not end before: what ends raises the error it carries."""
        self._graceful = True
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({asked, *failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        for future in failing:
            if future.done() and isinstance(result := future.result(), BaseException):
                raise result

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self._graceful and not self._asked.is_set():
            self._asked.set()
            return
        if self._insisted:
            os._exit(INTERRUPTED)
        self._insisted = True
        self._loop.call_later(CLEANUP, os._exit, INTERRUPTED)
        if self._main is not None:
            self._main.cancel()


def run(command: Callable[[Stop], Awaitable[int]], *, leave_at_once: bool = False) -> int:
    """Run a command's coroutine to its end on a loop of its own; its exit status. With `leave_at_once` the process ends here, unless the command raises: a
    thread that loads weights cannot be interrupted, and closing the loop would wait for it; and one more Ctrl-C would meet an interpreter that cleans up."""

    async def main() -> int:
        stop = Stop()
        with stop.installed():
            try:
                status = await command(stop)
            except asyncio.CancelledError:
                status = INTERRUPTED
            if leave_at_once:
                leave(status)
            return status

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def leave(status: int) -> NoReturn:
    """End the process once everything is closed. To take down an interpreter with torch and hivemind in it is of no use to anybody, and was measured to take
    one to three seconds."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # as on Windows
        return None
    return uvloop.new_event_loop


def reporting(prog: str, argv: Any, command: Callable[[Any], int], *, leave_at_once: bool = False) -> int:
    """Run `command`, and say what went wrong in one sentence. The exit status: 2 for what the caller can mend, 1 for other failures, 130 for Ctrl-C. With
    `leave_at_once`, a process of our own (nobody handed `argv` in) ends here."""
    status = _reported(prog, argv, command)
    if leave_at_once and argv is None:
        leave(status)
    return status


def _reported(prog: str, argv: Any, command: Callable[[Any], int]) -> int:
    debug = "--debug" in (sys.argv[1:] if argv is None else argv) or os.environ.get("SWARM_DEBUG", "").lower() in ("1", "true", "yes")
    logging.getLogger("swarm").setLevel(logging.WARNING)
    with contextlib.suppress(OSError, ValueError):  # no file to write to
        faulthandler.enable()  # code of others that crashes says at least where
    try:
        with _interruptible():
            return command(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # our reader had enough, as in `swarm-generate … | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        error = _innermost(error)
        if isinstance(error, OSError) and error.errno in FULL:
            print(f"{prog}: cannot write: {error.strerror}; free some space and start again", file=sys.stderr)
            return 1
        if debug or logging.getLogger("swarm").level == logging.DEBUG:  # which a file asked for
            traceback.print_exception(error)
        if isinstance(error, SwarmError):
            print(f"{prog}: {str(error).removesuffix(OR_RESUME)}", file=sys.stderr)
            return error.exit_status
        print(f"{prog}: this is a bug: {type(error).__name__}: {error}; run again with --debug to see where, and please report it", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt in here, so that what was opened gets closed. Before and after, in a process that is ours, it just ends it: libraries that
    load or clean up have nothing to tell about it."""
    ours = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if not ours:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _innermost(error: Exception) -> Exception:
    """A task group wraps even a single error in a group."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def tell_ready(fd: int | None, facts: dict[str, Any]) -> None:
    """Say to the parent that we are ready: one line of JSON."""
    if fd is not None:
        with contextlib.suppress(OSError), os.fdopen(fd, "w") as pipe:
            pipe.write(json.dumps(facts) + "\n")


def hold_lifeline(fd: int | None) -> None:
    """End at once when the parent is gone, however it went: it alone holds the other end of this pipe. A thread, so that a busy loop cannot delay it."""

    def wait(fd: int) -> None:
        while os.read(fd, 1):
            pass
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        os._exit(1)

    if fd is not None:
        threading.Thread(target=wait, args=(fd,), name="lifeline", daemon=True).start()


NICE = 5
"""By how much a polite process is nicer: at 5 the kernel gives it a quarter of a processor that another wants too, the least that a polite peer ever takes."""


def make_way() -> None:
    """Let other programs go first, also before what is started from here on."""
    with contextlib.suppress(OSError):  # where that is not allowed
        os.nice(max(NICE - os.nice(0), 0))


def set_logging(debug: bool, handler: logging.Handler | None = None, level: int = logging.WARNING) -> None:
    """Our own log to stderr (or to `handler`, which knows a terminal better). Other libraries are heard when something is wrong."""
    handler = handler or logging.StreamHandler()
    if handler.formatter is None:
        handler.setFormatter(Harmless("%(asctime)s %(levelname)s %(name)s: %(message)s" if debug else "%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if debug else logging.WARNING)
    logging.getLogger("swarm").setLevel(logging.DEBUG if debug else level)
