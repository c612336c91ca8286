"""The one door through which other threads reach the controller's: requests, cancellations, orders about the policy,
the end of service.

Everything above the line may be called from any thread (`drain` and `close` from a signal handler too); the
controller's thread takes what has come with `take` and is woken through `wake_fd`.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gfdit.core.events import PolicyEjected, PolicySwapped
from gfdit.core.work import Request
from gfdit.errors import InputError, ShuttingDown
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
    """`dropped`: ids of requests that were announced and will never arrive. `orders`: about the policy, in order."""

    arrivals: list[Arrival]
    cancelled: list[str]
    dropped: list[str]
    orders: list[PolicyOrder]


@dataclass(order=True, slots=True)
class _Timed:
    at: int
    number: int
    arrival: Arrival = field(compare=False)


@dataclass(frozen=True, slots=True)
class Reserved:
    """Requests that are about to be accepted, and their tickets."""

    arrivals: list[Arrival]
    tickets: list[Ticket]


PolicyOrder = PolicySwapped | PolicyEjected
CLOSED = "no new requests are taken: the system is shutting down"


class Intake:
    """`open`: whether new requests are accepted."""

    def __init__(self, clock: Clock, tickets: Tickets) -> None:
        self.open = True
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._clock = clock
        self._tickets = tickets
        self._mail: deque[_Timed | str] = deque()  # arrivals, and ids to cancel
        self._later: list[_Timed] = []  # a heap; the controller's thread alone
        self._orders: list[PolicyOrder] = []  # by their times
        self._lock = threading.Lock()
        self._number = 0
        self._reserved = 0  # requests that have a ticket and are still being written down
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

    def reserve(self, requests: Sequence[tuple[Request, Mapping[str, Value]]]) -> Reserved:
        """All or none get their tickets now and arrive with `admit`; or `refuse` takes them back. Raises as
        `submit` does."""
        now = self._clock.now()
        with self._lock:
            if not self.open:
                raise ShuttingDown(CLOSED)
            reserved = Reserved([], [])
            try:
                for request, inputs in requests:
                    arrival = Arrival(replace(request, arrival_ns=now), dict(inputs))
                    reserved.tickets.append(self._tickets.open(arrival.request))
                    reserved.arrivals.append(arrival)
            except InputError:
                self._discard(reserved)
                raise
            self._reserved += len(reserved.arrivals)
        return reserved

    def admit(self, reserved: Reserved) -> None:
        """They arrive, even if the system has begun to drain: they were accepted before."""
        with self._lock:
            for arrival in reserved.arrivals:
                self._number += 1
                self._mail.append(_Timed(arrival.request.arrival_ns, self._number, arrival))
            self._reserved -= len(reserved.arrivals)
        self.wake()

    def refuse(self, reserved: Reserved) -> None:
        """They never arrive, and their ids are free again."""
        with self._lock:
            self._discard(reserved)
            self._reserved -= len(reserved.arrivals)
        self.wake()

    def _discard(self, reserved: Reserved) -> None:
        for ticket in reserved.tickets:
            self._tickets.discard(ticket.request.id)

    def readmit(self, request: Request, inputs: Mapping[str, Value]) -> Ticket:
        """One that an earlier controller accepted arrives again, at the time it had. Raises InputError for a taken
        id."""
        return self._announce([(request, request.arrival_ns)], lambda _: inputs)[0]

    def cancel(self, request_id: str) -> None:
        """The client gave up. An id that is not live is ignored."""
        with self._lock:
            self._mail.append(request_id)
        self.wake()

    def order(self, order: PolicyOrder) -> None:
        """A policy is swapped in or ejected at `order.at`, or now if that has passed."""
        with self._lock:
            self._orders = sorted([*self._orders, order], key=lambda one: one.at)
        self.wake()

    def revoke_orders(self) -> None:
        """Those that are not due yet never are."""
        with self._lock:
            self._orders = []

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
                raise ShuttingDown(CLOSED)
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
        taken = Taken([], [], [], self._take_orders(now))
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

    def _take_orders(self, now: int) -> list[PolicyOrder]:
        with self._lock:
            due = [replace(order, at=now) for order in self._orders if order.at <= now]
            self._orders = [order for order in self._orders if order.at > now]
        return due

    def _drop(self, wanted: Callable[[_Timed], bool], taken: Taken) -> None:
        taken.dropped.extend(timed.arrival.request.id for timed in self._later if wanted(timed))
        self._later = [timed for timed in self._later if not wanted(timed)]
        heapq.heapify(self._later)

    def next_due(self) -> int | None:
        """When the next request arrives, or the next order is to be carried out."""
        return min((timed.at for timed in (*self._later[:1], *self._orders[:1])), default=None)

    @property
    def empty(self) -> bool:
        """Nothing has come that was not taken, and nothing is announced or being written down."""
        return not self._reserved and not self._mail and not self._later

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
