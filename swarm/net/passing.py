"""Room: net. Links under a passing name: an identity and a p2pd of its own that dial out, are in no directory, and are gone when whoever asked for them is
done.

Whoever is dialled sees the name and from where, as of any client. Not in private swarms, where who has no membership is let in nowhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from swarm.net import guards
from swarm.net.daemon import Daemon, flags_of
from swarm.net.identity import Identity
from swarm.net.links import LinkPool
from swarm.ports import Guise


@contextlib.asynccontextmanager
async def passing() -> AsyncIterator[Guise]:
    """Raises DaemonError."""
    guards.install()
    me = Identity.ephemeral()
    daemon = await Daemon.start(me, flags_of("127.0.0.1", 0, (), client_mode=True, listen=False))
    try:
        links = await LinkPool.start(daemon.p2p)
        try:
            yield Guise(links, me.sign)
        finally:
            await links.close()
    finally:
        await daemon.close()
