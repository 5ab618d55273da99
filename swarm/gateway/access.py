"""The room `gateway`, its door: who may ask, and by which name. Knows keys; nothing of what is asked."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from swarm.core import MOST_NAME, printable
from swarm.errors import InvalidConfig
from swarm.gateway.refusals import ApiError

LEAST_KEY = 8
"""Characters. A shorter one is guessed."""


class Keys:
    """Whoever shows one of them may ask; without any, everybody."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def read(cls, path: str) -> Keys:
        """One a line; what follows a # is a comment. Raises InvalidConfig."""
        try:
            lines = [line.partition("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"cannot read the keys in {path} ({error}); name a text file with one key a line") from error
        keys = [line for line in lines if line]
        if not keys:
            raise InvalidConfig(f"{path} holds no key; write one a line, or leave out --api-keys to let everybody in")
        if short := [key for key in keys if len(key) < LEAST_KEY]:
            raise InvalidConfig(f"a key in {path} has {len(short[0])} characters; use at least {LEAST_KEY}, such as `openssl rand -hex 24` prints")
        return cls(keys)

    def admit(self, shown: str | None) -> None:
        """Raises ApiError. Compares with every key, whatever it finds, so that time tells nothing."""
        if not self._keys:
            return
        if shown is None:
            raise ApiError(401, "this gateway asks for a key; send `Authorization: Bearer KEY`", "authentication_error", code="missing_api_key")
        sent = shown.encode("latin-1", "replace")  # as it came: what is no ASCII was sent as UTF-8, and a header is read as Latin-1
        if not any([hmac.compare_digest(sent, key) for key in self._keys]):
            raise ApiError(401, "this gateway does not know the key you sent; ask its owner for one", "authentication_error", code="invalid_api_key")

    @property
    def dependency(self) -> Any:
        """For routes that only those with a key may use."""
        bearer = HTTPBearer(auto_error=False, description="One of the gateway's keys, if it has any")

        async def admit(shown: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008 - how FastAPI is told
            self.admit(shown.credentials if shown is not None else None)

        return Depends(admit)


class Named:
    """Before an app that lets everybody in, a second door: requests that call it by a name that is not its own are refused. Else any web page could point a
    name of its own at this machine (DNS rebinding), and read and ask as whoever sits before it. Addresses are let in: nobody can point those elsewhere."""

    def __init__(self, app: Any, host: str) -> None:
        self._app, self._names = app, frozenset(("localhost", host.lower()))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        shown = next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"), None)
        if scope["type"] != "http" or shown is None or self._is_ours(shown):
            await self._app(scope, receive, send)
            return
        sentence = f"this gateway is not called {printable(shown, MOST_NAME)!r}; ask it by its address, start it with --host NAME, or give it --api-keys"
        await ApiError(421, sentence, code="misdirected_request").response()(scope, receive, send)

    def _is_ours(self, shown: str) -> bool:
        name = re.sub(r":[0-9]*$", "", shown.strip().lower())
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


OPEN = Keys()
"""A door that everybody comes through."""
