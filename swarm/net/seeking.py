"""Finding nodes of the DHT: the searches of `guards/searching.py`, asked of real ones. In the room `net`; knows hivemind's node, nothing of records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID

from swarm.net.guards.searching import Search
from swarm.net.guards.vicinity import NEAREST, SPACE, scattered, size_of

SEARCH_DEADLINE = 3.0
"""Seconds for a search. What was found by then counts; with frozen nodes among those who should answer it is most of it."""

SURVEY_DEADLINE = 10.0
"""Nobody waits for a survey, and one that time ran out for tells nothing: ghosts are asked a few at once, for a second each."""


async def seek(node: DHTNode, target: DHTID, radius: int, found: Callable[[Any], None] = lambda held: None, deadline: float = SEARCH_DEADLINE) -> Search:
    """Ask all around `target`, and hand on what they hold there. Of searches that time has run out for, what they had."""
    protocol, calls = node.protocol, dict[asyncio.Task[Any], DHTID]()
    near, roots = dict(protocol.neighbours(target, radius)), scattered(protocol.routing_table, protocol.lot)
    search = Search(target, radius, node._filter_blacklisted(near), node._filter_blacklisted(roots), node.node_id, protocol.lot)
    try:
        async with asyncio.timeout(deadline):
            while True:
                for place, peer in search.ask():
                    calls[asyncio.ensure_future(node._call_find_with_blacklist(peer, [target]))] = place
                if search.done:
                    break
                finished, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                for call in finished:
                    place, reply = calls.pop(call), call.result()
                    if reply is None:
                        search.failed(place)
                        continue
                    held, named = reply[target]
                    search.heard(place, named)
                    if held is not None:
                        found(held.value)
    except TimeoutError:
        pass
    finally:
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)
    return search


async def survey(node: DHTNode) -> None:
    """Look around a place that nobody could prepare for, and note how many nodes there must be in all. A search that was cut, or that few have answered, would
    say that there are next to none, and everybody would be asked for minutes."""
    search = await seek(node, DHTID(node.protocol.lot.randrange(SPACE)), 0, deadline=SURVEY_DEADLINE)
    if search.done and (len(search.answered) >= NEAREST or 2 * len(search.answered) > search.calls):
        node.protocol.surveys.append(size_of([distance for distance, _ in search.nearest()]))
