"""swarm-gateway: the OpenAI API and the swarm view over HTTP. Reads arguments; what is served is the business of the room `gateway`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli.arguments import Parser, addresses, number, set_threads
from swarm.cli.asking import add_asking, asking, whom_of
from swarm.cli.generate import local_layers, start_local
from swarm.cli.notices import ASKING, say_once
from swarm.cli.process import Stop, hold_lifeline, reporting, run, set_logging, tell_ready
from swarm.cli.screen import Screen, screen, waiting

if TYPE_CHECKING:
    from swarm.gateway.gateway import Settings

log = logging.getLogger(__name__)

PORT = 8000

DRAIN = 30.0
"""Seconds that Ctrl-C leaves to running answers."""

EXAMPLES = """\
  swarm-gateway --model Qwen/Qwen3-8B --initial-peers /ip4/203.0.113.5/tcp/31337/p2p/12D3Koo…
  swarm-gateway --local 3                    the demo model, over three processes of this machine
  swarm-gateway --local 3 --host 0.0.0.0 --api-keys keys.txt
"""


def parser() -> Parser:
    it = Parser("swarm-gateway", "Serve the OpenAI API over HTTP, and a page that shows the swarm.", EXAMPLES)
    whom = it.add_argument_group("whom to ask")
    whom.add_argument("--model", help="hub id such as Qwen/Qwen3-8B, or a folder with at least configuration and tokenizer (default: the demo model)")
    whom.add_argument("--initial-peers", action="append", metavar="ADDR", help="multiaddr of any peer of the swarm (repeatable; default: the public list)")
    whom.add_argument("--local", type=number(1, 64), metavar="N", help="start N peers of the model on this machine, ask them, and end them")
    add_asking(whom)
    whom.add_argument("--patience", type=number(0, 86400, float), default=10.0, metavar="SECONDS", help="how long to wait for somebody to serve missing layers")
    whom.add_argument(
        "--no-reuse", action="store_true",
        help="compute every prompt anew; otherwise one that begins as another did comes sooner, by which its asker can tell that the same was asked before",
    )  # fmt: skip
    web = it.add_argument_group("HTTP")
    web.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in: give --api-keys then")
    web.add_argument("--port", type=number(0, 65535), default=PORT, help="TCP port to listen on, 0 for any free one")
    web.add_argument("--name", metavar="NAME", help="what the model is called in requests (default: its hub id, or the name of its folder)")
    web.add_argument("--api-keys", metavar="FILE", help="let in only who shows a key of this file, one a line (default: everybody)")
    web.add_argument("--cors", action="append", metavar="ORIGIN", help="let pages of this origin ask, such as https://chat.example.org, or * (repeatable)")
    web.add_argument("--max-answers", type=number(1, 10**6), default=256, metavar="N", help="answers that run at once; who comes then is told to come again")
    web.add_argument("--timeout", type=number(0.001, 1e9, float), metavar="SECONDS", help="give up an answer that takes longer (default: never)")
    web.add_argument("--drain", type=number(0, 86400, float), default=DRAIN, metavar="SECONDS", help="how long Ctrl-C lets running answers finish")
    it.common()
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-gateway", argv, _main, leave_at_once=True)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().read(argv)
    initial_peers = whom_of(args)
    hold_lifeline(args.lifeline_fd)
    set_threads(None)
    shown = screen()
    set_logging(args.debug, shown.handler)
    settings, bound = _settings(args), _bound(args)
    if args.ready_fd is None:
        say_once("generate", ASKING, shown.say)
    if args.local is None:
        return run(lambda stop: _serve(args, settings, bound, initial_peers, shown, stop))
    layers = _local_layers(args)
    shown.say(f"starting {args.local} peer{'s' if args.local > 1 else ''} on this machine, with layers {', '.join(layers)}")
    with start_local(_model(args), layers, args.dtype) as local:
        return run(lambda stop: _serve(args, settings, bound, local.initial_peers, shown, stop))


def _model(args: Any) -> str:
    import swarm

    return args.model or swarm.demo_model()


def _settings(args: Any) -> Settings:
    """Raises InvalidConfig for keys that cannot be read, ModelNotFound and NotAModel for a folder that is none."""
    import swarm
    from swarm.gateway.access import Keys
    from swarm.gateway.gateway import settings_of
    from swarm.model.sources import layers_of

    layers_of(_model(args))
    keys = Keys.read(args.api_keys) if args.api_keys else Keys()
    name = args.name or ("demo" if Path(_model(args)).resolve() == Path(swarm.demo_model()).resolve() else None)
    return settings_of(_model(args), name, keys, addresses(args.cors), args.max_answers, args.timeout, args.host)


def _bound(args: Any) -> socket.socket:
    from swarm.gateway.serving import bind

    return bind(args.host, args.port)


def _local_layers(args: Any) -> tuple[str, ...]:
    from swarm.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(_model(args))
    checkpoint.check_complete()
    return local_layers(checkpoint.shape.layers, args.local)


async def _serve(args: Any, settings: Settings, bound: socket.socket, initial_peers: Sequence[str], shown: Screen, stop: Stop) -> int:
    from swarm import aio
    from swarm.gateway.app import build
    from swarm.gateway.gateway import Gateway
    from swarm.gateway.serving import listening

    client = aio.Client(_model(args), initial_peers=initial_peers, reuse=not args.no_reuse, patience=args.patience, **asking(args))
    async with contextlib.AsyncExitStack() as stack:
        with waiting(screen(sys.stderr), lambda: "joining the swarm"):
            await stack.enter_async_context(client)
        gateway = Gateway(client, settings, time.time)
        looking = asyncio.create_task(gateway.lookout.run(), name="look")
        stack.push_async_callback(_ended, looking)
        here = await stack.enter_async_context(listening(build(gateway), bound, args.drain))
        shown.say(f"serving {settings.name} at {here.url}/v1, and the swarm view at {here.url}/")
        if not settings.keys and args.host not in ("127.0.0.1", "::1", "localhost"):
            shown.say("whoever reaches this address may ask: --api-keys FILE lets in only who shows a key")
        tell_ready(args.ready_fd, {"url": here.url})
        await stop.asked(client.failed, here.serving, looking)
        shown.say(f"leaving: running answers have {args.drain:g} s to finish; Ctrl-C again stops at once")
    shown.say("left")
    return 0


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


if __name__ == "__main__":
    raise SystemExit(main())
