"""The room `gateway`, its page: the swarm view, which is three files and one JSON endpoint, and needs nothing from anywhere else.

`add_view` puts it into a gateway; `view_app` is the page alone, for whoever has no answers to give. Knows no swarm: what is shown is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from starlette.responses import Response

from swarm.gateway.access import OPEN, Keys
from swarm.gateway.watch import Lookout

FILES = {"": ("index.html", "text/html"), "view.css": ("view.css", "text/css"), "view.js": ("view.js", "text/javascript")}

HEADERS = {
    # Names of peers are strangers' text. Whatever slips through, no script runs but ours, and nothing is fetched from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Facts = Callable[[], Mapping[str, Any]]
"""What the page is told beside the overview: of its gateway."""


def add_view(app: FastAPI, lookout: Lookout, keys: Keys = OPEN, facts: Facts = dict) -> None:
    """Serve the page at / and what it shows at /swarm.json. The page itself is for everybody, since it has nothing in it."""
    router = APIRouter()

    def page(name: str, kind: str) -> Callable[[], Any]:
        text = (files("swarm.gateway") / "page" / name).read_bytes()

        async def serve() -> Response:
            return Response(text, media_type=kind, headers=HEADERS)

        return serve

    for path, (name, kind) in FILES.items():
        router.add_api_route(f"/{path}", page(name, kind), methods=["GET"], include_in_schema=False)

    @router.get("/swarm.json", dependencies=[keys.dependency], summary="What the swarm looks like from here", response_model=None)
    async def swarm_json() -> Response:
        seen = await lookout.now()
        said = {"overview": seen, "gateway": dict(facts())}
        return Response(msgspec.json.encode(said), media_type="application/json", headers={"Cache-Control": "no-store"})

    app.include_router(router)


def view_app(lookout: Lookout) -> FastAPI:
    """The page alone, without a chat box. Run the lookout beside it; `serving.listening` serves it."""
    app = FastAPI(title="swarm view", docs_url=None, redoc_url=None, openapi_url=None)
    add_view(app, lookout)
    return app
