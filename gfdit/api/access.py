"""API keys: with any set, every route but the two that say whether the server lives wants one of them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gfdit.api.errors import ApiError

OPEN = frozenset({"/livez", "/readyz"})


class Secrets:
    """Texts of which a caller must know one; false when there are none."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._digests = tuple(_digest(text) for text in texts)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def known(self, given: str) -> bool:
        """Takes as long for a text that is nearly right as for one that is not."""
        digest = _digest(given)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class AccessKeys:
    """ASGI middleware. A key comes as `Authorization: Bearer KEY`, as OpenAI's clients send it, or as the password of
    HTTP Basic, which is what makes a browser ask for it."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = Secrets(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and scope["path"] not in OPEN:
            given = _given(Headers(scope=scope).get("authorization", ""))
            if not self._keys.known(given):
                await _refusal(given)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _given(header: str) -> str:
    kind, _, rest = header.partition(" ")
    match kind.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                return base64.b64decode(rest, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return ""
        case _:
            return ""


def _refusal(given: str) -> ASGIApp:
    message = "this is not an API key of this server" if given else "this server wants an API key"
    error = ApiError(401, "invalid_api_key", f"{message}: send `Authorization: Bearer KEY`", retry=False)
    answer = error.response()
    answer.headers["www-authenticate"] = 'Basic realm="gfdit: any user name, the API key as password", charset="UTF-8"'
    return answer
