"""The one loop. Everything that ever schedules, live or simulated, runs through `drive`."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

from gfdit.core.events import PolicyOverran
from gfdit.core.scheduler import Scheduler
from gfdit.runtime.ports import Clock, Fleet, Observer


def drive(
    scheduler: Scheduler,
    clock: Clock,
    fleet: Fleet,
    observers: Sequence[Observer] = (),
    afterwards: Sequence[Observer] = (),
) -> None:
    """Poll, observe, tick, send; until the fleet says that it is done.

    Observers see the decision before the fleet does, so that a journal never misses a command that was carried out. A
    policy that took too long is an event of the same tick, which then keeps the last plan. Those of
    `afterwards` look once the commands are on their way, so that nothing waits for them.
    """
    wake: int | None = None
    while not fleet.done:
        events = fleet.poll(wake)
        now = clock.now()
        for event in events:
            scheduler.observe(event)
        limit = scheduler.policy.limits.tick_s
        begin, computing = time.perf_counter(), fleet.processor_s()
        evaluate_undisturbed(scheduler, now)
        took = time.perf_counter() - begin
        if fleet.too_slow(took, limit):
            overran = PolicyOverran(now, took, fleet.processor_s() - computing)
            scheduler.observe(overran)
            events = [*events, overran]
        decision = scheduler.tick(now)
        seconds = time.perf_counter() - begin
        wake = decision.next_tick_at
        for observer in observers:
            observer.record(now, events, decision, seconds)
        fleet.send(decision.commands)
        for observer in afterwards:
            observer.record(now, events, decision, seconds)


def evaluate_undisturbed(scheduler: Scheduler, now: int) -> None:
    """`scheduler.evaluate` without a collection of garbage in it: with thousands of live requests one takes tens of
    milliseconds, which would be held against the policy. It comes right after, when nobody is timed."""
    collects = gc.isenabled()
    gc.disable()
    try:
        scheduler.evaluate(now)
    finally:
        if collects:
            gc.enable()
