"""The small parts of the commands, each alone."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

import swarm
from swarm.bootstrap import public_peers
from swarm.cli import generate, memory, part
from swarm.cli.answer import Answer, Beside
from swarm.cli.generate import local_layers
from swarm.cli.notices import introduce, is_public, say_once
from swarm.cli.process import reporting, run, set_logging, tell_ready
from swarm.cli.screen import PIECES, PlainScreen, RichScreen, screen, waiting
from swarm.cli.serve import Post, Rate, _keep_serving, machine
from swarm.cli.wish import Wish
from swarm.client.turn import OVERDUE
from swarm.core import Span, even_split
from swarm.errors import OR_RESUME, DoesNotFit, InvalidConfig, MissingLayers, NotAModel, PeerLost, PromptTooLong, TimedOut, UsageError
from swarm.peer.server import Status
from swarm.ports import Readings


def test_the_list_of_public_peers(tmp_path):
    file = tmp_path / "peers.txt"
    file.write_text("# nobody\n\n/dns4/a/tcp/1/p2p/x  # a friend\n/ip4/1.2.3.4/tcp/2/p2p/y\n")
    assert public_peers(file) == ["/dns4/a/tcp/1/p2p/x", "/ip4/1.2.3.4/tcp/2/p2p/y"]
    assert public_peers() == []


@pytest.mark.parametrize("layers", [1, 5, 12, 61])
def test_an_even_split_covers_every_layer_once(layers):
    for peers in range(1, layers + 1):
        ranges = [tuple(map(int, text.split(":"))) for text in even_split(layers, peers)]
        assert [at for start, stop in ranges for at in range(start, stop)] == list(range(layers))
        sizes = [stop - start for start, stop in ranges]
        assert max(sizes) - min(sizes) <= 1
    with pytest.raises(UsageError, match=str(layers)):
        local_layers(layers, layers + 1)


@pytest.mark.parametrize("plain", [True, False])
def test_what_a_log_quotes_is_no_command_to_the_terminal(plain):
    handler = logging.StreamHandler() if plain else RichScreen(io.StringIO()).handler
    before = logging.getLogger().handlers[:], logging.getLogger().level, logging.getLogger("swarm").level
    try:
        set_logging(True, handler)
    finally:
        logging.getLogger().handlers[:] = before[0]
        logging.getLogger().setLevel(before[1])
        logging.getLogger("swarm").setLevel(before[2])
    said = handler.format(logging.LogRecord("swarm", logging.INFO, "", 0, "it says %s\nand\tmore", ("\x1b]0;mine\x07 é\u202e",), None))
    assert said.endswith("it says \\x1b]0;mine\\x07 é\\u202e\nand\tmore")


def test_a_notice_is_said_once(home):
    said: list[str] = []
    for _ in range(2):
        say_once("serve", "this is what it means", said.append)
    say_once("generate", "and that", said.append)
    assert said == ["this is what it means", "and that"]


def test_a_notice_where_nothing_can_be_remembered(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    said: list[str] = []
    say_once("serve", "words", said.append)
    assert said == ["words"]


def test_lines_to_type_can_be_typed():
    said: list[str] = []
    introduce(said.append, ["/ip4/10.0.0.1/tcp/1/p2p/x"], "a model")
    assert "  swarm-serve 'a model' --layers auto --initial-peers /ip4/10.0.0.1/tcp/1/p2p/x" in said
    assert "--announce" in said[-1]
    introduce(said.append, ["/ip4/8.8.8.8/tcp/1/p2p/x"])
    assert "--announce" not in said[-1]


def test_which_addresses_are_public():
    assert [is_public(addr) for addr in ("/ip4/8.8.8.8/tcp/1", "/dns4/a.org/tcp/1", "/ip4/192.168.0.1/tcp/1", "/ip6/::1/tcp/1", "", "x")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_ready_is_one_line_and_then_nothing():
    ready, tell = os.pipe()
    tell_ready(tell, {"peer_id": "x", "addrs": [], "layers": "0:3"})
    with os.fdopen(ready) as pipe:
        assert json.loads(pipe.read()) == {"peer_id": "x", "addrs": [], "layers": "0:3"}
    tell_ready(None, {})


def test_a_screen_that_is_no_terminal_says_each_thing_once():
    stream, now = io.StringIO(), [0.0]
    shown = PlainScreen(stream, lambda: now[0])
    with shown.progress(lambda done: "fetching" if done < 0.5 else "loading") as progress:
        for done in (0.0, 0.1, 0.5, 1.0):
            progress(done)
    with shown.live() as show:
        show([("state", "online"), ("sessions", "1")])
        now[0] = 61.0
        show([("state", "online"), ("sessions", "2")], [], [("others", "1%")])
    assert stream.getvalue() == "fetching …\nloading …\nstate online, sessions 2, others 1%\n"
    assert isinstance(screen(stream), PlainScreen)


def test_a_start_that_only_reads_what_was_fetched_is_not_shown_as_a_download_alone(monkeypatch):
    """Of a model in the cache it is the hashes that take long."""

    def load(*_: object, progress: Callable[[float], None], **__: object) -> None:
        progress(0.1)
        progress(0.6)
        raise NotAModel("enough seen")

    monkeypatch.setattr("swarm.model.span.SpanModel.load", load)
    monkeypatch.setattr(part, "layout_of", lambda *_, **__: None)
    wish, checkpoint, stream = _wish("model"), SimpleNamespace(shape=SimpleNamespace(layers=4)), io.StringIO()
    with pytest.raises(NotAModel):
        part.load(wish, checkpoint, [Span(1, 3)], PlainScreen(stream))
    assert stream.getvalue() == "fetching and checking layers 0:2 …\nloading layers 0:2 …\n"


def test_what_takes_long_is_said_again_where_there_is_no_terminal():
    stream, heard = io.StringIO(), threading.Event()
    shown = PlainScreen(stream, every=0.01)
    say = shown.say

    def listen(text: str = "") -> None:
        say(text)
        if "50%" in text:
            heard.set()

    shown.say = listen
    with shown.progress(lambda done: "fetching") as progress:
        progress(0.5)
        assert heard.wait(30)
    before = stream.getvalue()
    assert before.startswith("fetching …\n") and "fetching … 50%\n" in before
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_a_terminal_shows_the_same_words():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    shown = screen(stream)
    assert isinstance(shown, RichScreen)
    shown.say("a [plain] word")
    with shown.progress(lambda done: "loading layers 0:3") as progress:
        progress(0.5)
    with shown.live() as show:
        show([("state", "online"), ("sessions", "2")])
    shown.settle()
    said = stream.getvalue()
    assert all(words in said for words in ("a [plain] word", "loading layers 0:3", "online", "sessions"))


def test_a_terminal_that_stands_still_holds_up_nobody():
    """As after Ctrl-S: whoever writes goes on, what the terminal cannot take is lost, and so is nothing that it can."""

    class Standing(io.StringIO):
        moves = threading.Event()

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            self.moves.wait()
            return super().write(text)

    stream = Standing()
    shown = RichScreen(stream)
    for number in range(2 * PIECES):
        shown.say(f"line {number}")
    assert not stream.getvalue()
    stream.moves.set()
    shown.settle()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "line 0" and PIECES // 3 < len(lines) < 2 * PIECES


READINGS = Readings(others=0.87, ours=0.123, free=123_400_000_000, own=98_700_000_000, host_free=1, temperature=101.4, gpu_temperature=77.0)


def status(**changes: object) -> Status:
    return Status("online", (Span(0, 4),), None, 1, 2, 3, 4, 5, None, **{"readings": READINGS, **changes})


def test_what_a_person_sees_of_the_machine():
    assert machine(status(readings=None)) == []
    assert machine(status(readings=Readings(others=0.5, free=2 * 10**9, own=10**9))) == [
        ("cpu here", "0%"), ("others", "50%"), ("memory here", "1.0 GB"), ("free", "2.0 GB"),
    ]  # fmt: skip
    shown = dict(machine(status(share=0.5, short=True)))
    assert (shown["temperature"], shown["GPU"], shown["polite"], shown["free"]) == ("101 °C", "77 °C", "slowed to 50%", "123.4 GB, too little")


def test_the_lines_about_a_peer_and_its_machine_fit_into_eighty_columns(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    shown = screen(stream)
    line = [("state", "online"), ("layers", "0:4"), ("sessions", "1")]
    with shown.live() as show:
        show(line, machine(status(share=0.25)))
    shown.settle()
    said = stream.getvalue()
    assert all(word in said for word in ("sessions", "online", "slowed to 25%", "101 °C", "77 °C", "98.7 GB")) and "…" not in said


def test_a_polite_process_lets_others_go_first_and_is_never_less_polite_than_it_was():
    script = "import os; from swarm.cli.process import NICE, make_way; os.nice({0}); before = os.nice(0); make_way(); assert os.nice(0) == max(before, NICE)"
    for before in (0, 9):
        subprocess.run([sys.executable, "-P", "-c", script.format(before)], check=True, timeout=60)


class Busy:
    """A peer, its network and who asks it to stop, in the middle of an answer that will not end."""

    failed = None

    def __init__(self) -> None:
        self.draining = asyncio.Event()

    async def serve(self, ready: object) -> None:
        await asyncio.Event().wait()

    async def drain(self, seconds: float) -> bool:
        self.draining.set()
        await asyncio.Event().wait()
        return True

    async def asked(self, *failing: object) -> None: ...


def test_a_peer_that_is_stopped_while_it_drains_says_so(monkeypatch):
    async def main() -> None:
        busy = Busy()
        monkeypatch.setattr(Post, "watch", lambda post: busy.serve(None))
        serving = asyncio.create_task(_keep_serving(Post(SimpleNamespace(drain=60.0), PlainScreen(stream), busy, busy, 6), busy, new=False))
        await busy.draining.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    stream = io.StringIO()
    asyncio.run(main())
    assert stream.getvalue().splitlines()[-1] == "stopped at once"


def test_tokens_a_second_over_the_last_few():
    rate = Rate()
    assert rate.update(0, 0.0) == 0.0
    assert [rate.update(10 * at, 0.5 * at) for at in range(1, 30)] == [20.0] * 29
    for at in range(30, 45):
        last = rate.update(290, 0.5 * at)
    assert last == 0.0


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UsageError("do it so"), 2, "swarm-x: do it so\n"),
        (PeerLost("peer a was lost again and again; try again later, or resume the session"), 1, "swarm-x: peer a was lost again and again; try again later\n"),
        (TimedOut(OVERDUE), 1, "swarm-x: the time allowed for this answer is over; allow more time\n"),
        (MissingLayers("layers 3:4 are served by nobody"), 1, "swarm-x: layers 3:4 are served by nobody\n"),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [UsageError("do it so")])]), 2, "swarm-x: do it so\n"),
        (ZeroDivisionError("oh"), 1, "swarm-x: this is a bug: ZeroDivisionError: oh; run again with --debug to see where, and please report it\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_are_one_sentence(capsys, error, status, words):
    def fail(argv: object) -> int:
        raise error

    assert reporting("swarm-x", [], fail) == status
    assert capsys.readouterr().err == words
    assert reporting("swarm-x", ["--debug"], fail) == status
    name = "UsageError" if isinstance(error, ExceptionGroup) else type(error).__name__
    assert (name in capsys.readouterr().err.replace(words, "")) == bool(words)


class Terse:
    """A client and its session whose answers are these pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    async def __aenter__(self) -> Terse:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def check(self, prompt: str, **options: object) -> None: ...

    async def ready_session(self, timeout: float | None) -> Terse:
        return self

    async def stream(self, prompt: str, **options: object) -> AsyncIterator[str]:
        for piece in self.pieces:
            yield piece


