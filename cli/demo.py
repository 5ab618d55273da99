"""What `make demo` runs: a whole swarm on this machine answers, and goes on answering while one of its peers is killed.

Says on the screen what happens, and exits with 1 unless every answer is the expected one and the killed run gave the tokens of the undisturbed one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.cli.arguments import Parser, set_threads
from swarm.cli.process import reporting, set_logging
from swarm.cli.screen import screen, waiting
from swarm.core import short_id
from swarm.demo import PROMPTS, STORY, Prompt

if TYPE_CHECKING:
    from rich.console import Console

    from swarm.client.sync import Client, Session
    from swarm.local import LocalPeer, LocalSwarm

LAYERS = ("0:4", "4:8", "8:12")
SPARE = "4:8"

KILL_AFTER = 40
"""Pieces of text before the kill: far enough in that there is a past to rebuild, with most of the story still to come."""

STORY_TOKENS = 400
ANSWER_TOKENS = 120

EXAMPLES = """\
  make demo
  python -m swarm.cli.demo --model ./another-model
"""


def parser() -> Parser:
    it = Parser("swarm-demo", "Start a swarm on this machine, ask it a few questions, and kill one of its peers while it tells a story.", EXAMPLES)
    it.add_argument("--model", help="folder of another model of 12 layers; its answers are shown but not judged (default: the demo model)")
    it.common(hidden=False)
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-demo", argv, _main)


def _main(argv: Sequence[str] | None) -> int:
    import swarm

    args = parser().read(argv)
    set_threads(None)
    set_logging(args.debug)
    return Show(_console(), args.model or swarm.demo_model(), judged=args.model is None).run()


def _console() -> Console:
    """Colours on a terminal, plain text elsewhere; lines are never broken in two."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Telling:
    """One way through the story."""

    tokens: tuple[int, ...]
    tokens_per_second: float
    longest_gap: float
    reroutes: int
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Strike:
    """Who was killed, and who shared the chain with it."""

    victim: LocalPeer
    before: tuple[str, ...]


class Show:
    def __init__(self, console: Console, model: str, judged: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._model, self._judged, self._clock = console, model, judged, clock
        self._wrong: list[str] = []

    def run(self) -> int:
        import swarm
        from swarm.cli.generate import start_local

        began = self._clock()
        self._head(f"Starting a bootstrap peer and {len(LAYERS) + 1} serving peers, each a process of its own with only its own layers")
        with start_local(self._model, [*LAYERS, SPARE], "float32") as local:
            for at, peer in enumerate(local.peers):
                self._say(f"  pid {peer.pid:<7} {short_id(peer.peer_id)}  layers {peer.layers:<5}{'  (a spare)' if at == len(LAYERS) else ''}")
            with waiting(screen(sys.stderr), lambda: "joining the swarm"):
                client = swarm.Client(self._model, initial_peers=local.initial_peers, dtype="float32")
            with client:
                self._say(f"  ready after {self._clock() - began:.1f} s", "dim")
                self._answer(client)
                self._survive(client, local)
        took = f"({self._clock() - began:.0f} s in all)"
        if self._wrong:
            self._head(f"Not as it should be: {'; '.join(self._wrong)} {took}", "bold red")
            return 1
        self._head(f"Everything as it should be {took}", "bold green")
        return 0

    # --- acts -------------------------------------------------------------------------------------------------------------------------------------------------

    def _answer(self, client: Client) -> None:
        self._head("Questions: every answer passes through three processes")
        for prompt in PROMPTS:
            with client.session() as session:
                self._judge(prompt, session)
                report = session.route.explain()
        self._head("The route of the last answer")
        self._say(_indented(report))

    def _judge(self, prompt: Prompt, session: Session) -> None:
        self._say(_indented(prompt.text), end="")
        answer = "".join(self._shown(session.stream(prompt.text, max_new_tokens=ANSWER_TOKENS))).strip()
        if not self._judged:
            self._say("")
        elif answer == prompt.answer:
            self._say(f"   ✓ as expected ({prompt.what})", "green")
        else:
            self._say(f"   ✗ expected {prompt.answer!r} ({prompt.what})", "red")
            self._wrong.append(f"a wrong answer where it {prompt.what}")

    def _survive(self, client: Client, local: LocalSwarm) -> None:
        self._head("A story, undisturbed")
        calm = self._tell(client)
        self._say(f"  {len(calm.tokens)} tokens, {calm.tokens_per_second:.0f} tokens/s, longest gap between two {calm.longest_gap * 1000:.0f} ms", "dim")
        self._head("The same story, and the peer in the middle is killed (kill -9) while it is told")
        strikes: list[Strike] = []
        rough = self._tell(client, lambda session: strikes.append(self._kill(session, local)))
        self._verdict(calm, rough, strikes, local)

    def _tell(self, client: Client, strike: Callable[[Session], object] | None = None) -> Telling:
        with client.session() as session:
            self._say(f"  {STORY}", end="")
            for at, _ in enumerate(self._shown(session.stream(STORY, max_new_tokens=STORY_TOKENS)), 1):
                if strike is not None and at == KILL_AFTER:
                    strike(session)
            self._say("")
            route = session.route
            return Telling(session.tokens, route.tokens_per_second, session.longest_gap, route.reroutes, _peers(session))

    def _kill(self, session: Session, local: LocalSwarm) -> Strike:
        route = _peers(session)
        victim = next(peer for peer in local.peers if peer.peer_id == route[len(route) // 2])
        victim.kill()
        self._say("")
        self._say(f"  ── killed pid {victim.pid}, {short_id(victim.peer_id)}, which ran layers {victim.layers} of this answer ──", "bold red")
        self._say("  …", end="")
        return Strike(victim, route)

    def _verdict(self, calm: Telling, rough: Telling, strikes: Sequence[Strike], local: LocalSwarm) -> None:
        if not strikes or not rough.reroutes:
            self._wrong.append("the story was over before anybody could be killed")
        for strike in strikes:
            for peer in local.peers:
                if peer.peer_id in rough.peers and peer.peer_id not in strike.before:
                    self._say(f"  pid {peer.pid}, {short_id(peer.peer_id)}, took over layers {peer.layers}", "bold")
        same = calm.tokens == rough.tokens
        self._say(f"  longest gap between two tokens: {rough.longest_gap * 1000:.0f} ms")
        self._say(f"  same tokens as undisturbed: {'yes' if same else 'no'} ({len(rough.tokens)} and {len(calm.tokens)})", "bold green" if same else "bold red")
        if not same:
            self._wrong.append("the killed run gave other tokens than the undisturbed one")

    # --- the screen -------------------------------------------------------------------------------------------------------------------------------------------

    def _shown(self, pieces: Iterable[str]) -> Iterator[str]:
        """Each piece, after it was shown; further lines begin where the first did."""
        for piece in pieces:
            self._say(piece.replace("\n", "\n  "), end="")
            self._console.file.flush()
            yield piece

    def _head(self, text: str, style: str = "bold cyan") -> None:
        self._say("")
        self._say(text, style)

    def _say(self, text: str, style: str | None = None, end: str = "\n") -> None:
        self._console.print(text, style=style, end=end)


def _peers(session: Session) -> tuple[str, ...]:
    return tuple(hop.peer_id for hop in session.route.hops)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


if __name__ == "__main__":
    raise SystemExit(main())
