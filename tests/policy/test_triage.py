"""Triage: Moore-Hodgson against brute force, and what becomes of those that are set aside."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from gfdit.core.lifecycle import State
from gfdit.core.proposal import WaitReason
from gfdit.core.work import Stage
from gfdit.policy.triaging import moore_hodgson
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy


def most_on_time(need: list[float], room: list[float]) -> int:
    """The size of the largest subset whose every prefix fits, by trying all."""

    def fits(chosen: tuple[int, ...]) -> bool:
        sums = itertools.accumulate(need[i] for i in chosen)
        return all(used <= room[i] for i, used in zip(chosen, sums, strict=True))

    sizes = (
        k for k in range(len(need), -1, -1) for chosen in itertools.combinations(range(len(need)), k) if fits(chosen)
    )
    return next(sizes)


@pytest.mark.parametrize("seed", range(150))
def test_the_largest_set_is_kept(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randrange(1, 9)
    need = [float(rng.randrange(1, 7)) for _ in range(n)]
    room = sorted(float(rng.randrange(0, 16)) for _ in range(n))
    aside = moore_hodgson(np.array(need), np.array(room), np.array(need))
    kept = [i for i in range(n) if i not in aside]
    assert all(used <= room[i] for i, used in zip(kept, itertools.accumulate(need[i] for i in kept), strict=True))
    assert len(kept) == most_on_time(need, room)


def test_of_equal_keys_the_later_goes_and_the_excess_is_told() -> None:
    aside = moore_hodgson(np.array([4.0, 4.0, 4.0]), np.array([9.0, 9.0, 9.0]), np.array([1.0, 1.0, 1.0]))
    assert aside == {2: 3.0}


def drawing(name: str, deadline_s: float | None, steps_left: int = 10, **fields: object) -> Actor:
    return Actor(
        name,
        arrival_s=90.0,
        deadline_s=None if deadline_s is None else 100.0 + deadline_s,
        stage=Stage.DENOISE,
        steps_total=float(steps_left),
        **fields,  # type: ignore[arg-type]
    )


TRIAGE = "triage by deadline margin 100% shed most gpu_time then last"
DENOISE = "stage denoise { sp in {1} gpu smallest }"


def order(world: World, *clauses: str) -> list[str]:
    view = world.view()
    tested = policy(*clauses, order="order by deadline", denoise=DENOISE)
    return [view.ids[place.row] for place in tested.plan(view).places]


def test_lost_requests_go_last_shortest_first() -> None:
    world = World(gpus=4, now_s=100.0).add(
        [
            drawing("lost_long", 1.0, 20),
            drawing("lost_short", 2.0, 10),
            drawing("fine", 20.0),
            drawing("free", None),
        ]
    )
    # every degree is looked at, not only those of the clause: 10 steps take 2.2 s on four GPUs
    assert order(world, TRIAGE) == ["fine", "free", "lost_short", "lost_long"]
    assert order(world) == ["lost_long", "lost_short", "fine", "free"]


def test_in_overload_the_dearest_is_set_aside() -> None:
    world = World(gpus=1, now_s=100.0).add([drawing("big", 8.0, 12), drawing("small", 8.5, 8), drawing("tiny", 9.0, 4)])
    view = world.view()
    proposal = policy(TRIAGE, order="order by deadline", denoise=DENOISE).plan(view)
    assert [view.ids[place.row] for place in proposal.places] == ["small"]
    assert {view.ids[row]: reason for row, reason in proposal.waits.items()} == {
        "big": WaitReason.SET_ASIDE,
        "tiny": WaitReason.NO_FREE_GPU,
    }


def test_weight_protects() -> None:
    clauses = (
        'class vip when tag == "vip" { weight 10 rank 0 }',
        "class rest otherwise { weight 1 rank 1 }",
        "triage by deadline margin 100% shed most gpu_time / weight then last",
    )
    world = World(gpus=1, now_s=100.0).add([drawing("big", 8.0, 12, tag="vip"), drawing("small", 8.5, 8)])
    for actor in world.actors:
        actor.class_name = "vip" if actor.tag == "vip" else "rest"
    assert order(world, *clauses)[0] == "big"


def test_aged_requests_lead_those_set_aside() -> None:
    world = World(gpus=4, now_s=100.0).add([drawing("long", 1.0, 20, waited_s=70.0), drawing("short", 1.0, 10)])
    assert order(world, TRIAGE) == ["short", "long"]
    assert order(world, TRIAGE, "aging every 60s raise 1 until tier 0") == ["long", "short"]


def test_then_reject_answers_only_those_that_have_not_begun() -> None:
    world = World(gpus=4, now_s=100.0).add(
        [
            Actor("fresh", arrival_s=99.0, deadline_s=101.0),
            drawing("begun", 1.0, 20, last_sp=1),
            drawing("running", 1.0, 20, sp=1, state=State.RUNNING),
        ]
    )
    view = world.view()
    tested = policy(
        'triage by deadline then reject because "too late for it"', order="order by deadline", denoise=DENOISE
    )
    proposal = tested.plan(view)
    assert [(view.ids[turn.row], turn.message) for turn in proposal.turns] == [("fresh", "too late for it")]
    assert proposal.turns[0].because is not None and proposal.turns[0].because.clause == "triage"
    assert [view.ids[place.row] for place in proposal.places] == ["begun"]