@pytest.mark.parametrize(
    ("pieces", "options", "out", "err"),
    [
        ([], [], "", "the answer is empty: the model ended it at once\n"),
        ([""], ["--stop", "."], "", "the answer is empty: the model ended it at once, or began it with a --stop text\n"),
        (["", "yes", ""], [], "yes\n", ""),
    ],
)
def test_an_empty_answer_is_said_to_be_one(capsys, monkeypatch, pieces, options, out, err):
    monkeypatch.setattr("swarm.aio.Client", lambda model, **_: Terse(pieces))
    args = generate.parser().read(["hello", *options])
    asyncio.run(generate._ask(args, "model", [], "hello", generate._options(args), Answer()))
    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize(
    ("err", "seen"),
    [
        (subprocess.STDOUT, "a word\nthe chain broke\n and another\nagain\n"),
        (subprocess.PIPE, "a word and another\n"),
    ],
)
def test_the_log_keeps_out_of_the_lines_of_an_answer_that_is_seen_in_the_same_place(err, seen):
    script = """
import logging
from swarm.cli.answer import Answer, Beside
with Answer() as answer:
    logging.getLogger().addHandler(Beside(answer))
    answer.write("a word")
    answer.write("")
    logging.warning("the chain broke")
    answer.write(" and another\\n")
    logging.warning("again")
"""
    ran = subprocess.run([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, stderr=err, text=True)
    assert ran.stdout == seen and (err == subprocess.STDOUT or ran.stderr == "the chain broke\nagain\n")


def test_an_answer_that_breaks_off_ends_its_line(capsys):
    with pytest.raises(UsageError), Answer() as answer:
        answer.write("half")
        logging.getLogger().handlers[:] = [Beside(answer)]
        logging.warning("elsewhere")
        raise UsageError("no")
    assert capsys.readouterr() == ("half\n", "elsewhere\n")


def test_what_takes_long_says_what_is_waited_for():
    stream, heard = io.StringIO(), threading.Event()
    shown = PlainScreen(stream)
    say = shown.say

    def listen(text: str = "") -> None:
        say(text)
        heard.set()

    shown.say = listen
    stage = "joining the swarm"
    with waiting(shown, lambda: stage, after=0.01):
        assert heard.wait(30)
        heard.clear()
        stage = "1 of 2 peers ready"
        assert heard.wait(30)
    with waiting(shown, lambda: "nothing", after=60.0):
        pass
    assert stream.getvalue() == "joining the swarm …\n1 of 2 peers ready …\n"
    assert not any(thread.name == "waiting" for thread in threading.enumerate())


class Slow(Terse):
    """Notes what is said to be waited for, whenever it makes somebody wait."""

    def __init__(self, too_long: bool) -> None:
        super().__init__(["yes"])
        self.too_long, self.told = too_long, []

    @contextlib.contextmanager
    def waiting(self, shown: object, what: Callable[[], str]) -> Iterator[None]:
        self.what = what
        yield

    async def __aenter__(self) -> Terse:
        self.told.append(self.what())
        return self

    def check(self, prompt: str, **options: object) -> None:
        if self.too_long:
            raise PromptTooLong(2, 1)

    async def ready_session(self, timeout: float | None) -> Terse:
        self.told.append(self.what())
        return Terse(self.pieces)


@pytest.mark.parametrize("too_long", [False, True])
def test_who_asks_is_told_what_is_waited_for_and_for_nothing_is_not_waited(capsys, monkeypatch, too_long):
    slow = Slow(too_long)
    monkeypatch.setattr("swarm.aio.Client", lambda model, **_: slow)
    monkeypatch.setattr(generate, "waiting", slow.waiting)
    args = generate.parser().read(["hello"])
    with pytest.raises(PromptTooLong) if too_long else contextlib.nullcontext():
        asyncio.run(generate._ask(args, "a-model", [], "hello", generate._options(args), Answer()))
    assert slow.told == ["joining the swarm", "joined the swarm, looking for peers that serve a-model"][: 1 if too_long else 2]


def test_a_local_swarm_that_takes_long_says_how_many_are_ready(monkeypatch):
    def start(model: str, layers: list[str], dtype: str | None, ready: Callable[[int], None]) -> str:
        for count in range(len(layers)):
            told.append(slow.what())
            ready(count + 1)
        return "a swarm"

    slow, told = Slow(False), []
    monkeypatch.setattr("swarm.local.LocalSwarm", start)
    monkeypatch.setattr(generate, "waiting", slow.waiting)
    assert generate.start_local("a-model", ["0:1", "1:2"], None) == "a swarm"
    assert told == ["0 of 2 peers ready", "1 of 2 peers ready"]


def test_every_sentence_that_offers_to_resume_ends_with_it():
    """Or a command, which has nothing to resume, could not leave it out."""
    texts = [
        node.value
        for path in sorted(Path(swarm.__file__).parent.glob("client/*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "resume the session" in node.value
    ]
    assert texts and all(text.endswith(OR_RESUME) for text in texts), texts


@pytest.mark.parametrize("lines", ["import swarm.cli", "from swarm.cli.process import reporting; reporting('swarm-x', [], lambda argv: 0)"])
def test_ctrl_c_before_and_after_a_command_ends_it_without_a_word(lines):
    script = f"import os, signal, sys; sys.argv[0] = '/usr/bin/swarm-x'; {lines}; os.kill(os.getpid(), signal.SIGINT)"
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGINT, "", "")  # which shells show as 130


def test_ctrl_c_in_a_command_closes_what_it_opened():
    script = """
import os, signal, sys
sys.argv[0] = "/usr/bin/swarm-x"
from swarm.cli.process import reporting
def command(argv):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("closed")
sys.exit(reporting("swarm-x", [], command))
"""
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "closed\n", "")


def test_an_answer_that_is_over_does_not_wait_for_the_interpreter_to_be_taken_down():
    script = """
import atexit, sys
from swarm.cli import generate
generate._main = lambda argv: print("the answer", end="") or 3
atexit.register(print, "taken down")
sys.exit(generate.main())
"""
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "the answer", "")


