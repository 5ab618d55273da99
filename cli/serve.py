"""swarm-serve: hold some layers of a model and run them for others.

Reads arguments, then puts others' work in order: open, join, choose, load, serve, drain.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.bootstrap import public_peers
from swarm.cli.arguments import Parser, addresses, check_addresses, device, number, on_disk, region, region_name, set_threads, short_name, size, upload
from swarm.cli.notices import NO_PUBLIC_PEERS, SERVING, introduce, say_once
from swarm.cli.part import Loading, announced_as_joining, check_early, choose, held, open_checkpoint
from swarm.cli.process import Stop, hold_lifeline, make_way, reporting, run, set_logging, tell_ready
from swarm.cli.screen import Screen, screen
from swarm.cli.wish import Wish
from swarm.core import AUTO, ROUNDED_BITS, Span, format_layers, readable, short_id
from swarm.errors import RemoteError

if TYPE_CHECKING:
    from swarm.compose import Connection
    from swarm.peer.server import Peer, Status

log = logging.getLogger(__name__)

DRAIN = 30.0
"""Seconds for running answers to move elsewhere or finish. Clients that renew their route leave within a second."""

STATUS_EVERY = 0.5

SWITCH = 0.0005
"""Seconds after which the thread that computes lets the one that listens have its turn, in what is Python of a step. Of Python's own 5 ms a message would
have to wait for several."""

EXAMPLES = """\
  swarm-serve Qwen/Qwen3-8B --layers auto --initial-peers /ip4/203.0.113.5/tcp/31337/p2p/12D3Koo…
  swarm-serve ./my-model --layers 0:12 --port 31338 --identity ~/peer.key
  swarm-serve swarm/demo/model --host 127.0.0.1      the demo model, from a checkout, for this machine alone
