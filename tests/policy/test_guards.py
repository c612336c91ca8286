"""Guards and `tick`: what a policy watches over, and when it wants to be asked."""

from __future__ import annotations

import pytest

from gfdit.core.proposal import Alarm, Occasion
from gfdit.core.work import Stage
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy

STARVING = "guard no_starvation: longest_wait(any) < 20min else {action}"


@pytest.mark.parametrize(("action", "eject"), [("alert", False), ("fallback", True)])
def test_a_guard_that_does_not_hold_raises_an_alarm(action: str, eject: bool) -> None:
    subject = policy(STARVING.format(action=action), "fallback builtin.fcfs after 3 errors or tick > 5ms")
    waiting = Actor("w", arrival_s=0.0, stage=Stage.ENCODE)
    patient = World(gpus=1, now_s=1100.0).add([waiting])
    assert subject.plan(patient.view()).alarms == ()
    starving = World(gpus=1, now_s=1300.0).add([waiting])
    assert subject.plan(starving.view()).alarms == (Alarm("no_starvation", eject),)


@pytest.mark.parametrize(
    ("clause", "every_s", "on"),
    [
        ("", None, None),
        ("tick every 20ms", 0.02, frozenset()),
        ("tick on arrival, step_end", None, frozenset({Occasion.ARRIVAL, Occasion.STEP_END})),
        ("tick every 1s on worker", 1.0, frozenset({Occasion.WORKER})),
    ],
)
def test_tick_says_when_to_be_asked(clause: str, every_s: float | None, on: frozenset[Occasion] | None) -> None:
    subject = policy(clause)
    assert (subject.tick_every_s, subject.tick_on) == (every_s, on)