def test_whoever_imports_the_commands_keeps_their_own_ctrl_c():
    script = "import signal, swarm.cli.process; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    ran = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert ran.stdout == "True\n"


def test_a_command_runs_on_a_loop_of_its_own():
    async def command(stop: object) -> int:
        await asyncio.sleep(0)
        return 7

    assert run(command) == 7


class Nowhere:
    """A connection to a directory that holds what a test puts there."""

    def __init__(self, records: list) -> None:
        self.records, self.announced = records, []
        self.directory, self.addrs, self.links = self, (), self
        self.peer, self.wall = "12D3KooWus", time.time

    async def read(self, config_hash: str) -> list:
        return [record for record in self.records if record.config_hash == config_hash]

    async def announce(self, record) -> None:
        self.announced.append(record)


def _wish(model: str, **changes: object) -> Wish:
    return Wish(**(dict(model=model, layers="auto", dtype=None, device="cpu", cache_tokens=64, max_memory=None, max_disk=None, name="", region="") | changes))


def _room_for(checkpoint, layers: int, tokens: int):
    """Free bytes in which so many layers fit, and half of another."""
    from swarm.model.memory import MARGIN, SHARE

    shape = checkpoint.shape
    return int((MARGIN + (layers + 0.5) * (shape.component_bytes[1] + tokens * shape.kv_bytes_per_token[1])) / SHARE) + 2


