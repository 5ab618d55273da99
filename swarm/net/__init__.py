"""The wires."""

from swarm.net.entrance import come_in

come_in()
