"""Talks to a running server, for the commands that look at one or steer one. Standard library only."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Mapping
from contextlib import closing
from http.client import responses

from pydantic import TypeAdapter, ValidationError

from gfdit.config import Environment
from gfdit.errors import GfditError, UsageError
from gfdit.runtime.status import FORMAT, Status

TIMEOUT_S = 10.0
COMMAND_S = 60.0  # a policy is checked, tested, and swapped in at the edge of a tick
MAX_ANSWER = 64 << 20
_STATUS = TypeAdapter(Status)


def get_status(url: str, *, detail: bool = False) -> Status:
    """Raises UsageError for an address that is none, GfditError when the server cannot be reached or is another's."""
    content = get(url, f"/gfdit/status?detail={'true' if detail else 'false'}")
    try:
        return _STATUS.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GfditError(f"{url} does not answer in the format `{FORMAT}`: field `{where}`: {first['msg']}") from None


def authorization() -> dict[str, str]:
    """The header that carries the user's API key, if there is one."""
    key = Environment.read().api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


def status_json(status: Status) -> str:
    """As the server sends it, one line."""
    return _STATUS.dump_json(status, exclude={"recent"} if status.recent is None else None).decode()


def command(url: str, path: str, body: Mapping[str, object]) -> tuple[int, bytes]:
    """Send a command to `url` as JSON: the status and the answer, whatever it is. Raises as `get_status` does."""
    token = Environment.read().admin_token
    headers = {"Content-Type": "application/json", **({"x-gfdit-admin-token": token} if token else {})}
    return _exchange(url, "POST", path, headers, json.dumps(body).encode(), COMMAND_S)


def get(url: str, path: str) -> bytes:
    """Raises UsageError for an address that is none, GfditError when it does not answer with what was asked for."""
    status, content = _exchange(url, "GET", path, {}, None, TIMEOUT_S)
    if status != 200:
        raise GfditError(f"{url} answered {status}: {_message(content) or responses.get(status, '')}")
    return content


def refusal(status: int, content: bytes) -> str:
    """What the server said instead of doing it."""
    return _message(content) or f"the server answered {status} {responses.get(status, '')}".rstrip()


def delete(url: str, path: str) -> None:
    """Raises as `get` does, but not for what is not there any more."""
    _exchange(url, "DELETE", path, {}, None, TIMEOUT_S)


def _exchange(
    url: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None, patience_s: float
) -> tuple[int, bytes]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"`{url}` is no server's address", hint="such as http://127.0.0.1:8000")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with closing(kind(parts.hostname, parts.port, timeout=patience_s)) as connection:
            sent = {"Accept": "application/json", **authorization(), **headers}
            connection.request(method, parts.path.rstrip("/") + path, body, headers=sent)
            response = connection.getresponse()
            return response.status, response.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise GfditError(
            f"cannot reach {url}: {error}", hint="start a server with `gfdit run --policy slo.pol`"
        ) from None


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
