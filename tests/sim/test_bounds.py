"""The bounds hold: against every schedule there is of tiny cases, and against every policy in simulations."""

from __future__ import annotations

import itertools
import operator
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, reduce
from pathlib import Path

import numpy as np
import pytest
from small_worlds import make_cost, make_request, make_workload

from gfdit.core.cost import CostModel, Points, StageCost
from gfdit.core.work import SINGLE_RANK_STAGES, Request, Stage
from gfdit.errors import CostModelError
from gfdit.policy.library import names
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.geometry import tokens_of
from gfdit.runtime.workload import load_workload
from gfdit.sim import bounds, prices
from gfdit.sim.bounds import Bounds, _deadline, _merged, attainment_bound, bounds_of, job_of, useful_degrees
from gfdit.sim.prices import priced_latency
from gfdit.sim.run import SimConfig, simulate
from gfdit.units import NS_PER_S, to_s

SHARED = Path(__file__).parents[3] / "shared" / "data"
SLACK = 1 + 1e-7
State = tuple[tuple[int, int, int], ...]


def table(denoise: Mapping[int, float], **stages: float) -> CostModel:
    def flat(times: Mapping[int, float]) -> StageCost:
        return StageCost("one", {degree: Points(((1.0, seconds),)) for degree, seconds in times.items()})

    return CostModel("t", {"m": {"denoise": flat(denoise), **{n: flat({1: s}) for n, s in stages.items()}}})