def test_auto_takes_what_nobody_serves_and_what_fits(model, monkeypatch):
    checkpoint = part.open_checkpoint(_wish(model))
    monkeypatch.setattr(memory, "free_of", lambda wish: {"cpu": _room_for(checkpoint, 2, 64)})
    wish, nowhere = _wish(model), Nowhere([])

    def joining(spans: tuple[Span, ...], peer: str, **changes: object):
        import msgspec

        record = part._joining(wish, checkpoint, spans, nowhere)
        return msgspec.structs.replace(record, peer=peer, **changes)

    def choose(records: list) -> tuple[Span, ...]:
        nowhere.records = records
        return asyncio.run(part.choose(wish, checkpoint, nowhere))

    covered = [joining((Span(0, 3),), "12D3KooWa", state="online"), joining((Span(5, 8),), "12D3KooWb")]
    assert choose(covered) == (Span(3, 5),)
    # who serves other weights or in another format cannot help us, so its layers are missing to us
    strangers = [joining((Span(3, 5),), "12D3KooWc", revision="other"), joining((Span(3, 5),), "12D3KooWd", numerics="bfloat16")]
    assert choose([*covered, *strangers]) == (Span(3, 5),)


@pytest.mark.parametrize(("region", "chosen"), [("", 0), ("us", 0), ("eu", 3)])
def test_auto_takes_what_its_own_region_lacks(model, monkeypatch, region, chosen):
    checkpoint = part.open_checkpoint(_wish(model))
    monkeypatch.setattr(memory, "free_of", lambda wish: {"cpu": _room_for(checkpoint, 2, 64)})

    def joining(number: int, span: Span, where: str):
        import msgspec

        record = part._joining(_wish(model, region=where), checkpoint, (span,), Nowhere([]))
        assert record.region == where
        return msgspec.structs.replace(record, peer=f"12D3KooW{number}", state="online")

    records = [*(joining(number, Span(0, 8), "us") for number in range(100)), joining(100, Span(0, 3), "eu")]
    (span,) = asyncio.run(part.choose(_wish(model, region=region), checkpoint, Nowhere(records)))
    assert span.start == chosen


