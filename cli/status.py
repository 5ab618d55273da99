"""swarm-status: what a swarm serves and how completely, and what this machine has given to it. Reads arguments and shows what `client.overview` sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from swarm.cli.arguments import Parser, addresses, check_addresses, number, set_threads
from swarm.cli.asking import add_member, member
from swarm.cli.notices import whom
from swarm.cli.picture import pictured, said
from swarm.cli.process import Stop, reporting, run, set_logging
from swarm.cli.screen import screen, waiting
from swarm.errors import UsageError

if TYPE_CHECKING:
    from swarm.client.aio import Client
    from swarm.client.overview import Overview

PORT = 8001
"""Beside a gateway's 8000."""

EXAMPLES = """\
  swarm-status --model Qwen/Qwen3-8B --initial-peers /ip4/203.0.113.5/tcp/31337/p2p/12D3Koo…
  swarm-status --model Qwen/Qwen3-8B --watch
  swarm-status --model Qwen/Qwen3-8B --json | jq .served
  swarm-status --model Qwen/Qwen3-8B --web                         the same as a page, at http://127.0.0.1:8001/
exit status: 0 if every layer of every model named is served, 1 if not (or if the swarm cannot be reached), 2 for what you can mend
"""


def parser() -> Parser:
    it = Parser("swarm-status", "Show what a swarm serves and how completely, and what this machine has contributed so far.", EXAMPLES)
    whose = it.add_argument_group("which swarm")
    whose.add_argument(
        "--model", action="append", help="hub id such as Qwen/Qwen3-8B, or a folder with its configuration and tokenizer (repeatable; default: the demo model)"
    )
    whose.add_argument("--initial-peers", action="append", metavar="ADDR", help="multiaddr of any peer of the swarm (repeatable; default: the public list)")
    add_member(whose)
    whose.add_argument("--timeout", type=number(0.001, 1e9, float), default=60.0, metavar="SECONDS", help="give up joining after so long")
    how = it.add_argument_group("how to show it")
    how.add_argument("--watch", action="store_true", help="go on showing it until Ctrl-C, and what happens meanwhile")
    how.add_argument("--every", type=number(0.5, 86400, float), default=3.0, metavar="SECONDS", help="how often to look with --watch")
    how.add_argument("--json", action="store_true", help="write it as one line of JSON instead, with --watch one for each look")
    web = it.add_argument_group("in a browser")
    web.add_argument("--web", action="store_true", help="serve the swarm view as a page instead, until Ctrl-C")
    web.add_argument("--host", default="127.0.0.1", help="address at which --web listens; 0.0.0.0 lets other machines see it")
    web.add_argument("--port", type=number(0, 65535), default=PORT, help="TCP port of --web, 0 for any free one")
    it.common(hidden=False)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-status", argv, _main, leave_at_once=True)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().read(argv)
    check_addresses(addresses(args.initial_peers))
    initial_peers = whom(addresses(args.initial_peers))
    models = args.model or [_demo_model()]
    set_threads(1)
    set_logging(args.debug)
    if args.web:
        return _serve(args, models, initial_peers)
    return run(lambda stop: _show(args, models, initial_peers, stop))


def _demo_model() -> str:
    import swarm

    return swarm.demo_model()


def _serve(args: Any, models: Sequence[str], initial_peers: Sequence[str]) -> int:
    """The page of the gateway, without its answers."""
    if len(models) > 1:
        raise UsageError("the page shows one model; name one --model, and start another swarm-status --web on another --port for the next")
    from swarm.gateway.serving import bind

    bound = bind(args.host, args.port)
    return run(lambda stop: _page(args, models[0], initial_peers, bound, stop))


async def _page(args: Any, model: str, initial_peers: Sequence[str], bound: socket.socket, stop: Stop) -> int:
    from swarm import aio
    from swarm.client.overview import overview
    from swarm.gateway.serving import listening
    from swarm.gateway.view import view_app
    from swarm.gateway.watch import Lookout

    async with contextlib.AsyncExitStack() as stack:
        with waiting(screen(sys.stderr), lambda: "joining the swarm"):
            client = await stack.enter_async_context(aio.Client(model, initial_peers=initial_peers, timeout=args.timeout, **member(args)))
        lookout = Lookout(lambda: overview(client), client.clock)
        looking = asyncio.create_task(lookout.run(), name="look")
        try:
            here = await stack.enter_async_context(listening(view_app(lookout), bound))
            print(f"the swarm view is at {here.url}/; Ctrl-C ends it", flush=True)
            await stop.asked(client.failed, here.serving, looking)
        finally:
            looking.cancel()
            await asyncio.wait({looking})
        return 0 if lookout.latest is None or lookout.latest.served else 1


async def _show(args: Any, models: Sequence[str], initial_peers: Sequence[str], stop: Stop) -> int:
    from swarm import aio
    from swarm.client.overview import overview

    async with contextlib.AsyncExitStack() as stack:
        with waiting(screen(sys.stderr), lambda: "joining the swarm"):
            clients: list[Client] = []
            for model in models:
                clients.append(await stack.enter_async_context(aio.Client(model, initial_peers=initial_peers, timeout=args.timeout, **member(args))))
        shown = stack.enter_context(_shown(args))

        async def look() -> list[Overview]:
            seen = [await overview(client) for client in clients]
            shown(seen)
            return seen

        seen = await look()
        if args.watch:
            asked = asyncio.create_task(stop.asked(*(client.failed for client in clients)), name="asked")
            while not (await asyncio.wait({asked}, timeout=args.every))[0]:
                seen = await look()
            asked.result()  # a network below that has ended would show the last look for ever
        return 0 if all(each.served for each in seen) else 1


@contextlib.contextmanager
def _shown(args: Any) -> Any:
    """A function that shows a look: as a table, which the next one replaces in a terminal, or as JSON."""
    from rich.console import Console
    from rich.live import Live

    from swarm.compose import contributions

    if args.json:
        yield lambda seen: print(as_json(seen, contributions()), flush=True)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    if not (args.watch and sys.stdout.isatty()):
        yield lambda seen: console.print(pictured(seen, contributions(), console.width))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda seen: live.update(pictured(seen, contributions(), console.width, events=True), refresh=True)


def as_json(seen: Sequence[Overview], contributed: Sequence[Any]) -> str:
    """One line: the models as `client.overview.Overview` has them, and what this machine has served."""
    whole = {
        "served": all(each.served for each in seen),
        "sentence": said(seen),
        "models": [msgspec.to_builtins(each) for each in seen],
        "contributed": [msgspec.to_builtins(each) for each in contributed],
    }
    return json.dumps(whole)


if __name__ == "__main__":
    raise SystemExit(main())
