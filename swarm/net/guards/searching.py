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
from heapq import heapify, heappop, heappush

from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from swarm.net.guards.vicinity import EXPECTED, NEAREST, ROOTS

BESIDE = ROOTS
"""Calls at once to those beyond the vicinity: more would ask many who turn out not to be among the nearest."""

WITHIN = 64
"""Calls at once to those within. All of them are to be asked, and some may be slow on purpose."""

CREDIT = 8
"""Names that one node has us ask before any of these has answered. Each that does earns it one more. It pays when a name is put among those waiting: no more of
them are there than somebody answers for, however many a reply names."""

MOST = 768
"""Calls of one search."""

Turn = tuple[int, float, DHTID]


class Search:
    def __init__(self, target: DHTID, radius: int, near: Mapping[DHTID, PeerID], roots: Mapping[DHTID, PeerID], own: DHTID, lot: random.Random) -> None:
        """`near` are those we know around the target, `roots` acquaintances anywhere."""
        self._target, self._radius, self._own, self._lot = target, radius, own, lot
        self.answered: dict[DHTID, PeerID] = {}
        self._peers: dict[DHTID, PeerID] = {}
        self._waiting: list[Turn] = []
        """Within the vicinity and to be asked, next first: roots, wherever they stand, and then by lot."""
        self._waiting_beyond: list[Turn] = []
        """The same beyond it, by distance. Slow ones within do not hold them up."""
        self._asked: set[DHTID] = set()
        self.calls = 0
        self._beside = 0
        """Of those asked now, how many are beyond the vicinity."""
        self._within, self._beyond = 0, list[int]()
        """How many within have answered, and the distances of others who have."""
        self._parked: dict[DHTID, list[DHTID]] = {}
        """Who named it, of each that nobody has had credit for yet."""
        self._paid: dict[DHTID, list[DHTID]] = {}
        """Who had named it when it was put among those waiting. Who does so later has told us nothing, and earns nothing."""
        self._told: dict[DHTID, list[Turn]] = {}
        """What each named that was parked then, next first."""
        self._credit: dict[DHTID, int] = {}
        self._roots = {*roots}
        for place, peer in (*roots.items(), *near.items()):
            if place != own and place not in self._peers:
                self._peers[place] = peer
                self._wait(self._turn(place))

    @property
    def done(self) -> bool:
        """Nobody who was asked matters any more. (Who is still to be asked has to be, first.)"""
        return not any(map(self._matters, self._asked))

    def ask(self) -> list[tuple[DHTID, PeerID]]:
        """Whom to ask now."""
        chosen = []
        for waiting, may_call in ((self._waiting, self._has_room), (self._waiting_beyond, self._has_room_beyond)):
            while waiting and self.calls < MOST and may_call(waiting[0][-1]):  # if not, nor any whose turn is later
                place = heappop(waiting)[-1]
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
        for source in self._paid.pop(place, ()):
            self._credit[source] += 2
            self._vouch(source)
        told = self._told[place] = []
        for other, peer in named.items():
            if other not in self._peers and other != self._own:
                self._peers[other], self._parked[other] = peer, []
            if other in self._parked:
                self._parked[other].append(place)
                told.append(self._turn(other))
        heapify(told)
        self._credit[place] = CREDIT
        self._vouch(place)

    def failed(self, place: DHTID) -> None:
        self._asked.discard(place)
        self._beside -= not self._is_within(place)

    def nearest(self) -> list[tuple[int, PeerID]]:
        """Who answered, at which distance."""
        return sorted((self._distance(place), peer) for place, peer in self.answered.items())

    def _turn(self, place: DHTID) -> Turn:
        return -1 if place in self._roots else max(self._distance(place), self._radius), self._lot.random(), place

    def _wait(self, turn: Turn) -> None:
        place = turn[-1]
        heappush(self._waiting if place in self._roots or self._is_within(place) else self._waiting_beyond, turn)

    def _vouch(self, source: DHTID) -> None:
        """It pays for what it named, the next first, as far as its credit goes, and so do others who have named the same."""
        told = self._told[source]
        while told and self._credit[source] > 0:
            turn = heappop(told)
            if (payers := self._parked.pop(turn[-1], None)) is not None:
                self._paid[turn[-1]] = payers
                for payer in payers:
                    self._credit[payer] -= 1
                self._wait(turn)

    def _begin(self, place: DHTID) -> None:
        self._asked.add(place)
        self.calls += 1
        self._beside += not self._is_within(place)

    def _has_room(self, place: DHTID) -> bool:
        return place in self._roots or len(self._asked) - self._beside < WITHIN

    def _has_room_beyond(self, place: DHTID) -> bool:
        return self._beside < BESIDE and self._matters(place)

    def _distance(self, place: DHTID) -> int:
        return self._target ^ place

    def _is_within(self, place: DHTID) -> bool:
        return self._distance(place) < self._radius

    def _matters(self, place: DHTID) -> bool:
        if self._is_within(place) or place in self._roots:
            return True
        return min(self._within, EXPECTED) + bisect_left(self._beyond, self._distance(place)) < NEAREST
