"""Guard: a search of the DHT that sybils can make longer and not end. In the room `net`; pure: it says whom to ask, and is told what came of it.

hivemind's own search keeps the twenty nearest that anybody has named and is over when those have been asked, whether they answered or not: twenty sybils
around a key, or the mere names of twenty that nobody runs, are all it sees. Here

- everybody in the vicinity is asked, in an order that is drawn by lot;
- beyond it the nearest are asked until NEAREST have answered, of whom those within count as no more than should be there;
- some of our own acquaintances are asked first, wherever they stand, and waited for: whoever crowds a key and answers fast does not end the search before
  anybody else was heard;
- who names nodes that do not answer is soon not believed any more.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Mapping

from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from swarm.net.guards.vicinity import EXPECTED, NEAREST, ROOTS

BESIDE = ROOTS
"""Calls at once to those beyond the vicinity: more would ask many who turn out not to be among the nearest."""

WITHIN = 64
"""Calls at once to those within. All of them are to be asked, and some may be slow on purpose."""

CREDIT = 8
"""Calls to names that one node told us of before any of these has answered. Each that does earns one more."""

MOST = 768
"""Calls of one search."""


class Search:
    def __init__(self, target: DHTID, radius: int, near: Mapping[DHTID, PeerID], roots: Mapping[DHTID, PeerID], own: DHTID, lot: random.Random) -> None:
        """`near` are those we know around the target, `roots` acquaintances anywhere."""
        self._target, self._radius, self._own, self._lot = target, radius, own, lot
        self.answered: dict[DHTID, PeerID] = {}
        self._peers: dict[DHTID, PeerID] = {}
        self._waiting: list[tuple[int, float, DHTID]] = []
        """Named and not yet asked, with their turn: first roots, then those within the vicinity by lot, then others by distance."""
        self._asked: set[DHTID] = set()
        self._calls, self._beside = 0, 0
        """In all; and of those asked now, to how many beyond the vicinity."""
        self._within, self._beyond = 0, list[int]()
        """How many within have answered, and the distances of others who have."""
        self._sources: dict[DHTID, list[DHTID]] = {}
        """Who named it, of each that we did not know ourselves."""
        self._credit: dict[DHTID, int] = {}
        self._roots = {*roots}
        for place, peer in (*roots.items(), *near.items()):
            self._meet(place, peer)

    @property
    def done(self) -> bool:
        """Nobody who was asked matters any more. (Who is still to be asked has to be, first.)"""
        return not any(map(self._matters, self._asked))

    def ask(self) -> list[tuple[DHTID, PeerID]]:
        """Whom to ask now."""
        chosen = []
        for turn in list(self._waiting):
            place = turn[-1]
            within = self._is_within(place)
            if self._calls == MOST or not (within or (self._beside < BESIDE and self._matters(place))):
                break  # nor any whose turn is later
            if self._is_believed(place) and (not within or len(self._asked) - self._beside < WITHIN):
                self._waiting.remove(turn)
                self._begin(place)
                chosen.append((place, self._peers[place]))
        return chosen

    def heard(self, place: DHTID, named: Mapping[DHTID, PeerID]) -> None:
        """It answered, and named others."""
        self.failed(place)
        self.answered[place] = self._peers[place]
        if self._is_within(place):
            self._within += 1
        else:
            insort(self._beyond, self._distance(place))
        for source in self._sources.get(place, ()):
            self._credit[source] += 2
        self._credit[place] = CREDIT
        for other, peer in named.items():
            if other not in self._peers:
                self._sources[other] = []
                self._meet(other, peer)
            if other in self._sources:
                self._sources[other].append(place)

    def failed(self, place: DHTID) -> None:
        self._asked.discard(place)
        self._beside -= not self._is_within(place)

    def nearest(self) -> list[tuple[int, PeerID]]:
        """Who answered, at which distance."""
        return sorted((self._distance(place), peer) for place, peer in self.answered.items())

    def _meet(self, place: DHTID, peer: PeerID) -> None:
        if place != self._own and place not in self._peers:
            self._peers[place] = peer
            insort(self._waiting, (-1 if place in self._roots else max(self._distance(place), self._radius), self._lot.random(), place))

    def _begin(self, place: DHTID) -> None:
        self._asked.add(place)
        self._calls += 1
        self._beside += not self._is_within(place)
        for source in self._sources.get(place, ()):
            self._credit[source] -= 1

    def _distance(self, place: DHTID) -> int:
        return self._target ^ place

    def _is_within(self, place: DHTID) -> bool:
        return self._distance(place) < self._radius

    def _matters(self, place: DHTID) -> bool:
        if self._is_within(place) or place in self._roots:
            return True
        return min(self._within, EXPECTED) + bisect_left(self._beyond, self._distance(place)) < NEAREST

    def _is_believed(self, place: DHTID) -> bool:
        sources = self._sources.get(place)
        return sources is None or any(self._credit[source] > 0 for source in sources)
