"""The room `gateway`, its door: who may ask. Knows keys; nothing of what is asked."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

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


OPEN = Keys()
"""A door that everybody comes through."""
