"""The seams between the scheduler and a world: a clock, a fleet, and observers.

Simulator and live runtime differ only in the `Fleet` and the `Clock` they hand to the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gfdit.core.commands import Command
from gfdit.core.events import Event
from gfdit.core.scheduler import Decision


class Clock(Protocol):
    def now(self) -> int:
        """Nanoseconds; never goes back."""
        ...


class Fleet(Protocol):
    """The workers and the clients, as one source of events and one sink of commands.

    Promises: one `TaskFinished` or `TaskFailed` for each `RunTask` sent; `WorkerLost` before the `TaskFailed`s it
    causes; events in the order they happened, `at` never decreasing.
    """

    def send(self, commands: Sequence[Command]) -> None:
        """Carry these out, in order. Does not block on the workers."""
        ...

    def poll(self, until: int | None) -> list[Event]:
        """Wait for events, at most until that time (`None`: as long as it takes). The only place that waits.

        All events of one instant come together. May return [] (time is up, or someone asked for a tick).
        """
        ...

    def processor_s(self) -> float:
        """Seconds that this thread has had a processor for, by which `too_slow` is explained."""
        ...

    def too_slow(self, seconds: float, limit: float | None) -> bool:
        """Whether a policy that took so long to answer broke its limit. Never in a simulation: time stands still there
        while a policy thinks."""
        ...

    @property
    def done(self) -> bool:
        """Nothing will happen any more (the trace is served, or the drain is complete)."""
        ...


class Observer(Protocol):
    """Looks on: journal, console, metrics. Never changes anything."""

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None: ...
