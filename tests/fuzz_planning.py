"""Fuzzing of what is made of strangers' words once they are decoded: announcements and requests that are well formed and absurd go into a coordinator's table,
its election and its planning, and into a client's. Part of `make fuzz`; `tests/test_fuzz.py` runs a few worlds in the default tests.

Whatever they say, somebody gets a route, or hears that there is none. Time is virtual, and a seed is a world.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import time
from random import Random

from swarm import wire
from swarm.core import Hop
from swarm.errors import ProtocolError, SwarmError
from swarm.routing.load import announced
from swarm.routing.peers import PeerTable
from swarm.routing.placement import choose_spans
from swarm.routing.plan import choose_class, plan
from swarm.routing.route import Request
from tests.net.helpers import announcement
from tests.net.virtual import run
from tests.peer.test_coordinator import MODEL, World

COMPONENTS = 4


class Stranger:
    """Says what passes the decoder."""

    def __init__(self, random: Random) -> None:
        self.random, self.one = random, random.choice

    def count(self) -> int:
        return self.one([0, 1, 2, 3, 4, 5, 7, 100, 2**31, 2**53])

    def seconds(self) -> float:
        return self.one([0.0, 1e-320, 1e-9, 0.001, 0.01, 1.0, 1e6])

    def announcement(self, name: str) -> wire.Announcement | None:
        """None for one that nobody would have decoded."""
        one, count, seconds = self.one, self.count, self.seconds
        absurd = {
            "decode": seconds, "prefill": seconds, "cache_tokens": count, "free_tokens": count, "max_length": count, "sessions": count, "busy": count,
            "span_version": count, "sequence": count, "head_weight": lambda: one([0.0, 1e4, 1.0, 1e-320]), "share": lambda: one([1.0, 5e-324, 0.5]),
            "upload": lambda: one([0.0, 1e-300, 1e12, 1e6, 5e-324]), "state": lambda: one(["online", "joining", "leaving", "weird", ""]),
            "region": lambda: one(["", "eu", "x" * 64]), "draft": lambda: one(["", "d"]), "revision": lambda: one(["r", "q"]),
            "numerics": lambda: one(["float32", "bfloat16", "float32-int8", "float32-mixed", "", "-"]), "components": lambda: one([4, 4, 4, 0, 2**53]),
            "rtts": lambda: {one(["p1", "p2", "me", "zz"]): seconds() for _ in range(one([0, 1, 3]))},
            "spans": lambda: tuple(one([(0, 4), (0, 1), (1, 3), (3, 4), (2, 2), (0, 2**53), (3, 1), (0, 2), (2, 4)]) for _ in range(one([1, 1, 2]))),
            "addrs": lambda: tuple(one(["", "x" * 512, "/ip4/1.2.3.4/tcp/1", "é" * 200]) for _ in range(one([0, 1, 16]))),
            "time": lambda: 10.0**9 + one([0, 1, -1e9, 1e300]), "claim": self._claim,
        }  # fmt: skip
        said = announcement(name, **{field: make() for field, make in absurd.items() if self.random.random() < 0.35})
        with contextlib.suppress(ProtocolError):
            return wire.decode_announcement(wire.encode(said))
        return None

    def _claim(self) -> wire.Claim | None:
        count = self.count
        claim = wire.Claim("claim", count(), tuple(count() for _ in range(self.one([0, 1, 8]))), self.one([1, 16]))
        return self.one([None, claim, wire.Claim("nonsense", 3), wire.Claim("candidate", 1, (1,)), wire.Claim("released", count())])

    def request(self) -> wire.RouteRequest:
        one, count = self.one, self.count
        hops = [Hop(one(["p1", "p2", "zz", "me"]), one([0, 1, 2, 3, 5, -1]), one([0, 1, 2, 4, 3, 9])) for _ in range(one([0, 0, 1, 2]))]
        return wire.RouteRequest(
            number=1, session=self._session(), config_hash=MODEL, revision=one(["r", "q"]), numerics=one(["float32", "float32-mixed", "bfloat16"]),
            tokens_needed=count(), prompt=count(), output=count(), own=tuple(one([(0, 1), (3, 4), (0, 4), (2, 1), (1, 2)]) for _ in range(one([0, 0, 1, 2]))),
            rtts={one(["p1", "zz"]): self.seconds() for _ in range(one([0, 2]))}, exclude=tuple(one(["p1", "p2", "me"]) for _ in range(one([0, 1, 2]))),
            old=one([tuple(hops), tuple(hops), (Hop("p1", 0, 2), Hop("p2", 2, 4))]), slower={one(["p1", "zz"]): one([5e-324, 1e6, 2.0])},
            row_bytes=one([0, 2**24, 4]), tentative=self.random.random() < 0.3, packed_bytes=one([0, 2**24, 2]),
        )  # fmt: skip

    def messages(self) -> list[wire.Message]:
        """What else a coordinator is told."""
        ended = self.random.random() < 0.3
        poll = wire.Poll(1, MODEL, self.one([None, wire.Claim("claim", self.count(), (1,))]), self.count())
        return [*(self.request() for _ in range(4)), poll, wire.Polled(self.count(), ended), wire.Progress(self._session(), self.count(), ended)]

    def _session(self) -> bytes:
        return bytes([self.random.randrange(4)]) * 16


class _Bugs(logging.Handler):
    """A bug behind `errors.contained` ends nothing, and is one all the same."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.seen.append(record.exc_info[1])


