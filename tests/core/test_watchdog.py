"""The watchdog: what gets a policy ejected, what does not, whose fault it is, and what is kept of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from literal_policies import AdmitAll, EdfBestFit, is_single
from small_worlds import make_cost, make_request

from gfdit.core.estimate import Estimator
from gfdit.core.events import Event, PolicyOverran, RequestArrived, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.proposal import Alarm, Limits, Place, Proposal, WaitReason
from gfdit.core.scheduler import Decision, NewsKind, Scheduler
from gfdit.core.topology import Topology
from gfdit.core.view import View
from gfdit.core.watchdog import Blame, EjectCause, Ejection, StrikeKind
from gfdit.core.work import Request
from gfdit.policy.store import compile_text
from gfdit.runtime.driver import drive
from gfdit.runtime.ejections import EjectionFiles
from gfdit.runtime.metrics import Metrics
from gfdit.sim.fleet import SimFleet, VirtualClock
from gfdit.sim.run import build_scheduler
from gfdit.units import to_ns


def scheduler_of(policy: object, ranks: int = 4) -> Scheduler:
    scheduler = Scheduler(policy, Topology.uniform(ranks), Estimator(make_cost(), ranks))
    for rank in range(ranks):
        scheduler.observe(WorkerJoined(0, rank, 1))
    return scheduler


class Kept:
    """An observer that keeps the decisions."""

    def __init__(self) -> None:
        self.decisions: list[tuple[int, Decision]] = []

    @property
    def ejections(self) -> list[Ejection]:
        return [decision.ejection for _, decision in self.decisions if decision.ejection is not None]

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.decisions.append((now, decision))


class TimedFleet(SimFleet):
    """A simulated fleet in which a policy's thinking counts, as it does in a live one."""

    def too_slow(self, seconds: float, limit: float | None) -> bool:
        return limit is not None and seconds > limit

    def processor_s(self) -> float:
        return time.thread_time()


def serve(policy: object, requests: list[Request], gpus: int = 4, *, timed: bool = False) -> tuple[Scheduler, Kept]:
    scheduler, clock, kept = build_scheduler(policy, make_cost(), gpus), VirtualClock(), Kept()
    fleet = (TimedFleet if timed else SimFleet)(clock, make_cost(), gpus, requests)
    drive(scheduler, clock, fleet, (kept,))
    return scheduler, kept


# ---- time ----------------------------------------------------------------------------------------------------


class Slow(EdfBestFit):
    """Needs more than 5 ms of processor for every plan."""

    name = "slow"
    limits = Limits(tick_s=0.005)
    fallback = EdfBestFit()

    def plan(self, view: View) -> Proposal:
        until = time.thread_time() + 0.006
        while time.thread_time() < until:
            pass
        return super().plan(view)


class Sleepy(Slow):
    """Takes as long without computing: as if the machine had stalled."""

    name = "sleepy"

    def plan(self, view: View) -> Proposal:
        time.sleep(0.02)
        return EdfBestFit.plan(self, view)


@pytest.mark.parametrize(("policy", "blame"), [(Slow(), Blame.POLICY), (Sleepy(), Blame.INFRASTRUCTURE)])
def test_a_policy_that_takes_too_long_is_ejected_and_its_plans_are_not_used(policy: Slow, blame: Blame) -> None:
    scheduler, kept = serve(policy, [make_request(n) for n in range(3)], timed=True)
    (ejection,) = kept.ejections
    assert (ejection.cause, ejection.blame, ejection.successor) == (EjectCause.OVERRUNS, blame, "edf_literal")
    assert [strike.kind for strike in ejection.strikes] == [StrikeKind.OVERRUN] * 3
    assert all(strike.seconds > 0.005 and strike.cpu_s is not None for strike in ejection.strikes)
    before = [decision for _, decision in kept.decisions if not decision.commands]
    assert len(before) >= 3 and kept.decisions[2][1].ejection is ejection  # three plans came too late, none was used
    assert not scheduler.trajectories


def test_the_breached_tick_keeps_the_last_plan() -> None:
    scheduler = scheduler_of(replaced := EdfBestFit())
    replaced.limits, replaced.fallback = Limits(tick_s=0.005), EdfBestFit()
    scheduler.observe(RequestArrived(0, make_request(0, tokens=4096, steps=6)))
    now, group = 0, None
    for _ in range(4):  # encode, prepare and two steps
        now += 1_000
        (task,) = scheduler.tick(now).commands
        scheduler.observe(TaskFinished(now, task.epoch, busy_ns=500))
        group = task.ranks
    scheduler.observe(RequestArrived(now, make_request(1, tokens=4096, slo_s=0.001)))  # more urgent: it would take over
    now += 1_000
    scheduler.evaluate(now)
    scheduler.observe(PolicyOverran(now, 0.1, 0.1))
    decision = scheduler.tick(now)
    assert [(command.request_id, command.ranks) for command in decision.commands] == [("r000", group)]
    assert decision.next_tick_at is not None and decision.next_tick_at <= now + to_ns(1)
    assert {command.request_id for command in scheduler.tick(decision.next_tick_at).commands} <= {"r001"}


