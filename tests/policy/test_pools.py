"""Pools: who may use which ranks, lanes, spilling, resizing; and a small cluster that cannot be divided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_worlds import make_cost, make_workload

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Proposal, WaitReason
from gfdit.core.view import View
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import compile_text
from gfdit.policy.world import Actor, World
from gfdit.sim.run import SimConfig, simulate

POOLS = "pool aux = 2 gpu\npool dit = rest"


def divided(*clauses: str, encode: str = "", decode: str = "", denoise: str = "largest") -> CompiledPolicy:
    stages = (
        f"stage encode on aux {{ sp fixed 1 gpu {encode} }}",
        f"stage decode on aux {{ sp fixed 1 gpu {decode} }}",
        f"stage denoise on dit {{ sp in {{1, 2, 4}} gpu {denoise} }}",
    )
    return compile_text("\n".join(["policy pooled version 1", POOLS, *clauses, "order by arrival", *stages]))


def rows(stage: Stage, count: int, first: str = "", **fields: object) -> list[Actor]:
    done = 20.0 if stage is Stage.DECODE else 0.0
    return [
        Actor(f"{first or stage.value}{n}", arrival_s=90.0 + n, stage=stage, steps_done=done, **fields)  # type: ignore[arg-type]
        for n in range(count)
    ]


def view_of(gpus: int, *actors: Actor, now_s: float = 100.0) -> View:
    return World(gpus=gpus, now_s=now_s).add(actors).view()


def degrees(proposal: Proposal, view: View) -> dict[str, int]:
    return {view.ids[place.row]: place.degree for place in proposal.places}


def test_stages_use_the_ranks_of_their_pool_only() -> None:
    tested = divided()
    view = view_of(8, *rows(Stage.ENCODE, 3), *rows(Stage.DENOISE, 3))
    proposal = tested.plan(view)
    assert degrees(proposal, view) == {"encode0": 1, "encode1": 1, "denoise0": 4, "denoise1": 2}
    for place in proposal.places:
        assert place.within == (frozenset({6, 7}) if view.ids[place.row].startswith("encode") else frozenset(range(6)))
    reasons = {view.ids[row]: reason for row, reason in proposal.waits.items()}
    assert reasons == {"encode2": WaitReason.NO_FREE_GPU, "denoise2": WaitReason.NO_FREE_GPU}


def test_only_idle_ranks_of_the_pool_count() -> None:
    tested = divided()
    view = view_of(8, *rows(Stage.DENOISE, 2))
    half = replace(view, idle=(0, 1, 2, 6), free=4)
    assert degrees(tested.plan(half), half) == {"denoise0": 2, "denoise1": 1}


def test_every_pool_keeps_a_rank_while_there_are_enough() -> None:
    view = view_of(2, *rows(Stage.DECODE, 2), *rows(Stage.DENOISE, 1))
    assert degrees(divided().plan(view), view) == {"decode0": 1, "denoise0": 1}
    view = view_of(1, *rows(Stage.DENOISE, 1))
    proposal = divided().plan(view)
    assert degrees(proposal, view) == {"denoise0": 1} and proposal.places[0].within is None


def test_lanes_bound_how_many_are_in_a_stage() -> None:
    tested = divided(encode="lanes 2")
    view = view_of(
        9, *rows(Stage.ENCODE, 3), Actor("busy", arrival_s=1.0, stage=Stage.ENCODE, sp=1, state=State.RUNNING)
    )
    tested_pool = replace(view, idle=tuple(range(9)), free=9)
    proposal = tested.plan(tested_pool)
    assert degrees(proposal, view) == {"encode0": 1}
    assert {view.ids[row]: reason for row, reason in proposal.waits.items()} == {
        "encode1": WaitReason.LANE_FULL,
        "encode2": WaitReason.LANE_FULL,
    }


def test_spill_uses_the_other_pool_while_its_condition_holds() -> None:
    waiting = rows(Stage.DECODE, 4)
    never, always = (divided(decode=f"spill to dit when {when}") for when in ("gpus < 0 gpu", "backlog(aux) > 0s"))
    view = view_of(5, *waiting, *rows(Stage.DENOISE, 1))
    assert degrees(never.plan(view), view) == {"decode0": 1, "decode1": 1, "denoise0": 2}
    proposal = always.plan(view)
    # the guests take their turn in the order of the other pool
    assert degrees(proposal, view) == {"decode0": 1, "decode1": 1, "denoise0": 2, "decode2": 1}
    guest = next(place for place in proposal.places if view.ids[place.row] == "decode2")
    assert guest.within == frozenset({0, 1, 2})
    assert [view.ids[row] for row in proposal.waits] == ["decode3"]


def test_what_a_pool_tells_of_itself() -> None:
    busy = "free(aux) == 2 gpu and busy(dit) == 50% and free(dit) == 2 gpu"
    tested = divided(f"guard g: {busy} and backlog(aux) > 235ms and backlog(aux) < 236ms else alert")
    view = view_of(6, *rows(Stage.DECODE, 3), *rows(Stage.DENOISE, 1, sp=2, state=State.RUNNING))
    seen = replace(view, idle=(0, 1, 4, 5), free=4)
    # three decodes of 1024 x 1024, 0.157 s each, on two GPUs; who denoises already waits for nothing
    assert tested.plan(seen).alarms == ()


def test_resize_waits_for_its_time_and_its_cooldown() -> None:
    tested = divided("resize aux by 1 gpu when queued(any) > 3 for 2s within 1 gpu .. 4 gpu cooldown 10s")
    crowd = rows(Stage.ENCODE, 9)
    found = []
    for now in (100.0, 101.9, 102.0, 105.0, 111.9, 112.0, 130.0):
        view = view_of(8, *crowd, now_s=now)
        proposal = tested.plan(view)
        found.append(len(proposal.places))
        assert tested.plan(view) == proposal
    assert found == [2, 2, 3, 3, 3, 4, 4]


def test_resize_asks_to_be_looked_at_when_it_falls_due() -> None:
    tested = divided("resize aux by 1 gpu when queued(any) > 3 for 2s within 1 gpu .. 4 gpu cooldown 10s")
    crowd = rows(Stage.ENCODE, 9)
    assert tested.plan(view_of(8, *crowd, now_s=100.0)).wake_at_s == 102.0
    assert tested.plan(view_of(8, *crowd, now_s=102.0)).wake_at_s is None
    assert tested.plan(view_of(8, *crowd, now_s=103.0)).wake_at_s == 112.0


def test_sizes_are_inherited() -> None:
    old, new = (divided("resize aux by 1 gpu when queued(any) > 3 within 1 gpu .. 4 gpu") for _ in range(2))
    crowd = rows(Stage.ENCODE, 9)
    view = view_of(8, *crowd)
    assert len(old.plan(view).places) == 3
    new.inherit(old)
    assert len(new.plan(view_of(8, *crowd[:3])).places) == 3


def test_preemption_takes_from_the_same_pool_only() -> None:
    tested = compile_text(
        "\n".join(
            [
                "policy pooled version 1",
                POOLS,
                'class ui when tag == "ui" { rank 0 }',
                "class rest otherwise { rank 1 preemptible }",
                "order by rank, arrival",
                "aging every 60s raise 1",
                "stage encode, decode on aux { sp fixed 1 gpu }",
                "stage denoise on dit { sp in {1, 2, 4} gpu smallest }",
                "preempt for ui from rest do pause",
            ]
        )
    )
    encoding = [
        Actor(f"e{n}", arrival_s=90.0, stage=Stage.ENCODE, sp=1, state=State.RUNNING, class_name="rest")
        for n in range(2)
    ]
    drawing = Actor(
        "d", arrival_s=90.0, stage=Stage.DENOISE, sp=1, state=State.RUNNING, class_name="rest", steps_done=2
    )
    winner = Actor("w", arrival_s=99.0, stage=Stage.DENOISE, tag="ui", class_name="ui")
    view = view_of(3, *encoding, drawing, winner)
    assert [view.ids[cap.row] for cap in tested.plan(view).caps] == ["d"]


@pytest.mark.parametrize("gpus", [1, 2, 4, 7])
def test_a_simulated_workload_ends_and_stays_in_its_pools(gpus: int) -> None:
    text = "resize aux by 1 gpu when backlog(aux) > 10ms for 20ms within 1 gpu .. 3 gpu cooldown 50ms"
    shrink = "resize aux by -1 gpu when busy(aux) < 40% for 100ms within 1 gpu .. 3 gpu cooldown 50ms"
    tested = divided(text, shrink, decode="spill to dit when backlog(aux) > 30ms")
    config = SimConfig(tested, make_workload(3, count=30), "made", make_cost(), gpus, seed=3, check=True)
    result = simulate(config).result
    assert (result["completed"], result["failed"]) == (30, 0)


def test_the_ranks_of_a_cluster_are_all_in_pools() -> None:
    tested = divided()
    for gpus in range(2, 12):
        tested.plan(view_of(gpus, *rows(Stage.ENCODE, 1)))
        shares = tested._pools._shares(view_of(gpus))  # type: ignore[union-attr]
        assert sorted(rank for share in shares for rank in share.ranks) == list(np.arange(gpus))
        assert [share.size for share in shares] == ([1, 1] if gpus == 2 else [2, gpus - 2])
