"""`batch`: who belongs together against a literal restatement, the window, and what order and reasons say of it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gfdit.core.proposal import WaitReason
from gfdit.core.view import View
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy
from tests.policy.worlds import random_world

BATCH = "batch by model, tokens max 3"
ONE = "stage denoise { sp fixed 1 gpu }"


def fresh(name: str, age: float, **fields: object) -> Actor:
    return Actor(name, arrival_s=100.0 - age, **fields)  # type: ignore[arg-type]


def batches(subject: CompiledPolicy, view: View) -> list[list[str]]:
    return [[view.ids[row] for row in batch.rows] for batch in subject.plan(view).batches]


def restated(view: View, order: list[int], most: int, keeps: set[str]) -> list[list[str]]:
    """One after the other in plan order; what `by` says of the test's policy, and what every batch needs."""
    found: list[list[str]] = []
    open_ones: dict[tuple[object, ...], list[str]] = {}
    for row in order:
        name = view.names["class"][view.class_code[row]]
        if name not in keeps:
            continue
        kind = (view.model[row], view.stage[row], view.steps_done[row], name, view.priority[row])
        members = open_ones.get(kind)
        if members is None:
            members = open_ones[kind] = []
            found.append(members)
        members.append(view.ids[row])
        if len(members) == most:
            del open_ones[kind]
    return sorted(members for members in found if len(members) > 1)


@pytest.mark.parametrize("most", [2, 3, 5])
def test_batches_are_those_of_the_restatement(most: int) -> None:
    clause = f'batch by class, priority max {most} where class == "standard" or class == "batch"'
    subject = policy(clause, order="order by priority desc, arrival")
    seen = 0
    for seed in range(200):
        world = random_world(seed)
        rng = random.Random(seed)
        for actor in world.actors:  # many of a kind
            actor.stage, actor.sp, actor.state, actor.steps_done = (
                rng.choice((Stage.ENCODE, Stage.DENOISE)),
                0,
                None,
                0.0,
            )
        view = world.view()
        order = sorted(np.flatnonzero(view.plannable).tolist(), key=lambda row: -view.priority[row])
        expected = restated(view, order, most, {"standard", "batch"})
        assert sorted(batches(subject, view)) == expected, f"world {seed}"
        seen += len(expected)
    assert seen > 40


def test_members_stand_right_behind_the_first_of_them() -> None:
    world = World(gpus=8, now_s=100.0).add(
        [fresh("a", 9.0), fresh("b", 8.0, tokens=1024.0), fresh("c", 7.0), fresh("d", 6.0, tokens=1024.0)]
    )
    view = world.view()
    proposal = policy(BATCH, denoise=ONE).plan(view)
    assert [view.ids[place.row] for place in proposal.places] == ["a", "c", "b", "d"]
    words = {view.ids[place.row]: place.because.values[-1] for place in proposal.places if place.because}
    assert words == {
        "a": ("batch of", "2"),
        "c": ("batch with", "a"),
        "b": ("batch of", "2"),
        "d": ("batch with", "b"),
    }
    plain = policy(denoise=ONE).plan(view)
    assert [view.ids[place.row] for place in plain.places] == ["a", "b", "c", "d"] and plain.batches == ()


def test_stage_step_and_model_part_what_the_keys_do_not() -> None:
    paused = {"stage": Stage.DENOISE, "steps_total": 20.0}
    world = World(gpus=8, now_s=100.0).add(
        [
            fresh("waits", 9.0),
            fresh("third", 8.0, steps_done=3.0, **paused),
            fresh("fourth", 7.0, steps_done=4.0, **paused),
            fresh("too", 6.0, steps_done=4.0, **paused),
        ]
    )
    assert batches(policy("batch by tokens max 8"), world.view()) == [["fourth", "too"]]


