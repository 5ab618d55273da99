"""Room: cli. What a swarm looks like, in a terminal: a map of who covers what, a table of peers, and one sentence that says what to add. Knows rich; looks at
`client.overview` and asks nobody."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swarm.core import printable, short_id

if TYPE_CHECKING:
    from rich.console import RenderableType

    from swarm.client.overview import CoverOverview, Overview, PeerOverview

EVENTS = 8
"""Of what happened the last so many."""

MARGIN = 4


def said(seen: Sequence[Overview]) -> str:
    """How complete everything is, in one sentence, or one for each model."""
    return "; ".join(each.sentence if len(seen) == 1 else f"{each.model}: {each.sentence}" for each in seen)


def pictured(seen: Sequence[Overview], contributed: Sequence[Any], width: int, *, events: bool = False) -> RenderableType:
    """Everything, one model below the other. `contributed` are `compose.Contribution`s."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for each in seen:
        parts += [*_model(each, width), Text()]
        if events and each.events:
            parts += [_events(each), Text()]
    parts.append(_contributed(seen, contributed))
    return Group(*parts)


def _model(seen: Overview, width: int) -> list[RenderableType]:
    from rich.text import Text

    heading = Text.assemble((seen.model, "bold"), f"  {seen.layers} layers, {_count(len(seen.peers), 'peer')}  ", _mark(seen.served))
    parts: list[RenderableType] = [heading, Text(seen.sentence, style="green" if seen.served else "bold red")]
    for cover in seen.covers:
        parts += [Text(), _map(cover, seen, width)]
    if seen.peers:
        parts += [Text(), _peers(seen)]
    leader = seen.coordinator
    parts.append(Text(f"coordinator: {short_id(leader.peer)}, term {leader.term}" if leader is not None else "coordinator: none", style="dim"))
    parts += [Text(printable(f"passed over: {short_id(peer)} ({why})"), style="yellow") for peer, why in sorted(seen.problems.items())]
    return parts


def _mark(served: bool) -> tuple[str, str]:
    return ("served completely", "bold green") if served else ("not served completely", "bold red")


def _map(cover: CoverOverview, seen: Overview, width: int) -> RenderableType:
    """How many peers serve each component now: a digit each, + for ten or more, … where somebody is loading what nobody serves, × where nobody is."""
    from rich.text import Text

    line = Text(f"{printable(cover.numerics)}, revision {printable(cover.revision[:8])}: who serves embed, layers 0 to {seen.layers - 1}, head\n", style="dim")
    room = max(width - MARGIN, 10)
    for at, (holders, coming) in enumerate(zip(cover.holders, cover.coming, strict=True)):
        if at and at % room == 0:
            line.append("\n")
        sign, style = ("…", "bold yellow") if not holders and coming else ("×", "bold white on red") if not holders else (_digit(holders), _shade(holders))
        line.append(sign, style=style)
    line.append(f"\nmissing: {cover.missing}" if cover.missing else "", style="bold red")
    line.append(f"\none peer alone: {cover.thin}" if cover.thin else "", style="yellow")
    return line


def _digit(holders: int) -> str:
    return str(holders) if holders < 10 else "+"


def _shade(holders: int) -> str:
    return "yellow" if holders == 1 else "green" if holders == 2 else "bold green"


def _peers(seen: Overview) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("peer", "layers", "state", "format"):
        table.add_column(name, overflow="fold")
    for name in ("ms/layer", "sessions", "free cache", "away", "heard"):
        table.add_column(name, justify="right")
    table.add_column("region")
    for peer in seen.peers:
        table.add_row(*(Text(printable(cell)) for cell in _row(peer, seen)), style=None if peer.serves else "yellow" if peer.state == "joining" else "red")
    return table


def _row(peer: PeerOverview, seen: Overview) -> list[str]:
    """Much of it is what strangers say of themselves: text, never rich's markup."""
    name = f"{short_id(peer.peer)}{f' {peer.name}' if peer.name else ''}{' (coordinates)' if peer.office == 'coordinator' else ''}"
    free = f"{peer.free_tokens / peer.cache_tokens:.0%} of {peer.cache_tokens:,}" if peer.cache_tokens else "–"
    away = "–" if peer.rtt is None else f"{peer.rtt:.0f} ms"
    state = peer.state if peer.share == 1 else f"{peer.state}, slowed to {peer.share:.0%}"
    return [name, peer.layers, state, peer.numerics, f"{peer.decode:.2f}", str(peer.sessions), free, away, f"{peer.age:.0f} s ago", peer.region or "–"]


def _events(seen: Overview) -> RenderableType:
    from rich.text import Text

    text = Text("lately\n", style="dim")
    for event in seen.events[-EVENTS:]:
        text.append(f"{time.strftime('%H:%M:%S', time.localtime(event.time))}  {event.text}\n", style="red" if event.kind in ("hole", "silent") else "")
    return text


def _contributed(seen: Sequence[Overview], contributed: Sequence[Any]) -> RenderableType:
    from rich.text import Text

    contributed = [one for one in contributed if one.tokens or one.peer in {peer.peer for each in seen for peer in each.peers}]
    if not contributed:
        return Text("this machine has not contributed yet: swarm-serve with --identity FILE, and what it serves is counted", style="dim")
    here = {peer.peer: f"serving layers {peer.layers} of {each.model} now" for each in seen for peer in each.peers if peer.serves}
    total = Text(
        f"this machine has contributed {sum(one.tokens for one in contributed):,} tokens in {_time(sum(one.seconds for one in contributed))}, "
        "by peers with an --identity of their own"
    )
    for one in contributed:
        total.append(f"\n  {short_id(one.peer)}  {one.tokens:,} tokens in {_time(one.seconds)}, {here.get(one.peer, 'not serving one of these models now')}")
    return total


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
