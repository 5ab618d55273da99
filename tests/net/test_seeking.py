"""Searches over a node that exists only here: what is noted of how many nodes there are. Which nodes a search asks is in `test_vicinity.py`."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from types import SimpleNamespace

import pytest
from hivemind.dht.routing import DHTID, RoutingTable

from swarm.net.guards.vicinity import NEAREST, SPACE, named
from swarm.net.seeking import survey
from tests.net.crowd import peer_at
from tests.net.virtual import run


def sizes(answering: int, silent: int, stalling: int = 0) -> list[float]:
    """What a survey notes among so many, all of whom it knows. Those that are silent take a second each, those that stall all the time there is."""
    lot = random.Random(answering)
    places = [DHTID(lot.randrange(SPACE)) for _ in range(answering + silent + stalling)]
    delays = dict(zip(map(peer_at, places), [0.1] * answering + [1.0] * silent + [1e9] * stalling, strict=True))
    table = RoutingTable(DHTID(7), len(places) + 1, 5)
    for place in places:
        table.add_or_update_node(place, peer_at(place))

    async def call(peer, keys):
        await asyncio.sleep(delays[peer])
        return {keys[0]: (None, {place: peer_at(place) for place in lot.sample(places, min(NEAREST, len(places)))})} if delays[peer] < 1.0 else None

    def neighbours(key, radius):
        return named(table, key, radius, lot)

    protocol = SimpleNamespace(routing_table=table, neighbours=neighbours, lot=lot, surveys=deque())
    run(survey(SimpleNamespace(protocol=protocol, node_id=DHTID(7), _filter_blacklisted=dict, _call_find_with_blacklist=call)))
    return list(protocol.surveys)


@pytest.mark.parametrize("answering", [1, 7, 60])
def test_a_survey_that_is_answered_notes_how_many_there_are(answering):
    [size] = sizes(answering, 0)
    assert answering / 2 < size < answering * 2


def test_a_few_that_are_gone_do_not_keep_it_from_being_noted():
    assert sizes(7, 3) and sizes(60, 20) and not sizes(0, 0)


def test_silence_is_not_a_small_swarm():
    assert not sizes(1, 12) and not sizes(5, 15)


def test_a_survey_that_was_cut_notes_nothing():
    assert not sizes(7, 0, stalling=1) and not sizes(60, 0, stalling=40)
