"""The requests of the last while, for a simulation of what another policy would have made of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from gfdit.core.events import Event, RequestArrived
from gfdit.core.scheduler import Decision
from gfdit.core.work import Request

WINDOW_NS = 3600 * 1_000_000_000
MOST = 20_000


class RecentRequests:
    """An observer; `workload` may be asked from any thread."""

    def __init__(self, window_ns: int = WINDOW_NS, most: int = MOST) -> None:
        self._window_ns = window_ns
        self._requests: deque[Request] = deque(maxlen=most)
        self._lock = threading.Lock()

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        arrived = [event.request for event in events if isinstance(event, RequestArrived)]
        if not arrived:
            return
        with self._lock:
            self._requests.extend(arrived)
            while self._requests and self._requests[0].arrival_ns < now - self._window_ns:
                self._requests.popleft()

    def workload(self, now: int) -> list[Request]:
        """Those of the window that ends `now`, the first one at time zero."""
        with self._lock:
            kept = [request for request in self._requests if request.arrival_ns >= now - self._window_ns]
        first = min((request.arrival_ns for request in kept), default=0)
        return [replace(request, arrival_ns=request.arrival_ns - first) for request in kept]
