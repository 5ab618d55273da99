"""Tokens/s of peers that are far apart, on one machine: what distance and computing allow, and what guesses make of it.

    python -m bench.far [--what plain,draft,lookup,same,sessions,client,upload,kill] [--hops 3,5] [--trips 20,50,100,200] [--model demo|random]
                        [--tokens 64] [--rounds 3] [--rates 100,10] [--plot far.png] [--json]

`--trips` are round trips between any two peers, in ms. The limit is one token per N one-way trips and the computing of N hops, as the hops themselves measure
it; a way is what Pings take in the same minute (half of the mean round trip), so that the emulator's own delay, and that of a busy machine, are in it.
Beside it stands Petals' pattern, 2N trips by way of a client at 50 ms from every peer, which is reckoned, not measured. Everything else is a ratio to the same
answers without guesses, taken in turns.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import mean
from typing import Any

import swarm
from bench.common import arguments, median, random_llama, show
from swarm.core import Hop, even_split
from swarm.demo import PROMPTS, draft_path
from swarm.far.line import Distance

Figures = dict[str, Any]

PETALS_CLIENT = 0.05
"""Seconds for a round trip between a client and each server."""

STORIES = ("Once upon a time", "One day, a little fox", "There was a girl named Lily", "In a quiet valley")

REPEATING = "Q: sort the words pear apple fox\nA: apple fox pear\n"
"""Four of it, and the model goes on with the fifth: text that it copies."""

NEAR = Distance()

SEED = 1
"""Of the answers of `same`."""

TRIPS = 3
"""Pings of a `Links.measure`."""

SETTLE = 6.0
"""Seconds for peers to measure one another, so that links are there when it begins."""


class World:
    """One swarm at one distance, with a client that wants no guesses and one that does."""

    def __init__(
        self, args: Any, hops: int, distance: Distance, *, draft: bool = False, client_link: Distance = NEAR, spare: bool = False, flags: Sequence[str] = ()
    ) -> None:
        from swarm.model.checkpoint import Checkpoint
        from swarm.model.text import Text

        self.folder, layers = (str(swarm.demo_model()), 12) if args.model == "demo" else (str(random_llama()), 32)
        self.args, self.hops, self.drafts = args, hops, draft
        spans = even_split(layers, hops)
        flags = ["--compile", args.compile, *(["--draft", str(draft_path())] if draft else []), *flags]
        self.local = swarm.LocalSwarm(
            self.folder, [*spans, *spans[1:2]] if spare else spans, dtype=args.dtype, threads=1, links=distance, client_link=client_link, arguments=flags
        )
        time.sleep(SETTLE)
        self.shape = Checkpoint.open(self.folder).shape
        self.text = Text.open(self.folder)
        self.off, self.on = (swarm.Client(self.folder, initial_peers=self.local.initial_peers, reuse=False, speculate=wants) for wants in (False, True))
        self.answer(self.off, self.encode(STORIES[0]), 8)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.off.close()
        self.on.close()
        self.local.close()

    def encode(self, text: str) -> list[int]:
        return self.text.encode(text) if self.args.model == "demo" else [ord(letter) for letter in text]

    def answer(self, client: swarm.Client, prompt: list[int], count: int, **options: Any) -> tuple[list[int], float, list[float]]:
        """Tokens, seconds for each after the first, and what each hop says that it takes for a step of one, in seconds."""
        times, tokens = [], []
        with client.session() as session:
            for token in session.stream_tokens(prompt, max_new_tokens=count, ignore_eos=True, **options):
                times.append(time.perf_counter())
                tokens.append(token)
            return tokens, (times[-1] - times[0]) / (len(times) - 1), [hop.milliseconds / 1e3 for hop in session.route.hops]

    def pair(self, prompt: list[int], count: int, **options: Any) -> tuple[float, float, list[int], list[float]]:
        """Seconds a token without guesses and with, the tokens, and the hops' steps."""
        tokens, off, steps = self.answer(self.off, prompt, count, **options)
        others, on, _ = self.answer(self.on, prompt, count, **options)
        if tokens != others and self.args.dtype == "float32":
            raise AssertionError("guesses have changed tokens")
        return off, on, tokens, steps

    def way(self) -> float:
        """Seconds from here to a peer, as Pings take them: the mean of some, with whatever else the machine does now. Clients of `plain` are as far from peers
        as these are from one another."""
        links = self.off._client._network.links

        async def pings() -> float:
            began, count = time.perf_counter(), 0
            for peer in self.local.peers:
                links.learn(peer.peer_id, peer.addrs)
                await links.measure(peer.peer_id)  # so that dialling does not count
            for _ in range(2):
                for peer in self.local.peers:
                    began, count = (time.perf_counter(), 0) if not count else (began, count)
                    await links.measure(peer.peer_id)
                    count += TRIPS
            return (time.perf_counter() - began) / count / 2

        return self.off._loop.call(pings())


