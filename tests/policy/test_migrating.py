"""`preempt ... do demote` and `migrate`: who stands last and for how long; which block is cleared, and by whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Place, Proposal, WaitReason
from gfdit.core.view import View
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy

CLASSES = (
    'class ui when tag == "ui" { slo 60s rank 1 weight 10 }',
    "class bulk otherwise { slo 30min rank 0 weight 1 preemptible }",
)
WIDE = "stage denoise { sp in {1, 2, 4} gpu largest }"
PAIR = "stage denoise { sp fixed if class == ui then 2 gpu else 1 gpu }"


def bulk(name: str, sp: int, **fields: object) -> Actor:
    values: dict[str, object] = {"class_name": "bulk", "steps_done": 5.0, "sp": sp} | fields
    return Actor(name, arrival_s=90.0, stage=Stage.DENOISE, **values)  # type: ignore[arg-type]


def ui(name: str = "u") -> Actor:
    return Actor(name, arrival_s=99.0, stage=Stage.DENOISE, class_name="ui", tag="ui")


def subject(do: str, denoise: str, order: str = "order by tier, arrival") -> CompiledPolicy:
    return policy(*CLASSES, f"preempt for ui from bulk do {do}", order=order, denoise=denoise)


def places(view: View, proposal: Proposal) -> dict[str, Place]:
    return {view.ids[place.row]: place for place in proposal.places}


def degrees(view: View, proposal: Proposal) -> dict[str, int]:
    return {name: place.degree for name, place in places(view, proposal).items()}


def with_groups(world: World, **groups: tuple[int, ...]) -> View:
    """The view of a world in which these requests hold these ranks; running ones are not idle."""
    running = {rank for actor in world.actors if actor.state is State.RUNNING for rank in groups[actor.id]}
    idle = tuple(rank for rank in range(world.gpus) if rank not in running)
    return replace(world.view(), groups=lambda: groups, idle=idle)


# ---- demote ---------------------------------------------------------------------------------------------------------


def test_the_demoted_is_shrunk_and_stands_last_while_its_winner_lives() -> None:
    world = World(gpus=4, now_s=100.0).add([bulk("b", 4), ui()])
    for do, first, second in (
        # the victim comes first by its tier: without a demotion it takes everything, and is taken from again
        ("shrink to 1 gpu", {"b": 1, "u": 2}, {"b": 1, "u": 2}),
        ("demote", {"b": 1, "u": 2}, {"u": 4}),
    ):
        tried = subject(do, WIDE)
        world.actor("b").sp, world.actor("u").sp, world.now_s = 4, 0, 100.0
        view = world.view()
        assert degrees(view, tried.plan(view)) == first, do
        world.actor("b").sp, world.actor("u").sp, world.now_s = 1, 2, 101.0
        view = world.view()
        assert degrees(view, tried.plan(view)) == second, do


def test_a_demotion_ends_with_its_winner() -> None:
    world = World(gpus=4, now_s=100.0).add([bulk("b", 4), ui(), bulk("other", 0)])
    tried = subject("demote", WIDE)
    tried.plan(world.view())
    assert [world.view().ids[row] for row in tried.order(world.view())] == ["other", "u", "b"]
    world.actors.pop(1)
    assert [world.view().ids[row] for row in tried.order(world.view())] == ["b", "other"]


def test_those_set_aside_come_after_the_demoted() -> None:
    lost = bulk("lost", 0, deadline_s=100.001)
    world = World(gpus=4, now_s=100.0).add([bulk("b", 4), ui(), lost])
    tried = policy(
        *CLASSES,
        "preempt for ui from bulk do demote",
        "triage by deadline then last",
        order="order by tier, arrival",
        denoise=WIDE,
    )
    tried.plan(world.view())
    assert [world.view().ids[row] for row in tried.order(world.view())] == ["u", "b", "lost"]


def test_a_running_victim_is_capped_at_its_narrowest_degree() -> None:
    world = World(gpus=4, now_s=100.0).add([bulk("b", 4, state=State.RUNNING), ui()])
    view = world.view()
    proposal = subject("demote", WIDE).plan(view)
    assert [(view.ids[cap.row], cap.degree) for cap in proposal.caps] == [("b", 1)]
    assert proposal.waits[1] is WaitReason.HOLDING


# ---- migrate --------------------------------------------------------------------------------------------------------


def test_a_victim_between_two_steps_makes_room_for_a_block_at_once() -> None:
    """a on rank 0, b on rank 2: ranks 1 and 3 are free, and no pair of neighbours."""
    world = World(gpus=4, now_s=100.0).add([bulk("a", 1), bulk("b", 1), ui()])
    view = with_groups(world, a=(0,), b=(2,))
    proposal = subject("migrate", PAIR).plan(view)
    found = places(view, proposal)
    assert degrees(view, proposal) == {"a": 1, "b": 1, "u": 2}
    assert found["u"].within == {0, 1}
    assert found["a"].within == found["b"].within == {2, 3}
    assert found["a"].because is not None and found["a"].because.clause == "preempt"
    assert found["b"].because is not None and found["b"].because.clause == "sp fixed"
    plain = subject("shrink to 1 gpu", PAIR).plan(view)
    assert {place.within for place in plain.places} == {None}


def test_no_more_is_moved_than_must_be() -> None:
    """Both blocks can be cleared: the upper one by one group, the lower by two."""
    world = World(gpus=6, now_s=100.0).add([bulk("a", 1), bulk("b", 1), bulk("c", 1), bulk("keep", 1), ui()])
    world.actor("keep").class_name = "ui"  # not a victim; in the third block
    view = with_groups(world, a=(0,), b=(1,), c=(3,), keep=(4,))
    tried = policy(
        *CLASSES,
        "preempt for ui from bulk do migrate",
        order="order by tier, arrival",
        denoise="stage denoise { sp fixed if class == ui and sp == 0 gpu then 2 gpu else 1 gpu }",
    )
    found = places(view, tried.plan(view))
    assert found["u"].within == {2, 3}
    moved = [name for name, place in found.items() if place.because and place.because.clause == "preempt"]
    assert moved == ["c"]


def test_a_running_victim_is_waited_for() -> None:
    tried = subject("migrate", PAIR)
    world = World(gpus=4, now_s=100.0).add([bulk("a", 1, state=State.RUNNING), bulk("b", 1, state=State.RUNNING), ui()])
    view = with_groups(world, a=(0,), b=(2,))
    proposal = tried.plan(view)
    assert proposal.places == () and proposal.waits[2] is WaitReason.MIGRATING
    (claim,) = proposal.reservations
    assert (claim.request_id, claim.gpus) == ("u", 1)
    assert {row: why.clause for row, why in proposal.reasons.items()} == {2: "preempt"}
    assert [view.ids[cap.row] for cap in proposal.caps] == ["a"]  # the group that leaves, with as many ranks as it has
    world.actor("a").state, world.now_s = None, 100.2
    view = with_groups(world, a=(0,), b=(2,))
    found = places(view, tried.plan(view))
    assert found["a"].within == {2, 3} and found["u"].within == {0, 1}


def test_nobody_waits_for_a_block_for_ever() -> None:
    tried = subject("migrate", PAIR)
    world = World(gpus=4, now_s=100.0).add([bulk("a", 1, state=State.RUNNING), bulk("b", 1, state=State.RUNNING), ui()])
    groups = {"a": (0,), "b": (2,)}
    until = tried.plan(with_groups(world, **groups)).reservations[0].until_s
    world.now_s = until - 0.01
    assert tried.plan(with_groups(world, **groups)).waits[2] is WaitReason.MIGRATING
    world.actor("b").class_name = "ui"  # there is no other block to clear any more
    world.actor("a").class_name = "ui"
    world.now_s = until
    view = with_groups(world, **groups)
    assert places(view, tried.plan(view))["u"].within is None


@pytest.mark.parametrize(
    ("groups", "free_pair"),
    [({"a": (0,), "b": (1,)}, True), ({"a": (0,), "b": (3,)}, False), ({"a": (1,), "b": (2,)}, False)],
)
def test_a_free_block_moves_nobody(groups: dict[str, tuple[int, ...]], free_pair: bool) -> None:
    world = World(gpus=4, now_s=100.0).add([bulk("a", 1), bulk("b", 1), ui()])
    view = with_groups(world, **groups)
    proposal = subject("migrate", PAIR).plan(view)
    assert (places(view, proposal)["u"].within is None) == free_pair


def test_the_scheduler_carries_a_migration_out() -> None:
    from small_worlds import make_cost, make_request

    from gfdit.core import invariants
    from gfdit.core.commands import RunTask
    from gfdit.core.estimate import Estimator
    from gfdit.core.events import RequestArrived, TaskFinished, WorkerJoined
    from gfdit.core.scheduler import MoveKind, Scheduler
    from gfdit.core.topology import Topology

    tried = policy(
        'class ui when tag == "ui" { slo 60s rank 1 weight 10 }',
        "class bulk otherwise { slo 30min rank 0 weight 1 preemptible }",
        "preempt for ui from bulk do migrate",
        order="order by tier, arrival",
        denoise="stage denoise { sp fixed if class == ui then 2 gpu else 1 gpu }",
    )
    scheduler = Scheduler(tried, Topology.uniform(4, 8), Estimator(make_cost(), 4))
    for rank in range(4):
        scheduler.observe(WorkerJoined(0, rank, 1))
    for number in range(4):
        scheduler.observe(RequestArrived(0, make_request(number, steps=1 if number % 2 else 20)))
    running: dict[str, RunTask] = {}
    moves = []

    def tick(now: int) -> None:
        decision = scheduler.tick(now)
        invariants.check(scheduler)
        assert decision.refusals == ()
        moves.extend(decision.moves)
        running.update({c.request_id: c for c in decision.commands if isinstance(c, RunTask)})

    tick(0)
    now = 0
    arrived = False
    for _ in range(80):
        now += 1_000_000
        request_id = min(running, key=lambda one: running[one].epoch)
        scheduler.observe(TaskFinished(now, running.pop(request_id).epoch, 1_000_000))
        if not arrived and len(scheduler.trajectories) == 2:  # the short ones are through: every other rank is free
            arrived = True
            scheduler.observe(RequestArrived(now, replace(make_request(9, steps=8, slo_s=60.0), tag="ui")))
        tick(now)
        if not running:
            break
    (moved,) = [move for move in moves if move.kind is MoveKind.MIGRATE]
    assert (moved.request_id, moved.before, moved.after) == ("r002", (1,), (2,))
    assert moved.because is not None and moved.because.clause == "preempt"
    assert [move.after for move in moves if move.request_id == "r009"] == [(0, 1)]