def test_who_loads_says_so_meanwhile(model):
    async def load() -> None:
        async with part.announced_as_joining(wish, checkpoint, (Span(1, 3),), nowhere):
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    wish, nowhere, started = _wish(model, name="me"), Nowhere([]), time.time()
    checkpoint = part.open_checkpoint(wish)
    asyncio.run(load())
    (record,) = nowhere.announced
    assert record.span_version >= 1000 * started, "or those who knew this peer before it was started anew would go on planning with what it held then"
    assert (record.state, record.spans, record.name, record.numerics) == ("joining", ((1, 3),), "me", "float32")


def test_who_serves_hears_of_every_move_and_of_those_that_are_taken_back():
    from swarm.peer.server import Status

    def status(state: str, start: int, aim: Span | None = None) -> Status:
        return Status(state, (Span(start, start + 4),), aim, 0, 0, 0, 0, 0, None)

    said: list[str] = []
    post = Post(None, SimpleNamespace(say=said.append), None, None, 6)
    here, aiming, loading, there = status("online", 0), status("joining", 0, Span(4, 8)), status("joining", 4, Span(4, 8)), status("online", 4)
    for before, now in pairwise([here, here, aiming, here, aiming, loading, there, there, status("leaving", 4)]):
        post._tell_move(before, now)
    assert said == [
        "layers 3:6 need this machine more than 0:3: handing running answers over, then moving",
        "staying with layers 0:3 after all",
        "layers 3:6 need this machine more than 0:3: handing running answers over, then moving",
        "serving layers 3:6 from now on",
    ]


