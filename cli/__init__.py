"""The hands: arguments, signals, logging, asyncio.run. Installed as `swarm.cli`."""
