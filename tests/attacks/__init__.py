"""Attacks on a live swarm of real processes over loopback: what strangers try, and whether the honest notice. Each notes the figure of a promise, and
`make attacks` runs them all and ends with a table. They take minutes, so they are marked slow."""