def test_a_batch_that_is_not_full_waits_for_its_window_and_no_longer() -> None:
    subject = policy("batch by tokens max 3 window 2s")
    world = World(gpus=8, now_s=100.0).add([fresh("a", 1.5), fresh("b", 0.5)])
    view = world.view()
    proposal = subject.plan(view)
    assert proposal.places == ()
    assert dict(proposal.waits) == {0: WaitReason.BATCH_WINDOW, 1: WaitReason.BATCH_WINDOW}
    assert proposal.wake_at_s == pytest.approx(100.5)
    (batch,) = proposal.batches
    assert batch.held and batch.because is not None
    assert dict(batch.because.values) == {"members": "2 of 3", "waits for more": "500.0 ms"}
    world.now_s = 100.5
    assert len(subject.plan(world.view()).places) == 2
    world.now_s = 100.0
    world.add([fresh("c", 0.1)])  # full
    assert len(subject.plan(world.view()).places) == 3


def test_nobody_is_made_late_by_a_window() -> None:
    subject = policy("batch by tokens max 3 window 60s")
    alone = World(gpus=8, now_s=100.0).add([fresh("a", 1.0, deadline_s=120.0)])
    remaining = float(alone.view().remaining_s[0].min())
    proposal = subject.plan(alone.view())
    assert proposal.places == () and proposal.wake_at_s == pytest.approx(120.0 - remaining)
    alone.now_s = 120.0 - remaining + 0.001
    assert len(subject.plan(alone.view()).places) == 1


def test_who_has_begun_waits_for_nobody() -> None:
    world = World(gpus=8, now_s=100.0).add([fresh("a", 0.1, stage=Stage.DENOISE), fresh("b", 0.1)])
    proposal = policy("batch by tokens max 8 window 2s").plan(world.view())
    assert [place.row for place in proposal.places] == [0]
    assert dict(proposal.waits) == {1: WaitReason.BATCH_WINDOW}


def test_the_lost_are_in_no_batch() -> None:
    lost = fresh("lost", 9.0, deadline_s=100.001)
    world = World(gpus=8, now_s=100.0).add([lost, fresh("a", 5.0), fresh("b", 4.0)])
    assert batches(policy(BATCH, "triage by deadline then last"), world.view()) == [["a", "b"]]


def test_pools_take_the_new_order() -> None:
    pools = (
        "pool aux = 2 gpu\npool dit = rest\n"
        "stage encode on aux { sp fixed 1 gpu }\nstage denoise, decode on dit { sp fixed 1 gpu }"
    )
    text = f"policy tested version 1\n{BATCH}\norder by arrival\n{pools}"
    world = World(gpus=4, now_s=100.0).add(
        [fresh("a", 9.0), fresh("b", 8.0, tokens=1024.0), fresh("c", 7.0), fresh("d", 6.0, tokens=1024.0)]
    )
    view = world.view()
    proposal = compile_text(text).plan(view)
    assert [view.ids[place.row] for place in proposal.places] == ["a", "c"]


def test_knapsacks_take_the_new_order() -> None:
    world = World(gpus=2, now_s=100.0).add(
        [fresh("a", 9.0), fresh("b", 8.0, tokens=1024.0), fresh("c", 7.0), fresh("d", 6.0, tokens=1024.0)]
    )
    view = world.view()
    for clause in ("", "allocate backfill 2", "allocate knapsack maximizing if sp == 0 gpu then 0 else 1"):
        proposal = policy(BATCH, clause, denoise=ONE).plan(view)
        assert [view.ids[place.row] for place in proposal.places] == ["a", "c"], clause


def test_a_window_of_its_own_name_is_not_the_built_in_one() -> None:
    built_in = policy("batch by tokens max 3 window 2s", "guard g: window < 1s else alert")
    own = policy("param window: dur = 500ms", "batch by tokens max 3 window 2s", "guard g: window < 1s else alert")
    view = World(gpus=1, now_s=100.0).add([fresh("a", 9.0)]).view()
    assert len(built_in.plan(view).alarms) == 1 and own.plan(view).alarms == ()
    assert policy("guard g: window == 0s else alert").plan(view).alarms == ()


def test_a_full_simulation_with_windows_ends_every_request() -> None:
    from small_worlds import make_cost, make_workload

    from gfdit.sim.run import SimConfig, simulate

    subject = policy("batch by tokens, steps_total max 4 window 50ms", order="order by deadline, arrival")
    outcome = simulate(SimConfig(subject, make_workload(4), "made", make_cost(), 5, check=True))
    assert outcome.result["completed"] == 40 and outcome.summary.policy_errors == 0
