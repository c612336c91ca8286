"""What the scheduler leaves out because its outcome is certain: the decisions stay the same, and it is worth it."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace

from small_worlds import make_cost, make_request

from gfdit.core.cost import CostModel, Quadratic, StageCost
from gfdit.core.events import Event
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Proposal
from gfdit.core.scheduler import Decision, MoveKind, Scheduler
from gfdit.core.view import STATE_CODE, View
from gfdit.core.work import Request
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import checked_program, load_policy
from gfdit.sim.faults import parse_faults
from gfdit.sim.run import SimConfig, simulate

WORLDS = int(os.environ.get("GFDIT_TEST_WORLDS", "40"))  # more in a longer run
FALLBACK = """policy plain version 1
order by arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp fixed 1 gpu }
"""
SMALLEST = "smallest where finish(sp) <= deadline else minimizing finish(sp)"
FAULTS = (None, None, parse_faults("crash 20/min restart 300ms, straggler 3x 20% for 500ms"))
ORDERS = (
    "deadline, priority desc, arrival",
    "arrival",
    "priority desc, arrival",
    "tokens / alone desc, deadline desc, arrival",
    "slack(sp_best), arrival",
    "steps_left, arrival",
    "rank, deadline, arrival",
)
CHOOSERS = (
    f"sp in {{1, 2, 4, 8}} gpu {SMALLEST}",
    "sp in {1, 2, 4} gpu largest where gain(sp) >= 115%",
    "sp in {2, 4} gpu maximizing 1 step / (step_time(sp) * sp)",
    "sp in {1, 2, 4} gpu smallest where slack(sp) > 1s else wait",
    "sp in {1, 2, 4} gpu largest where free >= 3 gpu else smallest",
    "sp fixed if steps_done < steps_total / 2 then 2 gpu else 4 gpu",
    "sp fixed if tokens > 2000 tok then 4 gpu else 1 gpu",
)
GROWS = (
    "",
    "grow by order where finish(next) < finish(sp)",
    "grow by gain(next) desc where gain(next) > 110%",
    "grow by order where gain(next) > 100% max 3 gpu",
)
MORE = ("", "", "sticky 5%", "sticky 30%", "hold until done", "prefer pack", "prefer same_node, last_gpus")
BEFORE = (
    "",
    'admit { reject when queued(any) >= 12 because "full" accept }',
    "triage by deadline margin 85% shed most gpu_time then last",
)
AFTER = (
    "",
    "",
    "guard patience: longest_wait(any) < 1s else alert",
    "guard few: queued(any) < 5 else fallback",
    "tick every 300ms on arrival, stage_end",
    "preempt for small when slack(sp_best) < 1s from large by slack(sp_best) desc do shrink to 1 gpu else pause",
    "preempt for small from large do demote limit 4 per 2s",
    "preempt for large from small do migrate else pause",
)


def random_policy(pick: random.Random) -> CompiledPolicy:
    """Clauses of all kinds, most of which the test of what is certain has to understand."""
    chooser, after = pick.choice(CHOOSERS), pick.choice(AFTER)
    grow = pick.choice(GROWS) if "sp in" in chooser else ""
    text = f"""policy tried version 1
