"""Guard: there is an end to how many are remembered for not answering. In the room `net`; knows hivemind's blacklist.

Attack: name nodes that nobody runs, fresh ones in each reply. A search calls hundreds of them, and hivemind counts for ever how often each has failed: tens of
megabytes an hour.
"""

from __future__ import annotations

from typing import Any

from hivemind.dht.node import Blacklist
from hivemind.p2p import PeerID

MAX_COUNTED = 4096
"""Peers whose failures are counted. Beyond that those are forgotten whose ban is over: their next one is as short as a first."""

MAX_BANNED = MAX_COUNTED // 2
"""Peers banned at a time; of more, whoever would be free again first is. Half, so that what is forgotten at once is always much."""


class BoundedBlacklist(Blacklist):
    def __init__(self, base_time: float, backoff_rate: float, **kwargs: Any) -> None:
        super().__init__(base_time, backoff_rate, maxsize=MAX_BANNED, **kwargs)

    def register_failure(self, peer: PeerID) -> None:
        super().register_failure(peer)
        if len(self.ban_counter) > MAX_COUNTED:
            for one in [one for one in self.ban_counter if one not in self.banned_peers]:
                del self.ban_counter[one]
