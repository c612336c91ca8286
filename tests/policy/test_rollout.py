"""`allocate rollout`: the search against an enumeration of all plans, and what the policy makes of the best one."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from gfdit.core.work import Stage
from gfdit.policy.rollout import Planned, Turn, search
from gfdit.policy.store import compile_text
from gfdit.policy.world import Actor, World
from tests.policy.texts import policy
from tests.policy.worlds import random_world

ROLLOUT = "allocate rollout horizon 4 beam 8 minimizing remaining(sp) + 0.1 * sp * remaining(sp) / 1 gpu"
ANY = "stage denoise { sp in {1, 2, 4, 8} gpu smallest }"


def random_turn(rng: random.Random) -> Turn:
    widths = sorted(rng.sample((1, 2, 4), rng.randint(1, 3)))
    lasts = np.array([rng.choice((1.0, 2.0, 3.5, 8.0)) for _ in widths])
    deadline, weight = rng.choice((2.0, 6.0, 20.0)), rng.choice((1.0, 3.0))

    def cost(begins: np.ndarray) -> np.ndarray:
        return weight * np.maximum(begins + lasts - deadline, 0.0) + 0.01 * np.array(widths) * lasts

    return Turn(np.array(widths), lasts, cost)


def enumerated(turns: list[Turn], free_at: np.ndarray) -> float:
    """The smallest sum of costs over all choices, by trying each."""
    sums = []
    fitting = [[o for o, width in enumerate(turn.widths) if width <= len(free_at)] for turn in turns]
    for choice in itertools.product(*(options or [None] for options in fitting)):
        times, total = sorted(free_at.tolist()), 0.0
        for turn, option in zip(turns, choice, strict=True):
            if option is None:
                continue
            width = int(turn.widths[option])
            begin = times[width - 1]
            total += float(turn.cost(np.full((1, len(turn.widths)), begin))[0, option])
            times = sorted([begin + float(turn.lasts[option])] * width + times[width:])
        sums.append(total)
    return min(sums)


def total(plan: list[Planned | None]) -> float:
    return sum(one.cost for one in plan if one is not None)


@pytest.mark.parametrize("seed", range(60))
def test_a_wide_beam_finds_the_best_of_all_plans_and_a_narrow_one_a_plan(seed: int) -> None:
    rng = random.Random(seed)
    turns = [random_turn(rng) for _ in range(rng.randint(1, 4))]
    free_at = np.sort([rng.choice((0.0, 0.0, 1.0, 4.0)) for _ in range(rng.randint(1, 5))])
    best = enumerated(turns, free_at)
    assert total(search(turns, free_at, 3 ** len(turns))) == pytest.approx(best), f"seed {seed}"
    sums = [total(search(turns, free_at, beam)) for beam in (1, 2)]
    assert all(one >= best - 1e-9 for one in sums), f"seed {seed}"


def test_a_plan_is_one_that_could_happen() -> None:
    """Replayed on a list of ranks: every group begins when its last rank is free, and no sooner."""
    rng = random.Random(5)
    turns = [random_turn(rng) for _ in range(6)]
    free_at = np.array([0.0, 0.0, 0.5, 3.0])
    times = free_at.tolist()
    for turn, planned in zip(turns, search(turns, free_at, 4), strict=True):
        assert planned is not None
        width = int(turn.widths[planned.option])
        assert planned.begins_s == times[width - 1]
        times = sorted([planned.begins_s + float(turn.lasts[planned.option])] * width + times[width:])


def test_a_beam_keeps_a_plan_that_looks_worse_at_first() -> None:
    """One wide group at once costs less than a narrow one, until the second request has to wait behind it."""
    rates = np.array([4.0, 1.5])

    def cost(begins: np.ndarray) -> np.ndarray:
        return begins + rates

    turns = [Turn(np.array([1, 2]), np.array([4.0, 3.0]), cost) for _ in range(2)]
    narrow, wide = search(turns, np.zeros(2), 1), search(turns, np.zeros(2), 4)
    assert [one.option for one in narrow if one] == [1, 1]
    assert total(wide) == min(4.0 + 4.0, 1.5 + 3.0 + 1.5, 1.5 + 3.0 + 4.0, 4.0 + 4.0 + 1.5)


def test_what_begins_now_is_placed_and_says_why() -> None:
    world = World(gpus=4, now_s=100.0)
    world.add(Actor(f"r{n}", arrival_s=90.0 + n, stage=Stage.DENOISE) for n in range(6))
    subject, view = policy(ROLLOUT, denoise=ANY), world.view()
    proposal = subject.plan(view)
    assert sum(place.degree for place in proposal.places) == 4
    chosen = [place for place in proposal.places if place.because and place.because.clause == "rollout"]
    assert chosen and {name for name, _ in chosen[0].because.values} == {"value", "sum of the plan"}  # type: ignore[union-attr]
    assert subject.plan(view) == proposal


def test_a_lower_price_of_ranks_widens_the_groups() -> None:
    world = World(gpus=4, now_s=100.0).add([Actor("a", arrival_s=99.0, stage=Stage.DENOISE, tokens=9216)])
    degrees = {}
    for price in ("0", "100"):
        text = f"allocate rollout horizon 2 beam 4 minimizing (1 + {price} * sp / 1 gpu) * remaining(sp)"
        (place,) = policy(text, denoise=ANY).plan(world.view()).places
        degrees[price] = place.degree
    assert degrees == {"0": 4, "100": 1}


def test_no_plan_hands_out_more_than_there_is_and_nothing_idles_that_fits() -> None:
    subject = policy(ROLLOUT, denoise=ANY)
    by_rollout = 0
    for seed in range(150):
        view = random_world(seed).view()
        places = subject.plan(view).places
        assert sum(place.degree for place in places) <= view.free, f"world {seed}"
        assert len({place.row for place in places}) == len(places), f"world {seed}"
        by_rollout += sum(place.because is not None and place.because.clause == "rollout" for place in places)
        placed = {place.row for place in places}
        left = view.free - sum(place.degree for place in places)
        waiting = [row for row in range(view.size) if view.plannable[row] and row not in placed]
        narrowest = [
            min((d for c, d in enumerate(view.degrees) if np.isfinite(view.step_s[row, c]))) for row in waiting
        ]
        single = [int(view.stage[row]) in (0, 4, 5) for row in waiting]
        assert all(left < (1 if one else degree) for degree, one in zip(narrowest, single, strict=True)), (
            f"world {seed}"
        )
    assert by_rollout > 100


def test_the_published_program_serves_a_whole_workload() -> None:
    from small_worlds import make_cost, make_workload

    from gfdit.policy.store import load_policy
    from gfdit.sim.run import SimConfig, simulate

    outcome = simulate(SimConfig(load_policy("primal_dual"), make_workload(3), "made", make_cost(), 5, check=True))
    assert outcome.result["completed"] == 40 and outcome.summary.policy_errors == 0


def test_horizon_and_beam_are_bounded_before_anything_runs() -> None:
    from gfdit.errors import PolicyError

    text = "policy p version 1\norder by arrival\nstage encode, decode, denoise { sp fixed 1 gpu }\n"
    compile_text(text + "allocate rollout horizon 10 beam 300 minimizing remaining(sp)")
    with pytest.raises(PolicyError, match="with this horizon the beam may be at most 300"):
        compile_text(text + "allocate rollout horizon 10 beam 301 minimizing remaining(sp)")
    with pytest.raises(PolicyError, match="the horizon may be at most 39"):
        compile_text(text + "allocate rollout horizon 50 beam 1 minimizing remaining(sp)")
