"""The scheduler against simulated worlds: sound books under any policy, every request ends once, failures lose no
step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from literal_policies import AdmitAll, EdfBestFit, Reckless
from small_worlds import make_cost, make_request, make_workload

from gfdit.core import invariants
from gfdit.core.commands import AbortTask, EndRequest, RunTask
from gfdit.core.estimate import Estimator
from gfdit.core.events import (
    Event,
    PolicyOverran,
    RequestArrived,
    RequestCancelled,
    TaskFailed,
    TaskFinished,
    WorkerJoined,
    WorkerLost,
)
from gfdit.core.proposal import Alarm, Limits, Occasion, Place, Proposal
from gfdit.core.scheduler import Scheduler
from gfdit.core.topology import Topology
from gfdit.core.view import View
from gfdit.core.work import Outcome, Stage
from gfdit.sim.run import SimConfig, simulate
from gfdit.units import to_ns


@pytest.mark.parametrize("seed", range(12))
def test_any_policy_keeps_the_books_sound_and_serves_everyone(seed: int) -> None:
    outcome = simulate(SimConfig(Reckless(seed), make_workload(seed), "made", make_cost(), 5, seed=seed, check=True))
    assert outcome.result["completed"] == 40, f"seed {seed}"
    ended = [entry.request.id for entry in outcome.summary.ended]
    assert len(set(ended)) == len(ended) == 40


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_simulation_repeats_exactly(noise: float) -> None:
    def run() -> dict[str, object]:
        config = SimConfig(EdfBestFit(), make_workload(3), "made", make_cost(), 4, seed=7, noise=noise)
        return {k: v for k, v in simulate(config).result.items() if not k.startswith("tick_")}

    assert run() == run()


def test_latency_of_a_lone_request_is_the_sum_of_its_stages() -> None:
    request = make_request(0, tokens=1000, steps=3)
    outcome = simulate(SimConfig(EdfBestFit(), [request], "made", make_cost(), 1))
    expected = 0.02 + 0.01 + 3 * (0.1 + 0.002) + 0.03 + 6 * 1e-5
    assert outcome.result["mean_latency_s"] == pytest.approx(expected, abs=1e-6)


class World:
    """A scheduler whose events are made by hand."""

    def __init__(self, policy: object | None = None, ranks: int = 4) -> None:
        self.scheduler = Scheduler(policy or EdfBestFit(), Topology.uniform(ranks), Estimator(make_cost(), ranks))
        self.now = 0
        for rank in range(ranks):
            self.observe(WorkerJoined(0, rank, 1))

    def observe(self, event: Event) -> None:
        self.scheduler.observe(event)

    def tick(self) -> list[object]:
        self.now += 1_000_000
        commands = list(self.scheduler.tick(self.now).commands)
        invariants.check(self.scheduler)
        return commands

    def finish(self, task: RunTask) -> list[object]:
        self.observe(TaskFinished(self.now, task.epoch, busy_ns=1_000_000))
        return self.tick()


def run_until_step(world: World, step: int) -> RunTask:
    (task,) = world.tick()
    while not (task.stage is Stage.DENOISE and task.first_step == step):
        (task,) = world.finish(task)
    return task


def test_a_lost_worker_sets_back_to_the_last_finished_step() -> None:
    world = World()
    world.observe(RequestArrived(0, make_request(0, tokens=4096)))
    task = run_until_step(world, 2)
    assert len(task.ranks) > 1
    dead = task.ranks[0]
    world.observe(WorkerLost(world.now, dead, 1, "killed"))
    world.observe(TaskFailed(world.now, task.epoch, "worker_lost"))
    (again,) = world.tick()
    assert again.first_step == 2 and dead not in again.ranks and dead not in again.sources and not again.restore


def test_when_every_holder_is_lost_the_checkpoint_is_restored() -> None:
    world = World()
    world.observe(RequestArrived(0, make_request(0, tokens=4096)))
    task = run_until_step(world, 2)
    for rank in range(4):
        world.observe(WorkerLost(world.now, rank, 1, "killed"))
    world.observe(TaskFailed(world.now, task.epoch, "worker_lost"))
    assert world.tick() == []
    world.observe(WorkerJoined(world.now, 1, 2))
    (again,) = world.tick()
    assert again.restore and again.first_step == 2 and again.ranks == (1,)


def test_a_busy_holder_is_not_waited_for() -> None:
    policy = Fixed(Proposal((Place(0, 1),)))
    world = World(policy, ranks=2)
    world.observe(RequestArrived(0, make_request(0, steps=5)))
    first = run_until_step(world, 2)
    world.observe(RequestArrived(0, make_request(1)))
    policy.proposal = Proposal((Place(1, 1),))
    (other,) = world.finish(first)  # r000 pauses, and its only holder works for r001
    assert other.ranks == first.ranks
    policy.proposal = Proposal((Place(0, 1),))
    (resumed,) = world.tick()
    assert resumed.ranks != first.ranks and resumed.sources == () and resumed.restore and resumed.first_step == 3


def test_without_a_checkpoint_it_starts_over() -> None:
    world = World(ranks=1)
    world.observe(RequestArrived(0, make_request(0)))
    (task,) = world.tick()
    world.observe(TaskFinished(world.now, task.epoch, busy_ns=1, checkpointed=False))
    (task,) = world.tick()
    assert task.stage is Stage.PREPARE
    world.observe(WorkerLost(world.now, 0, 1, "killed"))
    world.observe(TaskFailed(world.now, task.epoch, "worker_lost"))
    world.observe(WorkerJoined(world.now, 0, 2))
    (again,) = world.tick()
    assert again.stage is Stage.ENCODE and not again.restore


def test_a_request_that_keeps_failing_is_given_up() -> None:
    world = World(ranks=1)
    world.observe(RequestArrived(0, make_request(0)))
    ends = []
    commands = world.tick()
    for _ in range(10):
        for command in commands:
            match command:
                case RunTask():
                    world.observe(TaskFailed(world.now, command.epoch, "error", "boom"))
                case EndRequest():
                    ends.append(command)
        commands = world.tick()
    (end,) = ends
    assert end.outcome is Outcome.FAILED and "4 attempts" in end.message and "boom" in end.message


def test_stale_events_change_nothing() -> None:
    world = World()
    world.observe(RequestArrived(0, make_request(0)))
    (task,) = world.tick()
    world.observe(TaskFinished(0, task.epoch + 100, busy_ns=1))
    world.observe(TaskFailed(0, 0, "error"))
    world.observe(WorkerLost(0, 2, incarnation=99, cause="late news of another life"))
    world.observe(RequestArrived(0, make_request(0)))
    assert world.tick() == [] and world.scheduler.stale_events == 3 and 2 in world.scheduler.alive


def test_cancelling_a_running_request_aborts_its_task_and_frees_its_ranks() -> None:
    world = World(ranks=1)
    world.observe(RequestArrived(0, make_request(0)))
    (task,) = world.tick()
    world.observe(RequestArrived(0, make_request(1)))
    world.observe(RequestCancelled(world.now, "r000"))
    abort, end = world.tick()
    assert isinstance(abort, AbortTask) and abort.epoch == task.epoch
    assert isinstance(end, EndRequest) and end.outcome is Outcome.CANCELLED
    world.observe(TaskFailed(world.now, task.epoch, "aborted", blame=False))
    (other,) = world.tick()
    assert other.request_id == "r001"


class Failing(AdmitAll):
    name = "failing"
    limits = Limits(errors=3)
    fallback = EdfBestFit()

    def plan(self, view: object) -> Proposal:
        raise ZeroDivisionError("x / 0")


def test_three_errors_eject_the_policy_and_the_fallback_serves() -> None:
    world = World(Failing())
    world.observe(RequestArrived(0, make_request(0)))
    assert [world.tick() for _ in range(3)] == [[], [], []]
    assert world.scheduler.policy.name == "edf_literal"
    assert isinstance(world.tick()[0], RunTask)


def test_a_policy_that_failed_is_asked_again_even_if_nothing_happens() -> None:
    world = World(Failing())
    world.observe(RequestArrived(0, make_request(0)))
    decision = world.scheduler.tick(1)
    assert decision.next_tick_at is not None and 1 < decision.next_tick_at <= to_ns(1)


def test_overruns_are_strikes_too() -> None:
    world = World(Failing())
    for _ in range(3):
        world.observe(PolicyOverran(world.now, 0.1))
    world.tick()
    assert world.scheduler.policy.name == "edf_literal"


class Fixed(AdmitAll):
    name = "fixed"

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal

    def plan(self, view: object) -> Proposal:
        return self.proposal


def test_impossible_places_are_refused_with_a_reason() -> None:
    places = (Place(0, 2), Place(0, 1), Place(0, 1), Place(1, 9))
    world = World(Fixed(Proposal(places)))
    world.observe(RequestArrived(0, make_request(0)))
    world.observe(RequestArrived(0, make_request(1)))
    decision = world.scheduler.tick(1)
    assert [refusal.why for refusal in decision.refusals] == [
        "encode runs on 1 rank, not 2", "is placed twice", "wants 9 ranks, 3 are free",
    ]  # fmt: skip
    assert len(decision.commands) == 1


def test_a_shrink_keeps_ranks_it_has_and_a_grow_adds_to_them() -> None:
    policy = Fixed(Proposal((Place(0, 1),)))
    world = World(policy)
    world.observe(RequestArrived(0, make_request(0, steps=5)))
    task = world.tick()[0]
    task = world.finish(task)[0]
    for degree in (4, 2, 4, 1):
        policy.proposal = Proposal((Place(0, degree),))
        before, task = task, world.finish(task)[0]
        small, large = sorted((set(before.ranks), set(task.ranks)), key=len)
        assert small <= large and len(task.ranks) == degree
        assert set(task.sources) == set(before.ranks)


class Guarded(EdfBestFit):
    name = "guarded"
    limits = Limits(errors=3)

    def __init__(self) -> None:
        self.alarms: tuple[Alarm, ...] = ()
        self.fallback = EdfBestFit()

    def plan(self, view: View) -> Proposal:
        return replace(super().plan(view), alarms=self.alarms)


def test_a_guard_is_told_when_it_breaks_and_may_hand_over_to_the_fallback() -> None:
    policy = Guarded()
    world = World(policy)

    def news() -> list[str]:
        world.now += 1
        return [one.text for one in world.scheduler.tick(world.now).policy_news]

    policy.alarms = (Alarm("no_starvation"),)
    assert [news(), news()] == [["guard `no_starvation` does not hold"], []]
    policy.alarms = ()
    assert news() == []
    policy.alarms = (Alarm("no_starvation", eject=True),)
    told, ejected = news()
    assert told == "guard `no_starvation` does not hold" and ejected.startswith(f"ejected, guard: {told}")
    assert world.scheduler.policy.name == "edf_literal"


class Counting(EdfBestFit):
    """Counts how often it is asked."""

    name = "counting"

    def __init__(self, on: frozenset[Occasion] | None, every_s: float | None = None) -> None:
        self.tick_on, self.tick_every_s, self.asked = on, every_s, 0

    def plan(self, view: View) -> Proposal:
        self.asked += 1
        return super().plan(view)


@pytest.mark.parametrize(
    ("on", "asked"),
    [
        (None, 9),  # everything: the first tick, the arrival, and the end of each of seven tasks
        (frozenset({Occasion.ARRIVAL, Occasion.STEP_END, Occasion.STAGE_END}), 9),
        (frozenset({Occasion.ARRIVAL, Occasion.STAGE_END}), 6),
        (frozenset({Occasion.ARRIVAL}), 2),
    ],
)
def test_a_policy_is_asked_on_its_occasions_and_steps_go_on_in_between(
    on: frozenset[Occasion] | None, asked: int
) -> None:
    policy = Counting(on)
    outcome = simulate(SimConfig(policy, [make_request(0, 1.0, steps=4)], "made", make_cost(), 4, check=True))
    assert outcome.result["completed"] == 1
    assert policy.asked == asked


def test_a_bare_period_is_the_only_occasion() -> None:
    policy = Counting(frozenset(), every_s=0.25)
    requests = [make_request(n, 0.1 * n, tokens=4096, steps=4) for n in range(3)]
    outcome = simulate(SimConfig(policy, requests, "made", make_cost(), 4, check=True))
    assert outcome.result["completed"] == 3
    starts = [ended.end.at for ended in outcome.summary.ended]
    assert policy.asked <= 2 + max(starts) / to_ns(0.25)


class Looking(Fixed):
    """Keeps the views it was shown."""

    def plan(self, view: View) -> Proposal:  # type: ignore[override]
        self.seen = view
        return self.proposal


def test_a_view_tells_which_ranks_are_live_and_which_may_be_handed_out() -> None:
    policy = Looking(Proposal((Place(0, 1),)))
    world = World(policy)
    world.observe(RequestArrived(0, make_request(0)))
    (task,) = world.tick()
    assert policy.seen.idle == policy.seen.ranks == (0, 1, 2, 3)
    world.observe(RequestArrived(world.now, make_request(1)))
    policy.proposal = Proposal()
    world.tick()
    assert policy.seen.idle == tuple(rank for rank in range(4) if rank not in task.ranks)
    world.observe(WorkerLost(world.now, policy.seen.idle[0], 1, "killed"))
    world.observe(TaskFinished(world.now, task.epoch, busy_ns=1))
    world.tick()  # between two tasks its ranks are free to hand out
    assert policy.seen.idle == policy.seen.ranks and policy.seen.gpus == policy.seen.free == 3


def test_a_place_stays_within_its_ranks() -> None:
    policy = Fixed(Proposal((Place(0, 1, within=frozenset({2, 3})), Place(1, 1, within=frozenset({1})))))
    world = World(policy)
    for number in range(3):
        world.observe(RequestArrived(0, make_request(number, steps=5)))
    first, second = world.tick()
    assert first.ranks[0] in (2, 3) and second.ranks == (1,)
    policy.proposal = Proposal((Place(2, 1, within=frozenset({1})),))
    decision = world.scheduler.tick(world.now + 1)
    assert [refusal.why for refusal in decision.refusals] == ["wants 1 ranks, 0 of those it may use are free"]
    assert decision.commands == ()


def test_a_group_moves_when_it_may_no_longer_use_its_ranks() -> None:
    policy = Fixed(Proposal((Place(0, 1, within=frozenset({3})),)))
    world = World(policy)
    world.observe(RequestArrived(0, make_request(0, steps=5)))
    (task,) = world.tick()
    (task,) = world.finish(task)
    policy.proposal = Proposal((Place(0, 2, within=frozenset({0, 1, 3})),))
    before, (task,) = task, world.finish(task)
    assert task.ranks[0] == before.ranks[0] == 3 and len(task.ranks) == 2
    policy.proposal = Proposal((Place(0, 2, within=frozenset({0, 1})),))
    before, (task,) = task, world.finish(task)
    assert set(task.ranks) == {0, 1} and set(task.sources) == set(before.ranks)


def test_an_id_may_come_again_once_its_request_is_long_gone() -> None:
    scheduler = Scheduler(EdfBestFit(), Topology.uniform(1), Estimator(make_cost(), 1), ids_remembered=2)
    accepted = []
    for number in (0, 0, 1, 0, 2, 0, 3, 0):
        scheduler.observe(RequestArrived(0, make_request(number)))
        accepted.append(f"r{number:03}" in scheduler.trajectories)
        scheduler.observe(RequestCancelled(0, f"r{number:03}"))
    assert accepted == [True, False, True, False, True, True, True, False]


def test_what_is_only_for_a_glance_does_not_pile_up() -> None:
    """Under a policy that cannot tell when it need not be asked."""
    world = World(Fixed(Proposal()), ranks=1)
    for number in range(500):
        world.observe(RequestArrived(world.now, make_request(number)))
        world.tick()
        world.observe(RequestCancelled(world.now, f"r{number:03}"))
    assert len(world.scheduler._lookout._newly) < 100
