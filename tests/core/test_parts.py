"""Placement, lifecycle, the split of a degree, the cost model and what is learnt of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfdit.core.cost import CostModel, Points, Quadratic, StageCost
from gfdit.core.estimate import Estimator
from gfdit.core.lifecycle import TERMINAL, TRANSITIONS, State, Trigger, advance
from gfdit.core.parallel import split_degree
from gfdit.core.placement import choose_ranks
from gfdit.core.proposal import Prefer
from gfdit.core.topology import Topology
from gfdit.core.work import Request, Stage
from gfdit.errors import CostModelError, TransitionError

EIGHT = Topology.uniform(8)
USUAL = (Prefer.LAST_GPUS, Prefer.SAME_NODE)


def test_terminal_states_have_no_way_out_and_every_other_state_can_end() -> None:
    for state, trigger in product(State, Trigger):
        if (state, trigger) not in TRANSITIONS:
            with pytest.raises(TransitionError, match="r1") as error:
                advance(state, trigger, request_id="r1", history=[(7, Trigger.ADMIT)])
            assert "admit at 7 ns" in str(error.value)
    assert not any(state in TERMINAL for state, _ in TRANSITIONS)
    reached = set(State) - TERMINAL
    assert all(any(s is state and t is Trigger.CANCEL for s, t in TRANSITIONS) for state in reached)


def test_narrow_groups_leave_aligned_blocks_whole() -> None:
    taken: list[int] = []
    for _ in range(4):
        idle = set(range(8)) - set(taken)
        taken += choose_ranks(1, idle, (), EIGHT, USUAL)
    assert sorted(taken) == [4, 5, 6, 7]
    assert choose_ranks(4, set(range(8)) - set(taken), (), EIGHT, USUAL) == (0, 1, 2, 3)


def test_growing_takes_the_nearest_ranks() -> None:
    assert choose_ranks(2, {2, 3, 6, 7}, (6,), EIGHT, USUAL) == (6, 7)
    two_nodes = Topology.uniform(16)
    assert set(choose_ranks(4, {3, 9, 10, 11, 12}, (12,), two_nodes, USUAL)) == {12, 9, 10, 11}


@given(
    idle=st.sets(st.integers(0, 15)),
    own=st.lists(st.integers(0, 15), unique=True, max_size=8),
    degree=st.sampled_from([1, 2, 3, 4, 8]),
    prefer=st.sampled_from([USUAL, (Prefer.PACK,), (Prefer.SPREAD,)]),
)
def test_a_group_is_idle_distinct_and_of_the_right_size(
    idle: set[int], own: list[int], degree: int, prefer: tuple[Prefer, ...]
) -> None:
    ranks = choose_ranks(degree, idle, own, Topology.uniform(16), prefer)
    if len(idle) < degree:
        assert ranks == ()
        return
    assert len(ranks) == len(set(ranks)) == degree and set(ranks) <= idle
    if Prefer.LAST_GPUS in prefer:
        assert len(set(ranks) & set(own)) == min(degree, len(idle & set(own)))


@given(degree=st.integers(1, 64), heads=st.integers(1, 48), branches=st.sampled_from([1, 2]))
def test_the_split_multiplies_to_the_degree(degree: int, heads: int, branches: int) -> None:
    split = split_degree(degree, heads=heads, cfg_branches=branches)
    assert split.degree == degree and split.ulysses <= heads and split.cfg <= branches


def test_points_are_interpolated_and_continued() -> None:
    curve = Points(((10, 1.0), (20, 3.0), (40, 4.0)))
    assert [curve.at(x) for x in (10, 15, 20, 30, 40, 60)] == [1.0, 2.0, 3.0, 3.5, 4.0, 5.0]
    assert curve.at(0) == 0.0  # 1 - 2, never below zero
    assert Points(((5, 0.7),)).at(99) == 0.7


def _request(**changes: object) -> Request:
    plain = Request(id="r", model="m", class_name="c", arrival_ns=0, height=1, width=1, steps=2, tokens=100)
    return replace(plain, **changes)


def test_a_missing_cost_is_an_error_and_cfg_has_its_own_table() -> None:
    table = {
        "denoise": StageCost("tokens", {1: Quadratic(0, 0.01, 0)}),
        "denoise_cfg": StageCost("tokens", {1: Quadratic(0, 0.02, 0)}),
    }
    cost = CostModel("made", {"m": table})
    assert cost.seconds(_request(), Stage.DENOISE, 1) == 1.0
    assert cost.seconds(_request(cfg=True), Stage.DENOISE, 1) == 2.0
    assert cost.stages("m") == (Stage.DENOISE,)
    with pytest.raises(CostModelError, match="degree 2"):
        cost.seconds(_request(), Stage.DENOISE, 2)
    with pytest.raises(CostModelError, match="no model `x`"):
        cost.seconds(_request(model="x"), Stage.DENOISE, 1)
    with pytest.raises(CostModelError, match="no stage `encode`"):
        cost.seconds(_request(), Stage.ENCODE, 1)


def test_finished_steps_correct_the_table() -> None:
    cost = CostModel("made", {"m": {"denoise": StageCost("tokens", {1: Quadratic(0, 0.01, 0)})}})
    estimator = Estimator(cost, 1)
    code = estimator.model_code("m")
    for _ in range(40):
        estimator.learn(_request(), estimator.expand(_request()), Stage.DENOISE, 1, 3.0)
    assert estimator.correction[code, 0] == pytest.approx(3.0, rel=1e-3)
