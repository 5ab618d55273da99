"""swarm-bench: find out how this machine, or a swarm that runs, is best used. Reads arguments and puts others' work in order: start, load, conclude, draw."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli.arguments import Parser, addresses, check_addresses, number, numbers, set_threads, words
from swarm.cli.asking import CLASSES, add_member, member
from swarm.cli.driving import Driver
from swarm.cli.plots import COLUMNS, check_drawing, draw, page, row
from swarm.cli.process import Stop, reporting, run, set_logging
from swarm.cli.screen import screen
from swarm.cli.trials import SHARDINGS, Figures, Load, Recommendation, Setup, best_of, figures_of, first_loads, further_loads, open_rates, recommended, setups
from swarm.errors import PromptTooLong, UsageError

if TYPE_CHECKING:
    from swarm.client.aio import Client
    from swarm.model.checkpoint import Checkpoint


VERSION = 1
"""Of the JSON file."""

OPEN_RATES = 3
"""New answers a second that are tried where none are named."""

EXAMPLES = """\
  swarm-bench                                                      the demo model, over peers of this machine
  swarm-bench --model Qwen/Qwen3-0.6B --peers 1,2 --threads 2,4 --concurrency 1,8,32 --prompts 32,512
  swarm-bench --model Qwen/Qwen3-8B --concurrency 1,4 --initial-peers /ip4/203.0.113.5/tcp/31337/p2p/12D3Koo…
