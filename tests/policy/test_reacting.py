"""`react`: which events are told from two views, what each action does, for how long, and what it says."""

from __future__ import annotations

import pytest

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Proposal, WaitReason
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy

WIDE = "stage denoise { sp in {1, 2, 4} gpu largest }"
CLASSES = ('class ui when tag == "ui" { rank 0 weight 1 }', "class bulk otherwise { rank 2 weight 1 }")


def drawing(name: str, **fields: object) -> Actor:
    values: dict[str, object] = {"arrival_s": 90.0, "stage": Stage.DENOISE, "class_name": "bulk"} | fields
    return Actor(name, **values)  # type: ignore[arg-type]


def degrees(world: World, proposal: Proposal) -> dict[str, int]:
    view = world.view()
    return {view.ids[place.row]: place.degree for place in proposal.places}


def test_a_lost_worker_is_an_event_once_and_the_first_plan_is_none() -> None:
    subject = policy('react worker_lost do alert "call somebody"', "react worker_joined do alert")
    world = World(gpus=4, now_s=100.0).add([drawing("a")])
    notes = []
    for gpus in (4, 3, 3, 5):
        world.gpus, world.now_s = gpus, world.now_s + 1
        notes.append(subject.plan(world.view()).notes)
    assert notes == [
        (),
        ("react worker_lost, line 2: call somebody",),
        (),
        ("react worker_joined, line 3: alert",),
    ]


def test_late_happens_to_a_request_and_once() -> None:
    subject = policy(*CLASSES, "react late when class == bulk do raise 1", order="order by tier, arrival")
    world = World(gpus=1, now_s=100.0)
    world.add([drawing("a", deadline_s=101.0), drawing("b", arrival_s=91.0, class_name="ui", deadline_s=101.0)])
    assert subject.plan(world.view()).notes == ()
    assert subject.attribute(world.view(), 0, "tier") == 2.0
    world.now_s = 102.0
    assert subject.plan(world.view()).notes == ("react late, line 4: raised by 1 (a)",)
    assert subject.attribute(world.view(), 0, "tier") == 1.0
    world.now_s = 200.0
    assert subject.plan(world.view()).notes == ()
    assert subject.attribute(world.view(), 0, "tier") == 1.0  # until it ends


def test_a_raise_changes_the_order_and_stops_where_aging_does() -> None:
    world = World(gpus=1, now_s=100.0)
    world.add([drawing("a", deadline_s=99.0), drawing("b", arrival_s=91.0, class_name="ui")])
    for clause, tier, first in (
        ("react late do raise 1", 1.0, "b"),
        ("react late do raise 9", 0.0, "a"),
        ("react late do raise 9\naging every 10min raise 1 until tier 1", 1.0, "b"),
    ):
        subject = policy(*CLASSES, clause, order="order by tier, arrival")
        assert degrees(world, subject.plan(world.view())) == {first: 1}
        assert subject.attribute(world.view(), 0, "tier") == tier


def test_being_preempted_happens_every_time() -> None:
    subject = policy("react preempted do alert")
    world = World(gpus=1, now_s=100.0).add([drawing("a", preemptions=1.0), drawing("b")])
    found = []
    for count in (1.0, 1.0, 2.0):
        world.actor("a").preemptions = count
        world.now_s += 1
        found.append(len(subject.plan(world.view()).notes))
    assert found == [1, 0, 1]


def test_a_mode_is_an_event_when_it_turns_on() -> None:
    subject = policy(
        "mode busy when count(where waiting) > 1 until count(where waiting) < 1",
        "react busy do shrink to 1 gpu for 5s",
        denoise=WIDE,
    )
    world = World(gpus=4, now_s=100.0).add([drawing("a", sp=4), drawing("b")])
    assert degrees(world, subject.plan(world.view())) == {"a": 4}
    world.add([drawing("c")])
    world.now_s = 101.0
    proposal = subject.plan(world.view())
    assert degrees(world, proposal) == {"a": 1, "b": 1, "c": 1}
    assert proposal.wake_at_s == 106.0
    assert {place.because.clause for place in proposal.places if place.because} == {"react"}
    world.now_s = 105.9  # still on: no new event, the old one holds
    assert degrees(world, subject.plan(world.view())) == {"a": 1, "b": 1, "c": 1}
    world.now_s = 106.0
    assert degrees(world, subject.plan(world.view())) == {"a": 4}


