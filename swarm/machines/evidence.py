"""What a hop's signed words prove: that it made these rows of what it received. Whether they are wrong is for whoever makes them again to say; here is only
checked that they are its own. Pure; the signature check is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from swarm.core import PeerId
from swarm.errors import ProtocolError
from swarm.machines.marks import marks, token_marks
from swarm.wire import MARK, Accuse, Blob, Shown, Statement, decode_statement

Verify = Callable[[PeerId, bytes, bytes], bool]


def stated(shown: Shown | Accuse, peer: PeerId, verify: Verify) -> Statement:
    """What a peer said. Raises ProtocolError if it did not, or said something that cannot be."""
    statement = decode_statement(shown.statement)
    if statement.peer != peer or not verify(peer, shown.statement, shown.signature):
        raise ProtocolError("the statement is not signed by who is said to make it")
    if not statement.first < statement.behind or len(statement.received) != MARK * statement.stop or statement.start > statement.stop:
        raise ProtocolError("the statement makes no sense")
    if statement.made != (b"" if shown.rows is None else marks(shown.rows)):
        raise ProtocolError("the rows are not those that were stated")
    return statement


def received(tokens: Sequence[int], hidden: Blob | None) -> bytes:
    """The marks of what a hop is to have received."""
    return token_marks(tokens) if hidden is None else marks(hidden)


def charge(accusation: Accuse, verify: Verify) -> Statement:
    """What an accusation says that somebody said: a whole piece of work, begun and finished in its own words. Raises ProtocolError for anything else, as which
    nobody need lift a finger."""
    statement = stated(accusation, decode_statement(accusation.statement).peer, verify)
    if len(accusation.tokens) != statement.stop or (accusation.hidden is None) != (statement.first == 0):
        raise ProtocolError("what it is said to have received is not all that it speaks of")
    if statement.received != received(accusation.tokens, accusation.hidden):
        raise ProtocolError("what it is said to have received is not what it says")
    if len(accusation.rows) != statement.stop - statement.start or not len(accusation.rows):
        raise ProtocolError("the rows are not those of the positions that were stated")
    return statement