def plain(args: Any, hops: int, trip: float) -> Figures:
    gaps, computes, ways = [], [], []
    with World(args, hops, Distance(trip / 2), client_link=Distance(trip / 2)) as world:
        for _ in range(args.rounds):
            ways.append(world.way())
            _, gap, steps = world.answer(world.off, world.encode(STORIES[0]), args.tokens)
            gaps.append(gap)
            computes.append(sum(steps))
    limits = [hops * way + computing for way, computing in zip(ways, computes, strict=True)]
    return {
        "plain, tok/s": 1 / median(gaps),
        "limit, tok/s": 1 / median(limits),
        "plain / limit": median([limit / gap for limit, gap in zip(limits, gaps, strict=True)]),
        "plain / limit of the nominal distance": median([(hops * trip / 2 + computing) / gap for gap, computing in zip(gaps, computes, strict=True)]),
        "computing, ms": median(computes) * 1e3,
        "one way by ping, ms": median(ways) * 1e3,
        "Petals' pattern, tok/s": 1 / (hops * PETALS_CLIENT + median(computes)),
    }


def acceptance(prompt: list[int], tokens: list[int], sampling: Any) -> tuple[float, float]:
    """How often the draft model says what was drawn, and the seconds that it takes for a token."""
    import torch

    from swarm.core import Span
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.sampling import DrawRequest, draw
    from swarm.model.span import Row, SpanModel

    torch.set_num_threads(1)  # as peers have
    checkpoint = Checkpoint.open(str(draft_path()))
    model = SpanModel.load(checkpoint, [Span(0, checkpoint.shape.components)])
    cache, right, line = model.new_cache(0, model.head + 1), 0, [*prompt, *tokens]
    model.run(0, model.head + 1, [Row(cache, 0, tuple(prompt[:-1]), None, ())]) if len(prompt) > 1 else None
    seconds = []
    for at in range(len(prompt), len(line)):
        began = time.perf_counter()
        (logits_KV,) = model.run(0, model.head + 1, [Row(cache, at - 1, (line[at - 1],), None, (0,))])
        right += draw(logits_KV, [DrawRequest(sampling, at, ())])[0].token == line[at]
        seconds.append(time.perf_counter() - began)
    return right / len(tokens), median(seconds)


def draft(args: Any, hops: int, trip: float) -> Figures:
    """Of the rounds together: three wrong guesses in 64 tokens, or four, are chance, and a bound from the acceptance of one answer is mostly that."""
    from swarm.core import Sampling

    ons, offs, rights, intervals = [], [], [], []
    with World(args, hops, Distance(trip / 2), draft=True) as world:
        for at in range(args.rounds):
            prompt, temperature = world.encode(STORIES[at % len(STORIES)]), (0.0, 0.7)[at % 2]
            off, on, tokens, steps = world.pair(prompt, args.tokens, temperature=temperature, seed=at)
            alpha, each = acceptance(prompt, tokens, Sampling(temperature=temperature, seed=at))
            ons.append(on)
            offs.append(off)
            rights.append(alpha)
            intervals.append(max(each, *steps))
    run = 1 / (1 - min(mean(rights), 0.999))
    bound = run / (mean(offs) + mean(intervals) * run)
    return {
        "draft, tok/s": 1 / mean(ons),
        "plain beside it, tok/s": 1 / mean(offs),
        "draft / plain": mean(offs) / mean(ons),
        "draft / plain, least": min(off / on for off, on in zip(offs, ons, strict=True)),
        "acceptance": mean(rights),
        "slowest part's time for a token, ms": mean(intervals) * 1e3,
        "bound, tok/s": bound,
        "draft / bound": 1 / mean(ons) / bound,
    }


