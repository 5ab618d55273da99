"""What may happen next: the session rules as pure state machines. No I/O, no clock, no torch; events in, effects out."""
