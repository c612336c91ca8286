"""Asks a running server for its status: shared by `gfdit status` and `gfdit top`. Standard library only."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from contextlib import closing

from pydantic import TypeAdapter, ValidationError

from gfdit.errors import GfditError, UsageError
from gfdit.runtime.status import FORMAT, Status

TIMEOUT_S = 10.0
MAX_ANSWER = 64 << 20
_STATUS = TypeAdapter(Status)


def get_status(url: str, *, detail: bool = False) -> Status:
    """Raises UsageError for an address that is none, GfditError when the server cannot be reached or is another's."""
    content = _get(url, f"/gfdit/status?detail={'true' if detail else 'false'}")
    try:
        return _STATUS.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GfditError(f"{url} does not answer in the format `{FORMAT}`: field `{where}`: {first['msg']}") from None


def status_json(status: Status) -> str:
    """As the server sends it, one line."""
    return _STATUS.dump_json(status, exclude={"recent"} if status.recent is None else None).decode()


def _get(url: str, path: str) -> bytes:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"`{url}` is no server's address", hint="such as http://127.0.0.1:8000")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with closing(kind(parts.hostname, parts.port, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", parts.path.rstrip("/") + path, headers={"Accept": "application/json"})
            response = connection.getresponse()
            content = response.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise GfditError(
            f"cannot reach {url}: {error}", hint="start a server with `gfdit run --policy slo.pol`"
        ) from None
    if response.status != 200:
        raise GfditError(f"{url} answered {response.status}: {_message(content) or response.reason}")
    return content


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
