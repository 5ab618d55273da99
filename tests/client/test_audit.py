"""The auditor's own bounds. How audits end is seen on a stage (tests/sim/test_cheats.py) and among real processes (tests/attacks/test_cheats.py)."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from swarm.client.audit import UNDER_WAY, Auditor, Job, Made, Unclear
from swarm.client.audit import Testimony as Told
from swarm.client.trust import Trust
from swarm.core import Hop, Sampling, Span
from swarm.machines.audits import Audits
from swarm.routing.peers import PeerTable
from swarm.routing.table import PeerView
from swarm.wire import COMPRESSED, Blob, Shown


def test_however_long_others_take_to_make_work_again_few_audits_wait_for_them():
    async def main() -> None:
        host = SimpleNamespace(trust=Trust(), peer="me", table=PeerTable(), clock=lambda: 0.0, components=4)
        host.table.show(PeerView(peer, spans=(Span(0, 4),), revision="r", numerics="float32") for peer in ("a", "b", "c"))
        auditor = Auditor(host, Audits(1.0), lambda *_: True, random.Random(0))

        async def heard(job: Job, number: int) -> object:
            return "testimony"

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        auditor._hear, auditor._try = heard, never
        for number in range(3 * UNDER_WAY):
            auditor.turn(Job(number.to_bytes(16, "big"), 1, (Hop("a", 0, 4),), "r", "float32", (1, 2, 3), 2, Sampling(), True))
            await asyncio.sleep(0.001)
        assert len(auditor._tasks) == UNDER_WAY and not auditor._hearings
        await auditor.close()

    asyncio.run(main())


@pytest.mark.parametrize(("dtype", "asked"), [(COMPRESSED, {"new"}), ("float32", {"old", "new"})])
def test_who_knows_nothing_of_compressed_rows_is_no_referee_of_them(dtype, asked):
    """It would make exact rows, or none, and be taken for a liar."""
    seen: set[str] = set()

    async def main() -> None:
        host = SimpleNamespace(trust=Trust(), peer="me", table=PeerTable(), clock=lambda: 0.0, components=4)
        peers = {"suspect": True, "old": False, "new": True}
        host.table.show(PeerView(peer, spans=(Span(0, 2),), revision="r", numerics="float32", compresses=able) for peer, able in peers.items())
        auditor = Auditor(host, Audits(1.0), lambda *_: True, random.Random(0))

        async def nothing(job: Job, suspect: Hop, view: PeerView, testimony: Told) -> None:
            seen.add(view.peer)

        auditor._again = nothing
        rows = Blob(dtype, 6, memoryview(bytes(24)))
        job = Job(bytes(16), 1, (Hop("suspect", 0, 2), Hop("b", 2, 4)), "r", "float32", (1, 2, 3), 2, Sampling(), True)
        with pytest.raises(Unclear):
            await auditor._verdict(job, 0, Told(Made(Shown(bytes(16), 1, -1, 0, rows=rows), None), None, 0, 1))

    asyncio.run(main())
    assert seen == asked
