"""The one loop. Everything that ever schedules, live or simulated, runs through `drive`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gfdit.core.scheduler import Scheduler
from gfdit.runtime.ports import Clock, Fleet, Observer


def drive(scheduler: Scheduler, clock: Clock, fleet: Fleet, observers: Sequence[Observer] = ()) -> None:
    """Poll, observe, tick, send; until the fleet says that it is done.

    Observers see the decision before the fleet does, so that a journal never misses a command that was carried out.
    """
    wake: int | None = None
    while not fleet.done:
        events = fleet.poll(wake)
        now = clock.now()
        for event in events:
            scheduler.observe(event)
        begin = time.perf_counter()
        decision = scheduler.tick(now)
        seconds = time.perf_counter() - begin
        wake = decision.next_tick_at
        for observer in observers:
            observer.record(now, events, decision, seconds)
        fleet.send(decision.commands)
        fleet.tick_took(seconds, scheduler.policy.limits.tick_s)