class small when tokens < 500 tok {{ rank 0 }}
class large otherwise {{ rank 1 slo 4s preemptible }}
{pick.choice(BEFORE)}
order by {pick.choice(ORDERS)}
stage encode, decode {{ sp fixed 1 gpu }}
stage denoise {{
  {chooser}
  {grow}
  {pick.choice(MORE)}
}}
{after if after.startswith("preempt") else ""}
allocate {pick.choice(("greedy", "backfill 2"))}
{"" if after.startswith("preempt") else after}
fallback fcfs_static
"""
    return CompiledPolicy(checked_program(text, "tried"), CompiledPolicy(checked_program(FALLBACK, "fallback")))


def random_cost(pick: random.Random) -> CostModel:
    """Wider is sometimes slower, and often as fast, so that there are ties."""
    step = {degree: Quadratic(0, pick.choice((1e-5, 2e-5, 4e-5)), 0.002) for degree in (1, 2, 4, 8)}
    stages = {**make_cost().models["m"], "denoise": StageCost("tokens", step)}
    stages["prepare"] = StageCost("one", {degree: Quadratic(0, 0, 0.01) for degree in step})
    return CostModel("random", {"m": stages}, dispatch_s=1e-5, reshard_s=pick.choice((0.0, 0.001)))


def random_requests(pick: random.Random) -> list[Request]:
    """Some at one instant, some alike: ties that only the id breaks."""
    return [
        make_request(
            number,
            pick.choice((0.0, 0.5, pick.uniform(0, 4))),
            tokens=pick.choice((256, 1024, 4096)),
            steps=pick.randint(1, 8),
            slo_s=pick.choice((None, 0.3, 1.0, 1.0, 5.0)),
        )
        for number in range(pick.choice((4, 12, 30)))
    ]


class Watching:
    """An observer that keeps all that can be told of a run: decisions, and how everybody stands after them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.seen: list[object] = []

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        standing = [
            (t.request.id, t.state, t.wait_reason, t.group, t.cap) for t in self.scheduler.trajectories.values()
        ]
        told = (decision.commands, decision.next_tick_at, decision.moves, decision.refusals, decision.policy_news)
        self.seen.append((now, *told, self.scheduler.policy.name, standing))


def run_both(seed: int) -> tuple[Watching, Watching]:
    """One world, asked sparingly and asked always."""
    watching = []
    for always in (False, True):
        pick = random.Random(seed)
        gpus, noise, faults = pick.choice((1, 2, 3, 4, 8, 8, 12)), pick.choice((0.0, 0.0, 0.3)), pick.choice(FAULTS)
        requests, cost, policy = random_requests(pick), random_cost(pick), random_policy(pick)
        config = SimConfig(
            policy,
            requests,
            "random",
            cost,
            gpus,
            seed=seed,
            noise=noise,
            faults=faults,
            check=True,
            always_evaluate=always,
        )
        (watcher,) = simulate(config, lambda scheduler: [Watching(scheduler)]).observers
        assert isinstance(watcher, Watching)
        watching.append(watcher)
    return watching[0], watching[1]


def test_not_asking_where_the_answer_is_certain_changes_nothing() -> None:
    asked = always = 0
    for seed in range(WORLDS):
        sparing, asking = run_both(seed)
        for tick, (one, other) in enumerate(zip(sparing.seen, asking.seen, strict=False)):
            assert one == other, f"seed {seed}, tick {tick}"
        assert len(sparing.seen) == len(asking.seen), f"seed {seed}"
        asked += sparing.scheduler.evaluations
        always += asking.scheduler.evaluations
    assert asked < 0.8 * always


def test_a_served_request_costs_few_evaluations() -> None:
    """Under load the policy is asked when requests come, begin to denoise, change ranks and go; not on every step."""
    requests = [make_request(number, 0.6 * number, tokens=1024, steps=50, slo_s=20.0) for number in range(60)]
    config = SimConfig(load_policy("edf_best_fit"), requests, "made", make_cost(), 8)
    watching = [
        simulate(replace(config, always_evaluate=always), lambda scheduler: [Watching(scheduler)])
        for always in (False, True)
    ]
    evaluations = [outcome.observers[0].scheduler.evaluations for outcome in watching]  # type: ignore[attr-defined]
    tasks = watching[0].summary.tasks
    assert tasks == watching[1].summary.tasks == 60 * 53
    assert evaluations[0] < 0.2 * tasks and evaluations[1] >= tasks, evaluations


class Idle(CompiledPolicy):
    """Has the clauses of a policy, and a plan of its own: nobody ever runs longer than a task."""

    def plan(self, view: View) -> Proposal:
        between = view.state[0] == STATE_CODE[State.READY]
        return Proposal(wake_at_s=view.now_s + 0.01) if between else super().plan(view)


def test_clauses_say_nothing_of_a_plan_that_is_not_made_from_them() -> None:
    program = load_policy("edf_best_fit").program
    assert CompiledPolicy(program).keeps is not None and Idle(program).keeps is None
    assert CompiledPolicy(program, watch=lambda expr, truth: None).keeps is None  # coverage wants to see every plan
    outcome = simulate(SimConfig(Idle(program), [make_request(0, steps=5)], "made", make_cost(), 1))
    assert outcome.summary.moves[MoveKind.PAUSE] == 4