def lookup(args: Any, hops: int, trip: float) -> Figures:
    repeats, fresh, speeds = [], [], []
    with World(args, hops, Distance(trip / 2)) as world:
        for at in range(args.rounds):
            off, on, *_ = world.pair(world.encode(REPEATING * 4), args.tokens)
            repeats.append(off / on)
            speeds.append(1 / on)
            off, on, *_ = world.pair(world.encode(STORIES[at % len(STORIES)]), args.tokens, temperature=1.5, seed=at)
            fresh.append(off / on)
    return {
        "lookup on text that repeats, tok/s": median(speeds),
        "lookup / plain, text that repeats": median(repeats),
        "lookup / plain, text without repeats": median(fresh),
        "least of these": min(fresh),
    }


def parting(one: list[int], other: list[int]) -> int | None:
    """Where two answers differ first; None where one is but the beginning of the other."""
    return next((at for at, (this, that) in enumerate(zip(one, other, strict=False)) if this != that), None)


def gap(model: Any, prompt: list[int], one: list[int], other: list[int], temperature: float, seed: int) -> float:
    """By how many logits one token won where two answers to a prompt part, as a whole model has it here: the draw's noise included, which is the same
    in both. Answers that part at a near-tie have been rounded differently; others are wrong."""
    from swarm.model.sampling import gumbel
    from swarm.model.span import Row

    at = parting(one, other)
    assert at is not None
    line, tokens = [*prompt, *one[:at]], (one[at], other[at])
    (logits_KV,) = model.run(0, model.head + 1, [Row(model.new_cache(0, model.head + 1), 0, tuple(line), None, (len(line) - 1,))])
    noise = gumbel(seed, len(line), tokens) if temperature else (0.0, 0.0)
    scores = [float(logits_KV[0, token]) + temperature * more for token, more in zip(tokens, noise, strict=True)]
    return abs(scores[0] - scores[1])


def gaps(args: Any, folder: str, parted: list[tuple[list[int], float, list[list[int]]]]) -> list[float]:
    from swarm.core import Span
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.span import SpanModel

    if not parted:
        return []
    checkpoint = Checkpoint.open(folder)
    model = SpanModel.load(checkpoint, [Span(0, checkpoint.shape.components)], dtype=args.dtype)
    return [gap(model, prompt, *answers, temperature, SEED) for prompt, temperature, answers in parted]


def same(args: Any, hops: int, trip: float) -> Figures:
    """Many short questions and stories, a few at once."""
    dice = random.Random(0)
    texts = [prompt.text for prompt in PROMPTS] + [f"Q: what is {dice.randrange(100)} + {dice.randrange(100)}?\nA:" for _ in range(120)]
    texts += [f"{dice.choice(STORIES)} {dice.choice(('in May', 'far away', 'at sea', 'at noon'))}, {dice.randrange(100)}" for _ in range(200 - len(texts))]
    asked = [(text, temperature) for temperature in (0.0, 0.7, 1.0) for text in texts[: args.prompts]]
    equal: list[bool] = []
    parted: list[tuple[list[int], float, list[list[int]]]] = []
    with World(args, hops, Distance(trip / 2), draft=True) as world:

        def ask(mine: list[tuple[str, float]]) -> None:
            for text, temperature in mine:
                prompt = world.encode(text)
                answers = [
                    list(client.generate_tokens(prompt, max_new_tokens=args.tokens, temperature=temperature, seed=SEED)) for client in (world.off, world.on)
                ]
                equal.append(answers[0] == answers[1])
                if parting(*answers) is not None:
                    parted.append((prompt, temperature, answers))

        together([lambda mine=asked[at::3]: ask(mine) for at in range(3)])
        folder = world.folder
    found = sorted(gaps(args, folder, parted))
    figures: Figures = {"answers": len(equal), "with the same tokens": sum(equal)}
    if len(equal) > sum(equal):
        figures |= {"ended elsewhere": len(equal) - sum(equal) - len(parted), "parted": len(parted)}
    if found:
        figures |= {"logits between the two tokens where they part, median": median(found), "most": found[-1], "all": [round(one, 4) for one in found]}
    return figures


