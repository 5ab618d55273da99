"""Room: cli. What a machine's examination found, in sentences: what is so, and what to do about it. Pure: figures in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.core import format_layers, readable

if TYPE_CHECKING:
    from swarm.cli.part import Fitting
    from swarm.net.reach import Answer, Reach

FINE, NOTE, TROUBLE = "fine", "note", "trouble"

OFFSET = 2.0
"""Seconds that a clock may be wrong: more and announcements, which live for 25 s, begin to look old or early (docs/protocol.md)."""

FAR = 0.15
"""Seconds there and back from which on a peer makes whoever shares a chain with it wait noticeably for every token."""

SPARE_DISK = 2 * 10**9
"""Bytes of disk to leave for everything else."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` is a word, `level` one of FINE, NOTE and TROUBLE (it should not serve so), `what` is so, `do` what to do about it, "" for nothing."""

    about: str
    level: str
    what: str
    do: str = ""


def of_reach(reach: Reach, port: int) -> list[Finding]:
    """From outside."""
    answers = reach.answers
    if not answers:
        return [Finding("reached", NOTE, "nobody was named who could try to reach this machine", "name a peer of the swarm with --initial-peers")]
    said = [answer for answer in answers if not answer.error]
    found = [
        Finding("entrance", TROUBLE if not said else NOTE, f"{_short(answer.entrance)}: {answer.error}", _ask_again(answer))
        for answer in answers
        if answer.error
    ]
    found += [_distance(answer) for answer in said]
    if not said:
        return found
    reached = sorted({addr for answer in said for addr in answer.reached})
    if reached:
        return [*found, Finding("reached", FINE, f"others reach this machine directly, at {', '.join(reached)}")]
    seen = sorted({answer.seen_at for answer in said if answer.seen_at})
    why = "; ".join(sorted({f"{addr}: {reason}" for answer in said for addr, reason in answer.results if reason}))
    where = seen[0] if seen else "this machine's outer address"
    forward = (
        f"forward TCP port {port or 'PORT'} of your router to this machine, open it in the firewall, and serve with --port {port or 'PORT'} "
        f"--announce /ip{6 if ':' in where else 4}/{where if seen else 'YOUR-ADDRESS'}/tcp/{port or 'PORT'}"
    )
    if reach.relayed:
        return [*found, Finding("reached", TROUBLE, f"others reach this machine only by a relay ({reach.relayed}), and swarm-serve asks for none yet", forward)]
    return [
        *found,
        Finding("reached", TROUBLE, f"others cannot reach this machine, seen at {where}{f' ({why})' if why else ''}, and no relay took it", forward),
    ]


def _distance(answer: Answer) -> Finding:
    what = f"{_short(answer.entrance)} answers in {1000 * answer.trip:.0f} ms and sees this machine at {answer.seen_at}"
    return Finding(
        "entrance",
        NOTE if answer.trip > FAR else FINE,
        what,
        "peers nearer to one another answer faster; say where you are with --region" if answer.trip > FAR else "",
    )


def _ask_again(answer: Answer) -> str:
    if "cannot tell" in answer.error:
        return "ask another peer of the swarm, or have this one updated"
    return "check that it runs, that its address is right to the last letter, and that no firewall here keeps TCP from going out"