"""


def parser() -> Parser:
    return with_options(Parser("swarm-serve", "Hold some layers of a model and run them for others.", EXAMPLES))


def with_options(it: Parser) -> Parser:
    """What a peer can be told."""
    it.add_argument("model", metavar="MODEL", help="hub id such as Qwen/Qwen3-8B, or a folder in transformers format with .safetensors files")
    what = it.add_argument_group("what to serve")
    what.add_argument(
        "--layers", default=AUTO,
        help="layers such as 0:12 (embed and head come along where the range touches an end), embed, head, or several joined by commas; "
        "auto takes what the swarm needs most and this machine's free memory can hold, and moves when other layers come to need it more",
    )  # fmt: skip
    what.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="number format to serve in (default: that of the checkpoint)")
    what.add_argument(
        "--quantize", choices=("none", *ROUNDED_BITS), default="none",
        help="int8 holds each weight as one byte: half the memory of bfloat16, answers that differ a little, and chains only with peers that do the same "
        "(with others where a client allows it); int4 as half a byte, and answers differ more",
    )  # fmt: skip
    what.add_argument(
        "--compile", choices=("auto", "off", "wait"), default="auto",
        help="compile layers for this processor, so that tokens take less time: auto serves at once and compiles meanwhile (half a minute, once for each kind "
        "of layer, large ones only), wait compiles before it serves, off does not. Needs g++",
    )  # fmt: skip
    what.add_argument(
        "--device", type=device, default="cpu",
        help="where to compute: cpu, mps, cuda:0 (ROCm has that name too), several such as cuda:0,cuda:1, over which layers are shared out by memory, or auto: "
        "every GPU there is, and without one the CPU. Tested on CPUs; parts of it, once, on one NVIDIA card",
    )  # fmt: skip
    what.add_argument(
        "--offload", choices=("auto", "yes", "no"), default="auto",
        help="layers that a CUDA or ROCm device has no memory for stay in the machine's and are copied in whenever they run, which is slow: auto does so for "
        "layers named with --layers, yes lets --layers auto count the machine's memory too, no refuses",
    )  # fmt: skip
    what.add_argument(
        "--on-disk", type=on_disk, default=(), metavar="ENDS",
        help="embed, head or embed,head: leave their matrices in the model's files, mapped, and count them as no memory (default: none)",
    )  # fmt: skip
    what.add_argument(
        "--draft", metavar="MODEL",
        help="a small model with the same tokens, whole: it guesses what comes next for answers whose first hop this peer is, so that they need not wait for a "
        "trip round the ring for each token. Of use to a peer that holds embed, where peers are far apart (default: none)",
    )  # fmt: skip
    what.add_argument("--threads", type=number(1, 4096), help="threads for computing (default: all processors or one for each core, whatever is faster)")
    what.add_argument("--cache-tokens", type=number(1, 2**40), help="positions the cache may hold, of all sessions together (default: half of the memory left)")
    what.add_argument(
        "--max-memory", type=size, metavar="SIZE",
        help="take at most this much memory for layers and cache, such as 6GB, beside some 0.5 GB for the program (default: nine tenths of what is free)",
    )  # fmt: skip
    what.add_argument(
        "--polite", action="store_true",
        help="make way for your other programs: while they use much of the processor, compute only a part of the time, down to a quarter, and say so to others",
    )  # fmt: skip
    what.add_argument("--max-disk", type=size, metavar="SIZE", help="download at most this much, such as 20GB (default: no limit)")
    network = it.add_argument_group("network")
    network.add_argument(
        "--initial-peers", action="append", metavar="ADDR",
        help="multiaddr of any peer of the swarm to join (repeatable; default: the public list, and a new swarm where that is empty)",
    )  # fmt: skip
    network.add_argument("--host", default="0.0.0.0", help="IP address to listen on; 127.0.0.1 for this machine alone")
    network.add_argument("--port", type=number(0, 65535), default=0, help="TCP port to listen on, 0 for any free one")
    network.add_argument("--announce", action="append", metavar="ADDR", help="multiaddr to tell others instead of those found here (repeatable)")
    network.add_argument(
        "--identity", metavar="FILE",
        help="key file, made if it is not there: the peer stays the same across restarts. One for each running peer (default: a new identity each time)",
    )  # fmt: skip
    network.add_argument("--swarm-key", metavar="FILE", help="key of a private swarm, or its invitation for this peer's --identity; see swarm-bootstrap invite")
    network.add_argument("--public-name", type=short_name, default="", metavar="NAME", help="name to show others beside the peer id, 64 characters at most")
    network.add_argument("--max-upload", type=upload, metavar="RATE", help="send at most this many bytes per second, such as 2MB (default: no limit)")
    network.add_argument("--drain", type=number(0, 86400, float), default=DRAIN, metavar="SECONDS", help="how long Ctrl-C lets running answers finish or move")
    network.add_argument(
        "--coordinator", choices=("auto", "never"), default="auto",
        help="auto stands for election as the peer that plans routes for others (a little CPU, no prompts); never stays out of it",
    )  # fmt: skip
    network.add_argument(
        "--region",
        type=region_name,
        default=None,
        metavar="NAME",
        help="where this machine is, such as eu-west: peers of one region are taken to be near one another where nobody has measured it, and places "
        "that a region lacks are taken first; none says nothing (default: the continent of this machine's time zone)",
    )
    it.common()
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-serve", argv, _main)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().read(argv)
    check_addresses(addresses(args.initial_peers), addresses(args.announce))
    check_early(args.model, args.layers)
    hold_lifeline(args.lifeline_fd)
    if args.polite:
        make_way()
    set_threads(args.threads)
    sys.setswitchinterval(SWITCH)
    shown = screen()
    set_logging(args.debug, shown.handler, logging.INFO if shown.handler is None else logging.WARNING)
    if args.ready_fd is None:
        say_once("serve", SERVING, shown.say)
    return run(lambda stop: _settled(args, shown, stop), leave_at_once=True)


def wish_of(args: Any) -> Wish:
    """What the options ask for."""
    quantize = None if args.quantize == "none" else args.quantize
    asked = (args.model, args.layers, args.dtype, args.device, args.cache_tokens, args.max_memory, args.max_disk, args.public_name)
    compiling = {"compiled": args.compile == "wait", "eager": args.compile == "off"}
    return Wish(*asked, region(args.region), quantize, **compiling, offload=args.offload, on_disk=args.on_disk, threads=args.threads)


async def _settled(args: Any, shown: Screen, stop: Stop) -> int:
    try:
        return await _serve(args, shown, stop)
    finally:
        shown.settle()


async def _serve(args: Any, shown: Screen, stop: Stop) -> int:
    from swarm.compose import connect, meters, open_draft, open_notes, serving_peer

    wish = wish_of(args)
    with shown.progress(lambda done: f"hashing the files of {args.model}" if done else f"opening {args.model}") as hashing:
        hashing(0.0)
        checkpoint = await asyncio.to_thread(open_checkpoint, wish, hashing)
    draft = None if args.draft is None else await asyncio.to_thread(open_draft, args.draft, checkpoint)
    initial_peers = addresses(args.initial_peers) or public_peers()
    joining = connect(
        initial_peers,
        identity=args.identity,
        listen=True,
        host=args.host,
        port=args.port,
        announce=addresses(args.announce),
        serve_relay=not initial_peers,  # whoever begins a swarm is its entrance
        max_upload=args.max_upload,
        swarm_key=args.swarm_key,
        debug=args.debug,
    )
    async with joining as connection:
        spans = await choose(wish, checkpoint, connection)
        loader = Loading(wish, checkpoint, shown) if args.layers == AUTO else None
        async with announced_as_joining(wish, checkpoint, spans, connection):
            peer = serving_peer(
                connection,
                checkpoint.shape,
                await asyncio.to_thread(held, wish, checkpoint, spans, shown),
                name=args.public_name,
                region=wish.region,
                max_upload=args.max_upload,
                coordinate=args.coordinator == "auto",
                loader=loader,
                compiles=args.compile == "auto",
                meters=meters(args.device),
                polite=args.polite,
                notes=open_notes(),
                lasts=args.identity is not None,
                draft=draft,
            )
            if draft is not None and args.layers != AUTO and not any(0 in span for span in spans):
                shown.say(f"the draft model {args.draft} is idle here: only the peer that holds embed guesses")
        await _keep_serving(Post(args, shown, connection, peer, checkpoint.shape.layers), stop, new=not initial_peers)
    shown.say("left")
    return 0


@dataclass(frozen=True, slots=True)
class Post:
    """A peer at its post, and whoever watches it."""

    args: Any
    shown: Screen
    connection: Connection
    peer: Peer
    depth: int
    """Layers of the whole model."""

    def layers(self, spans: Sequence[Span]) -> str:
        return format_layers(spans, self.depth)

    def arrived(self, new: bool) -> None:
        """The swarm can see us."""
        args, addrs, status = self.args, self.connection.addrs, self.peer.status()
        layers = self.layers(status.spans)
        self.shown.say(f"serving layers {layers} of {args.model} as {self.connection.links.peer}")
        if status.tokens:
            self.shown.say(f"so far this peer has served {status.tokens:,} tokens, in {status.uptime / 3600:.1f} hours")
        if new:
            self.shown.say(f"{NO_PUBLIC_PEERS}, so a new swarm begins here, at {addrs[0]}")
            introduce(self.shown.say, addrs, args.model)
        tell_ready(args.ready_fd, {"peer_id": self.connection.links.peer, "addrs": list(addrs), "layers": layers})

    def _tell_move(self, before: Status, now: Status) -> None:
        if before.aim is None and now.aim is not None:
            self.shown.say(f"layers {self.layers([now.aim])} need this machine more than {self.layers(now.spans)}: handing running answers over, then moving")
        elif before.aim is not None and now.aim is None and now.state == "online":
            moved = before.aim in now.spans
            self.shown.say(f"serving layers {self.layers(now.spans)} from now on" if moved else f"staying with layers {self.layers(now.spans)} after all")

    def _who(self, peer: str | None) -> str:
        """With as much of its id as tells it apart: the line is to fit into 80 columns."""
        return "none yet" if peer is None else "this peer" if peer == self.connection.links.peer else f"…{short_id(peer)[-6:]}"

    async def watch(self) -> None:
        """A status line for as long as we serve, and a word when we move."""
        with self.shown.live() as show:
            rate, before = Rate(), self.peer.status()
            while True:
                status = self.peer.status()
                self._tell_move(before, status)
                before = status
                show(
                    [
                        ("state", status.state if status.aim is None else f"moving to {self.layers([status.aim])}"),
                        ("layers", self.layers(status.spans)),
                        ("sessions", str(status.sessions)),
                        ("served", f"{status.tokens:,}"),
                        ("tokens/s", f"{rate.update(status.tokens, time.monotonic()):.1f}"),
                        ("free cache", f"{status.free_tokens:,}"),
                        ("peers", str(status.peers)),
                        ("coordinator", self._who(status.coordinator)),
                    ],
                    machine(status),
                )
                await asyncio.sleep(STATUS_EVERY)


def machine(status: Status) -> list[tuple[str, str]]:
    """What the person whose machine it is wants to know of it; nothing before the first reading."""
    seen = status.readings
    if seen is None:
        return []
    temperatures = (("temperature", seen.temperature), ("GPU", seen.gpu_temperature))
    shown = [
        ("cpu here", f"{seen.ours:.0%}"),
        ("others", f"{seen.others:.0%}"),
        ("memory here", readable(seen.own)),
        ("free", f"{readable(seen.free)}{', too little' if status.short else ''}"),
        *((name, f"{degrees:.0f} °C") for name, degrees in temperatures if degrees is not None),
    ]
    return [*shown, ("polite", f"slowed to {status.share:.0%}")] if status.share < 1 else shown


async def _keep_serving(post: Post, stop: Stop, new: bool) -> None:
    serving = asyncio.create_task(post.peer.serve(lambda: post.arrived(new)), name="serve")
    watching = asyncio.create_task(post.watch(), name="status")
    try:
        await stop.asked(post.connection.failed, serving, watching)
        post.shown.say(f"leaving: running answers have {post.args.drain:g} s to finish or to move to other peers; Ctrl-C again stops at once")
        await _drain(post)
    except asyncio.CancelledError:
        post.shown.say("stopped at once")
        raise
    finally:
        for task in (watching, serving):
            task.cancel()
        await asyncio.wait({watching, serving})


async def _drain(post: Post) -> None:
    try:
        if not await post.peer.drain(post.args.drain):
            post.shown.say("some answers were still running")
    except RemoteError as error:
        log.warning("could not tell others that this peer leaves: %s", error)


class Rate:
    """Tokens a second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=round(5 / STATUS_EVERY))

    def update(self, tokens: int, now: float) -> float:
        self._seen.append((now, tokens))
        then, before = self._seen[0]
        return (tokens - before) / (now - then) if now > then else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
