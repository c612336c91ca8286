"""Choose, allocate, grow: each option of a stage clause, and the reason of everyone who waits."""

from __future__ import annotations

import pytest

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Prefer, Proposal, WaitReason
from gfdit.core.work import Stage
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy


def denoising(name: str, age: float = 0.0, **fields: object) -> Actor:
    return Actor(name, arrival_s=100.0 - age, stage=Stage.DENOISE, **fields)  # type: ignore[arg-type]


def plan(tested: CompiledPolicy, gpus: int, *actors: Actor) -> Proposal:
    return tested.plan(World(gpus=gpus, now_s=100.0).add(actors).view())


def degrees(tested: CompiledPolicy, gpus: int, *actors: Actor) -> dict[str, int]:
    view = World(gpus=gpus, now_s=100.0).add(actors).view()
    return {view.ids[place.row]: place.degree for place in tested.plan(view).places}


def reasons(tested: CompiledPolicy, gpus: int, *actors: Actor) -> dict[str, WaitReason]:
    view = World(gpus=gpus, now_s=100.0).add(actors).view()
    return {view.ids[row]: reason for row, reason in tested.plan(view).waits.items()}


def test_the_chooser_falls_back_to_what_fits() -> None:
    widest = policy(denoise="stage denoise { sp in {1, 2, 4} gpu largest }")
    assert degrees(widest, 7, denoising("a", 3), denoising("b", 2), denoising("c", 1)) == {"a": 4, "b": 2, "c": 1}


def test_else_wait_and_a_chain_without_a_feasible_link() -> None:
    patient = policy(denoise="stage denoise { sp in {1, 2, 4} gpu smallest where sp >= 4 gpu else wait }")
    assert degrees(patient, 6, denoising("a", 3), denoising("b", 2)) == {"a": 4}
    assert reasons(patient, 6, denoising("a", 3), denoising("b", 2)) == {"b": WaitReason.NO_FREE_GPU}
    never = policy(denoise="stage denoise { sp in {1, 2} gpu smallest where late }")
    a = denoising("a")
    assert reasons(never, 2, a) == {"a": WaitReason.POLICY_WAITS}
    assert plan(never, 2, a).wake_at_s == 100.25


def test_minimizing_prefers_the_narrower_of_equals() -> None:
    flat = policy(denoise="stage denoise { sp in {1, 2, 4} gpu minimizing 1 gpu / (2 gpu) }")
    assert degrees(flat, 4, denoising("a")) == {"a": 1}
    fastest = policy(denoise="stage denoise { sp in {1, 2, 4} gpu maximizing 1 step / step_time(sp) }")
    assert degrees(fastest, 4, denoising("a")) == {"a": 4}


def test_single_rank_stages_take_one_rank_whatever_the_group_was() -> None:
    assert degrees(policy(), 4, Actor("a", arrival_s=99.0, stage=Stage.DECODE, sp=4, steps_done=20)) == {"a": 1}


@pytest.mark.parametrize(("gpus", "expected"), [(8, 4), (4, 4), (3, 2), (1, 1)])
def test_a_fixed_degree_is_narrowed_to_what_the_cluster_offers(gpus: int, expected: int) -> None:
    assert degrees(policy(denoise="stage denoise { sp fixed 4 gpu }"), gpus, denoising("a")) == {"a": expected}


def test_degrees_that_are_not_offered_have_a_stand_in() -> None:
    wide = policy(denoise="stage denoise { sp in {8, 16} gpu smallest }")
    assert degrees(wide, 8, denoising("a")) == {"a": 4}


def test_prefer_reaches_the_places() -> None:
    spread = policy(denoise="stage denoise { sp in {1} gpu smallest prefer spread, last_gpus }")
    assert plan(spread, 2, denoising("a")).places[0].prefer == (Prefer.SPREAD, Prefer.LAST_GPUS)
    assert plan(policy(), 2, denoising("a")).places[0].prefer == (Prefer.LAST_GPUS, Prefer.SAME_NODE)


def test_grow_tests_the_pair_and_skips_what_does_not_pay() -> None:
    grows = policy(denoise="stage denoise { sp in {1, 2, 4} gpu smallest grow by order where gain(next) > 190% }")
    # 2 over 1 gains 1.7 and is skipped; 4 over 1 gains 2.9 and is taken
    assert degrees(grows, 4, denoising("a")) == {"a": 4}
    assert degrees(grows, 3, denoising("a")) == {"a": 1}
    # the most urgent takes the surplus, one pass
    assert degrees(grows, 6, denoising("a", 2), denoising("b", 1)) == {"a": 4, "b": 1}
    because = plan(grows, 4, denoising("a")).places[0].because
    assert because is not None and because.clause == "grow" and because.values[0][0] == "gain(4)"


def test_grow_is_capped_by_max() -> None:
    capped = policy(denoise="stage denoise { sp in {1, 2, 4} gpu smallest grow by order max 2 gpu }")
    assert degrees(capped, 8, denoising("a")) == {"a": 2}


