"""The public names for asyncio code: `swarm.aio.Client`, `swarm.aio.Session`."""

from swarm.client.aio import Client, Session, Token

__all__ = ["Client", "Session", "Token"]
