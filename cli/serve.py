"""swarm-serve: hold some layers of a model and run them for others. Reads arguments, loads, measures, serves, drains; each of these is somebody else's work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swarm.bootstrap import public_peers
from swarm.cli.arguments import Parser, addresses, number, set_threads, size
from swarm.cli.notices import NO_PUBLIC_PEERS, SERVING, line_to_type, say_once
from swarm.cli.process import Stop, hold_lifeline, reporting, run, set_logging, tell_ready
from swarm.cli.screen import Screen, screen
from swarm.core import Span, format_layers, parse_layers

if TYPE_CHECKING:
    from swarm.compose import Connection, Part
    from swarm.model.checkpoint import Checkpoint
    from swarm.peer.server import Peer

log = logging.getLogger(__name__)

AUTO = "auto"

DRAIN = 30.0
"""Seconds for running answers to move elsewhere or finish. Clients that renew their route leave within a second."""

STATUS_EVERY = 0.5

EXAMPLES = """\
  swarm-serve Qwen/Qwen3-8B --layers auto --initial-peers /ip4/203.0.113.5/tcp/31337/p2p/12D3Koo…
  swarm-serve ./my-model --layers 0:12 --port 31338 --identity ~/peer.key
"""


def parser() -> Parser:
    it = Parser("swarm-serve", "Hold some layers of a model and run them for others.", EXAMPLES)
    it.add_argument("model", metavar="MODEL", help="hub id such as Qwen/Qwen3-8B, or a folder in transformers format with .safetensors files")
    what = it.add_argument_group("what to serve")
    what.add_argument(
        "--layers", default=AUTO,
        help="layers such as 0:12 (embed and head come along where the range touches an end), embed, head, or several joined by commas; "
        "auto takes what the swarm needs most and this machine's free memory can hold",
    )  # fmt: skip
    what.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="number format to serve in (default: that of the checkpoint)")
    what.add_argument("--device", default="cpu", help="where to compute, such as cpu or cuda:0")
    what.add_argument("--threads", type=number(1, 4096), help="threads for computing (default: one for each core)")
    what.add_argument("--cache-tokens", type=number(1, 2**40), help="positions of all sessions together that the cache may hold (default: what half of the memory left takes)")
    what.add_argument("--max-disk", type=size, metavar="SIZE", help="download at most this much, such as 20GB (default: no limit)")
    network = it.add_argument_group("network")
    network.add_argument(
        "--initial-peers", action="append", metavar="ADDR",
        help="multiaddr of any peer of the swarm to join (repeatable; default: the public list, and a new swarm where that is empty)",
    )  # fmt: skip
    network.add_argument("--host", default="0.0.0.0", help="IP address to listen on; 127.0.0.1 for this machine alone")
    network.add_argument("--port", type=number(0, 65535), default=0, help="TCP port to listen on, 0 for any free one")
    network.add_argument("--announce", action="append", metavar="ADDR", help="multiaddr to tell others instead of what this machine believes its own to be (repeatable)")
    network.add_argument(
        "--identity", metavar="FILE",
        help="key file, made if it is not there, so that this peer stays the same across restarts; one for each running peer (default: a new identity each time)",
    )  # fmt: skip
    network.add_argument("--public-name", default="", metavar="NAME", help="name to show others beside the peer id")
    network.add_argument("--drain", type=number(0, 86400, float), default=DRAIN, metavar="SECONDS", help="how long Ctrl-C waits for running answers to finish or move")
    it.common()
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-serve", argv, _main)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().read(argv)
    if args.layers != AUTO:
        parse_layers(args.layers, 2**31)  # malformed ones are answered before torch loads; how many there are is known later
    hold_lifeline(args.lifeline_fd)
    set_threads(args.threads)
    shown = screen()
    set_logging(args.debug, shown.handler, logging.INFO)
    if args.ready_fd is None:
        say_once("serve", SERVING, shown.say)
    return run(lambda stop: _serve(args, shown, stop))


async def _serve(args: Any, shown: Screen, stop: Stop) -> int:
    from swarm.compose import connect, serving_peer

    checkpoint = await asyncio.to_thread(_open, args)
    spans = _asked(args, checkpoint)
    joining = connect(
        addresses(args.initial_peers) or public_peers(),
        identity=args.identity,
        listen=True,
        host=args.host,
        port=args.port,
        announce=addresses(args.announce),
        debug=args.debug,
    )
    async with joining as connection:
        part = await asyncio.to_thread(_load, args, checkpoint, spans, shown)
        peer = serving_peer(connection, part, cache_tokens=args.cache_tokens or 65536, name=args.public_name)
        await _keep_serving(args, shown, stop, connection, peer, part)
    return 0


def _open(args: Any) -> Checkpoint:
    from swarm.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(args.model, max_disk=args.max_disk)
    assert checkpoint.shape and checkpoint.revision is not None
    return checkpoint


def _asked(args: Any, checkpoint: Checkpoint) -> tuple[Span, ...]:
    return parse_layers(args.layers, checkpoint.shape.layers)


def _load(args: Any, checkpoint: Checkpoint, spans: Sequence[Span], shown: Screen) -> Part:
    from swarm.compose import Part
    from swarm.model.measure import measure_speed
    from swarm.model.span import SpanModel

    with shown.progress(lambda done: "fetching files" if done < 0.5 else "loading weights") as progress:
        model = SpanModel.load(checkpoint, spans, dtype=args.dtype, device=args.device, progress=progress)
    with shown.progress(lambda done: "measuring speed") as progress:
        progress(0.0)
        speed = measure_speed(model)
    return Part(checkpoint, model, speed)


async def _keep_serving(args: Any, shown: Screen, stop: Stop, connection: Connection, peer: Peer, part: Part) -> None:
    layers = format_layers(part.model.spans, part.checkpoint.shape.layers)

    def ready() -> None:
        shown.say(f"serving layers {layers} of {part.checkpoint.name} as {connection.links.peer}")
        tell_ready(args.ready_fd, {"peer_id": connection.links.peer, "addrs": list(connection.addrs), "layers": layers})

    serving = asyncio.create_task(peer.serve(ready), name="serve")
    try:
        await stop.asked(connection.failed, serving)
        shown.say("draining")
        await peer.drain(args.drain)
    finally:
        serving.cancel()
        await asyncio.wait({serving})


if __name__ == "__main__":
    raise SystemExit(main())
