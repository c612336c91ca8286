"""Sends the shots of a plan and keeps how each one fared: an asyncio loop, a connection for each request that is out.

Latency counts from the moment at which a request was to be sent, not from the one at which it was: a client that falls
behind adds to what it measures instead of hiding it (coordinated omission). `lag_s` says how far behind it fell.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from gfdit.api.load.plan import Shot

CONNECT_S = 10.0
LOOK_S = 0.25  # how often a video's job is asked after
HEAD_START_S = 0.05


class Fate(StrEnum):
    COMPLETED = "completed"
    TURNED_AWAY = "turned_away"  # 429, the tries included that the server was given
    TIMED_OUT = "timed_out"  # by the client's own patience
    FAILED = "failed"  # any other answer, or none


@dataclass(frozen=True, slots=True)
class Answer:
    """How one shot fared. Times are seconds: `at_s` since the start, `latency_s` from then to the end, `lag_s` from
    then to when it was really sent, `first_s` to the first sign of a stream. `retries`: how often it was sent again
    because the server said when to; `retry_after_s`: what it said the first time. `code`: the server's, or ours."""

    at_s: float
    class_name: str
    fate: Fate
    latency_s: float
    lag_s: float
    budget_s: float | None
    on_time: bool
    code: str = ""
    first_s: float | None = None
    steps: int = 0
    retries: int = 0
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Manner:
    """How to ask. `timeout_s`: patience with one request, all its tries together. `retries`: how often one that is
    turned away is sent again, when the server says."""

    url: str
    key: str = ""
    timeout_s: float = 600.0
    retries: int = 0


@dataclass(slots=True)
class _Told:
    """What the server's answers said so far."""

    first_at: float | None = None
    retries: int = 0
    retry_after_s: float | None = None


class _Refused(Exception):
    """An answer that is no result. `retry_after_s`: for a 429 that may come again."""

    def __init__(self, status: int, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(code)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


async def fire(shots: Sequence[Shot], manner: Manner, tell: Callable[[Answer], None]) -> list[Answer]:
    """Send every shot in its time and wait for all; `tell` is called with each one's end. By order of the shots."""
    headers = {"Authorization": f"Bearer {manner.key}"} if manner.key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    async with httpx.AsyncClient(base_url=manner.url, headers=headers, limits=limits, timeout=timeout) as client:
        start = time.monotonic() + HEAD_START_S
        tasks = []
        for shot in shots:
            await _until(start + shot.at_s)
            tasks.append(asyncio.create_task(_ask(client, shot, manner, start + shot.at_s, tell)))
        return list(await asyncio.gather(*tasks))


async def _until(at: float) -> None:
    if (left := at - time.monotonic()) > 0:
        await asyncio.sleep(left)


async def _ask(
    client: httpx.AsyncClient, shot: Shot, manner: Manner, due: float, tell: Callable[[Answer], None]
) -> Answer:
    sent, told = time.monotonic(), _Told()
    fate, code = Fate.COMPLETED, ""
    went: Mapping[str, Any] = {}
    try:
        async with asyncio.timeout_at(due + manner.timeout_s):
            went = await _tries(client, shot, manner.retries, told)
    except TimeoutError:
        fate, code = Fate.TIMED_OUT, "client_timeout"
    except _Refused as refused:
        fate, code = Fate.TURNED_AWAY if refused.status == 429 else Fate.FAILED, refused.code
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        fate, code = Fate.FAILED, type(error).__name__
    latency_s = time.monotonic() - due
    in_time = latency_s <= shot.budget_s if shot.budget_s is not None else went.get("deadline_met") is not False
    answer = Answer(
        at_s=shot.at_s,
        class_name=shot.class_name,
        fate=fate,
        latency_s=latency_s,
        lag_s=sent - due,
        budget_s=shot.budget_s,
        on_time=fate is Fate.COMPLETED and in_time,
        code=code,
        first_s=None if told.first_at is None else told.first_at - due,
        steps=int(went.get("steps", 0)),
        retries=told.retries,
        retry_after_s=told.retry_after_s,
    )
    tell(answer)
    return answer


async def _tries(client: httpx.AsyncClient, shot: Shot, retries: int, told: _Told) -> Mapping[str, Any]:
    """How it went, in the server's words. Raises _Refused and what httpx raises."""
    while True:
        try:
            return await (_video(client, shot) if shot.video else _picture(client, shot, told))
        except _Refused as refused:
            if refused.status == 429 and told.retry_after_s is None:
                told.retry_after_s = refused.retry_after_s
            if refused.status != 429 or refused.retry_after_s is None or told.retries >= retries:
                raise
            told.retries += 1
            await asyncio.sleep(refused.retry_after_s)


async def _picture(client: httpx.AsyncClient, shot: Shot, told: _Told) -> Mapping[str, Any]:
    """The picture itself is read and let go."""
    if not shot.body.get("stream"):
        return dict(_checked(await client.post(shot.path, json=shot.body))["gfdit"])
    async with client.stream("POST", shot.path, json=shot.body) as response:
        if response.status_code != 200:
            await response.aread()
            _checked(response)
        event = ""
        async for line in response.aiter_lines():
            if told.first_at is None and line.startswith((": step", "event:")):
                told.first_at = time.monotonic()
            if line.startswith("event:"):
                event = line.partition(":")[2].strip()
            elif line.startswith("data:"):
                said = json.loads(line.partition(":")[2])
                if event == "error":
                    code = str(said["error"]["code"])
                    raise _Refused(429 if code == "rejected" else 500, code)  # the status line was sent long ago
                if event.endswith(".completed"):
                    return dict(said["gfdit"])
    raise _Refused(0, "stream_ended")


async def _video(client: httpx.AsyncClient, shot: Shot) -> Mapping[str, Any]:
    """A job, looked at until it has ended, and its file. One that is given up is deleted."""
    job = _checked(await client.post(shot.path, json=shot.body))
    path = f"{shot.path}/{job['id']}"
    try:
        while job["status"] in ("queued", "in_progress"):
            await asyncio.sleep(LOOK_S)
            job = _checked(await client.get(path))
    except asyncio.CancelledError:
        await client.delete(path)
        raise
    if job["status"] != "completed":
        raise _Refused(500, str((job.get("error") or {}).get("code", "failed")))
    async with client.stream("GET", f"{path}/content") as response:
        if response.status_code != 200:
            raise _Refused(response.status_code, "no_content")
        async for _ in response.aiter_bytes():
            pass
    return dict(job["gfdit"])


def _checked(response: httpx.Response) -> dict[str, Any]:
    """The JSON of a good answer. Raises _Refused for any other."""
    if response.status_code == 200:
        return dict(response.json())
    try:
        code = str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        code = f"http_{response.status_code}"
    after_ms = response.headers.get("retry-after-ms", "")
    raise _Refused(response.status_code, code, int(after_ms) / 1000 if after_ms.isdigit() else None)