def together(acts: list[Callable[[], Any]]) -> float:
    """Seconds until all are done. Raises what one of them raises: an answer that failed is none that was quick."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(acts)) as threads:
        for one in [threads.submit(act) for act in acts]:
            one.result()
    return time.perf_counter() - began


def sessions(args: Any, hops: int, trip: float) -> Figures:
    ratios = []
    with World(args, hops, Distance(trip / 2), draft=True) as world:
        for _ in range(args.rounds):
            prompts = [world.encode(STORIES[at % len(STORIES)] + f" {at}") for at in range(8)]
            seconds = [
                together([lambda prompt=prompt, client=client: world.answer(client, prompt, args.tokens) for prompt in prompts])
                for client in (world.off, world.on)
            ]
            ratios.append(seconds[0] / seconds[1])
    return {"8 sessions, guesses on / off": median(ratios)}


def client(args: Any, hops: int, trip: float) -> Figures:
    found: Figures = {}
    for far in (0.0, 0.1, 0.3):
        with World(args, hops, Distance(trip / 2), draft=True, client_link=Distance(far / 2)) as world:
            plains, drafts = [], []
            for at in range(args.rounds):
                off, on, *_ = world.pair(world.encode(STORIES[0]), args.tokens, temperature=0.7, seed=at)
                plains.append(1 / off)
                drafts.append(1 / on)
        found |= {f"client at {far * 1e3:g} ms, plain tok/s": median(plains), f"client at {far * 1e3:g} ms, draft tok/s": median(drafts)}
    return found


def compressed_ways(client: swarm.Client, prompt: list[int], numerics: str) -> int:
    """From how many hops of its route to the next rows travel compressed."""
    with client.session() as session:
        list(session.stream_tokens(prompt, max_new_tokens=1, ignore_eos=True))
        hops = [Hop(hop.peer_id, hop.start, hop.stop) for hop in session.route.hops]
    return sum(client._client.compresses(numerics, one, other) is True for one, other in pairwise(hops))


def upload(args: Any, hops: int, trip: float) -> Figures:
    """Seconds to the first token of a long prompt over slow lines, against the larger of sending and computing it: without compressed rows and with.
    Peers are told what their lines are, for on a busy machine they gauge them wrongly."""
    from swarm.wire import COMPRESSED, row_size

    found: Figures = {}
    prompt: list[int] = []

    def first(client: swarm.Client) -> float:
        began = time.perf_counter()
        with client.session() as session:
            for _ in session.stream_tokens(prompt, max_new_tokens=1, ignore_eos=True):
                return time.perf_counter() - began
        raise AssertionError("no token")

    with World(args, hops, Distance(trip / 2)) as world:
        prompt += [(31 * at + 7) % 200 for at in range(min(args.prompt, world.shape.max_length - 1))]  # of the demo model, 1023
        computing = min(first(world.off) for _ in range(2))
        size = row_size("float32" if args.dtype == "float32" else "bfloat16", world.shape.hidden)
    for rate in map(float, args.rates.split(",")):
        with (
            World(args, hops, Distance(trip / 2, rate=rate * 1e6 / 8), flags=["--max-upload", f"{rate * 1e3 / 8:g}KB"]) as world,
            swarm.Client(world.folder, initial_peers=world.local.initial_peers, reuse=False, speculate=False, compress=True) as small,
        ):
            compressed = compressed_ways(small, prompt[:8], args.dtype)
            taken = [min(times) for times in zip(*((first(world.off), first(small)) for _ in range(args.rounds)), strict=True)]
        found[f"{rate:g} Mbit/s: ways compressed"] = compressed
        packed = row_size(COMPRESSED, world.shape.hidden) if compressed else size
        for name, seconds, row in (("", taken[0], size), (", compressing", taken[1], packed)):
            sending = len(prompt) * row * 8 / (rate * 1e6)
            found |= {
                f"{rate:g} Mbit/s{name}: first token, s": seconds,
                f"{rate:g} Mbit/s{name}: sending, s": sending,
                f"{rate:g} Mbit/s{name} / larger": seconds / max(sending, computing),
            }
    return {f"{len(prompt)} tokens computed in, s": computing, **found}


def kill(args: Any, hops: int, trip: float) -> Figures:
    """The second hop dies in the middle of an answer, a spare alive."""
    found: Figures = {}
    tokens: dict[str, list[int]] = {}
    for name in ("undisturbed", "plain", "draft"):
        with World(args, hops, Distance(trip / 2), draft=True, spare=True) as world, (world.off if name == "plain" else world.on).session() as session:
            tokens[name] = []
            for token in session.stream_tokens(world.encode(STORIES[0]), max_new_tokens=args.tokens, ignore_eos=True):
                tokens[name].append(token)
                if len(tokens[name]) == args.tokens // 2 and name != "undisturbed":
                    next(peer for peer in world.local.peers if peer.peer_id == session.route.hops[1].peer_id).kill()
            if name != "undisturbed":
                found[f"{name}: longest gap, s"] = session.longest_gap
                found[f"{name}: same tokens"] = tokens[name] == tokens["undisturbed"]
    return found


KINDS = {kind.__name__: kind for kind in (plain, draft, lookup, same, sessions, client, upload, kill)}

WITHOUT_DRAFT = {"plain", "lookup", "upload"}
"""Those that a model without a draft model can be asked for."""


def plot(path: str, rows: list[Figures]) -> None:
    """One line for each kind, over the round trip. matplotlib comes with `pip install matplotlib`; figures need none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panes = pyplot.subplots(1, len({row["hops"] for row in rows}), squeeze=False, figsize=(10, 4), sharey=True)
    for pane, hops in zip(panes[0], sorted({row["hops"] for row in rows}), strict=True):
        mine = [row for row in rows if row["hops"] == hops]
        for name in sorted({name for row in mine for name in row if name.endswith("tok/s")}):
            having = [row for row in mine if name in row]
            pane.plot([row["round trip, ms"] for row in having], [row[name] for row in having], marker="o", label=name.removesuffix(", tok/s"))
        pane.set(title=f"{hops} hops", xlabel="round trip between hops, ms", ylabel="tokens/s", yscale="log")
        pane.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--what", default="plain,draft", help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--hops", default="3,5")
    parser.add_argument("--trips", default="20,50,100,200", help="round trips between peers, in ms")
    parser.add_argument("--model", choices=("demo", "random"), default="demo")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prompt of `upload`, as far as the model takes so many")
    parser.add_argument("--rates", default="100,10", help="what peers can send in `upload`, in Mbit/s")
    parser.add_argument("--prompts", type=int, default=200, help="of `same`, at each of three temperatures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", choices=("wait", "off"), default="off")
    parser.add_argument("--plot", metavar="FILE", help="draw tokens/s over the round trip into this PNG; needs matplotlib")
    args = parser.parse_args()
    kinds = args.what.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"there is no {unknown[0]}; --what takes some of {', '.join(KINDS)}")
    if args.model == "random" and not WITHOUT_DRAFT.issuperset(kinds):
        parser.error(f"the draft model has the tokens of the demo model; with --model random, --what takes some of {', '.join(sorted(WITHOUT_DRAFT))}")
    rows = []
    for hops in map(int, args.hops.split(",")):
        for trip in map(float, args.trips.split(",")):
            row: Figures = {"hops": hops, "round trip, ms": trip}
            for what in kinds:
                row |= (found := KINDS[what](args, hops, trip / 1e3))
                show(f"far: {what}, {args.model}, {hops} hops, round trip {trip:g} ms", found, args.json)
            rows.append(row)
    if args.plot:
        plot(args.plot, rows)


if __name__ == "__main__":
    main()
