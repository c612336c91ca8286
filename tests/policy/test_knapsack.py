"""`allocate knapsack`: exact against enumeration, what its options are, and what is left goes by the order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfdit.core.proposal import Proposal
from gfdit.core.work import Stage
from gfdit.policy.knapsack import solve
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy

WEIGHTS = np.array([1, 2, 4])
ON_TIME = "allocate knapsack maximizing if sp == 0 gpu then 0 else if finish(sp) <= deadline then 1 else 0"
rows = st.lists(
    st.tuples(*(st.sampled_from((-np.inf, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 4.0)) for _ in WEIGHTS)),
    min_size=1,
    max_size=5,
)


def total(gains: np.ndarray, options: tuple[int | None, ...] | list[int | None]) -> float:
    return float(sum(gains[row, option] for row, option in enumerate(options) if option is not None))


def weight(options: tuple[int | None, ...] | list[int | None]) -> int:
    return int(sum(WEIGHTS[option] for option in options if option is not None))


@given(rows, st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_no_choice_is_better(table: list[tuple[float, ...]], capacity: int) -> None:
    gains = np.array(table)
    every = itertools.product((None, 0, 1, 2), repeat=len(gains))
    found = solve(gains, WEIGHTS, capacity)
    assert weight(found) <= capacity
    assert total(gains, found) == max(total(gains, options) for options in every if weight(options) <= capacity)


def test_of_equal_sums_the_earlier_row_and_the_lighter_option() -> None:
    assert solve(np.array([[1.0, 1.0, -1.0]] * 3), WEIGHTS, 2) == [0, 0, None]
    assert solve(np.array([[2.0, 2.0, 2.0]]), WEIGHTS, 8) == [0]


def test_many_rows_leave_only_those_that_matter() -> None:
    rng = np.random.default_rng(7)
    gains = rng.integers(1, 50, size=(200, 3)).astype(float)
    best = np.zeros(17)  # the same by the textbook, without leaving anybody out
    for row in gains:
        after = best.copy()
        for option, heavy in enumerate(WEIGHTS):
            after[heavy:] = np.maximum(after[heavy:], best[: 17 - heavy] + row[option])
        best = after
    assert total(gains, solve(gains, WEIGHTS, 16)) == best[16]


def denoising(name: str, age: float = 0.0, **fields: object) -> Actor:
    return Actor(name, arrival_s=100.0 - age, stage=Stage.DENOISE, **fields)  # type: ignore[arg-type]


def plan(tested: CompiledPolicy, gpus: int, *actors: Actor) -> tuple[dict[str, int], Proposal]:
    view = World(gpus=gpus, now_s=100.0).add(actors).view()
    proposal = tested.plan(view)
    return {view.ids[place.row]: place.degree for place in proposal.places}, proposal


def test_two_on_time_beat_one_that_is_first() -> None:
    # each needs: first 4 ranks, the others 2
    actors = [
        denoising("first", 9, deadline_s=105.5),
        denoising("a", 2, deadline_s=108.5),
        denoising("b", 1, deadline_s=108.5),
    ]
    found, proposal = plan(policy(ON_TIME), 4, *actors)
    assert found == {"a": 2, "b": 2}
    because = proposal.places[0].because
    assert because is not None and because.clause == "knapsack" and because.line == 2
    assert because.values == (("value", "1"), ("value of waiting", "0"))
    alone, _ = plan(policy(ON_TIME), 4, actors[0])
    assert alone == {"first": 4}


def test_what_is_left_goes_by_the_order_and_the_chooser() -> None:
    late = [denoising("late", 9, deadline_s=100.5), denoising("later", 8, deadline_s=100.5)]
    found, proposal = plan(policy(ON_TIME), 4, *late, denoising("good", 1, deadline_s=108.5))
    assert found == {"good": 2, "late": 1, "later": 1}
    assert [place.because.clause for place in proposal.places if place.because][1:] == ["sp, 1st alternative"] * 2


def test_options_are_what_some_alternative_admits() -> None:
    narrow = "stage denoise { sp in {1, 2, 4} gpu smallest where sp <= 2 gpu else wait }"
    wide = "allocate knapsack maximizing sp / 1 gpu"
    assert plan(policy(wide, denoise=narrow), 4, denoising("a"))[0] == {"a": 2}
    assert plan(policy(wide), 4, denoising("a"))[0] == {"a": 4}
    fixed = "stage denoise { sp fixed 2 gpu }"
    assert plan(policy(wide, denoise=fixed), 4, denoising("a"))[0] == {"a": 2}
    assert plan(policy(wide.replace("maximizing", "minimizing")), 4, denoising("a"))[0] == {"a": 1}  # by the chooser


def test_sticky_limits_the_options() -> None:
    widest = "allocate knapsack maximizing sp / 1 gpu"
    stuck = "stage denoise { sp in {1, 2, 4} gpu smallest sticky 300% }"
    running = denoising("r", 1, sp=2, steps_done=3)
    assert plan(policy(widest, denoise=stuck), 4, running)[0] == {"r": 2}
    assert plan(policy(widest), 4, running)[0] == {"r": 4}


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.DECODE])
def test_a_stage_of_one_rank_counts_with_what_it_may_come_to(stage: Stage) -> None:
    steps = 0.0 if stage is Stage.ENCODE else 20.0
    single = Actor("single", arrival_s=99.0, stage=stage, steps_done=steps, deadline_s=115.0)
    hopeless = denoising("hopeless", 9, deadline_s=100.1)
    assert plan(policy(ON_TIME), 1, hopeless, single)[0] == {"single": 1}
