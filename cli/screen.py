"""Room: cli. What a person sees: lines, progress bars and a live status on a terminal, plain lines everywhere else. Knows rich; not what is shown."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from swarm.core import harmless

EVERY = 60.0
"""Seconds between two lines about the same thing where nobody can see a live one. Half of what `swarm.local` bears of silence before a peer is ready."""


SILENT = 5.0
"""Seconds that whoever started a command may be left without a word."""

LOOK = 0.2
"""Seconds between two looks at what is waited for."""


PIECES = 1000
"""Pieces of text that a terminal may lag behind."""

SETTLING = 1.0
"""Seconds that it has to show the last of them."""


class Harmless(logging.Formatter):
    """Lines of a log quote what peers say, who may be anybody: nothing of that reaches the terminal as a command to it."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


class Screen(Protocol):
    handler: logging.Handler | None

    def settle(self) -> None:
        """Wait a moment for what was said to be seen: the process ends."""

    def say(self, text: str = "") -> None: ...

    def progress(self, what: Callable[[float], str]) -> contextlib.AbstractContextManager[Callable[[float], None]]:
        """Yields a function to be called with 0.0 to 1.0, from any thread."""

    def live(self) -> contextlib.AbstractContextManager[Callable[..., None]]:
        """Yields a function that shows a status: a line, or several, of pairs of a heading and a value."""


def screen(stream: Any = None) -> Screen:
    """The one that suits where we write to."""
    stream = stream or sys.stdout
    return RichScreen(stream) if stream.isatty() else PlainScreen(stream)


@contextlib.contextmanager
def waiting(shown: Screen, what: Callable[[], str], after: float = SILENT) -> Iterator[None]:
    """Around something that may take long: after `after` seconds it is shown what is waited for, and from then on whenever that changes."""
    over = threading.Event()

    def tell() -> None:
        if not over.wait(after):
            with shown.progress(lambda done: what()) as progress:
                while True:
                    progress(0.0)
                    if over.wait(LOOK):
                        return

    telling = threading.Thread(target=tell, name="waiting", daemon=True)
    telling.start()
    try:
        yield
    finally:
        over.set()
        telling.join()


class PlainScreen:
    handler: logging.Handler | None = None

    def __init__(self, stream: Any, clock: Callable[[], float] = time.monotonic, every: float = EVERY) -> None:
        self._stream, self._clock, self._every = stream, clock, every

    def say(self, text: str = "") -> None:
        print(text, file=self._stream, flush=True)

    def settle(self) -> None:
        pass

    @contextlib.contextmanager
    def progress(self, what: Callable[[float], str]) -> Iterator[Callable[[float], None]]:
        """Each thing is said once, and what takes long again now and then: by a thread, since one file of some gigabytes reports nothing on its way."""
        said: set[str] = set()
        share, over = 0.0, threading.Event()

        def at(done: float) -> None:
            nonlocal share
            share = done
            if (text := what(done)) not in said:
                said.add(text)
                self.say(f"{text} …")

        def repeat() -> None:
            while not over.wait(self._every):
                self.say(f"{what(share)} …{f' {share:.0%}' if share else ''}")

        repeating = threading.Thread(target=repeat, name="progress", daemon=True)
        repeating.start()
        try:
            yield at
        finally:
            over.set()
            repeating.join()

    @contextlib.contextmanager
    def live(self) -> Iterator[Callable[..., None]]:
        last = self._clock()

        def show(*lines: list[tuple[str, str]]) -> None:
            nonlocal last
            if self._clock() - last >= self._every:
                last = self._clock()
                self.say(", ".join(f"{name} {value}" for line in lines for name, value in line))

        yield show


class Behind:
    """A stream to which others write without waiting: a thread hands on what comes. A terminal that stands still (Ctrl-S, a connection that is dead) holds up
    nobody, and misses what it cannot take. Everything else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._pieces: queue.Queue[str] = queue.Queue(PIECES)
        threading.Thread(target=self._hand_on, name="terminal", daemon=True).start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(queue.Full):
            self._pieces.put_nowait(text)
        return len(text)

    def flush(self) -> None:
        pass

    def settle(self, seconds: float) -> None:
        """Until all is handed on, but no longer than that."""
        until = time.monotonic() + seconds
        while self._pieces.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)

    def _hand_on(self) -> None:
        while True:
            text = self._pieces.get()
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone
                self._stream.write(text)
                self._stream.flush()
            self._pieces.task_done()


class RichScreen:
    def __init__(self, stream: Any) -> None:
        from rich.console import Console
        from rich.logging import RichHandler

        self._stream = Behind(stream)
        self.console = Console(file=cast(Any, self._stream), highlight=False, soft_wrap=True)
        self.handler: logging.Handler | None = RichHandler(console=self.console, show_path=False, log_time_format="%H:%M:%S")
        self.handler.setFormatter(Harmless("%(message)s"))

    def say(self, text: str = "") -> None:
        self.console.print(text, markup=False)

    def settle(self) -> None:
        self._stream.settle(SETTLING)

    @contextlib.contextmanager
    def progress(self, what: Callable[[float], str]) -> Iterator[Callable[[float], None]]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        with Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=self.console, transient=True) as bars:
            bar = bars.add_task(what(0.0), total=None)  # which pulses, until there is a share to show
            yield lambda done: bars.update(bar, total=1.0 if done else None, completed=done, description=what(done))

    @contextlib.contextmanager
    def live(self) -> Iterator[Callable[..., None]]:
        from rich.console import Group
        from rich.live import Live
        from rich.table import Table

        def table(status: list[tuple[str, str]]) -> Table:
            grid = Table(box=None, pad_edge=False, header_style="dim")
            for name, _ in status:
                grid.add_column(name)
            grid.add_row(*(value for _, value in status))
            return grid

        with Live(console=self.console, refresh_per_second=4) as live:
            yield lambda *lines: live.update(Group(*(table(line) for line in lines if line)))
