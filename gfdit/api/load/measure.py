"""The figures of a run against a server: attainment, percentiles and fates by class, rates, the server's own cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import numpy as np

from gfdit.api.load.client import Answer, Fate, Manner, fire
from gfdit.api.load.plan import Shot
from gfdit.api.load.server import Cost, Meter
from gfdit.errors import GfditError, UsageError

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Load:
    """One run: what was sent, how it fared, and what it cost the server (None: not known)."""

    shots: Sequence[Shot]
    answers: Sequence[Answer]
    cost: Cost | None


def drive(shots: Sequence[Shot], manner: Manner, tell: Callable[[Answer], None] = lambda answer: None) -> Load:
    """Ask a running server for everything in `shots`. Raises UsageError for an address that is none, GfditError for a
    server that does not answer or does not take our key, before anything is asked of it."""

    async def run() -> Load:
        await _check(manner)
        meter = Meter(manner.url, manner.key)
        await meter.start()
        answers = await fire(shots, manner, tell)
        return Load(shots, answers, await meter.stop())

    return asyncio.run(run())


async def _check(manner: Manner) -> None:
    headers = {"Authorization": f"Bearer {manner.key}"} if manner.key else {}
    try:
        async with httpx.AsyncClient(base_url=manner.url, headers=headers) as client:
            response = await client.get("/v1/models")
    except (httpx.UnsupportedProtocol, httpx.InvalidURL):
        raise UsageError(f"`{manner.url}` is no server's address", hint="such as http://127.0.0.1:8000") from None
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise GfditError(f"cannot reach {manner.url}: {reason}", hint="is `gfdit run` running there?") from None
    if response.status_code == 401:
        raise GfditError(f"{manner.url} wants an API key", hint="set GFDIT_API_KEY")
    if response.status_code != 200:
        raise GfditError(f"{manner.url} answered {response.status_code} to /v1/models")


def figures(load: Load) -> dict[str, Any]:
    """As `gfdit bench serve --json` prints them. Seconds of the client's clock; rates are over `span_s`, from the first
    request that was due to the last answer."""
    answers = load.answers
    span_s = max(max(answer.at_s + answer.latency_s for answer in answers), 1e-9)
    names = sorted({answer.class_name for answer in answers})
    completed = sum(answer.fate is Fate.COMPLETED for answer in answers)
    on_time = sum(answer.on_time for answer in answers)
    told = [answer for answer in answers if answer.retry_after_s is not None]
    return {
        "bench": "serve",
        **group_figures(answers),
        "classes": {name: group_figures([one for one in answers if one.class_name == name]) for name in names},
        "codes": dict(Counter(answer.code for answer in answers if answer.code).most_common()),
        "span_s": span_s,
        "asked_per_s": len(answers) / span_s,
        "completed_per_s": completed / span_s,
        "on_time_per_s": on_time / span_s,
        "retries": sum(answer.retries for answer in answers),
        "retry_after_s": _percentiles([answer.retry_after_s or 0.0 for answer in told]),
        "first_step_s": _percentiles([answer.first_s for answer in answers if answer.first_s is not None]),
        "lag_s": _percentiles([answer.lag_s for answer in answers]),
        "server": None if load.cost is None else _cost(load.cost, len(answers)),
    }


def group_figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """Attainment counts everything that was asked; percentiles cover what was completed."""
    fates = Counter(answer.fate for answer in answers)
    return {
        "requests": len(answers),
        **{str(fate): fates[fate] for fate in Fate},
        "on_time": sum(answer.on_time for answer in answers),
        "attainment": sum(answer.on_time for answer in answers) / len(answers),
        "latency_s": _percentiles([answer.latency_s for answer in answers if answer.fate is Fate.COMPLETED]),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """None when there are none."""
    if not values:
        return None
    found = np.percentile(np.asarray(values), PERCENTILES)
    named = {f"p{percent}": float(value) for percent, value in zip(PERCENTILES, found, strict=True)}
    return {"mean": float(np.mean(values)), **named, "max": float(max(values))}


def _cost(cost: Cost, requests: int) -> dict[str, Any]:
    each_step = cost.cpu_s / cost.steps if cost.steps else None
    return {**asdict(cost), "cpu_s_a_request": cost.cpu_s / requests, "cpu_s_a_step": each_step}
