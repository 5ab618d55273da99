"""The client's shell: a session that drives a chain. `aio` is the one implementation; `sync` is its face for code without asyncio."""