def test_a_replay_takes_the_same_turns_without_a_clock() -> None:
    """Live, an overrun is told between the two halves of a tick; in a replay before it."""

    def run(replay: bool) -> list[Decision]:
        policy = EdfBestFit()
        policy.limits, policy.fallback = Limits(errors=2, tick_s=0.005), EdfBestFit()
        scheduler, decisions, now = scheduler_of(policy), [], 0
        for n in range(8):
            now += 1_000
            scheduler.observe(RequestArrived(now, make_request(n)))
            overran = [PolicyOverran(now, 0.1, 0.1)] if n in (2, 5) else []
            if not replay:
                scheduler.evaluate(now)
            for event in overran:
                scheduler.observe(event)
            decisions.append(scheduler.tick(now))
        return [replace(decision, ejection=None) for decision in decisions]

    live = run(replay=False)
    assert live == run(replay=True)
    assert sum(news.kind is NewsKind.EJECT for decision in live for news in decision.policy_news) == 1


def test_without_a_fallback_a_late_plan_is_better_than_none() -> None:
    scheduler = scheduler_of(EdfBestFit())
    scheduler.observe(RequestArrived(0, make_request(0)))
    scheduler.evaluate(1)
    scheduler.observe(PolicyOverran(1, 9.0, 9.0))
    decision = scheduler.tick(1)
    assert decision.ejection is None and len(decision.commands) == 1


# ---- stalls --------------------------------------------------------------------------------------------------


class Neglectful(EdfBestFit):
    """Serves everybody but one; `reason`: what it says of that one."""

    name = "neglectful"
    fallback = EdfBestFit()

    def __init__(self, reason: WaitReason | None, neglected: str = "r001") -> None:
        self.reason, self.neglected = reason, neglected

    def plan(self, view: View) -> Proposal:
        proposal = super().plan(view)
        waits = {row: why for row, why in proposal.waits.items() if view.ids[row] != self.neglected}
        if self.reason is not None and self.neglected in view.ids:
            waits[view.ids.index(self.neglected)] = self.reason
        places = tuple(place for place in proposal.places if view.ids[place.row] != self.neglected)
        return Proposal(places, waits=waits)


@pytest.mark.parametrize("reason", [None, WaitReason.POLICY_WAITS])
def test_a_request_left_beside_free_gpus_ejects_the_policy_after_half_a_minute(reason: WaitReason | None) -> None:
    steady = [make_request(n, 2.0 * n, steps=6) for n in range(40)]
    scheduler, kept = serve(Neglectful(reason), steady)
    (ejection,) = kept.ejections
    assert ejection.cause is EjectCause.STALL and "`r001`" in ejection.text
    assert 32.0 <= ejection.at / 1e9 < 34.5  # it came at 2 s
    assert ejection.view is not None and "r001" in ejection.view.ids
    assert not scheduler.trajectories  # the fallback served it


def test_a_stall_needs_no_event_to_be_noticed() -> None:
    """Nothing runs and nothing arrives: no reason is good enough then."""
    scheduler, kept = serve(Neglectful(WaitReason.NO_FREE_GPU, "r000"), [make_request(0)])
    (ejection,) = kept.ejections
    assert (ejection.cause, round(ejection.at / 1e9)) == (EjectCause.STALL, 30)
    assert not scheduler.trajectories


class Wide(AdmitAll):
    """All four GPUs or nothing, of five: one GPU is idle all the time."""

    name = "wide"
    fallback = EdfBestFit()

    def plan(self, view: View) -> Proposal:
        rows = np.flatnonzero(view.plannable).tolist()
        wanted = {row: 1 if is_single(view, row) else 4 for row in rows}
        places, free = [], view.free
        for row in rows:
            if wanted[row] <= free:
                places.append(Place(row, wanted[row]))
                free -= wanted[row]
        placed = {place.row for place in places}
        return Proposal(tuple(places), waits={row: WaitReason.NO_FREE_GPU for row in rows if row not in placed})


def test_waiting_for_a_wide_group_is_no_stall() -> None:
    long = [make_request(n, 0.1 * n, tokens=400_000, steps=3) for n in range(6)]  # seconds a step, minutes in all
    scheduler, kept = serve(Wide(), long, gpus=5)
    assert kept.ejections == [] and not scheduler.trajectories
    assert kept.decisions[-1][0] > to_ns(60)


