"""Guard: the two tables in which hivemind keeps calls over its connection to p2pd. In the room `net`; knows hivemind's client of p2pd, not what is called.

Attacks: a reply that comes in the very moment of its deadline is set on a future that has just been cancelled. That kills the one task which reads from p2pd,
and from then on no call is ever answered. And a call that its caller cancels stays in the table of running handlers for ever: a stranger that calls and hangs
up in a loop fills our memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hivemind.p2p.p2p_daemon_bindings.control import ControlClient


class Pending(dict[Any, "asyncio.Future[Any]"]):
    """Calls of ours. One that is over is not there any more, whoever has still to clean up."""

    def __contains__(self, call: object) -> bool:
        future = self.get(call)
        return future is not None and not future.done()


class Handled(dict[Any, "asyncio.Task[None]"]):
    """Calls of others. Each goes when its task does, however that ends."""

    def __setitem__(self, call: Any, task: asyncio.Task[None]) -> None:
        super().__setitem__(call, task)
        task.add_done_callback(lambda _: super(Handled, self).pop(call, None))


def guard_calls(control: ControlClient) -> None:
    control._pending_calls, control._handler_tasks = Pending(control._pending_calls), Handled(control._handler_tasks)