def test_hold_keeps_a_group_and_comes_first() -> None:
    holds = policy(denoise="stage denoise { sp in {1, 2, 4} gpu largest hold until done }")
    held = denoising("late", 1, sp=2, steps_done=3)
    assert degrees(holds, 4, denoising("early", 9), held) == {"late": 2, "early": 2}
    # a group of one rank may come from encoding: the first step is still to be chosen
    assert degrees(holds, 4, denoising("late", 1, sp=1)) == {"late": 4}
    brief = policy(denoise="stage denoise { sp in {1, 2, 4} gpu largest hold for 5s }")
    young = denoising("r", 1, sp=2, steps_done=3, group_since_s=96.0)
    old = denoising("r", 1, sp=2, steps_done=3, group_since_s=95.0)
    assert degrees(brief, 4, young) == {"r": 2}
    assert degrees(brief, 4, old) == {"r": 4}


def test_sticky_changes_only_for_a_better_finish() -> None:
    loose = policy(denoise="stage denoise { sp in {1, 2, 4} gpu largest sticky 10% }")
    tight = policy(denoise="stage denoise { sp in {1, 2, 4} gpu largest sticky 300% }")
    running = denoising("r", 1, sp=2, steps_done=3)
    assert degrees(loose, 4, running) == {"r": 4}
    assert degrees(tight, 4, running) == {"r": 2}
    assert degrees(tight, 1, denoising("r", 1, sp=1, steps_done=3)) == {"r": 1}
    because = plan(tight, 4, running).places[0].because
    assert because is not None and because.clause == "sticky"
    narrower = policy(denoise="stage denoise { sp in {1, 2, 4} gpu smallest sticky 10% }")
    assert degrees(narrower, 4, running) == {"r": 2}  # it would end later


def test_backfill_lets_a_bounded_number_past_the_first_that_waits() -> None:
    text = "stage denoise { sp in {1, 4} gpu smallest where sp >= 4 gpu or priority > 0 else wait }"
    busy = denoising("busy", 20, sp=1, state=State.RUNNING, steps_done=2)
    actors = [busy, denoising("wide", 9), *(denoising(f"s{n}", 5 - n, priority=1.0) for n in range(3))]
    assert degrees(policy("allocate backfill 1", denoise=text), 4, *actors) == {"s0": 1}
    assert degrees(policy("allocate backfill 2", denoise=text), 4, *actors) == {"s0": 1, "s1": 1}
    assert degrees(policy("allocate greedy", denoise=text), 4, *actors) == {"s0": 1, "s1": 1, "s2": 1}


def test_reserve_holds_what_is_free_until_it_is_over() -> None:
    text = "stage denoise { sp in {1, 4} gpu largest reserve for 2s }"
    tested = policy(denoise=text)
    busy = denoising("busy", 20, sp=1, state=State.RUNNING, steps_done=2)
    actors = [busy, denoising("wide", 9), denoising("next", 1)]
    world = World(gpus=4, now_s=100.0).add(actors)
    view = world.view()
    first = tested.plan(view)
    assert first.places == ()
    assert [(r.request_id, r.gpus, r.until_s) for r in first.reservations] == [("wide", 3, 102.0)]
    assert {view.ids[row]: reason for row, reason in first.waits.items()} == {
        "wide": WaitReason.HOLDING,
        "next": WaitReason.RESERVED,
    }
    assert tested.plan(view) == first  # no news, no change
    world.now_s = 102.0
    later = tested.plan(world.view())
    assert [place.degree for place in later.places] == [1]  # its time is over: what fits
    assert [(r.request_id, r.gpus) for r in later.reservations] == [("next", 2)]


def test_a_group_goes_on_while_it_gathers_more() -> None:
    tested = policy(denoise="stage denoise { sp in {1, 2, 4} gpu largest reserve for 2s }")
    busy = denoising("busy", 20, sp=1, state=State.RUNNING, steps_done=2)
    world = World(gpus=4, now_s=100.0).add([busy, denoising("wide", 9, sp=2, steps_done=1), denoising("next", 1)])
    proposal = tested.plan(world.view())
    assert [(world.view().ids[p.row], p.degree) for p in proposal.places] == [("wide", 2)]
    assert proposal.reservations[0].gpus == 1


def test_running_and_new_rows_are_left_alone() -> None:
    running = denoising("run", 5, sp=2, state=State.RUNNING, steps_done=1)
    new = Actor("new", arrival_s=100.0, state=State.ARRIVED)
    assert degrees(policy(), 4, running, new, denoising("a")) == {"a": 1}
    assert plan(policy(), 4, running).places == ()


def test_an_empty_view_gives_an_empty_plan() -> None:
    assert plan(policy(), 4) == Proposal()


def test_grow_by_keys_takes_the_best_step_first() -> None:
    fair = policy(denoise="stage denoise { sp in {1, 2, 4} gpu smallest grow by gain(next) desc }")
    large, small = {"tokens": 16384.0}, {"tokens": 256.0}
    # the larger one gains more by every step, whoever is first
    assert degrees(fair, 3, denoising("a", 2, **small), denoising("b", 1, **large)) == {"a": 1, "b": 2}
    assert degrees(fair, 5, denoising("a", 2, **small), denoising("b", 1, **large)) == {"a": 1, "b": 4}
    oldest = policy(denoise="stage denoise { sp in {1, 2, 4} gpu smallest grow by age, gain(next) max 2 gpu }")
    assert degrees(oldest, 4, denoising("a", 3), denoising("b", 2), denoising("c", 1)) == {"a": 1, "b": 1, "c": 2}
