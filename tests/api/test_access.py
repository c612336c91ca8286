"""API keys: who is let in, who is not, and what the file of keys must look like."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gfdit.config import read_keys
from gfdit.errors import UsageError
from tests.api.conftest import WAIT_S, Running, serve

KEY, OTHER = "k" * 32, "o" * 32


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    yield from serve(time_scale=50.0, keys=(KEY, OTHER))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def raw(header: str) -> dict[str, str]:
    return {"authorization": header}


def basic(key: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()}


@pytest.mark.parametrize("headers", [bearer(KEY), bearer(OTHER), basic(KEY)], ids=["bearer", "the other", "basic"])
def test_a_key_lets_in(locked: Running, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{locked.url}/v1/models", headers=headers, timeout=WAIT_S)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, raw("Bearer"), bearer(KEY[:-1]), bearer(KEY + "k"), basic(""), raw(KEY), raw("Basic %")],
    ids=["none", "empty", "short", "long", "basic without", "no scheme", "not base64"],
)
def test_nothing_else_does(locked: Running, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{locked.url}/gfdit/status", headers=headers, timeout=WAIT_S)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert "x-request-id" in answer.headers


def test_every_route_but_two_is_closed(locked: Running) -> None:
    """Also those that do not exist, so that nobody learns which do."""
    paths = {"/", "/page/page.js", "/metrics", "/no/such/route", "/v1/images/files/x.png", "/openapi.json"}
    for path in sorted(paths):
        assert httpx.get(locked.url + path, timeout=WAIT_S).status_code == 401, path
    for path in ("/livez", "/readyz"):
        assert httpx.get(locked.url + path, timeout=WAIT_S).status_code == 200, path
    answer = httpx.post(f"{locked.url}/v1/images/generations", json={"prompt": "x"}, timeout=WAIT_S)
    assert answer.status_code == 401


def test_without_keys_everybody_may_ask(running: Running) -> None:
    assert httpx.get(f"{running.url}/v1/models", timeout=WAIT_S).status_code == 200


def keys_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_of_keys(tmp_path: Path) -> None:
    assert read_keys(keys_file(tmp_path, f"# ours\n{KEY}\n\n  {OTHER}  \n")) == (KEY, OTHER)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (KEY, 0o644, "can be read by others"),
        ("# none\n", 0o600, "holds no API key"),
        ("short\n", 0o600, "API key 1"),
        (f"{KEY}\ntwo words of some length\n", 0o600, "API key 2"),
    ],
)
def test_a_bad_file_of_keys_says_why(tmp_path: Path, text: str, mode: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_keys(keys_file(tmp_path, text, mode))


def test_a_missing_file_of_keys(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the API keys"):
        read_keys(tmp_path / "none")