what is recommended is in OUT/peer-1.yaml (and -2, …), for: swarm-serve --config OUT/peer-1.yaml; of a swarm that runs only its load is measured
"""


def parser() -> Parser:
    it = Parser("swarm-bench", "Measure set-ups and loads, and write down which set-up is best and how to serve it.", EXAMPLES)
    what = it.add_argument_group("what to measure")
    what.add_argument("--model", help="hub id such as Qwen/Qwen3-8B, or a folder (default: the demo model)")
    what.add_argument(
        "--initial-peers", action="append", metavar="ADDR", help="measure the swarm that is there instead of set-ups on this machine (repeatable)"
    )
    what.add_argument("--peers", type=numbers(1, 64), default=(1, 2), metavar="N,…", help="how many peers on this machine to try")
    what.add_argument(
        "--sharding", type=words(SHARDINGS), default=("even",), metavar="HOW,…", help="even shares the layers out, copies gives each peer all of them"
    )
    what.add_argument("--threads", type=numbers(1, 4096), metavar="N,…", help="threads of each peer to try (default: half of the processors, and all)")
    what.add_argument(
        "--dtypes", type=words(CLASSES), default=(), metavar="FORMAT,…", help=f"formats to try, of {', '.join(CLASSES)} (default: the checkpoint's)"
    )
    add_member(what)
    load = it.add_argument_group("under which load")
    load.add_argument(
        "--concurrency", type=numbers(1, 1024), default=(1, 4, 16), metavar="N,…", help="answers at once: whoever has one asks for the next (closed loop)"
    )
    load.add_argument(
        "--rates", type=numbers(0.001, 1e6, float), metavar="R,…",
        help=f"new answers a second, whether or not earlier ones have ended (open loop; default: {OPEN_RATES} up to what the best set-up makes)",
    )  # fmt: skip
    load.add_argument(
        "--prompts", type=numbers(1, 2**20), default=(16, 256), metavar="N,…", help="tokens of the prompts; set-ups are compared with the shortest"
    )
    load.add_argument("--tokens", type=number(2, 2**20), default=32, metavar="N", help="tokens of each answer")
    load.add_argument("--seconds", type=number(0.1, 86400, float), default=8.0, help="how long each load is measured")
    load.add_argument("--seed", type=number(0, 2**63 - 1), default=0, help="of the prompts and of when they come")
    out = it.add_argument_group("what comes of it")
    out.add_argument("--out", default="swarm-bench", metavar="FOLDER", help="where report.html, figures.json, the plots and the recommended settings go")
    out.add_argument("--no-plots", action="store_true", help="draw nothing, as where matplotlib is not installed")
    it.common(hidden=False)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-bench", argv, _main, leave_at_once=True)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().read(argv)
    check_addresses(addresses(args.initial_peers))
    if not args.no_plots:
        check_drawing()
    folder = _folder(args.out)
    set_threads(1)
    set_logging(args.debug)
    return run(lambda stop: _bench(args, folder, stop))


def _folder(name: str) -> Path:
    """Raises UsageError where nothing can be written, before anything is measured for minutes."""
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {name} ({error.strerror}); name another folder with --out") from error
    return folder


async def _bench(args: Any, folder: Path, stop: Stop) -> int:
    import swarm

    model = args.model or swarm.demo_model()
    initial_peers = addresses(args.initial_peers)
    if args.swarm_key is not None and not initial_peers:
        raise UsageError("peers that swarm-bench starts are a swarm of their own, in which nobody needs a key; leave out --swarm-key, or name --initial-peers")
    planned, flags = ([Setup("", ())], ()) if initial_peers else await asyncio.to_thread(_planned, args, model)
    loads = first_loads(args.concurrency, args.prompts, args.tokens)
    further = len(set(args.prompts)) - 1 + (len(set(args.rates)) if args.rates else OPEN_RATES)
    with _progress(len(planned) * len(loads) + further) as step:
        bench = Bench(args, model, initial_peers, flags, step)
        try:
            for setup in planned:
                await bench.under(setup, lambda: loads)
            best = best_of(bench.measured)
            if best is not None:
                rates = args.rates or open_rates(best)
                await bench.under(best.setup, lambda: further_loads(best.load, rates, args.prompts))
        except asyncio.CancelledError:  # Ctrl-C: what took minutes is kept, drawn or not, within the moment that is left
            if bench.measured:
                found = recommended(bench.measured, args.model or model)
                _write(folder, args, model, bench.measured, found, draws=False)
                _show(folder, bench.measured, found)
            raise
    found = recommended(bench.measured, args.model or model)
    _write(folder, args, model, bench.measured, found, draws=not args.no_plots)
    _show(folder, bench.measured, found)
    return 0 if found is not None else 1


def _planned(args: Any, model: str) -> tuple[list[Setup], Sequence[str]]:
    """The set-ups to try, and the flags of all their peers."""
    from swarm.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(model)
    checkpoint.check_complete()
    if (need := max(args.prompts) + args.tokens) > checkpoint.shape.max_length:
        raise PromptTooLong(need, checkpoint.shape.max_length)
    cores = _cores()
    threads = args.threads or tuple(sorted({max(cores // 2, 1), cores}))
    found = setups(checkpoint.shape.layers, args.peers, args.sharding, threads, args.dtypes)
    if not found:
        raise UsageError(f"this model has {checkpoint.shape.layers} layers, so at most as many peers can share them; name fewer --peers")
    return found, _as_in_the_long_run(checkpoint)


def _as_in_the_long_run(checkpoint: Checkpoint) -> Sequence[str]:
    """Peers compile layers that are worth it while they serve. Here they do so before: else the first set-up would be measured beside a compiler, and only the
    later ones with what came of it. Layers that are not worth it, `--compile wait` would compile all the same."""
    from swarm.model.memory import ITEM_SIZE
    from swarm.model.recipes import WORTH

    layers = checkpoint.shape.component_bytes[1:-1]
    return ("--compile", "wait") if layers and max(layers) >= WORTH * ITEM_SIZE.get(checkpoint.dtype, 4) else ()


class Bench:
    """What has been `measured` so far. `step` hears what is done now, and how many of the planned measurements are over."""

    def __init__(self, args: Any, model: str, initial_peers: Sequence[str], flags: Sequence[str], step: Callable[[str, int], None]) -> None:
        self._args, self._model, self._initial_peers, self._flags, self._step = args, model, initial_peers, flags, step
        self._member = member(args) if initial_peers else {}
        self.measured: list[Figures] = []

    async def under(self, setup: Setup, loads: Callable[[], Sequence[Load]]) -> None:
        """Measure a set-up under some loads, one after the other."""
        from swarm import aio

        self._step(f"starting {setup.name}", len(self.measured))
        async with contextlib.AsyncExitStack() as stack:
            initial_peers = self._initial_peers
            if setup.layers:
                local = await asyncio.to_thread(self._start, setup)
                stack.push_async_callback(asyncio.to_thread, local.close)
                initial_peers = local.initial_peers
            client = await stack.enter_async_context(
                aio.Client(self._model, initial_peers=initial_peers, dtype=setup.dtype or None, reuse=False, **self._member)
            )
            for load in loads():
                self._step(f"{setup.name}: {load.name}", len(self.measured))
                self.measured.append(await self._measure(client, setup, load))
        self._step(setup.name, len(self.measured))

    async def _measure(self, client: Client, setup: Setup, load: Load) -> Figures:
        requests = await Driver(client, self._args.seed).measure(load, self._args.seconds)
        return figures_of(setup, load, requests, self._args.seconds)

    def _start(self, setup: Setup) -> Any:
        from swarm.local import LocalSwarm

        return LocalSwarm(self._model, setup.layers, dtype=setup.dtype or None, threads=setup.threads, arguments=self._flags)


@contextlib.contextmanager
def _progress(planned: int) -> Iterator[Callable[[str, int], None]]:
    """A bar, or a line for each step where there is no terminal."""
    said = ["measuring"]
    with screen(sys.stderr).progress(lambda done: said[0]) as show:

        def step(what: str, over: int) -> None:
            said[0] = f"{what} ({over} of {max(planned, over)})"
            show(min(over / max(planned, 1), 1.0))

        yield step


def _write(folder: Path, args: Any, model: str, measured: Sequence[Figures], found: Recommendation | None, *, draws: bool) -> None:
    import yaml

    machine = _machine()
    files: dict[str, str] = {}
    for at, settings in enumerate(found.files if found is not None else (), 1):
        opening = f"# peer-{at}.yaml, for: swarm-serve --config peer-{at}.yaml\n# {found.why if found is not None else ''}\n"
        if found is not None and len(found.files) > 1:
            opening += f"# One of {len(found.files)} peers of one swarm: begin with swarm-bootstrap, and give each of them its address with --initial-peers.\n"
        files[f"peer-{at}.yaml"] = opening + yaml.safe_dump(dict(settings), sort_keys=False, width=10**6)
    _forget_earlier(folder)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    whole = {
        "version": VERSION,
        "model": model,
        "machine": machine,
        "settings": {name: value for name, value in vars(args).items() if name not in ("config", "print_config", "debug")},
        "measured": [dataclasses.asdict(each) for each in measured],
        "recommended": None if found is None else dataclasses.asdict(found),
    }
    (folder / "figures.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    plots = draw(measured, folder) if draws else []
    (folder / "report.html").write_text(page(Path(model).name, machine, measured, found, files, plots), encoding="utf-8")


def _forget_earlier(folder: Path) -> None:
    """What an earlier measurement recommended, and nothing that somebody else wrote."""
    for path in folder.glob("peer-*.yaml"):
        if path.read_bytes().startswith(f"# {path.name}, for: swarm-serve".encode()):
            path.unlink()


def _cores() -> int:
    """Those this process may use, which a container or taskset may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> Mapping[str, Any]:
    import psutil

    from swarm.compose import processor_name

    return {
        "processor": processor_name(),
        "processors": _cores(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def _show(folder: Path, measured: Sequence[Figures], found: Recommendation | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for at, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if at < 2 else "right")
    best = None if found is None else (found.setup, found.load)
    for each in measured:
        table.add_row(*row(each), style="bold green" if (each.setup, each.load) == best else "red" if each.failed else None)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table, "times in milliseconds", "")
    if found is None:
        console.print("no set-up gave answers without failures, so none is recommended; see the table, and try fewer answers at once")
    else:
        console.print(found.why)
        for at in range(1, len(found.files) + 1):
            console.print(f"  swarm-serve --config {folder / f'peer-{at}.yaml'}", soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
