"""swarm-doctor: examine this machine and its connection before it joins. Takes what swarm-serve takes, so that what is examined is what will be served."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.bootstrap import public_peers
from swarm.cli.arguments import Parser, addresses, check_addresses, set_threads
from swarm.cli.findings import (
    FINE,
    NOTE,
    TROUBLE,
    Finding,
    of_clock,
    of_compiler,
    of_disk,
    of_memory,
    of_port,
    of_reach,
    of_speed,
    of_unmeasured_speed,
    verdict,
)
from swarm.cli.memory import free_of
from swarm.cli.part import check_early, fitting
from swarm.cli.process import Stop, reporting, run, set_logging
from swarm.cli.screen import screen, waiting
from swarm.cli.serve import wish_of, with_options
from swarm.cli.wish import Wish
from swarm.core import base_dtype
from swarm.errors import PortInUse, ProtocolError, RemoteError, SwarmError

if TYPE_CHECKING:
    from swarm.cli.part import Fitting
    from swarm.model.checkpoint import Checkpoint
    from swarm.routing.table import PeerView

EXAMPLES = """\
  swarm-doctor Qwen/Qwen3-8B --port 31338 --initial-peers /ip4/203.0.113.5/tcp/31337/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN
  swarm-doctor --config peer.yaml --json
exit status: 0 if this machine can serve, 1 if something must be mended first, 2 for what cannot be understood
"""

MARKS = {FINE: ("✓", "green"), NOTE: ("–", "yellow"), TROUBLE: ("✗", "bold red")}


def parser() -> Parser:
    it = with_options(
        Parser("swarm-doctor", "Examine this machine and its connection before it joins; takes what swarm-serve takes. Serves nothing.", EXAMPLES)
    )
    it.add_argument("--json", action="store_true", help="write the findings as one line of JSON instead")
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-doctor", argv, _main, leave_at_once=True)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().read(argv)
    check_addresses(addresses(args.initial_peers), addresses(args.announce))
    check_early(args.model, args.layers)
    set_threads(args.threads)
    set_logging(args.debug)
    return run(lambda stop: _examine(args, stop))


async def _examine(args: Any, stop: Stop) -> int:
    stage = "looking at this machine"
    with waiting(screen(sys.stderr), lambda: stage):
        wish = wish_of(args)
        initial_peers = addresses(args.initial_peers) or public_peers()
        checkpoint = await asyncio.to_thread(_opened, wish)
        stage = "asking initial peers to reach this machine"
        findings = await _network(args, initial_peers)
        stage = "reading who serves what"
        views = await _served(wish, checkpoint, initial_peers)
        stage = "measuring"
        findings += await asyncio.to_thread(_machine, wish, checkpoint, views)
    _show(findings, args.json)
    return 1 if any(finding.level == TROUBLE for finding in findings) else 0


def _opened(wish: Wish) -> Checkpoint:
    from swarm.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(wish.model)
    checkpoint.check_complete()
    return checkpoint


async def _network(args: Any, initial_peers: Sequence[str]) -> list[Finding]:
    from swarm.compose import probe_reach

    try:
        reach = await probe_reach(initial_peers, host=args.host, port=args.port, announce=addresses(args.announce))
    except PortInUse as error:
        return [of_port(args.host, args.port, str(error))]
    return [of_port(args.host, args.port, ""), *of_reach(reach, args.port), *of_clock(reach.answers)]


async def _served(wish: Wish, checkpoint: Checkpoint, initial_peers: Sequence[str]) -> list[PeerView]:
    """Who could share a chain with us. Nobody where the swarm cannot be asked: of that another finding speaks."""
    from swarm.compose import connect
    from swarm.routing.table import PeerView

    if not initial_peers:
        return []
    views = []
    try:
        async with connect(initial_peers) as connection:
            for record in await connection.directory.read(checkpoint.config_hash):
                try:
                    views.append(PeerView.of(record, checkpoint.shape.components))
                except ProtocolError:
                    continue
    except (RemoteError, SwarmError):
        return []
    return [view for view in views if view.numerics == wish.numerics(checkpoint) and view.state in ("online", "joining")]


def _machine(wish: Wish, checkpoint: Checkpoint, views: Sequence[PeerView]) -> list[Finding]:
    """Blocks for a second: it measures."""
    from swarm.model.layout import HOST
    from swarm.model.native import compiler
    from swarm.model.sources import cache_folder, local_folder

    fit, shape = fitting(wish, checkpoint, views), checkpoint.shape
    free = free_of(wish)
    elsewhere = "" if tuple(free) == (HOST,) else ", ".join(free)
    findings = [of_memory(fit, sum(free.values()), shape.layers, elsewhere)]
    if fit.spans:
        folder = _disk(cache_folder())
        needed = 0 if local_folder(wish.model) is not None else checkpoint.download_for(fit.spans)
        findings.append(of_disk(needed, shutil.disk_usage(folder).free, wish.max_disk, str(folder)))
        findings.append(of_unmeasured_speed(elsewhere, _layers(checkpoint, fit)) if elsewhere else _speed(wish, checkpoint, fit, views))
    return [*findings, of_compiler(compiler())]


def _layers(checkpoint: Checkpoint, fit: Fitting) -> int:
    return max(sum(0 < i < checkpoint.shape.head for span in fit.spans for i in range(span.start, span.stop)), 1)


def _speed(wish: Wish, checkpoint: Checkpoint, fit: Fitting, views: Sequence[PeerView]) -> Finding:
    from swarm.errors import MissingLayers
    from swarm.model.measure import read_rate
    from swarm.routing.plan import plan
    from swarm.routing.route import Request
    from swarm.routing.table import PeerView

    layers = _layers(checkpoint, fit)
    step = fit.read / read_rate(base_dtype(wish.dtype_of(checkpoint))) / layers
    revision = max((view.revision for view in views), key=[view.revision for view in views].count, default="")
    us = PeerView("this machine", spans=fit.spans, decode=step, prefill=step / 10, revision=revision, numerics=wish.numerics(checkpoint))
    others = [view for view in views if view.revision == revision]
    request = Request(checkpoint.shape.components)
    for company in ([view for view in others if not all(us.holds(span) for span in view.spans)], others):  # first without those whose layers are ours too
        try:
            route = plan([us, *company], request)
        except MissingLayers:
            continue
        return of_speed(step, layers, 1 / route.seconds_per_token, {hop.peer for hop in route.hops} == {us.peer})
    return of_speed(step, layers, None, False)


def _disk(fallback: Path) -> Path:
    """Where weights will lie, or the nearest folder above that is there."""
    import os

    home = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return next((folder for folder in (home, *home.parents) if folder.exists()), fallback)


def _show(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"serves": verdict(findings), "findings": [dataclasses.asdict(finding) for finding in findings]}), flush=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        mark, style = MARKS[finding.level]
        table.add_row(Text(mark, style=style), finding.about, Text(finding.what).append(f"\n→ {finding.do}" if finding.do else "", style="bold"))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)
    bad = any(finding.level == TROUBLE for finding in findings)
    console.print(Text(verdict(findings), style="bold red" if bad else "bold green"))


if __name__ == "__main__":
    raise SystemExit(main())