def test_a_move_may_take_what_there_was_at_first_or_less_where_others_took_it(model, monkeypatch):
    checkpoint = part.open_checkpoint(_wish(model))
    free = _room_for(checkpoint, 4, 64)
    monkeypatch.setattr(memory, "free_of", lambda wish: {"cpu": free})
    monkeypatch.setattr("swarm.model.memory.own_memory", lambda device: 10**6)
    loading = part.Loading(_wish(model), checkpoint, None)
    first = memory.budget_of(_wish(model), checkpoint)
    free += 10**9
    assert loading.budget(Span(0, 2)) == first
    free -= 10**9 + 10**6 + 10**5
    assert loading.budget(Span(0, 2)) == pytest.approx(first - 0.9 * 10**5, abs=2)
    bounded = part.Loading(_wish(model, max_memory=1000), checkpoint, None)
    assert bounded.budget(Span(0, 2)) <= 1000


def _on_gpus(monkeypatch, checkpoint, host: float, **layers: float) -> None:
    """GPUs, and a machine, with free memory for so many layers, and half of another."""
    free = {name.replace("_", ":"): _room_for(checkpoint, count, 64) for name, count in layers.items()}
    monkeypatch.setattr(memory, "free_of", lambda wish: free)
    monkeypatch.setattr("swarm.model.memory.free_memory", lambda device: _room_for(checkpoint, host, 64))


