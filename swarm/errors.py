"""The ways to fail, drawn once. Every message is one clear sentence and the next step, fit to be shown to the person at the keyboard.

SwarmError
├── UsageError            the caller can mend it: exit status 2
│   ├── MalformedLayers, LayersOutOfRange, MalformedAddress, InvalidSampling, InvalidConfig
│   ├── ModelNotFound, NotAModel, UnsupportedModel, UnsafeWeights
│   ├── EmptyPrompt, PromptTooLong
│   ├── PortInUse, IdentityInUse, BadIdentity, BadSwarmKey
│   └── DoesNotFit        the layers asked for need more memory than there is
├── RemoteError           somebody else failed: exit status 1
│   ├── NoBootstrap       no initial peer answered
│   ├── HubUnreachable    files of a model are not here, and the hub that has them does not answer
│   ├── MissingLayers     nobody serves some layers (carries what was generated so far)
│   ├── PeerLost          a peer went away, or fell silent past its deadline
│   ├── Refused           a peer said no, with a reason (overloaded, leaving, other revision …)
│   └── ProtocolError     a peer said something that makes no sense
├── TimedOut              the caller's own deadline passed
└── Closed                used after close
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

OR_RESUME = ", or resume the session"
"""How a sentence ends that has something more to offer to who holds a session. A command holds none, and leaves it out."""


class SwarmError(Exception):
    """Anything this package raises on purpose."""

    exit_status = 1


class UsageError(SwarmError):
    exit_status = 2


class MalformedLayers(UsageError):
    def __init__(self, text: str) -> None:
        super().__init__(f"cannot read {text!r} as layers; write a range like 0:12 (the end above the start), or embed, or head, or several joined by commas")


class LayersOutOfRange(UsageError):
    def __init__(self, text: str, layers: int) -> None:
        super().__init__(f"{text} is out of range: this model has {layers} layers, so the widest range is 0:{layers}")


class MalformedAddress(UsageError):
    def __init__(self, text: str, *, announced: bool = False) -> None:
        super().__init__(
            f"cannot read {text!r} as an address to announce; it looks like /ip4/203.0.113.5/tcp/31337 or /dns4/peer.example.org/tcp/31337, without /p2p/"
            if announced
            else f"cannot read {text!r} as a peer address; it looks like /ip4/203.0.113.5/tcp/31337/p2p/12D3Koo… (swarm-bootstrap prints one)"
        )


class InvalidSampling(UsageError, ValueError):
    """A ValueError too, so that a decoder reports it as a malformed message."""


class InvalidConfig(UsageError):
    pass


class ModelNotFound(UsageError):
    pass


class NotAModel(UsageError):
    pass


class UnsupportedModel(UsageError):
    pass


class UnsafeWeights(UsageError):
    pass


class EmptyPrompt(UsageError):
    def __init__(self) -> None:
        super().__init__("the prompt is empty; give at least one character or token")


class PromptTooLong(UsageError):
    """Too many positions for the model, or for every peer that serves some layers."""

    def __init__(self, length: int, limit: int, who: str = "this model allows") -> None:
        super().__init__(f"prompt and answer need {length} positions, but {who} {limit}; shorten the prompt or ask for fewer new tokens")


class PortInUse(UsageError):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is already in use; choose another with --port, or 0 for any free one")


class IdentityInUse(UsageError):
    def __init__(self, peer_id: str) -> None:
        super().__init__(f"identity {peer_id} is already used by a running peer; give each peer its own --identity file")


class BadIdentity(UsageError):
    pass


class BadSwarmKey(UsageError):
    pass


class DoesNotFit(UsageError):
    pass


class RemoteError(SwarmError):
    pass


class NoBootstrap(RemoteError):
    pass


class HubUnreachable(RemoteError):
    pass


class MissingLayers(RemoteError):
    """Nobody serves some components. `spans` names them, `layers` is how a person would; `partial` holds the token ids generated before it happened.
    `longest` is the longest session, in positions, that those who serve them could ever take, where that alone is the reason. `memory` is how many bytes it
    would take to serve them, weights and the cache of one session; None where nobody knows how large they are."""

    def __init__(
        self,
        message: str,
        spans: Sequence[object] = (),
        layers: str = "",
        partial: Sequence[int] = (),
        longest: int | None = None,
        memory: int | None = None,
    ) -> None:
        super().__init__(message)
        self.spans = tuple(spans)
        self.layers = layers
        self.partial = tuple(partial)
        self.longest = longest
        self.memory = memory


class PeerLost(RemoteError):
    def __init__(self, message: str, partial: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.partial = tuple(partial)


class Refused(RemoteError):
    """`retry_after` is after how many seconds peers without room may be asked again, None where that is not why."""

    def __init__(self, message: str, reason: str = "", partial: Sequence[int] = (), retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.partial = tuple(partial)
        self.retry_after = retry_after


class ProtocolError(RemoteError):
    pass


class TimedOut(SwarmError):
    def __init__(self, message: str, partial: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.partial = tuple(partial)


class Closed(SwarmError):
    pass


@contextlib.contextmanager
def contained(log: logging.Logger, what: str) -> Iterator[None]:
    """The door to what strangers ask and announce. Broad on purpose: a bug over one of them must not end the node, which serves others meanwhile. It is logged,
    and what is behind the door is left undone."""
    try:
        yield
    except Exception:
        log.exception("a bug in %s", what)
