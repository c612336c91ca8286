"""Who may give commands over HTTP, in what form, and what they are answered."""

from __future__ import annotations

import asyncio
import base64
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gfdit.api.errors import install as install_errors
from gfdit.api.policies import MOST_BODY, Control, install
from gfdit.policy.bundle import make_keys, pack, private_key, public_key

from .desk import Desk, bundle_of, text_of

TOKEN = "0123456789abcdef0123"
COMMANDS = ("push", "canary", "arm", "rollback", "eject", "stop")
LOCAL = ("127.0.0.1", 50_000)
JSON = {"content-type": "application/json"}


BAD_PUSHES = (
    b"{",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b'{"more": 1}',
    b'{"main": "a.pol"}',
    b'{"bundle": 1}',
    b'{"bundle": "%%%"}',
    b'{"bundle": "aGVsbG8="}',
    b'{"main": "a.pol", "sources": {"a.pol": ""}, "bundle": ""}',
    b'{"main": "a.pol", "sources": {"a.pol": "", "b": ""}}',
    b'{"main": "a.pol", "sources": {"a.pol": ""}, "now": "yes"}',
    b'{"main": "../a.pol", "sources": {"../a.pol": ""}}',
    b'{"main": "a.py", "sources": {"a.py": "import os"}}',
)


@cache
def app_of(desk: Desk, tokens: tuple[str, ...]) -> FastAPI:
    app = FastAPI()
    install_errors(app)
    install(app, Control(desk.rollout, tokens))
    return app