def fuzz_world(seed: int) -> None:
    """One world. Raises what nobody foresaw."""
    bugs, stranger = _Bugs(), Stranger(Random(seed))
    log = logging.getLogger("swarm")
    log.addHandler(bugs)
    try:
        run(_live(stranger))
    finally:
        log.removeHandler(bugs)
    if bugs.seen:
        raise bugs.seen[0]


async def _live(stranger: Stranger) -> None:
    coordinator = World().add("me")
    living = asyncio.create_task(coordinator.run())
    await asyncio.sleep(0)
    for _ in range(6):
        names = [f"p{number}" for number in range(stranger.one([1, 2, 3, 6]))]
        records = [record for name in names if (record := stranger.announcement(name)) is not None]
        await coordinator.know(records)
        for message in stranger.messages():
            coordinator.receive(stranger.one(["client", "p1"]), message)
        await asyncio.sleep(stranger.one([0.01, 3, 12]))
        if living.done():
            living.result()
        _plan(stranger, records)
    living.cancel()
    await asyncio.wait({living})


def _plan(stranger: Stranger, records: list[wire.Announcement]) -> None:
    """As a client does, and a peer that looks for its place."""
    table = PeerTable()
    table.update(records, COMPONENTS)
    request = Request(COMPONENTS, tokens_needed=stranger.one([0, 5, 2**53]), prompt=stranger.one([1, 2**31]), row_bytes=stranger.one([0, 4096]))
    with contextlib.suppress(SwarmError):
        choose_class(table.atlases, stranger.one([None, "r"]), COMPONENTS, None, request)
    for atlas in (*table.atlases.values(), *table.mixed.values()):
        with contextlib.suppress(SwarmError):
            plan(atlas, request, announced(atlas.views.values()))
        with contextlib.suppress(SwarmError):
            choose_spans(atlas.views.values(), COMPONENTS, (1, 1, 1, 1), 2, 0.01, "eu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("swarm").propagate = False  # what is passed over is said of each
    begin = time.monotonic()
    for seed in range(args.seed, args.seed + args.worlds):
        try:
            fuzz_world(seed)
        except Exception:
            print(f"finding: --worlds 1 --seed {seed}", flush=True)
            raise
    print(f"{args.worlds:,} worlds of absurd announcements and requests planned with in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
