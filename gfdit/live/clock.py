"""The live clock: monotonic time since the start, optionally run faster than the wall's (for emulated devices)."""

from __future__ import annotations

import time

from gfdit.errors import UsageError
from gfdit.units import NS_PER_S


class LiveClock:
    """Nanoseconds since `start`, times `scale`; 0 before. A jump of the wall clock changes nothing."""

    def __init__(self, scale: float = 1.0) -> None:
        if not 0 < scale <= 1e6:
            raise UsageError(f"time scale must be above 0 and at most 1e6, not {scale:g}")
        self.scale = scale
        self._origin: int | None = None

    def start(self) -> None:
        """Time begins now: when the workers are there, not while they load their models."""
        self._origin = time.monotonic_ns()

    def now(self) -> int:
        if self._origin is None:
            return 0
        return round((time.monotonic_ns() - self._origin) * self.scale)

    def real_seconds(self, ns: int) -> float:
        """How long `ns` of this clock last on the wall; never negative."""
        return max(0.0, ns / self.scale / NS_PER_S)
