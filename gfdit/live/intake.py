"""The one door through which other threads reach the controller's: requests, cancellations, the end of service.

Everything above the line may be called from any thread (`drain` and `close` from a signal handler too); the
controller's thread takes what has come with `take` and is woken through `wake_fd`.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gfdit.core.work import Request
from gfdit.errors import ShuttingDown
from gfdit.live.results import Ticket, Tickets
from gfdit.runtime.ports import Clock
from gfdit.wire.messages import Value

InputsOf = Callable[[Request], Mapping[str, Value]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """`request.arrival_ns` is the time it was due on the controller's clock."""

    request: Request
    inputs: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Taken:
    """`dropped`: ids of requests that were announced and will never arrive."""

    arrivals: list[Arrival]
    cancelled: list[str]
    dropped: list[str]


@dataclass(order=True, slots=True)
class _Timed:
    at: int
    number: int
    arrival: Arrival = field(compare=False)


class Intake:
    """`open`: whether new requests are accepted."""

    def __init__(self, clock: Clock, tickets: Tickets) -> None:
        self.open = True
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._clock = clock
        self._tickets = tickets
        self._mail: deque[_Timed | str] = deque()  # arrivals, and ids to cancel
        self._later: list[_Timed] = []  # a heap; the controller's thread alone
        self._lock = threading.Lock()
        self._number = 0
        self._released = False
        self._drop_later = False
        self._cancel_all = False

    def submit(self, request: Request, inputs: Mapping[str, Value]) -> Ticket:
        """The request arrives now, whatever `arrival_ns` it has. Raises ShuttingDown, or InputError for a taken id."""
        return self._announce([(request, self._clock.now())], lambda _: inputs)[0]

    def feed(self, requests: Iterable[Request], inputs_of: InputsOf) -> list[Ticket]:
        """Replay a workload: each request arrives at its `arrival_ns` after this call. Raises as `submit` does."""
        begin = self._clock.now()
        return self._announce([(request, begin + request.arrival_ns) for request in requests], inputs_of)

    def cancel(self, request_id: str) -> None:
        """The client gave up. An id that is not live is ignored."""
        with self._lock:
            self._mail.append(request_id)
        self.wake()

    def close(self) -> None:
        """No new requests; those that were fed still arrive."""
        self.open = False
        self.wake()

    def drain(self, *, cancel: bool = False) -> None:
        """No new requests, and the fed ones that have not arrived never do. `cancel`: those that live end now, too."""
        self.open = False
        self._drop_later = True
        self._cancel_all = self._cancel_all or cancel
        self.wake()

    def wake(self) -> None:
        if not self._released:
            os.eventfd_write(self.wake_fd, 1)

    def _announce(self, timed: list[tuple[Request, int]], inputs_of: InputsOf) -> list[Ticket]:
        with self._lock:
            if not self.open:
                raise ShuttingDown("no new requests are taken: the system is shutting down")
            tickets = []
            for request, at in timed:
                arrival = Arrival(replace(request, arrival_ns=at), dict(inputs_of(request)))
                tickets.append(self._tickets.open(arrival.request))
                self._number += 1
                self._mail.append(_Timed(at, self._number, arrival))
        self.wake()
        return tickets

    # ---- the controller's thread ----------------------------------------------------------------------------------

    def take(self, now: int) -> Taken:
        """What has come by `now`, arrivals in the order of their times."""
        taken = Taken([], [], [])
        while self._mail:
            item = self._mail.popleft()
            if isinstance(item, _Timed):
                heapq.heappush(self._later, item)
            elif any(timed.arrival.request.id == item and timed.at > now for timed in self._later):
                self._drop(lambda timed, gone=item: timed.arrival.request.id == gone, taken)  # type: ignore[misc]
            else:
                taken.cancelled.append(item)
        while self._later and self._later[0].at <= now:
            taken.arrivals.append(heapq.heappop(self._later).arrival)
        if self._drop_later:
            self._drop(lambda _: True, taken)
        if self._cancel_all:
            self._cancel_all = False
            gone = {*taken.dropped, *taken.cancelled}
            taken.cancelled.extend(t.request.id for t in self._tickets.live() if t.request.id not in gone)
        return taken

    def _drop(self, wanted: Callable[[_Timed], bool], taken: Taken) -> None:
        taken.dropped.extend(timed.arrival.request.id for timed in self._later if wanted(timed))
        self._later = [timed for timed in self._later if not wanted(timed)]
        heapq.heapify(self._later)

    def next_arrival(self) -> int | None:
        return self._later[0].at if self._later else None

    @property
    def empty(self) -> bool:
        """Nothing has come that was not taken, and nothing is announced."""
        return not self._mail and not self._later

    def acknowledge_wake(self) -> None:
        try:
            os.eventfd_read(self.wake_fd)
        except BlockingIOError:
            pass  # woken for something else

    def release(self) -> None:
        """Close for good."""
        with self._lock:
            self.open = False
            if not self._released:
                self._released = True
                os.close(self.wake_fd)
