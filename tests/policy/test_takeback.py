"""Preempt: whole evictions or none, shrink before pause, limits, protection, and who the freed ranks go to."""

from __future__ import annotations

import pytest

from gfdit.core.lifecycle import State
from gfdit.core.proposal import WaitReason
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy

CLASSES = (
    'class ui when tag == "ui" { slo 60s rank 0 weight 10 }',
    "class batch otherwise { slo 30min rank 2 weight 1 preemptible }",
)
TAKE = "preempt for ui from batch by arrival do shrink to 1 gpu else pause"
WIDE = "stage denoise { sp in {1, 2, 4} gpu largest where sp >= 2 gpu else wait }"


def batch(name: str, sp: int, age: float = 50.0, **fields: object) -> Actor:
    values = {"class_name": "batch", "state": State.RUNNING, "steps_done": 5.0, "preemptible": True} | fields
    return Actor(name, arrival_s=100.0 - age, stage=Stage.DENOISE, sp=sp, **values)  # type: ignore[arg-type]


def ui(name: str, age: float = 1.0) -> Actor:
    return Actor(name, arrival_s=100.0 - age, stage=Stage.DENOISE, class_name="ui", tag="ui", preemptible=False)


def preempting(take: str = TAKE, denoise: str = WIDE, order: str = "order by tier, arrival") -> CompiledPolicy:
    return policy(*CLASSES, take, order=order, denoise=denoise)


def caps(subject: CompiledPolicy, world: World) -> dict[str, int]:
    view = world.view()
    return {view.ids[cap.row]: cap.degree for cap in subject.plan(view).caps}


def test_a_running_victim_is_capped_and_its_ranks_are_reserved() -> None:
    world = World(gpus=4, now_s=100.0).add([batch("b", 4), ui("u")])
    subject, view = preempting(), world.view()
    proposal = subject.plan(view)
    (cap,) = proposal.caps
    assert (view.ids[cap.row], cap.degree, view.ids[cap.winner]) == ("b", 0, "u")
    assert proposal.reservations == ()  # nothing is free yet
    assert proposal.waits == {1: WaitReason.HOLDING} and proposal.places == ()
    assert subject.plan(view) == proposal  # no news, no change
    assert cap.because is not None and cap.because.clause == "preempt" and cap.because.line == 4


def test_nobody_gives_way_for_a_request_that_triage_set_aside() -> None:
    lost = Actor(
        "lost", arrival_s=90.0, stage=Stage.DENOISE, class_name="ui", tag="ui", preemptible=False, deadline_s=100.001
    )
    world = World(gpus=4, now_s=100.0).add([batch("b", 4), lost])
    assert caps(preempting(), world) == {"b": 0}
    aside = policy(*CLASSES, TAKE, "triage by deadline shed most gpu_time then last", denoise=WIDE)
    assert caps(aside, world) == {}


def test_shrinking_comes_before_pausing_and_is_enough_where_it_can_be() -> None:
    two = "stage denoise { sp in {2} gpu smallest }"
    world = World(gpus=8, now_s=100.0).add([batch("b1", 4, 50), batch("b2", 4, 40), ui("u")])
    assert caps(preempting(denoise=two), world) == {"b1": 1}
    three_winners = World(gpus=8, now_s=100.0).add([*world.actors, ui("v"), ui("w")])
    assert caps(preempting(denoise=two), three_winners) == {"b1": 1, "b2": 1}


def test_victims_are_taken_until_it_fits_else_none() -> None:
    four = "stage denoise { sp in {4} gpu smallest }"
    pair = World(gpus=4, now_s=100.0).add([batch("b1", 1, 50), batch("b2", 1, 40), batch("b3", 2, 30), ui("u")])
    assert caps(preempting(denoise=four), pair) == {"b1": 0, "b2": 0, "b3": 0}
    blocked = World(gpus=4, now_s=100.0).add([batch("b1", 2, 50), batch("x", 2, 40, class_name="ui"), ui("u")])
    assert caps(preempting(denoise=four), blocked) == {}


