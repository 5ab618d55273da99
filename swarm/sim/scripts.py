"""The room `sim`, its scripts: what happens to a swarm while its guests talk. Each draws what it needs from the stage's own generator, so a seed is a run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from swarm.sim.swarm import Actor, Script, Server, Stage

REPLACED = 8.0
"""Seconds after which somebody new comes in place of one who went."""


def quiet(seconds: float) -> Script:
    """Nothing."""

    async def script(stage: Stage) -> None:
        await asyncio.sleep(seconds)

    return script


def repeated(act: Callable[[Stage], Awaitable[None] | None], every: tuple[float, float], seconds: float) -> Script:
    """One misfortune after another, with pauses between."""

    async def script(stage: Stage) -> None:
        end = stage.loop.time() + seconds
        while (pause := stage.random.uniform(*every)) < end - stage.loop.time():
            await asyncio.sleep(pause)
            if (going_on := act(stage)) is not None:
                await going_on
        await asyncio.sleep(max(end - stage.loop.time(), 0))

    return script


def anybody(stage: Stage, place: str = "") -> Server | None:
    """Somebody to hit: the first, a middle or the last hop of somebody's chain, or whoever serves."""
    chains = [stage.hops(guest) for guest in stage.guests.values() if guest.up]
    chains = [chain for chain in chains if chain and all(server in stage.serving for server in chain)]
    if not place or not chains:
        return stage.random.choice(stage.serving) if stage.serving else None
    chain = stage.random.choice(chains)
    return {"first": chain[0], "middle": stage.random.choice(chain[1:-1] or chain), "last": chain[-1]}[place]


def join(stage: Stage) -> None:
    stage.join()


def kill(place: str = "") -> Callable[[Stage], None]:
    """Kill, or in one of three cases the whole machine; somebody new comes a little later."""

    def act(stage: Stage) -> None:
        if (server := anybody(stage, place)) is not None:
            stage.kill(server, silently=stage.random.random() < 1 / 3)
            stage.later(REPLACED, stage.join)

    return act


def freeze(stage: Stage) -> None:
    """For a moment, or for longer than links are patient."""
    if (server := anybody(stage, stage.random.choice(["", "first", "middle", "last"]))) is not None:
        stage.freeze(server)
        stage.later(stage.random.choice([0.5, 2.5, 4.0, 12.0]) * stage.random.uniform(0.8, 1.25), lambda: stage.thaw(server))


def dethrone(stage: Stage) -> None:
    """The coordinator is killed, or freezes for long enough that another takes its place, and comes back believing that it still is one."""
    for server in stage.coordinators:
        if stage.random.random() < 0.5:
            stage.kill(server, silently=stage.random.random() < 0.5)
            stage.later(REPLACED, stage.join)
        else:
            stage.freeze(server)
            stage.later(stage.random.uniform(8.0, 20.0), partial(stage.thaw, server))


def drain(stage: Stage) -> None:
    if (server := anybody(stage, stage.random.choice(["", "first", "middle", "last"]))) is not None:
        stage.leave(server)
        stage.later(REPLACED, stage.join)


async def partition(stage: Stage) -> None:
    """Two sides, for less or more than links are patient; both may hold every layer, one of them, or none."""
    everybody = [actor.peer for actor in (*stage.servers.values(), *stage.guests.values()) if actor.up]
    share = stage.random.choice([0.1, 0.3, 0.5])
    stage.part([peer for peer in everybody if stage.random.random() < share])
    await asyncio.sleep(stage.random.choice([1.5, 3.0, 10.0, 30.0]) * stage.random.uniform(0.8, 1.25))
    stage.heal()


def hang(stage: Stage) -> None:
    """One at a time: a client gives up when the peers that it tries instead are silent too."""
    if any(server.hangs for server in stage.servers.values() if server.up):
        return
    if (server := anybody(stage, stage.random.choice(["first", "middle", "last"]))) is not None:
        stage.hang(server)
        stage.later(60.0, lambda: stage.kill(server))
        stage.later(REPLACED, stage.join)


def slow(stage: Stage) -> None:
    """Somebody who announces itself much faster than it is."""
    stage.join(slower=stage.random.choice([5.0, 20.0]))


def cut(stage: Stage) -> None:
    """A link between two of one chain, or of a guest and its first hop."""
    chains = [[guest, *stage.hops(guest)] for guest in stage.guests.values() if guest.up]
    chain: Sequence[Actor] = stage.random.choice(chains) if chains else []
    if len(chain) > 1:
        at = stage.random.randrange(len(chain))
        stage.cut(chain[at - 1], chain[at])


def guest(stage: Stage) -> None:
    """A guest goes without a word, and another comes."""
    guests = [guest for guest in stage.guests.values() if guest.up]
    if guests:
        stage.kill(stage.random.choice(guests), silently=stage.random.random() < 0.5)
    stage.visit()


def doze(stage: Stage) -> None:
    """A guest freezes for a while."""
    guests = [guest for guest in stage.guests.values() if guest.up and not guest.process.frozen]
    if guests:
        sleeper = stage.random.choice(guests)
        stage.freeze(sleeper)
        stage.later(stage.random.choice([1.0, 5.0, 40.0]), lambda: stage.thaw(sleeper))


CHURN = (join, kill(), kill("first"), kill("middle"), kill("last"), freeze, freeze, drain, dethrone, partition, hang, cut, cut, guest, doze)


def churn(stage: Stage) -> Awaitable[None] | None:
    return stage.random.choice(CHURN)(stage)


def crowd(count: int, seconds: float) -> Script:
    """Many guests at once."""

    async def script(stage: Stage) -> None:
        await asyncio.sleep(5.0)
        for _ in range(count):
            stage.visit()
        await asyncio.sleep(seconds)

    return script
