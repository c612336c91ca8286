"""The status of the system as server-sent events: asked for once, sent to everybody who looks.

A looker that reads slowly misses states and gets the newest one; nothing is kept for it. The more look on, the rarer
the states, so that being watched costs the system a bounded share of a core.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio.to_thread
from pydantic import TypeAdapter

from gfdit.api.service import Service
from gfdit.runtime.status import Status

PERIOD_S = 0.5
PERIOD_PER_LOOKER_S = 0.01
_STATUS = TypeAdapter(Status)


class StatusFeed:
    """Used by one event loop; `close` may be called from any thread, and ends all streams within a period."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lookers = 0
        self._closed = False
        self._newest: tuple[int, bytes] = (0, b"")
        self._news = asyncio.Condition()
        self._producer: asyncio.Task[None] | None = None

    def close(self) -> None:
        """No more events."""
        self._closed = True

    async def events(self) -> AsyncIterator[bytes]:
        """`data:` frames, each a whole status with what the last minute looked like."""
        self._lookers += 1
        if self._producer is None:
            self._producer = asyncio.create_task(self._produce())
        seen = 0
        try:
            while not self._closed:
                async with self._news:
                    await self._news.wait_for(lambda: self._closed or self._newest[0] > seen)  # noqa: B023 - at once
                    seen, frame = self._newest
                if not self._closed:
                    yield frame
        finally:
            self._lookers -= 1

    async def _produce(self) -> None:
        """Runs as long as somebody looks."""
        number = 0
        while self._lookers and not self._closed:
            status = await anyio.to_thread.run_sync(self._status)
            number += 1
            async with self._news:
                self._newest = (number, b"data: " + status + b"\n\n")
                self._news.notify_all()
            await asyncio.sleep(max(PERIOD_S, PERIOD_PER_LOOKER_S * self._lookers))
        self._newest = (0, b"")
        self._producer = None
        async with self._news:
            self._news.notify_all()

    def _status(self) -> bytes:
        return _STATUS.dump_json(self._service.status(detail=True))
