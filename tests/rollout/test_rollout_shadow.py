"""A candidate in the shadow: it sees what the one in charge sees, is counted, and changes nothing."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gfdit.core.commands import RunTask
from gfdit.core.proposal import Place, Proposal
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text
from gfdit.policy.world import Actor, World
from gfdit.runtime.rollout.shadow import Shadow, predicted_lateness

from .desk import Desk, bundle_of, request, shipped, text_of


def work(desk: Desk, count: int = 8, apart_s: float = 0.3) -> list[tuple[str, Stage, int, tuple[int, ...]]]:
    desk.submit(*(request(n, apart_s * n, 4, slo_s=4.0 if n % 2 else None) for n in range(count)))
    desk.run(60.0)
    return [(c.request_id, c.stage, c.first_step, c.ranks) for c in desk.commands(RunTask)]


def test_a_shadow_changes_nothing_and_an_equal_one_never_disagrees() -> None:
    alone, watched = Desk("slo"), Desk("slo")
    watched.rollout.push(shipped("slo"))
    assert work(alone) == work(watched)
    candidate = watched.rollout.status().candidate
    assert candidate is not None
    report = candidate.shadow
    assert report.ticks > 8 and report.differing == 0 and set(report.requests.values()) == {0}
    assert report.live_late == report.shadow_late
    assert report.cost_us["max"] >= report.cost_us["p99"] >= report.cost_us["p50"] > 0


def test_it_tells_who_would_get_what_otherwise() -> None:
    desk = Desk(compile_text(text_of("oldest")))
    admits = 'admit { reject when tag == "standard" because "no" }'
    desk.rollout.push(bundle_of(text_of("newest", order="arrival desc", sp=2, more=admits)))
    work(desk, apart_s=0.05)
    candidate = desk.rollout.status().candidate
    assert candidate is not None
    report = candidate.shadow  # it joined in on the tick of the first arrival
    assert report.requests["degree"] == 8 and report.requests["fate"] == 7 and report.requests["order"] > 0
    assert 0 < report.differing <= report.ticks
    assert {(one.live, one.shadow) for one in report.examples if one.aspect == "degree"} <= {
        ("1 gpu", "2 gpu"), ("1 gpu", "0 gpu"), ("0 gpu", "2 gpu"),
    }  # fmt: skip


def test_one_that_fails_as_often_as_it_may_is_not_asked_any_more() -> None:
    class Failing(CompiledPolicy):
        asked = 0

        def plan(self, view):  # type: ignore[no-untyped-def]
            Failing.asked += 1
            raise ValueError("it cannot")

    desk = Desk("slo")
    desk.rollout.push(shipped("slo"))
    live = desk.rollout._candidate
    assert live is not None
    program = compile_text(text_of("failing", more="fallback builtin.fcfs after 3 errors")).program
    live.shadow = Shadow(Failing(program))
    alone = Desk("slo")
    assert work(alone) == work(desk)
    report = live.shadow.report()
    assert (report.errors, Failing.asked) == (3, 3) and report.stopped == "ValueError: it cannot"


def test_one_that_is_too_slow_does_not_hold_the_system_up_for_long() -> None:
    class Slow(CompiledPolicy):
        asked = 0

        def plan(self, view):  # type: ignore[no-untyped-def]
            Slow.asked += 1
            begin = time.thread_time()
            while time.thread_time() - begin < 0.003:
                pass
            return super().plan(view)

    desk = Desk("slo")
    desk.rollout.push(shipped("slo"))
    candidate = desk.rollout._candidate
    assert candidate is not None
    program = compile_text(text_of("slow", more="fallback builtin.fcfs after 2 errors or tick > 2ms")).program
    candidate.shadow = Shadow(Slow(program))
    work(desk)
    report = candidate.shadow.report()
    assert Slow.asked == report.errors == 2 and "its limit is 2.0 ms" in report.stopped


def test_it_begins_with_what_the_one_in_charge_carries_and_takes_nothing_from_it() -> None:
    more = "state total: num = 0 next total + 1\nlet used = total"
    desk = Desk(compile_text(text_of("p", more=more, order="arrival, total")))
    desk.submit(*(request(n, 0.0) for n in range(3)))
    desk.run(0.2)
    live = desk.scheduler.policy
    assert isinstance(live, CompiledPolicy)
    before = live.carried("total")
    desk.rollout.push(bundle_of(text_of("p", 2, more=more, order="arrival, total")))
    desk.run(60.0)
    candidate = desk.rollout._candidate
    assert candidate is not None and isinstance(before, float) and before > 0
    assert candidate.shadow._policy.carried("total") == live.carried("total")


def test_predicted_lateness_is_that_of_the_plan() -> None:
    world = World(gpus=4)
    world.add(
        [
            Actor("on_time", stage=Stage.DENOISE, deadline_s=1e3),
            Actor("late", stage=Stage.DENOISE, deadline_s=1.0),
            Actor("waits", stage=Stage.DENOISE, deadline_s=2.0),
            Actor("free", stage=Stage.DENOISE),
        ]
    )
    view = world.view()
    row = {request_id: number for number, request_id in enumerate(view.ids)}
    narrow = Proposal((Place(row["on_time"], 1), Place(row["late"], 1)))
    wide = Proposal((Place(row["on_time"], 1), Place(row["late"], 2)))
    count, seconds = predicted_lateness(view, narrow)
    best = float(view.remaining_s[row["waits"]].min())
    expected = float(view.remaining_s[row["late"], view.degrees.index(1)]) - 1.0 + best - 2.0
    assert count == 2 and seconds == pytest.approx(expected)
    assert predicted_lateness(view, wide)[1] < seconds
    assert predicted_lateness(World(gpus=1).view(), Proposal()) == (0, 0.0)
    assert np.isinf(view.deadline_s[row["free"]])
