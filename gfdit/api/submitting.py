"""What pictures and videos have in common once they are asked for: all or none is accepted, and how each one went."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from gfdit.api.errors import ApiError, queue_full, shutting_down, storage_full
from gfdit.api.schema import NS_PER_MS, Asked
from gfdit.api.service import Pending, Service
from gfdit.errors import GfditError, InputError, QueueFull, ShuttingDown, StorageFull
from gfdit.runtime.keyed import Key

Work = Future[Sequence[Pending]]
"""Done once it is accepted for good, which is what clients wait for: see `accepted`."""


def submit(service: Service, asked: Sequence[Asked], key: Key | None = None) -> Work:
    """All or none. Raises ApiError."""
    try:
        return service.submit([(one.request, one.inputs) for one in asked], key)
    except (InputError, QueueFull, ShuttingDown) as error:
        raise _refusal(error) from None


def accepted_now(work: Work) -> Sequence[Pending]:
    """Waits. Raises ApiError."""
    try:
        return work.result()
    except (InputError, StorageFull) as error:
        raise _refusal(error) from None


async def accepted(work: Work) -> Sequence[Pending]:
    """Raises ApiError."""
    try:
        return await asyncio.wrap_future(work)
    except (InputError, StorageFull) as error:
        raise _refusal(error) from None


def _refusal(error: GfditError) -> ApiError:
    match error:
        case ShuttingDown():
            return shutting_down()
        case QueueFull():
            return queue_full(error)
        case StorageFull():
            return storage_full(error)
        case _:
            return ApiError(400, "invalid_value", str(error))


def how_it_went(service: Service, one: Pending) -> dict[str, Any]:
    """The `gfdit` object of an answer. Times are milliseconds of the system's clock."""
    progress, request = one.progress, one.request
    arrived, started, ended = progress.arrived_ns or 0, progress.started_ns or 0, progress.ended_ns or 0
    return {
        "id": request.id,
        "seed": request.seed,
        "queue_ms": max(0, started - arrived) / NS_PER_MS,
        "run_ms": max(0, ended - started) / NS_PER_MS,
        "steps": progress.steps_done,
        "cache": progress.cache,
        "degrees": [list(entry) for entry in progress.degrees],
        "resizes": progress.resizes,
        "preemptions": progress.preemptions,
        "migrations": progress.migrations,
        "attempts": progress.failures + 1,
        "deadline_met": None if progress.deadline_ns is None else progress.on_time,
        "policy": service.policy,
        "policy_version": service.policy_version,
        "policy_sha": service.policy_sha,
    }
