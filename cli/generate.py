"""swarm-generate: ask a swarm, and show the answer as it comes. Reads arguments and shows text; how an answer comes about is the client's business."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swarm.cli.answer import Answer, Beside
from swarm.cli.arguments import Parser, number, set_threads
from swarm.cli.asking import add_asking, asking, whom_of
from swarm.cli.notices import ASKING, say_once
from swarm.cli.process import reporting, run, set_logging
from swarm.cli.screen import screen, waiting
from swarm.client.stops import StopStrings
from swarm.core import Sampling, even_split
from swarm.errors import EmptyPrompt, NotAModel, PromptTooLong, UsageError

if TYPE_CHECKING:
    from swarm.local import LocalSwarm

EXAMPLES = """\
  swarm-generate "Explain quantum computing in simple terms" --model Qwen/Qwen3-8B --initial-peers /ip4/203.0.113.5/tcp/31337/p2p/12D3Koo…
  swarm-generate $'Q: sort 7 3 9 1\\nA:' --local 3 --show-route      the demo model, over three processes of this machine
"""


def parser() -> Parser:
    it = Parser("swarm-generate", "Ask a swarm, and show the answer as it comes.", EXAMPLES)
    it.add_argument("prompt", metavar="PROMPT", help="the text to go on from; - reads it from standard input, without its last line break")
    whom = it.add_argument_group("whom to ask")
    whom.add_argument("--model", help="hub id such as Qwen/Qwen3-8B, or a folder with at least configuration and tokenizer (default: the demo model)")
    whom.add_argument("--initial-peers", action="append", metavar="ADDR", help="multiaddr of any peer of the swarm (repeatable; default: the public list)")
    whom.add_argument("--local", type=number(1, 64), metavar="N", help="start N peers of the model on this machine, ask them, and end them")
    add_asking(whom)
    how = it.add_argument_group("how to answer")
    how.add_argument(
        "--max-new-tokens", type=number(1, math.inf), metavar="N", help="tokens to generate at most (default: 256, or what the model has room for)"
    )
    how.add_argument("--temperature", type=number(0, 100, float), default=0.0, help="0 is greedy: always the likeliest token")
    how.add_argument("--top-k", type=number(0, 2**31), default=0, help="draw from the K likeliest tokens only, 0 for all")
    how.add_argument("--top-p", type=number(0, 1, float), default=1.0, help="draw from the likeliest tokens that together have this probability, 1 for all")
    how.add_argument("--min-p", type=number(0, 1, float), default=0.0, help="leave out tokens below this share of the likeliest one's probability, 0 for none")
    how.add_argument("--repetition-penalty", type=number(0, 100, float), default=1.0, help="above 1 makes tokens that were already there less likely")
    how.add_argument("--seed", type=number(0, 2**63 - 1), help="draw the same answer each time (default: a new one)")
    how.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before this text (repeatable)")
    how.add_argument("--chat", action="store_true", help="ask the prompt as one question, in the model's own chat format")
    how.add_argument("--timeout", type=number(0.001, 1e9, float), metavar="SECONDS", help="give up an answer that takes longer (default: never)")
    how.add_argument("--show-route", action="store_true", help="then say which peers answered, how long each took per token, and tokens/s")
    it.common(hidden=False)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-generate", argv, _main, leave_at_once=True)


def _main(argv: Sequence[str] | None) -> int:
    args = parser().read(argv)
    options = _options(args)
    prompt = _prompt(args.prompt)
    initial_peers = whom_of(args)
    set_threads(None)
    answer = Answer()
    set_logging(args.debug, Beside(answer))
    model = args.model or _demo_model()
    _check_model(model, args.local)
    if args.local is None:
        _know_revision(model)
        say_once("generate", ASKING, _tell)
        return run(lambda stop: _ask(args, model, initial_peers, prompt, options, answer))
    with waiting(screen(sys.stderr), lambda: f"opening {model}"):
        layers = _local_layers(args, model, prompt)
    _know_revision(model)
    _tell(f"starting {args.local} peer{'s' if args.local > 1 else ''} on this machine, with layers {', '.join(layers)}")
    with start_local(model, layers, args.dtype) as local:
        return run(lambda stop: _ask(args, model, local.initial_peers, prompt, options, answer))


def _options(args: Any) -> dict[str, Any]:
    """What a session's stream takes. Raises InvalidSampling, and UsageError for an empty stop string, before anything is loaded."""
    drawing = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    Sampling(**drawing, seed=args.seed or 0)
    StopStrings(args.stop or ())
    return {**drawing, "seed": args.seed, "max_new_tokens": args.max_new_tokens, "stop": tuple(args.stop or ()), "chat": args.chat, "timeout": args.timeout}


