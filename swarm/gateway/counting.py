"""Room: gateway. Requests, counted by path and status; and the one place where an error that nobody foresaw becomes an answer."""

from __future__ import annotations

from typing import Any

from swarm.gateway.metrics import Meters
from swarm.gateway.refusals import CLIENT_GONE, told_of


class Counting:
    """Counts requests by path and status, also of streams that end long after they began."""

    def __init__(self, app: Any, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_GONE

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception as error:
            if status != CLIENT_GONE:  # an answer has begun, and nothing else can be said on its connection
                raise
            await told_of(error).response()(scope, receive, counted)  # here rather than by the framework, whose place is beyond the headers for other pages
        finally:
            self._meters.requests.labels(_template(scope), str(status)).inc()


def _template(scope: Any) -> str:
    """The path as the app has it, never as it was asked for: strangers could make any number of those up."""
    route = scope.get("route")
    return getattr(route, "path", None) or "other"