def test_layers_that_a_gpu_cannot_hold_are_streamed_if_they_were_named(model, monkeypatch):
    checkpoint = part.open_checkpoint(_wish(model))
    middle = (Span(1, 7),)
    _on_gpus(monkeypatch, checkpoint, host=100, cuda_0=5)
    layout = memory.layout_of(_wish(model, layers="0:6"), checkpoint, middle)
    assert len(layout.streamed) == 3 and set(layout.on.values()) == {"cuda:0"}
    with pytest.raises(DoesNotFit, match="5 of 6 layers do fit"):
        memory.layout_of(_wish(model, layers="0:6", offload="no"), checkpoint, middle)
    _on_gpus(monkeypatch, checkpoint, host=1, cuda_0=5)
    with pytest.raises(DoesNotFit, match="5 of 6 layers do fit"):
        memory.layout_of(_wish(model, layers="0:6"), checkpoint, middle)
    _on_gpus(monkeypatch, checkpoint, host=1, cuda_0=3, cuda_1=3)
    layout = memory.layout_of(_wish(model, layers="0:6"), checkpoint, middle)
    assert [layout.on[i] for i in range(1, 7)] == ["cuda:0"] * 3 + ["cuda:1"] * 3 and not layout.streamed


def test_auto_counts_memory_beyond_the_gpus_only_when_told_to(model, monkeypatch):
    checkpoint = part.open_checkpoint(_wish(model))
    _on_gpus(monkeypatch, checkpoint, host=100, cuda_0=4)
    plain = memory.budget_of(_wish(model), checkpoint)
    assert plain == memory.budget_of(_wish(model, offload="no"), checkpoint) < sum(memory.costs_of(_wish(model), checkpoint)[1:6])
    assert memory.budget_of(_wish(model, offload="yes"), checkpoint) >= plain
    _on_gpus(monkeypatch, checkpoint, host=100, cuda_0=12)
    assert memory.budget_of(_wish(model, offload="yes"), checkpoint) > memory.budget_of(_wish(model), checkpoint)
    monkeypatch.setattr(memory, "free_of", lambda wish: {"cpu": 10**9})
    with pytest.raises(InvalidConfig, match="leave out --offload yes"):
        memory.budget_of(_wish(model, offload="yes"), checkpoint)


def test_memory_that_was_bounded_is_bounded_on_all_devices_together(model, monkeypatch):
    checkpoint = part.open_checkpoint(_wish(model))
    _on_gpus(monkeypatch, checkpoint, host=0, cuda_0=8, cuda_1=4)
    rooms, _ = memory._rooms(_wish(model, max_memory=10**6), checkpoint, journals=0)
    assert 10**6 - 2 <= sum(rooms.values()) <= 10**6 and rooms["cuda:0"] > 1.5 * rooms["cuda:1"]


def test_what_stays_on_disk_costs_auto_no_memory(model):
    checkpoint = part.open_checkpoint(_wish(model))
    costs, less = (memory.costs_of(_wish(model, on_disk=on_disk), checkpoint) for on_disk in ((), ("embed", "head")))
    assert (less[0], less[-1]) == (0, 0) and less[1:-1] == costs[1:-1] and min(costs[0], costs[-1]) > 0


def test_the_cache_is_as_long_as_the_device_with_the_least_room_for_it_allows(model, monkeypatch):
    from swarm.model.layout import Layout

    checkpoint = part.open_checkpoint(_wish(model))

    def tokens(**layers: float) -> int:
        _on_gpus(monkeypatch, checkpoint, host=0, **layers)
        devices = tuple(memory.free_of(wish))
        on = {i: devices[-1] if i > 2 else devices[0] for i in range(1, 5)}
        loaded = SimpleNamespace(spans=(Span(1, 5),), layout=Layout(devices, on))
        return memory.cache_tokens(wish, SimpleNamespace(checkpoint=checkpoint, model=loaded))

    wish = _wish(model, cache_tokens=None)
    assert tokens(cuda_0=1, cuda_1=9) < tokens(cuda_0=5, cuda_1=5) / 2
    assert tokens(cuda_0=1, cuda_1=1) == pytest.approx(tokens(cuda_0=1, cuda_1=9), rel=0.5)


def test_a_full_disk_is_not_called_our_bug(capsys):
    def fail(argv):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert reporting("swarm-x", [], fail) == 1
    assert capsys.readouterr().err == "swarm-x: cannot write: No space left on device; free some space and start again\n"