def of_clock(answers: Iterable[Answer]) -> list[Finding]:
    offsets = sorted((answer.offset for answer in answers if not answer.error), key=abs)
    if not offsets:
        return []
    offset = offsets[len(offsets) // 2]  # one liar among three does not count
    if abs(offset) <= OFFSET:
        return [Finding("clock", FINE, f"it is within {max(abs(offset), 0.05):.1f} s of others'")]
    ahead = "behind" if offset > 0 else "ahead of"
    return [
        Finding(
            "clock", TROUBLE, f"it is {abs(offset):.1f} s {ahead} others', who will not believe what this machine announces", "set it by network time (NTP)"
        )
    ]


def of_port(host: str, port: int, problem: str) -> Finding:
    if problem:
        return Finding("port", TROUBLE, problem.partition(";")[0], problem.partition("; ")[2])
    free = f"port {port} on {host} is free" if port else f"some port on {host} is free"
    fixed = "" if port or host.startswith("127.") else "behind a router, choose a fixed one with --port, so that it can be forwarded"
    return Finding("port", FINE if not fixed else NOTE, free, fixed)


def of_memory(fit: Fitting, free: int, layers: int, where: str = "") -> Finding:
    """`where` names devices, "" for the machine's own memory."""
    held = format_layers(fit.spans, layers) if fit.spans else ""
    room = f"{readable(free)} are free{f' on {where}' if where else ''}, of which layers and cache may take {readable(fit.budget)}"
    if not fit.spans or fit.needs > fit.budget:
        less = f"--layers auto takes as many as fit, up to {fit.budget // max(fit.layer, 1)}" if fit.spans else "free some memory, or serve a smaller model"
        return Finding(
            "memory",
            TROUBLE,
            f"{room}: {f'layers {held} do not fit' if held else 'not even one layer fits'}, a layer takes {readable(fit.layer)}",
            f"{less}; --quantize int8 halves them, int4 quarters them",
        )
    many = min(fit.budget // max(fit.layer, 1), layers)
    return Finding("memory", FINE, f"{room}: about {many} of {layers} layers at {readable(fit.layer)} each would fit; it would serve layers {held}")


def of_disk(needed: int, free: int, limit: int | None, folder: str) -> Finding:
    if limit is not None and needed > limit:
        return Finding("disk", TROUBLE, f"the files of these layers take {readable(needed)}, more than --max-disk allows", "serve fewer layers, or allow more")
    if needed + SPARE_DISK > free:
        return Finding(
            "disk",
            TROUBLE,
            f"the files of these layers take up to {readable(needed)}, and {folder} has {readable(free)} free",
            "free some, or set HF_HOME to a folder on a larger disk",
        )
    what = f"the files of these layers take up to {readable(needed)}" if needed else "the model's files are here"
    return Finding("disk", FINE, f"{what}; {folder} has {readable(free)} free")


def of_speed(step: float, layers: int, tokens: float | None, alone: bool) -> Finding:
    """`step` is seconds in which one layer's weights are read; `tokens` are those that one answer would get a second with this machine in its chain, if reading
    were all."""
    what = f"to read the weights of {layers} layers takes {1000 * step * layers:.1f} ms ({1000 * step:.2f} ms each), which is most of a token's time here"
    if tokens is None:
        return Finding(
            "speed", NOTE, what + "; how fast answers are cannot be said while some layers are served by nobody", "swarm-status says what is missing"
        )
    return Finding(
        "speed",
        FINE,
        f"{what}; one answer {'over this machine alone' if alone else 'over the swarm, by way of this machine,'} would get at most about {tokens:.1f} tokens/s",
    )


def of_unmeasured_speed(where: str, layers: int) -> Finding:
    """A CPU's speed follows from how fast it reads; of other devices that says nothing."""
    return Finding("speed", NOTE, f"how fast {layers} layers run on {where} is not known before it is measured on a GPU: swarm-serve does that when it starts")


def of_compiler(found: str | None) -> Finding:
    if found is None:
        return Finding(
            "compiler",
            NOTE,
            "there is no C++ compiler, with which a CPU decodes about twice as fast",
            "install g++ (apt install g++, dnf install gcc-c++, xcode-select --install)",
        )
    return Finding("compiler", FINE, f"{found} is there, for code made for this processor")


def verdict(findings: Sequence[Finding]) -> str:
    trouble = [finding.about for finding in findings if finding.level == TROUBLE]
    if trouble:
        return f"mend this before it serves: {', '.join(dict.fromkeys(trouble))}"
    return "this machine can serve"


def _short(address: str) -> str:
    return address.partition("/p2p/")[0]