def test_the_freed_ranks_go_to_the_winner_and_not_to_whoever_is_ahead() -> None:
    # arrival order puts the batch requests first: only the claim keeps them off the freed ranks
    four = "stage denoise { sp in {1, 4} gpu largest where class == batch or sp == 4 gpu }"
    subject = preempting(denoise=four, order="order by arrival")
    world = World(gpus=4, now_s=100.0).add([batch("b1", 2, 50), batch("b2", 2, 40), ui("u")])
    assert caps(subject, world) == {"b1": 0, "b2": 0}
    first = world.actor("b1")
    first.state, first.cap, world.now_s = State.READY, 0, 100.1
    second = world.actor("b2")
    second.cap = 0
    world.add([batch("b3", 0, 45, state=None, last_sp=1)])
    view = world.view()
    proposal = subject.plan(view)
    assert proposal.places == ()
    assert [(r.request_id, r.gpus) for r in proposal.reservations] == [("u", 2)]
    assert {view.ids[row]: reason for row, reason in proposal.waits.items()}["b3"] is WaitReason.RESERVED
    first.state, first.sp, first.last_sp, first.cap = None, 0, 2, None
    second.state, world.now_s = State.READY, 100.2
    view = world.view()
    assert [(view.ids[p.row], p.degree) for p in subject.plan(view).places] == [("u", 4)]
    # the claim is over: caps that the core still knows bind nobody
    world.actors = [second]
    view = world.view()
    assert [view.ids[place.row] for place in subject.plan(view).places] == ["b2"]


def test_a_claim_ends_in_time() -> None:
    subject = preempting()
    world = World(gpus=4, now_s=100.0).add([batch("b", 4), ui("u")])
    assert caps(subject, world) == {"b": 0}
    world.actor("b").preemptible = True
    world.now_s = 200.0
    world.actors = [actor for actor in world.actors if actor.id != "u"]
    assert caps(subject, world) == {}


def test_a_victim_of_this_very_plan_gives_way_at_once() -> None:
    subject = preempting(order="order by arrival")
    world = World(gpus=4, now_s=100.0).add([batch("b", 4, state=None), ui("u")])
    view = world.view()
    proposal = subject.plan(view)
    assert [(view.ids[p.row], p.degree) for p in proposal.places] == [("u", 4)]
    assert proposal.waits == {0: WaitReason.RESERVED} and proposal.caps == ()


def test_limit_is_a_token_bucket() -> None:
    subject = preempting(
        "preempt for ui from batch by arrival do pause limit 1 per 10s", "stage denoise { sp fixed 1 gpu }"
    )
    world = World(gpus=2, now_s=100.0).add([batch("b1", 1, 50), batch("b2", 1, 40), ui("u", 2), ui("v", 1)])
    assert caps(subject, world) == {"b1": 0}
    world.now_s = 100.5
    assert caps(subject, world) == {"b1": 0}  # the same victim is not counted again
    world.actors = [actor for actor in world.actors if actor.id not in ("b1", "u")]
    world.add([batch("b3", 1, 30)])
    world.now_s = 109.0
    assert caps(subject, world) == {}
    world.now_s = 110.0
    assert caps(subject, world) == {"b2": 0}


def test_protect_shields_young_groups() -> None:
    subject = preempting("preempt for ui from batch by arrival do pause protect 5s", "stage denoise { sp fixed 1 gpu }")
    young, old = batch("b1", 1, 50, group_since_s=96.0), batch("b2", 1, 40, group_since_s=95.0)
    assert caps(subject, World(gpus=2, now_s=100.0).add([young, old, ui("u")])) == {"b2": 0}


@pytest.mark.parametrize(
    ("preemptible", "budget", "expected"),
    [
        (False, 5.0, {}),  # alone on one GPU its 15 steps take 9.3 s: it would be late because of it
        (True, 5.0, {"b": 1}),
        (False, 60.0, {"b": 1}),
        (False, 1.0, {"b": 1}),  # late as it is
    ],
)
def test_a_victim_that_would_be_late_is_spared(preemptible: bool, budget: float, expected: dict[str, int]) -> None:
    subject = preempting("preempt for ui from batch do shrink to 1 gpu", "stage denoise { sp in {2} gpu smallest }")
    victim = batch("b", 4, preemptible=preemptible, deadline_s=100.0 + budget)
    assert caps(subject, World(gpus=4, now_s=100.0).add([victim, ui("u")])) == expected


def test_conditions_choose_winner_and_victim() -> None:
    text = "preempt for ui when waited > 5s from batch where steps_left > 3 step by steps_left desc do pause"
    subject = preempting(text, "stage denoise { sp fixed 1 gpu }")
    actors = [batch("b1", 1, steps_done=18.0), batch("b2", 1, steps_done=10.0), batch("b3", 1, steps_done=12.0)]
    assert caps(subject, World(gpus=3, now_s=100.0).add([*actors, ui("u", age=4.0)])) == {}
    assert caps(subject, World(gpus=3, now_s=100.0).add([*actors, ui("u", age=6.0)])) == {"b2": 0}