def test_a_pause_gives_ranks_up_and_comes_before_a_hold() -> None:
    held = "stage denoise { sp in {1, 2, 4} gpu largest hold until done }"
    subject = policy("react late do pause for 3s", denoise=held)
    world = World(gpus=4, now_s=100.0).add(
        [drawing("a", sp=4, steps_done=3.0, deadline_s=99.0, group_since_s=90.0), drawing("b", arrival_s=95.0)]
    )
    proposal = subject.plan(world.view())
    assert degrees(world, proposal) == {"b": 4}
    assert dict(proposal.waits) == {0: WaitReason.POLICY_WAITS}
    assert {row: (why.clause, why.line) for row, why in proposal.reasons.items()} == {0: ("react", 2)}
    world.now_s = 103.0
    assert degrees(world, subject.plan(world.view())) == {"a": 4}


def test_nobody_is_shrunk_to_nothing() -> None:
    from gfdit.core.cost import CostModel, StageCost
    from gfdit.policy.world import default_cost

    plain = default_cost()
    wide_only = {stage: StageCost(cost.x, {d: c for d, c in cost.degrees.items() if d != 1}) for stage, cost in
                 plain.models["dit"].items() if stage in ("prepare", "timesteps", "denoise")}  # fmt: skip
    cost = CostModel("wide", {"dit": dict(plain.models["dit"]) | wide_only})
    world = World(gpus=4, now_s=100.0, cost=cost).add([drawing("a", deadline_s=99.0)])
    subject = policy("react late do shrink to 1 gpu for 9s", denoise="stage denoise { sp in {2, 4} gpu largest }")
    assert degrees(world, subject.plan(world.view())) == {"a": 2}


ROLLOUT = "allocate rollout horizon 2 beam 2 minimizing remaining(sp)"


@pytest.mark.parametrize("allocate", ["", "allocate knapsack maximizing sp / 1 gpu", ROLLOUT])
def test_every_allocator_keeps_to_the_limit(allocate: str) -> None:
    subject = policy("react late do shrink to 2 gpu for 9s", allocate, denoise=WIDE)
    world = World(gpus=8, now_s=100.0).add([drawing("a", deadline_s=99.0), drawing("b")])
    assert degrees(world, subject.plan(world.view())) == {"a": 2, "b": 4}


def test_nothing_is_held_for_a_width_that_a_reaction_forbids() -> None:
    wide = "stage denoise { sp in {1, 2, 4} gpu largest reserve for 10s }"
    subject = policy("react late do shrink to 1 gpu for 9s", denoise=wide)
    world = World(gpus=4, now_s=100.0)
    world.add([drawing("r", sp=2, state=State.RUNNING), drawing("a", deadline_s=99.0), drawing("b")])
    proposal = subject.plan(world.view())
    assert degrees(world, proposal) == {"a": 1} and dict(proposal.waits) == {1: WaitReason.HOLDING}
    assert [held.request_id for held in proposal.reservations] == ["b"]


def test_a_swap_is_no_event_and_undoes_nothing() -> None:
    def one() -> CompiledPolicy:
        return policy(*CLASSES, "react late do raise 1", "react worker_lost do alert", order="order by tier, arrival")

    world = World(gpus=2, now_s=100.0).add([drawing("a", deadline_s=99.0)])
    first, second = one(), one()
    assert len(first.plan(world.view()).notes) == 1
    second.inherit(first)
    world.now_s, world.gpus = 101.0, 1
    assert second.plan(world.view()).notes == ("react worker_lost, line 5: alert",)
    assert second.attribute(world.view(), 0, "tier") == 1.0


def test_reactions_reach_the_journal() -> None:
    from small_worlds import make_cost, make_request

    from gfdit.core.estimate import Estimator
    from gfdit.core.events import RequestArrived, WorkerJoined, WorkerLost
    from gfdit.core.scheduler import NewsKind, Scheduler
    from gfdit.core.topology import Topology

    scheduler = Scheduler(policy("react worker_lost do alert"), Topology.uniform(2, 8), Estimator(make_cost(), 2))
    for rank in range(2):
        scheduler.observe(WorkerJoined(0, rank, 1))
    scheduler.observe(RequestArrived(0, make_request(1)))
    scheduler.tick(0)
    scheduler.observe(WorkerLost(10, 1, 1, "test"))
    news = scheduler.tick(10).policy_news
    assert [(one.kind, one.text) for one in news] == [(NewsKind.NOTE, "react worker_lost, line 2: alert")]
