"""What a policy learns by looking: `miss_rate`, memory by the cost model, `last_gpus`, and the knob `cache`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from small_worlds import make_cost, make_request

from gfdit.core.commands import EndRequest
from gfdit.core.cost import CostModel, Points, Quadratic, StageCost
from gfdit.core.estimate import Estimator
from gfdit.core.events import RequestArrived, RequestCancelled, TaskFinished, WorkerJoined
from gfdit.core.lifecycle import State
from gfdit.core.proposal import Fate
from gfdit.core.scheduler import NewsKind, Scheduler
from gfdit.core.topology import Topology
from gfdit.core.work import Stage
from gfdit.errors import CostModelError
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.testing import run_tests
from gfdit.policy.world import Actor, World, default_cost
from gfdit.runtime.costfile import cost_model_to_json, parse_cost_model
from tests.policy.texts import policy

GIB = 2.0**30


def drawing(name: str = "a", **fields: object) -> Actor:
    return Actor(name, arrival_s=90.0, stage=Stage.DENOISE, **fields)  # type: ignore[arg-type]


# ---- miss_rate ------------------------------------------------------------------------------------------------------


def guarded(condition: str) -> CompiledPolicy:
    return policy('class c when tag == "c" { slo 1s }', f"guard g: {condition} else alert")


def holds(subject: CompiledPolicy, *ends: tuple[str, bool]) -> bool:
    world = World(gpus=1, now_s=100.0, ends=ends).add([drawing(class_name="c", tag="c")])
    return subject.plan(world.view()).alarms == ()


def test_a_miss_rate_is_a_mean_that_begins_to_move_after_fifty() -> None:
    assert holds(guarded("miss_rate(any) == 0"))
    assert holds(
        guarded("miss_rate(c) == 50% and miss_rate(any) == 75%"), ("c", True), ("c", False), *[("x", True)] * 2
    )
    moving = guarded("miss_rate(c) > 1.9% and miss_rate(c) < 2.1%")
    assert not holds(moving, *[("c", False)] * 500)
    assert holds(moving, ("c", True))  # one of the latest fifty or so


def test_admission_reads_the_rate_and_does_not_count_twice() -> None:
    subject = policy("admit { reject when miss_rate(any) > 40% }", "guard g: miss_rate(any) <= 40% else alert")
    world = World(gpus=1, now_s=100.0, ends=(("c", True), ("c", False), ("c", False)))
    view = world.add([Actor("new", arrival_s=100.0, state=State.ARRIVED)]).view()
    fates = [subject.admit(view, np.array([0]))[0].fate for _ in range(3)]
    assert subject.plan(view).alarms == ()  # one of three
    world.ends, world.now_s = (("c", True),), 101.0
    assert len(subject.plan(world.view()).alarms) == 1
    assert [*fates, subject.admit(world.view(), np.array([0]))[0].fate] == [*[Fate.ADMIT] * 3, Fate.REJECT]


def test_the_scheduler_tells_of_ends_until_the_policy_was_asked() -> None:
    scheduler = Scheduler(guarded("miss_rate(any) < 50%"), Topology.uniform(1, 8), Estimator(make_cost(), 1))
    scheduler.observe(WorkerJoined(0, 0, 1))
    for number, slo in ((0, 60.0), (1, 1e-6), (2, None)):
        scheduler.observe(RequestArrived(0, make_request(number, steps=1, slo_s=slo)))
    scheduler.observe(RequestCancelled(1, "r002"))
    ended: list[EndRequest] = []
    told: list[int] = []  # how many had ended when the guard broke
    now = 1
    while scheduler.trajectories or scheduler._ends:
        decision = scheduler.tick(now)
        told += [len(ended)] * sum(news.kind is NewsKind.GUARD for news in decision.policy_news)
        ended += [command for command in decision.commands if isinstance(command, EndRequest)]
        now += 1_000_000
        for epoch in list(scheduler.flights):
            scheduler.observe(TaskFinished(now, epoch, 1_000_000))
    assert [(end.request_id, end.on_time) for end in ended] == [("r002", False), ("r000", True), ("r001", False)]
    assert told == [2]  # a cancelled request is no miss, one that is late is: one of two


# ---- memory ---------------------------------------------------------------------------------------------------------


def with_memory(gpu_gib: float | None = 16.0) -> CostModel:
    """Each GPU of a group of k needs 12 GiB / k for denoising, decoding 9 GiB on its one GPU."""
    plain = default_cost()
    stages = dict(plain.models["dit"])
    need = {degree: Quadratic(0.0, 0.0, 12 * GIB / degree) for degree in (1, 2, 4)}
    stages["denoise"] = replace(stages["denoise"], memory=need)
    stages["decode"] = replace(stages["decode"], memory={1: Points(((1.0, 9 * GIB), (2e6, 9 * GIB)))})
    return replace(plain, models={"dit": stages}, gpu_memory_bytes=None if gpu_gib is None else gpu_gib * GIB)


FITS = "stage denoise { sp in {1, 2, 4} gpu smallest where mem(sp) <= 90% * gpu_mem }"


@pytest.mark.parametrize(("gpu_gib", "degree"), [(16.0, 1), (13.0, 2), (10.5, 2), (9.0, 0), (None, 1)])
def test_memory_chooses_the_degree(gpu_gib: float | None, degree: int) -> None:
    """12, 9 (decoding) and 9 GiB at 1, 2 and 4."""
    world = World(gpus=4, now_s=100.0, cost=with_memory(gpu_gib)).add([drawing()])
    proposal = policy(denoise=FITS).plan(world.view())
    assert [place.degree for place in proposal.places] == ([degree] if degree else [])


def test_what_nobody_knows_is_not_zero_and_is_told_once() -> None:
    subject = policy("guard g: count(where mem(1 gpu) > 0 GiB) == 0 and gpu_mem > 1000000 GiB else alert", denoise=FITS)
    world = World(gpus=4, now_s=100.0).add([drawing()])
    proposal = subject.plan(world.view())
    assert [place.degree for place in proposal.places] == [1] and proposal.alarms == ()
    assert proposal.notes == (
        "the cost model does not say how much memory a GPU has: `gpu_mem` is unbounded",
        "the cost model does not say how much memory `dit` needs: limits on `mem` hold",
    )
    assert proposal.places[0].because is not None
    assert proposal.places[0].because.values[0] == ("mem(1)", "unknown")
    world.now_s = 101.0
    assert subject.plan(world.view()).notes == ()
    known = World(gpus=4, now_s=100.0, cost=with_memory()).add([drawing()])
    assert policy(denoise=FITS).plan(known.view()).notes == ()


def test_a_knapsack_may_weigh_memory() -> None:
    value = "allocate knapsack maximizing if sp == 0 gpu or mem(sp) > 10 GiB then 0 else 1"
    world = World(gpus=4, now_s=100.0, cost=with_memory()).add([drawing()])
    (place,) = policy(value, denoise="stage denoise { sp in {1, 2, 4} gpu smallest }").plan(world.view()).places
    assert place.degree == 2 and place.because is not None and place.because.clause == "knapsack"


def test_memory_survives_the_file() -> None:
    text = cost_model_to_json(with_memory())
    assert parse_cost_model(text) == with_memory()
    assert json.loads(text)["gpu_memory_bytes"] == 16 * GIB
    decode = json.loads(text)["models"]["dit"]["stages"]["decode"]["degrees"]["1"]
    assert decode["points_bytes"] == [[1.0, 9 * GIB], [2e6, 9 * GIB]]
    assert "gpu_memory_bytes" not in json.loads(cost_model_to_json(default_cost()))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"quadratic_s": [0, 0, 1], "quadratic_bytes": [0, 0, 1], "points_bytes": [[1, 1]]},
            "either `quadratic_bytes`",
        ),
        ({"quadratic_s": [0, 0, 1], "points_bytes": [[2, 1], [1, 1]]}, "`points_bytes` must ascend"),
        ({"quadratic_bytes": [0, 0, 1]}, "either `quadratic_s`"),
    ],
)
def test_wrong_memory_is_refused(entry: dict[str, object], says: str) -> None:
    document = json.loads(cost_model_to_json(default_cost()))
    document["models"]["dit"]["stages"]["decode"]["degrees"]["1"] = entry
    with pytest.raises(CostModelError, match=says):
        parse_cost_model(json.dumps(document))


def test_guided_steps_may_need_more() -> None:
    guided = StageCost("tokens", {1: Quadratic(0, 0, 1.0)}, {1: Quadratic(0, 0, 20 * GIB)})
    cost = with_memory()
    cost = replace(cost, models={"dit": dict(cost.models["dit"]) | {"denoise_cfg": guided}})
    request = replace(make_request(0), model="dit")
    assert cost.memory_bytes(request, 1) == 12 * GIB
    assert cost.memory_bytes(replace(request, cfg=True), 1) == 20 * GIB


# ---- last_gpus, cache -----------------------------------------------------------------------------------------------


def test_a_paused_request_may_come_back_as_wide_as_it_was() -> None:
    subject = policy(denoise="stage denoise { sp fixed if last_gpus > 0 gpu then last_gpus else 1 gpu }")
    world = World(gpus=4, now_s=100.0).add([drawing("paused", last_sp=2, steps_done=3.0), drawing("fresh")])
    view = world.view()
    assert {view.ids[place.row]: place.degree for place in subject.plan(view).places} == {"paused": 2, "fresh": 1}


DEGRADE = "admit {{ {} accept }}"


@pytest.mark.parametrize(
    ("rules", "cache", "steps"),
    [
        ("degrade to cache = 15%", 0.15, 4),
        ("degrade to cache = 30% degrade to cache = 10%", 0.30, 4),  # never dearer
        ("degrade to cache = cache + 10% degrade to cache = cache + 10%", 0.20, 4),
        ("degrade to cache = 900%", 1.0, 4),
        ("degrade to steps = 2 step, cache = 15%", 0.15, 2),
        ("degrade when cache > 0 to steps = 1 step", 0.0, 4),
        ("degrade to cache = 15% degrade when cache > 10% to steps = 1 step", 0.15, 1),
    ],
)
def test_cache_goes_with_the_request_to_its_end(rules: str, cache: float, steps: int) -> None:
    if "when cache" in rules:  # the present value is a name in values only
        rules = rules.replace("when cache > 0 ", "when false ").replace("when cache > 10% ", "")
    scheduler = Scheduler(policy(DEGRADE.format(rules)), Topology.uniform(1, 8), Estimator(make_cost(), 1))
    scheduler.observe(WorkerJoined(0, 0, 1))
    scheduler.observe(RequestArrived(0, make_request(0)))
    scheduler.tick(0)
    (trajectory,) = scheduler.trajectories.values()
    assert trajectory.cache == pytest.approx(cache) and trajectory.steps_total == steps
    now, ends = 0, []
    while not ends:
        now += 1_000_000
        for epoch in list(scheduler.flights):
            scheduler.observe(TaskFinished(now, epoch, 1_000_000))
        ends = [command for command in scheduler.tick(now).commands if isinstance(command, EndRequest)]
    assert ends[0].cache == pytest.approx(cache)
    assert ends[0].steps == (steps if steps != 4 else None)


def test_a_test_block_reads_what_admission_and_the_plan_said() -> None:
    subject = policy(
        "admit { degrade to cache = 15% accept }",
        "batch by tokens max 2 window 1s",
        "react worker_lost do alert",
        """test "all of it" {
  cluster 2 gpu
  request a {}
  request b {}
  request c {}
  expect a.cache == 15% and a.batch_leader == "a" and b.batch_leader == "a" and a.batch_size == 2
  expect a.why == "" and c.why == "batch_window" and alerts == 0
  cluster 1 gpu
  expect alerts == 1
}""",
    )
    (result,) = run_tests(subject)
    assert result.passed, result.failures
