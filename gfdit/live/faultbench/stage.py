"""A running system under load for one row: emulated workers in processes of their own, requests that never let up.

A feeder keeps a few requests alive while the faults are done; afterwards every one of them has to end, once, with the
bytes that the run without faults gives.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gfdit.core.cost import CostModel
from gfdit.core.work import Outcome, Request
from gfdit.errors import FleetError
from gfdit.live.faultbench.row import Row, times_ms
from gfdit.live.faultbench.watch import Blow, Watch
from gfdit.live.fleet import FleetSettings
from gfdit.live.results import Ticket
from gfdit.live.supervisor import RestartRule
from gfdit.live.system import LiveConfig, LiveSystem, start_live
from gfdit.policy.store import compile_text
from gfdit.runtime.ports import Observer
from gfdit.runtime.rollout.control import Rollout
from gfdit.worker.emulated import expected_output, inputs_of

WORKERS, SCALE, ALIVE = 4, 25.0, 6
PATIENCE_S = 120.0
MODEL, SIDE, TOKENS = "qwen-image", 1024, 4096
# a shipped policy without its limit on a tick: on a busy machine the watchdog would have a say, too
POLICY = (
    'policy calm_{base} version 1 "a shipped one under faults" extends {base}\nfallback builtin.fcfs after 3 errors'
)
EAGER = RestartRule(per_minute=1_000_000, base_s=0.0)  # the faults are ours: no rank is given up for dying often


class Door(Protocol):
    """HTTP in front of a system. `observers`: what the loop is to be watched by for its sake."""

    @property
    def observers(self) -> Sequence[Observer]: ...
    def open(self) -> AbstractContextManager[str]:
        """Serve; the address."""
        ...


MakeDoor = Callable[[LiveSystem, int], Door]  # of a system, and how many requests may wait


@dataclass(frozen=True, slots=True)
class Setting:
    """What the rows share. `cost`: knows the model `qwen-image`; `door`: how HTTP is served; `folder`: for files."""

    cost: CostModel
    seed: int
    door: MakeDoor
    folder: Path


@dataclass
class Stage:
    """What a fault has at hand. `tickets`: of the feeder's requests; `excused`: ids that may end otherwise."""

    system: LiveSystem
    watch: Watch
    rollout: Rollout
    pick: random.Random
    url: str
    tickets: list[Ticket] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)
    unmet: int = 0  # promises that the fault itself saw broken

    def request(self, name: str) -> Request:
        """Another one, of random length."""
        steps, seed = self.pick.randint(4, 10), self.pick.randrange(1 << 30)
        return Request(name, MODEL, "standard", 0, SIDE, SIDE, steps, TOKENS, tag="standard", seed=seed)

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Call under `watch.changed`. Raises FleetError, so that a system that hangs is a failure and no silence."""
        if not self.watch.changed.wait_for(until, PATIENCE_S):
            raise FleetError(f"{what} did not happen within {PATIENCE_S:g} s")

    def rest(self, seconds: float) -> None:
        """Let the system go on for so long: the random phase of a fault."""
        threading.Event().wait(seconds)

    def signal(self, rank: int, number: signal.Signals) -> Blow:
        """To the worker of a rank that is alive. Call under `watch.changed`."""
        pid = self.system.fleet.supervisor.lives[rank].pid
        return self.watch.strike(rank, self.system.clock.now, lambda: os.kill(pid, number))

    def expected(self, request: Request) -> bytes:
        """The result without any fault."""
        return expected_output(inputs_of(request), self.system.models[request.model].stages, request.steps)


Act = Callable[[Stage], int]  # does the faults, returns how many


def perform(
    test: str, setting: Setting, act: Act, settings: FleetSettings | None = None, queue: int = 1000, feed: bool = True
) -> Row:
    """One row. Raises FleetError for a system that hangs."""
    policy = compile_text(POLICY.format(base="srtf"))
    fleet = settings or FleetSettings(restart=EAGER)
    config = LiveConfig(policy, setting.cost, "emulated", workers=WORKERS, time_scale=SCALE, fleet=fleet)
    pick = random.Random(f"{setting.seed} {test}")
    with start_live(config) as system:
        watch, rollout, door = Watch(), system.rollout({}), setting.door(system, queue)
        loop = threading.Thread(target=system.run, args=([watch, *door.observers], (rollout,)), name="loop")
        loop.start()
        try:
            with door.open() as url:
                stage = Stage(system, watch, rollout, pick, url)
                faults = _under_load(stage, act) if feed else act(stage)
                _all_ended(stage)
        finally:
            system.drain(cancel=True)
            loop.join(PATIENCE_S)
    return _row(test, setting.seed, stage, faults)


def _under_load(stage: Stage, act: Act) -> int:
    room, over = threading.Semaphore(ALIVE), threading.Event()

    def feed() -> None:
        number = 0
        while room.acquire() and not over.is_set():
            ticket = stage.system.submit(feeding.request(f"r{number:06}"))
            stage.tickets.append(ticket)
            ticket.on_end(lambda _: room.release())
            number += 1

    feeding = Stage(stage.system, stage.watch, stage.rollout, random.Random(stage.pick.random()), stage.url)
    feeder = threading.Thread(target=feed, name="feeder")
    feeder.start()
    try:
        return act(stage)
    finally:
        over.set()
        room.release()
        feeder.join()


def _all_ended(stage: Stage) -> None:
    for ticket in stage.tickets:
        if not ticket.wait(PATIENCE_S):
            raise FleetError(f"request `{ticket.request.id}` did not end within {PATIENCE_S:g} s")


def _row(test: str, seed: int, stage: Stage, faults: int) -> Row:
    mine = [ticket for ticket in stage.tickets if ticket.request.id not in stage.excused]
    completed = [ticket for ticket in mine if ticket.progress.outcome is Outcome.COMPLETED]
    watch = stage.watch
    with watch.changed:
        never = sum(watch.ends[name] == 0 for name in watch.requests)
        return Row(
            test=test,
            faults=faults,
            requests=len(watch.requests),
            lost=len(mine) - len(completed) + never + stage.unmet,
            duplicates=sum(max(0, count - 1) for count in watch.ends.values()),
            hash_mismatches=sum(ticket.output != stage.expected(ticket.request) for ticket in completed),
            **dict(zip(_TIMES, times_ms(watch.blows, stage.system.clock.scale), strict=True)),
            seed=seed,
        )


_TIMES = ("detect_p50_ms", "detect_p99_ms", "recover_p50_ms", "recover_p99_ms")
