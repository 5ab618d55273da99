"""A directory of a thousand nodes as ids alone: real routing tables, real searches, no network. Some stand wherever chance puts them, some were made to stand
around one key; those answer at once, keep nothing and name nobody but one another, and perhaps such as nobody runs."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Sequence
from functools import cache

from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.dht.traverse import traverse_dht
from hivemind.p2p import PeerID

from swarm.net.guards.placing import MAX_NEIGHBOURS
from swarm.net.guards.searching import Search
from swarm.net.guards.vicinity import NEAREST, SPACE, named, radius_of, scattered, size_of

REPLICAS = 5
KNOWN = 0.5
"""Of honest nodes, how many one has met beside its neighbours."""


@cache
def peer_at(place: DHTID) -> PeerID:
    return PeerID(place.to_bytes())


class Crowd:
    def __init__(self, honest: int, sybils: int, seed: int, spread: float = 0.0, ghosts: int = 0, first: bool = False) -> None:
        """The sybils stand nearer to the key than every honest node or, with `spread`, within so much of the space; `first` have met everybody before any
        honest node has."""
        self.lot = random.Random(seed)
        self.key = self._anywhere()
        self.honest = sorted(self._anywhere() for _ in range(honest))
        near = int(spread * SPACE) or min(self.key ^ place for place in self.honest)
        self.sybils = [DHTID(self.key ^ self.lot.randrange(near)) for _ in range(sybils)]
        self.ghosts = [DHTID(self.key ^ self.lot.randrange(near)) for _ in range(ghosts)]
        self._alive, self._is_honest = {*self.honest, *self.sybils}, set(self.honest)
        self._first = first
        self._tables: dict[DHTID, RoutingTable] = {}
        self._radii: dict[DHTID, int] = {}
        self.calls = 0

    def _anywhere(self) -> DHTID:
        return DHTID(self.lot.randrange(SPACE))

    def table(self, place: DHTID) -> RoutingTable:
        """Of a honest node: its neighbours, some others, and every sybil, who has seen to that."""
        if place not in self._tables:
            table = self._tables[place] = RoutingTable(place, NEAREST, 5)
            others = sorted((one for one in self.honest if one != place), key=place.xor_distance)
            met = [*others[:NEAREST], *(one for one in others[NEAREST:] if self.lot.random() < KNOWN)]
            met = [*self.sybils, *met] if self._first else self.lot.sample([*met, *self.sybils], len(met) + len(self.sybils))
            for one in met:
                table.add_or_update_node(one, peer_at(one))
        return self._tables[place]

    def client(self) -> DHTID:
        """Somebody new, who has looked for his own place through one honest node."""
        place = self._anywhere()
        table = self._tables[place] = RoutingTable(place, NEAREST, 5)
        way = self.lot.choice(self.honest)
        table.add_or_update_node(way, peer_at(way))
        for one in self.search(place, place, 0).answered:
            table.add_or_update_node(one, peer_at(one))
        return place

    def radius(self, place: DHTID) -> int:
        """By what it knows of its own place, and a look around another."""
        if place not in self._radii:
            own = [place ^ one for one, _ in self.table(place).get_nearest_neighbors(place, NEAREST)]
            target = self._anywhere()
            search = self.search(place, target, 0)
            looked = [distance for distance, _ in search.nearest()]
            for one in search.answered:
                self.table(place).add_or_update_node(one, peer_at(one))
            self._radii[place] = radius_of([size_of(own), size_of(looked)])
        return self._radii[place]

    def reply(self, asked: DHTID, asker: DHTID, target: DHTID, radius: int | None) -> dict[DHTID, PeerID] | None:
        self.calls += 1
        if asked not in self._alive:
            return None
        if asked in self._is_honest:
            table = self.table(asked)
            told = table.get_nearest_neighbors(target, NEAREST, asker) if radius is None else named(table, target, self._known_radius(asked), self.lot, asker)
            return dict(told)
        names = [*self.sybils, *self.ghosts]
        return {one: peer_at(one) for one in self.lot.sample(names, min(NEAREST if radius is None else MAX_NEIGHBOURS, len(names)))}

    def _known_radius(self, place: DHTID) -> int:
        own = [place ^ one for one, _ in self.table(place).get_nearest_neighbors(place, NEAREST)]
        return self._radii.get(place, radius_of([size_of(own)]))

    def search(self, asker: DHTID, target: DHTID, radius: int) -> Search:
        """The honest answer later than the sybils, and silence is noticed last."""
        table = self.table(asker)
        near, flying, clock, count = dict(named(table, target, radius, self.lot)), [], 0.0, 0
        search = Search(target, radius, near, scattered(table, self.lot), asker, self.lot)
        while True:
            for place, _ in search.ask():
                count += 1
                heapq.heappush(flying, (clock + (1.0 if place in self._is_honest else 0.1 if place in self._alive else 9.0), count, place))
            if search.done:
                return search
            clock, _, place = heapq.heappop(flying)
            told = self.reply(place, asker, target, radius)
            search.failed(place) if told is None else search.heard(place, told)

    def holders(self, writer: DHTID) -> set[DHTID]:
        """With whom it stores."""
        radius = self.radius(writer)
        row = [*self.search(writer, DHTID(self.key ^ 1), radius).answered]
        if writer in self._is_honest:
            row.append(writer)
        row.sort(key=self.key.xor_distance)
        return set(row[: max(REPLICAS, sum(self.key ^ place < radius for place in row))])

    def asked(self, reader: DHTID) -> set[DHTID]:
        return set(self.search(reader, self.key, self.radius(reader)).answered)

    # --- as hivemind does it ------------------------------------------------------------------------------------------------------------------------------

    def _traversed(self, asker: DHTID) -> tuple[list[DHTID], set[DHTID]]:
        async def neighbours(peer, queries):
            told = self.reply(peer, asker, self.key, None)
            return {query: (tuple(told or ()), False) for query in queries}

        initial = [place for place, _ in self.table(asker).get_nearest_neighbors(self.key, NEAREST)]
        nearest, visited = asyncio.run(traverse_dht([self.key], initial, NEAREST, 4, 1, neighbours, visited_nodes={self.key: {asker}}))
        return nearest[self.key], visited[self.key] & self._alive

    def plain_holders(self, writer: DHTID) -> set[DHTID]:
        row = [place for place in self._traversed(writer)[0] if place in self._alive]
        return set(sorted([*row, writer], key=self.key.xor_distance)[:REPLICAS])

    def plain_asked(self, reader: DHTID) -> set[DHTID]:
        return self._traversed(reader)[1]

    def shares(self, writers: int, readers: int, plain: bool = False) -> tuple[list[float], float, float]:
        """What of the records of so many honest nodes so many new clients see; and the calls of one who stores, and of one who reads."""
        told = self.lot.sample(self.honest, min(writers, len(self.honest)))
        clients = [self.client() for _ in range(readers)]
        if not plain:
            for one in (*told, *clients):
                self.radius(one)
        self.calls = 0
        held = [(self.plain_holders if plain else self.holders)(writer) & self._is_honest for writer in told]
        stored, self.calls = self.calls / len(told), 0
        seen = [(self.plain_asked if plain else self.asked)(client) for client in clients]
        return [sum(not holders.isdisjoint(asked) for holders in held) / len(held) for asked in seen], stored, self.calls / readers


def good(shares: Sequence[float]) -> float:
    """How many lookups see at least 90 %."""
    return sum(share >= 0.9 for share in shares) / len(shares)
