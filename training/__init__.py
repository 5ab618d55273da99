"""How the demo model in `swarm/demo` was made. Nothing in `swarm` imports this package."""
