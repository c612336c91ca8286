"""A request that kills whatever runs it is given up after so many deaths, and takes nobody with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from gfdit.core.commands import RunTask
from gfdit.core.events import Event
from gfdit.core.scheduler import Decision
from gfdit.core.work import Outcome
from gfdit.live.fleet import FleetSettings
from gfdit.live.supervisor import RestartRule
from gfdit.live.system import LiveConfig, LiveSystem, start_live
from gfdit.worker.emulated import expected_output, inputs_of
from tests.live.emulation import Restless, cost_model, requests

COST = cost_model(step_s=0.1)
POISONOUS = "r1"


@dataclass
class Poison:
    """Kills a member of every group that is to run the request: an input that no worker survives."""

    system: LiveSystem
    killed: list[int] = field(default_factory=list)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        lives = self.system.fleet.supervisor.lives
        for command in decision.commands:
            if isinstance(command, RunTask) and command.request_id == POISONOUS and command.ranks[-1] in lives:
                os.kill(lives[command.ranks[-1]].pid, signal.SIGKILL)
                self.killed.append(command.ranks[-1])


def test_poison_is_given_up_and_the_others_are_served() -> None:
    fleet = FleetSettings(heartbeat_s=0.1, restart=RestartRule(base_s=0.01))
    config = LiveConfig(Restless(), COST, device="emulated", workers=3, time_scale=4.0, fleet=fleet)
    with start_live(config) as system:
        poison = Poison(system)
        tickets = {one.id: system.submit(one) for one in requests(4, steps=10, every_s=0)}
        system.close_intake()
        system.run([poison])
        assert system.fleet.supervisor.out == ()
    ended = tickets.pop(POISONOUS).progress
    assert (ended.outcome, ended.code) == (Outcome.FAILED, "poison") and "gave up after 4 attempts" in ended.message
    assert len(poison.killed) == system.scheduler.max_attempts == 4
    for ticket in tickets.values():
        assert ticket.progress.outcome is Outcome.COMPLETED
        request = ticket.request
        assert ticket.output == expected_output(inputs_of(request), COST.stages("tiny"), request.steps)