def ask(
    desk: Desk,
    path: str,
    body: object = None,
    *,
    client: tuple[str, int] = LOCAL,
    headers: dict[str, str] | None = None,
    tokens: tuple[str, ...] = (),
    method: str = "POST",
    content: bytes | None = None,
    base: str = "http://127.0.0.1:8000",
) -> httpx.Response:
    """One request from `client`, over ASGI: an address that no socket could give us."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app_of(desk, tokens), client=client, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=base) as http:
            sent = {"json": {} if body is None else body} if content is None else {"content": content}
            if method == "GET":
                sent = {}
            return await http.request(method, path, headers={**JSON, **(headers or {})}, **sent)  # type: ignore[arg-type]

    return asyncio.run(send())


def code(response: httpx.Response) -> tuple[int, str]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return response.status_code, error["code"]


def texts(text: str, **more: object) -> dict[str, object]:
    bundle = bundle_of(text)
    return {"main": bundle.main, "sources": dict(bundle.sources), **more}


@pytest.fixture
def desk() -> Desk:
    return Desk("slo")


def test_every_command_is_for_this_machine_alone(desk: Desk) -> None:
    for name in COMMANDS:
        path = f"/gfdit/policy/{name}"
        for client in (("192.0.2.1", 1), ("2001:db8::1", 1), ("::ffff:192.0.2.1", 1), ("somewhere", 1)):
            assert code(ask(desk, path, client=client)) == (403, "forbidden")
        for header in ("forwarded", "x-forwarded-for", "X-Forwarded-Host", "x-real-ip", "via"):
            assert code(ask(desk, path, headers={header: "127.0.0.1"})) == (403, "forbidden")
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[2001:db8::1]:80", ""):
            assert code(ask(desk, path, headers={"host": host})) == (403, "forbidden")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            assert code(ask(desk, path, headers={"content-type": kind})) == (415, "unsupported_media_type")
    assert len(desk.rollout.status().history) == 1 and desk.rollout.status().candidate is None


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_has_several_names(desk: Desk, client: str) -> None:
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert code(ask(desk, "/gfdit/policy/arm", client=(client, 1), headers={"host": host})) == (409, "conflict")


def test_a_token_lets_others_in_and_is_then_asked_of_everybody(desk: Desk) -> None:
    away = ("192.0.2.1", 1)
    for name in COMMANDS:
        path = f"/gfdit/policy/{name}"
        for given in ({}, {"x-gfdit-admin-token": ""}, {"x-gfdit-admin-token": TOKEN[:-1]}):
            for client in (away, LOCAL):
                got = ask(desk, path, client=client, headers=given, tokens=(TOKEN, TOKEN[::-1]))
                assert code(got) == (401, "invalid_admin_token")
    sent = {"x-gfdit-admin-token": TOKEN, "x-forwarded-for": "192.0.2.7"}
    done = ask(desk, "/gfdit/policy/push", texts(text_of("a")), client=away, headers=sent, tokens=(TOKEN[::-1], TOKEN))
    assert done.status_code == 200 and done.json()["candidate"]["name"] == "a"


def test_the_status_is_for_whoever_may_see_the_system(desk: Desk) -> None:
    answer = ask(desk, "/gfdit/policy/status", method="GET", client=("192.0.2.1", 1), tokens=(TOKEN,))
    assert answer.status_code == 200 and answer.json()["in_charge"]["name"] == "slo"
    assert answer.json()["format"] == "gfdit-rollout/1"


def test_commands_one_after_the_other(desk: Desk) -> None:
    def do(name: str, body: object = None) -> dict[str, Any]:
        answer = ask(desk, f"/gfdit/policy/{name}", body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert do("push", texts(text_of("a")))["candidate"]["name"] == "a"
    assert do("arm")["in_charge"]["name"] == "a"
    assert do("push", texts(text_of("b", more="fallback fcfs_static"), now=True))["in_charge"]["name"] == "b"
    assert do("eject")["ejected"]["name"] == "b"
    assert do("rollback")["in_charge"]["name"] == "a"
    assert do("push", {"bundle": base64.b64encode(pack(bundle_of(text_of("c")))).decode()})["candidate"]["name"] == "c"
    assert do("canary", {"window_s": 30, "windows": 4})["canary"]["arm"] == "canary"
    assert do("stop")["canary"]["done"]
    assert do("stop")["candidate"] is None


def test_findings_come_back_as_the_checker_gives_them(desk: Desk) -> None:
    text = 'policy a version 1 "x"\norder by deadlin, arrival\nstage encode, denoise, decode { sp fixed 1 gpu }'
    answer = ask(desk, "/gfdit/policy/push", texts(text))
    assert code(answer) == (422, "policy_invalid")
    (finding,) = [one for one in answer.json()["diagnostics"] if one["severity"] == "error"]
    assert (finding["code"], finding["file"], finding["line"], finding["column"]) == ("N101", "a.pol", 2, 10)
    assert "did you mean `deadline`?" in answer.json()["error"]["message"]
    failing = text_of("a", more='test "no" { request a { stage = "denoise" } expect a.sp == 2 gpu }')
    answer = ask(desk, "/gfdit/policy/push", texts(failing))
    assert code(answer) == (422, "policy_tests_failed") and len(answer.json()["failures"]) == 1


@pytest.mark.parametrize(
    ("path", "content"),
    [("push", content) for content in BAD_PUSHES]
    + [("canary", b'{"window_s": %s}' % value) for value in (b"0", b"1e9", b'"NaN"', b'10, "windows": 3')]
    + [("canary", b"{}"), ("arm", b'{"a": 1}'), ("eject", b"null"), ("rollback", b"1")],
)
def test_bad_bodies_are_the_callers_fault_and_change_nothing(desk: Desk, path: str, content: bytes) -> None:
    status, _ = code(ask(desk, f"/gfdit/policy/{path}", content=content))
    assert status == 400
    assert desk.rollout.status().candidate is None and len(desk.rollout.status().history) == 1


def test_bodies_are_limited(desk: Desk) -> None:
    assert code(ask(desk, "/gfdit/policy/push", content=b" " * (MOST_BODY + 1))) == (413, "body_too_large")


def test_with_a_key_unsigned_and_wrongly_signed_are_refused(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        private, public = make_keys()
        (tmp_path / f"{name}.key").write_bytes(private)
        (tmp_path / f"{name}.key").chmod(0o600)
        (tmp_path / f"{name}.pub").write_bytes(public)
    desk = Desk("slo", key=public_key(tmp_path / "mine.pub"))
    bundle = bundle_of(text_of("a"))

    def push(content: bytes) -> httpx.Response:
        return ask(desk, "/gfdit/policy/push", {"bundle": base64.b64encode(content).decode()})

    assert code(ask(desk, "/gfdit/policy/push", texts(text_of("a")))) == (403, "S802")
    assert code(push(pack(bundle))) == (403, "S802")
    assert code(push(pack(bundle, private_key(tmp_path / "other.key")))) == (403, "S803")
    assert code(push(b"PK\x03\x04")) == (400, "S804")
    assert desk.rollout.status().candidate is None
    assert push(pack(bundle, private_key(tmp_path / "mine.key"))).json()["candidate"]["name"] == "a"