# ---- errors, guards, blame, the record -----------------------------------------------------------------------


class Failing(AdmitAll):
    name = "failing"
    fallback = EdfBestFit()

    def plan(self, view: View) -> Proposal:
        raise ZeroDivisionError("x / 0")


def test_an_ejection_is_counted_by_cause_and_blame() -> None:
    scheduler, clock = build_scheduler(Failing(), make_cost(), 4), VirtualClock()
    metrics = Metrics(scheduler, 4)
    drive(scheduler, clock, SimFleet(clock, make_cost(), 4, [make_request(0)]), (metrics,))
    labels = {"cause": "errors", "blame": "policy"}
    assert metrics.registry.get_sample_value("gfdit_policy_ejections_total", labels) == 1.0


def test_the_record_of_an_ejection_holds_the_view_the_strikes_and_where_they_come_from() -> None:
    _, kept = serve(Failing(), [make_request(0)])
    (ejection,) = kept.ejections
    assert (ejection.policy.name, ejection.cause, ejection.blame) == ("failing", EjectCause.ERRORS, Blame.POLICY)
    assert ejection.view is not None and ejection.view.ids == ("r000",) and ejection.proposal is None
    assert {strike.text for strike in ejection.strikes} == {"ZeroDivisionError: x / 0"}
    assert all(strike.trace[-1].endswith("in Failing.plan") for strike in ejection.strikes)


class Guarded(EdfBestFit):
    name = "guarded"
    fallback = EdfBestFit()
    alarms: tuple[Alarm, ...] = ()

    def plan(self, view: View) -> Proposal:
        return replace(super().plan(view), alarms=self.alarms)


@pytest.mark.parametrize(("lost", "blame"), [(False, Blame.POLICY), (True, Blame.INFRASTRUCTURE)])
def test_a_guard_that_breaks_when_workers_are_lost_is_not_the_policys_fault(lost: bool, blame: Blame) -> None:
    scheduler = scheduler_of(policy := Guarded())
    scheduler.observe(RequestArrived(0, make_request(0)))
    scheduler.tick(1)
    if lost:
        scheduler.observe(WorkerLost(to_ns(5), 3, 1, "killed"))
    policy.alarms = (Alarm("waits", eject=True),)
    scheduler.observe(RequestArrived(to_ns(10), make_request(1)))
    ejection = scheduler.tick(to_ns(10)).ejection
    assert ejection is not None
    assert (ejection.cause, ejection.blame) == (EjectCause.GUARD, blame)


PRIORITY = """
policy wants_ranks version 3 "for the file"
order by priority desc, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp in {1, 2} gpu largest }
guard short_queue: queued(any) < 2 else fallback
fallback builtin.fcfs after 3 errors
"""


def test_the_file_is_there_before_the_fallback_acts(tmp_path: Path) -> None:
    policy = compile_text(PRIORITY)
    scheduler, clock, kept = build_scheduler(policy, make_cost(), 1), VirtualClock(), Kept()
    said: list[str] = []
    files = EjectionFiles(tmp_path / "ejections", said.append)
    seen: list[tuple[str, int]] = []

    class Order:
        """Looks before commands are sent: how many files there are when each policy acts."""

        def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
            if decision.commands:
                seen.append((scheduler.policy.name, len(files.written)))

    drive(
        scheduler, clock, SimFleet(clock, make_cost(), 1, [make_request(n) for n in range(3)]), (kept, files, Order())
    )
    assert {count for name, count in seen if name == "builtin_fcfs"} == {1}
    (path,) = files.written
    assert path.name == "001-wants_ranks-guard.json" and str(path) in said[0]

    def refuse(word: str) -> object:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    assert (found["format"], found["cause"], found["blame"]) == ("gfdit-ejection/1", "guard", "policy")
    assert found["policy"] == {"name": "wants_ranks", "version": 3, "sha": policy.sha}
    assert [request["id"] for request in found["view"]["requests"]] == ["r000", "r001", "r002"]
    assert found["plan"]["guards"] == ["short_queue"] and found["plan"]["places"][0]["id"] == "r000"
    assert [one["id"] for one in found["trace"]["order"]] == ["r000", "r001", "r002"]
    assert set(found["trace"]["order"][0]["keys"]) == {"priority", "arrival"}


def test_a_report_that_cannot_be_written_is_said_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    said: list[str] = []
    files = EjectionFiles(tmp_path / "taken", said.append)
    _, kept = serve(Failing(), [make_request(0)])
    for now, decision in kept.decisions:
        files.record(now, (), decision, 0.0)
    assert files.written == [] and "cannot be written" in said[0]