class BruteForce:
    """Looks at every schedule of requests whose tasks all take whole seconds; tasks begin at whole seconds, or wait."""

    def __init__(self, requests: list[Request], cost: CostModel, gpus: int, horizon: int) -> None:
        self.requests, self.gpus, self.horizon = requests, gpus, horizon
        self.chains = [list(self._tasks(request, cost)) for request in requests]

    def _tasks(self, request: Request, cost: CostModel) -> Iterator[dict[int, int]]:
        for stage in cost.stages(request.model):
            offered = (1,) if stage in SINGLE_RANK_STAGES else [d for d in cost.degrees("m") if d <= self.gpus]
            durations = {degree: round(cost.seconds(request, stage, degree)) for degree in offered}
            yield from [durations] * (request.steps if stage is Stage.DENOISE else 1)

    def least(self, score: Callable[[int, int], int], join: Callable[[int, int], int]) -> int:
        """The least score of any schedule: `score(request, end)` of each request, joined."""

        @cache
        def least_from(now: int, state: State) -> int | None:
            if all(done == len(chain) for (done, _, _), chain in zip(state, self.chains, strict=True)):
                return 0
            if now > self.horizon:
                return None
            found: list[int] = []
            for chosen in itertools.product(*(self._choices(now, i, at) for i, at in enumerate(state))):
                if sum(degree for _, _, degree in chosen) > self.gpus:
                    continue
                rest = least_from(now + 1, tuple(at if at[1] > now + 1 else (at[0], 0, 0) for at in chosen))
                if rest is not None:
                    found.append(reduce(join, self._scores(state, chosen, score), rest))
            return min(found, default=None)

        best = least_from(0, tuple((0, 0, 0) for _ in self.requests))
        assert best is not None
        return best

    def _scores(self, before: State, after: State, score: Callable[[int, int], int]) -> Iterator[int]:
        """Of the requests whose last task begins now."""
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            if new[0] == len(self.chains[index]) != old[0]:
                yield score(index, new[1])

    def _choices(self, now: int, index: int, at: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
        """Tasks begun, end of the last one, its degree; the last two are 0 when none is under way."""
        done, until, _ = at
        yield at
        if until <= now and done < len(self.chains[index]) and to_s(self.requests[index].arrival_ns) <= now:
            yield from ((done + 1, now + took, degree) for degree, took in self.chains[index][done].items())


def tiny_case(seed: int) -> tuple[list[Request], CostModel]:
    pick = random.Random(seed)
    one = pick.randint(1, 3)
    cost = table({1: one, 2: pick.randint(1, one)}, **({"decode": 1.0} if pick.random() < 0.5 else {}))
    requests = [
        make_request(n, pick.randint(0, 2), steps=pick.randint(1, 2), slo_s=pick.choice((2, 3, 4, 6, 8)))
        for n in range(3)
    ]
    return requests, cost


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short ascent: what holds for any prices holds for its prices."""
    monkeypatch.setattr(prices, "LEVELS", ((60, 25, 1.2),))
    monkeypatch.setattr(prices, "LAST_WORTHS", 100)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(24))
def test_no_schedule_of_a_tiny_case_passes_a_bound(seed: int) -> None:
    requests, cost = tiny_case(seed)
    limits = bounds_of(requests, cost, 2)
    arrivals = [request.arrival_ns // NS_PER_S for request in requests]
    deadlines = [(request.arrival_ns + (request.slo_ns or 0)) // NS_PER_S for request in requests]
    every = BruteForce(requests, cost, 2, horizon=max(arrivals) + 10)
    missed = every.least(lambda index, end: int(end > deadlines[index]), operator.add)
    latencies = every.least(lambda index, end: end - arrivals[index], operator.add)
    assert 1 - missed / 3 <= limits.attainment_ub * SLACK
    assert latencies / 3 * SLACK >= limits.mean_latency_lb_s
    assert every.least(lambda _, end: end, max) * SLACK >= limits.makespan_lb_s


def test_bounds_are_reached_where_a_schedule_can_be_perfect() -> None:
    cost = table({1: 4.0, 2: 2.0})  # linear speed-up: two requests, one after the other on both GPUs
    requests = [make_request(0, 0, steps=1, slo_s=2), make_request(1, 0, steps=1, slo_s=4)]
    limits = bounds_of(requests, cost, 2)
    assert limits == Bounds(pytest.approx(1.0), pytest.approx(3.0), pytest.approx(4.0), pytest.approx(0.5))
    late = [make_request(0, 0, steps=1, slo_s=2), make_request(1, 0, steps=1, slo_s=2)]
    assert bounds_of(late, cost, 2).attainment_ub == pytest.approx(0.5)


def test_one_request_alone_is_bound_by_its_own_chain() -> None:
    requests = [make_request(0, 5.0, steps=3, slo_s=100)]
    limits = bounds_of(requests, table({1: 4.0, 2: 3.0}, encode=1.0, decode=2.0), 4)
    assert (limits.mean_latency_lb_s, limits.makespan_lb_s) == (pytest.approx(12.0), pytest.approx(17.0))


def test_who_is_late_even_alone_does_not_count_and_who_has_no_deadline_does() -> None:
    cost = table({1: 4.0})
    requests = [make_request(0, 0, steps=1, slo_s=3.9), make_request(1, 0, steps=1)]
    assert bounds_of(requests, cost, 8).attainment_ub == 0.5
    assert bounds_of(requests[:1], cost, 8).attainment_ub == 0.0


def test_merged_intervals_only_loosen_the_attainment_bound() -> None:
    cost = make_cost()
    jobs = [job_of(request, cost, 1) for request in make_workload(3, 60)]
    exact, *merged = (attainment_bound(jobs, 1, intervals) for intervals in (1000, 40, 10, 1))
    assert exact < 1.0
    assert all(finer <= coarser * SLACK for finer, coarser in itertools.pairwise([exact, *merged]))
    assert exact <= attainment_bound(jobs, 1, max_columns=60) * SLACK


@pytest.mark.parametrize("seed", range(4))
def test_adding_up_requests_that_look_alike_keeps_the_program_small_and_valid(seed: int) -> None:
    pick = random.Random(seed)
    requests = [make_request(n, pick.uniform(0, 30), steps=2, slo_s=pick.uniform(0.5, 3.0)) for n in range(200)]
    cost = make_cost()
    jobs = [job_of(request, cost, 2) for request in requests]
    for most in (2000, 400):
        groups, points = _merged(jobs, 300, most)
        assert sum(len(group.jobs) for group in groups) == 200 and sum(group.columns for group in groups) <= most
        for group in groups:
            assert all(points[group.first] <= job.release_s for job in group.jobs)
            assert all(_deadline(job) <= points[group.last + 1] for job in group.jobs)
    small = attainment_bound(jobs, 2, max_columns=400)
    assert attainment_bound(jobs, 2) <= small * SLACK
    result = simulated("slo", requests, cost, 2)
    assert isinstance(result["attainment"], float) and 0 < result["attainment"] <= attainment_bound(jobs, 2) * SLACK


def test_the_solvers_prices_need_not_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weak duality: a solver that stops early, or errs, loosens the bound and never breaks it."""
    cost = make_cost()
    jobs = [job_of(request, cost, 1) for request in make_workload(3, 60)]
    true = attainment_bound(jobs, 1)
    solve, chance = bounds.linprog, np.random.default_rng(5)

    def wrong(*args: object, **more: object) -> object:
        solved = solve(*args, **more)
        marginals = solved.ineqlin.marginals
        solved.ineqlin.marginals = marginals * chance.uniform(0.5, 1.5, marginals.shape)
        return solved

    monkeypatch.setattr(bounds, "linprog", wrong)
    found = [attainment_bound(jobs, 1) for _ in range(5)]
    assert true < 1.0 and all(bound >= true for bound in found) and max(found) > true


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(8))
def test_the_bound_by_prices_holds_for_any_prices(seed: int) -> None:
    requests, cost = tiny_case(seed)
    arrivals = [request.arrival_ns // NS_PER_S for request in requests]
    best = BruteForce(requests, cost, 2, horizon=12).least(lambda index, end: end - arrivals[index], operator.add)
    jobs = [job_of(request, cost, 2) for request in requests]
    chance = np.random.default_rng(seed)
    assert priced_latency(jobs, 2) <= best * SLACK
    for cells in (1, 3, 40):
        market = prices._Market(jobs, 2, prices._horizon(jobs, 2), cells, 50)
        for highest in (0.0, 0.5, 2.0, 20.0):
            bound, _ = market.evaluate(chance.uniform(0, highest, cells))
            assert bound <= best * SLACK, f"{cells} cells, prices up to {highest}"


def test_prices_see_what_a_fast_machine_does_not() -> None:
    """Four requests at once, which a second GPU does not speed up much, on two GPUs: 2, 2, 4 and 4 seconds at best; one
    machine of twice the speed needs 1, 2, 3 and 4."""
    cost = table({1: 2.0, 2: 1.9})
    requests = [make_request(n, 0, steps=1) for n in range(4)]
    jobs = [job_of(request, cost, 2) for request in requests]
    assert 11.0 < priced_latency(jobs, 2) <= 12.0 * SLACK
    limits = bounds_of(requests, cost, 2)
    assert limits.mean_latency_lb_s == priced_latency(jobs, 2) / 4


def test_a_ceiling_of_work_stops_the_ascent_and_not_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = make_cost()
    jobs = [job_of(request, cost, 2) for request in make_workload(3, 30)]
    full = priced_latency(jobs, 2)
    monkeypatch.setattr(prices, "MAX_WORK", 2_000_000)
    less = priced_latency(jobs, 2)
    monkeypatch.setattr(prices, "MAX_WORK", 0)
    assert priced_latency(jobs, 2) <= less <= full and priced_latency(jobs, 2, enough=1e6) == 1e6


def test_other_stages_need_gpus_too() -> None:
    requests = [make_request(n, 0, steps=1, slo_s=10) for n in range(4)]
    assert bounds_of(requests, table({1: 2.0}), 1).attainment_ub == 1.0  # eight seconds of ten
    assert bounds_of(requests, table({1: 2.0}, decode=2.0), 1).attainment_ub == 0.5  # sixteen


def test_degrees_that_waste_gpus_are_left_to_mixtures() -> None:
    assert [degree for degree, _ in useful_degrees([(1, 4.0), (2, 3.9), (4, 1.0), (8, 1.5)])] == [4]
    assert [degree for degree, _ in useful_degrees([(1, 4.0), (2, 2.5), (4, 2.0)])] == [1, 2, 4]


def test_a_cluster_that_is_too_small_for_every_degree_is_an_error() -> None:
    with pytest.raises(CostModelError, match="no degree for `m` within 1 GPUs"):
        bounds_of([make_request(0)], table({2: 1.0}), 1)


@pytest.mark.parametrize("policy", names())
@pytest.mark.parametrize("seed", [1, 2])
def test_no_policy_passes_the_bounds(policy: str, seed: int) -> None:
    requests, limits = bounded(seed)
    assert_within(simulated(policy, requests, make_cost(), 2), limits)


@cache
def bounded(seed: int) -> tuple[list[Request], Bounds]:
    requests = make_workload(seed)
    return requests, bounds_of(requests, make_cost(), 2)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared workloads")
def test_the_attainment_of_a_thousand_requests_on_64_gpus_takes_seconds() -> None:
    requests = load_workload(SHARED / "workloads" / "qwen_tridentserve_over_g64.jsonl", tokens_of)
    cost = load_cost_model(SHARED / "cost" / "qwen-h20.cost.json")
    begin = time.process_time()
    assert len(requests) > 1000 and attainment_bound([job_of(request, cost, 64) for request in requests], 64) == 1.0
    assert time.process_time() - begin < 60  # about four


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared workloads")
def test_bounds_of_a_published_cell() -> None:
    requests = load_workload(SHARED / "workloads" / "qwen_tight_t085_g8.jsonl", tokens_of)
    limits = bounds_of(requests, load_cost_model(SHARED / "cost" / "qwen-h20.cost.json"), 8)
    assert limits.attainment_ub == pytest.approx(0.96, abs=0.005)
    rows = (SHARED / "workloads" / "results.csv").read_text("utf-8").splitlines()
    cells = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    published = [cell for cell in cells if cell["workload"] == "qwen_tight_t085_g8"]
    assert len(published) > 4
    for cell in published:
        assert float(cell["attainment"]) <= limits.attainment_ub
        assert float(cell["mean_s"]) >= limits.mean_latency_lb_s
        assert float(cell["makespan_s"]) >= limits.makespan_lb_s


def simulated(policy: str, requests: list[Request], cost: CostModel, gpus: int) -> Mapping[str, object]:
    return simulate(SimConfig(load_policy(policy, {}), requests, "w", cost, gpus)).result


def assert_within(result: Mapping[str, object], limits: Bounds) -> None:
    attainment, latency, makespan = (result[name] for name in ("attainment", "mean_latency_s", "makespan_s"))
    assert isinstance(attainment, float) and attainment <= limits.attainment_ub * SLACK
    if result["completed"] == result["requests"]:
        assert isinstance(latency, float) and latency * SLACK >= limits.mean_latency_lb_s
        assert isinstance(makespan, float) and makespan * SLACK >= limits.makespan_lb_s - 1 / NS_PER_S
