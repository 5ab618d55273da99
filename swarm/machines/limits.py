"""How much a hop does at once, how often, and for how long: its limits, each with its reason. Who keeps to them is `hop.py`."""

from __future__ import annotations

from dataclasses import dataclass

SHOWN = 16
"""How often a hop shows its client what it made, in one chain: a small frame asks for a large one."""

STEP = 8
"""Positions of a step of the ring at most: more, and a peer's engine would take it for a prompt. What is guessed further ahead follows in steps of its own."""

CREDIT = 256
"""Tokens that a ring may run ahead of what a client has acknowledged: a round trip's worth, with room."""

LEAST_CHUNK = 32
"""Positions of a chunk at least, whatever an order says: each is a message, and a pass over the weights."""


@dataclass(frozen=True, slots=True)
class HopLimits:
    chunk: int = 256
    """Positions computed or sent at once at most: what a prompt is cut into, so that all hops work at the same time. An order may ask for less."""
    window: int = 1024
    """Positions a hop sends beyond what its successor has acknowledged."""
    ack_every: int = 32
    """Steps of an answer are acknowledged this seldom; acknowledgements only move the window."""
    journal_bytes: int = 256 * 2**20
    resends: int = 256
    """How often a successor may ask to be sent something again in one chain; a small frame that asks makes large ones. Once, after the OPEN, is usual, however
    many guesses are taken back: the head has computed what a higher draft continues, so every hop has. More is for journals that did not reach back."""
    lease: float = 30.0
    """Seconds of silence after which a hop forgets a session. The client renews every 10 s, so three renewals must be lost."""

    def chunk_for(self, asked: int) -> int:
        """Positions computed or sent at once under an order that asks for so many; 0 is as the hop likes."""
        return min(max(asked, LEAST_CHUNK), self.chunk) if asked else self.chunk