def _prompt(text: str) -> str:
    if text == "-":
        try:
            text = sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"the prompt on standard input is not valid text ({error.reason} at byte {error.start}); pass it as UTF-8") from error
    if not text:
        raise EmptyPrompt
    return text


def _demo_model() -> str:
    import swarm

    return swarm.demo_model()


def _check_model(model: str, local: int | None) -> None:
    """What can be said of a model, and of so many peers for it, in less than the seconds that opening it takes. Raises ModelNotFound, NotAModel, UsageError."""
    from swarm.model.sources import layers_of

    layers = layers_of(model)
    if layers is not None and local is not None:
        local_layers(layers, local)


def _know_revision(model: str) -> None:
    """Read a folder's files to the end where that was never done, and show how far. It is remembered: the client, and each peer of a local swarm, would read
    them by itself, and without a word."""
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.sources import local_folder

    if local_folder(model) is None:
        return  # the hub tells hashes
    waits: contextlib.AbstractContextManager[Any] = waiting(screen(sys.stderr), lambda: f"opening {model}")
    if sys.stderr.isatty():
        waits = screen(sys.stderr).progress(lambda done: f"hashing the files of {model}, this once" if done else f"opening {model}")
    with waits as hashing:
        checkpoint = Checkpoint.open(model, hashing=hashing)
        with contextlib.suppress(NotAModel):  # only some of its files are here, or none: enough to ask
            _ = checkpoint.revision


def _local_layers(args: Any, model: str, prompt: str) -> tuple[str, ...]:
    """Which layers each local peer takes. What the files can tell is told here: to start peers takes many seconds more.

    Raises NotAModel, UnsafeWeights, HubUnreachable, PromptTooLong, UsageError.
    """
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.text import Text

    checkpoint = Checkpoint.open(model)
    checkpoint.check_complete()
    text = Text.open(checkpoint.small_files())
    length = len(text.encode_chat([{"role": "user", "content": prompt}]) if args.chat else text.encode(prompt))
    need, most = length + (args.max_new_tokens or 1), checkpoint.shape.max_length
    if need > most:
        raise PromptTooLong(need, most)
    return local_layers(checkpoint.shape.layers, args.local)


def start_local(model: str, layers: Sequence[str], dtype: str | None) -> LocalSwarm:
    """A local swarm that is ready. Says how far it is, where that takes long."""
    from swarm.local import LocalSwarm

    ready = 0

    def count(peers: int) -> None:
        nonlocal ready
        ready = peers

    with waiting(screen(sys.stderr), lambda: f"{ready} of {len(layers)} peers ready"):
        return LocalSwarm(model, layers, dtype=dtype, ready=count)


def local_layers(layers: int, peers: int) -> tuple[str, ...]:
    """What each of so many peers of this machine serves. Raises UsageError for more peers than layers."""
    if peers > layers:
        raise UsageError(f"this model has {layers} layers, so at most {layers} peers can share them; give a smaller --local")
    return even_split(layers, peers)


async def _ask(args: Any, model: str, initial_peers: Sequence[str], prompt: str, options: dict[str, Any], answer: Answer) -> int:
    from swarm import aio

    loop = asyncio.get_running_loop()
    began, allowed = loop.time(), options.pop("timeout", None)

    def left() -> float | None:
        """Of the seconds allowed for everything: joining, finding peers, answering."""
        return None if allowed is None else max(allowed - (loop.time() - began), 0.001)

    client = aio.Client(model, initial_peers=initial_peers, timeout=left(), **asking(args))
    async with contextlib.AsyncExitStack() as stack:
        stage = "joining the swarm"
        with waiting(screen(sys.stderr), lambda: stage):
            await stack.enter_async_context(client)
            client.check(prompt, **options)
            stage = f"joined the swarm, looking for peers that serve {model}"
            session = await stack.enter_async_context(await client.ready_session(timeout=left()))
        options["timeout"] = left()
        empty = True
        with answer:
            async with contextlib.aclosing(session.stream(prompt, **options)) as pieces:
                async for piece in pieces:
                    answer.write(piece)
                    empty = empty and not piece
        if empty:
            _tell(f"the answer is empty: the model ended it at once{', or began it with a --stop text' if options['stop'] else ''}")
        if args.show_route:
            _tell(session.route.explain())
    return 0


def _tell(text: str) -> None:
    """Beside the answer, never in it."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
