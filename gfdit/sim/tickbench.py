"""What one policy tick costs: `gfdit bench tick`. The real scheduler and compiled policies, in a steady busy world.

The world holds a fixed number of live requests. Nearly all GPUs are in the middle of a task, a few requests stand at a
boundary, all others wait; a request that ends is replaced by one that arrives. It gets there by simulated warm-up under
the very policy that is measured, then moves on in short windows: what ends within one is one tick's news, as for a
controller that was busy meanwhile. Times are CPU time of the thread, so that other work on the machine does not count.

May not change how anything is scheduled.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from gfdit.core.commands import EndRequest
from gfdit.core.cost import CostModel
from gfdit.core.placement import IdleRanks, choose_ranks
from gfdit.core.proposal import Place, Proposal
from gfdit.core.topology import Topology
from gfdit.core.view import View
from gfdit.core.work import Request
from gfdit.errors import GfditError
from gfdit.lang.program import Program
from gfdit.policy.knapsack import solve
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import checked_program, load_policy, read_text
from gfdit.policy.yardstick import edf_best_fit, jobs_of
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.driver import evaluate_undisturbed
from gfdit.runtime.geometry import Geometry
from gfdit.sim.fleet import SimFleet, VirtualClock
from gfdit.sim.generate import TEXT_TOKENS, single_gpu_s
from gfdit.sim.run import build_scheduler
from gfdit.units import to_ns

POLICIES = ("fcfs", "srtf", "edf_best_fit", "throughput", "slo", "tetriserve")
YARDSTICK = "edf_best_fit"
COSTS = ("qwen-h20", "syn")  # images on 1, 2 or 4 GPUs; video on up to 8
WINDOW_S = 0.005  # of news for one tick
WARMUP_S = 0.5  # the same while warming up
NOISE = 0.03  # relative sigma of task durations, so that the estimates are corrected as they are in earnest
WITHOUT_BUDGET = 0.1
SHAPES = (
    *(("qwen-image", side, side, 1) for side in (512, 512, 1024, 1024, 1536)),
    *(("synthetic-video", 480, 832, frames) for frames in (49, 81)),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A size of the world, and the p50 that a tick of it may take; None: there is no target."""

    requests: int
    gpus: int
    target_us: float | None = None


CELLS = (Cell(100, 8, 150.0), Cell(1_000, 64, 400.0), Cell(10_000, 256, 1_500.0), Cell(10_000, 1_024, 4_000.0))


@dataclass(frozen=True, slots=True)
class Effort:
    """Ticks of a cell: to get there, and measured; how many of those the yardstick runs on, too."""

    warmup: int
    ticks: int
    yardsticks: int


FULL, QUICK = Effort(60, 400, 20), Effort(24, 60, 4)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one size; microseconds of CPU time.

    `p50_us`, `p99_us`: the policy's plan and the choice of ranks for what it places. `first_us`: the same on the first
    tick, when all GPUs are free and all requests new. `tick_p50_us`: the scheduler's whole tick, with admission, the
    view, and the commands. `explain_us`: to write out the reasons of what was placed. `placed`: requests a tick.
    """

    policy: str
    requests: int
    gpus: int
    p50_us: float
    p99_us: float
    yardstick_p50_us: float
    target_us: float | None
    first_us: float
    tick_p50_us: float
    explain_us: float
    placed: float
    ticks: int

    @property
    def met(self) -> bool:
        return self.target_us is None or self.p50_us <= self.target_us


@dataclass(frozen=True, slots=True)
class Report:
    """`check_ms`, `cli_cold_ms`, `knapsack_ms`: see the functions of these names."""

    rows: tuple[Row, ...]
    check_ms: float
    cli_cold_ms: float
    knapsack_ms: float

    def others(self) -> tuple[tuple[str, float, float], ...]:
        """What is not a tick: name, milliseconds, target."""
        return (
            ("parse, check and compile one policy", self.check_ms, 30.0),
            ("`gfdit check` from a cold start", self.cli_cold_ms, 300.0),
            ("knapsack of 256 candidates on 64 GPUs", self.knapsack_ms, 2.0),
        )

    def as_json(self) -> dict[str, object]:
        figures = {"check_ms": self.check_ms, "cli_cold_ms": self.cli_cold_ms, "knapsack_ms": self.knapsack_ms}
        return {"bench": "tick", "rows": [asdict(row) | {"met": row.met} for row in self.rows], **figures}


class Measured(CompiledPolicy):
    """A compiled policy with a stopwatch: how long a plan takes, and the search for ranks of what it places."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.keeps = None  # the scheduler would not ask for a plan where it is certain that nothing changes
        self.group_of: Callable[[str], tuple[int, ...]] = lambda request_id: ()
        self.topology = Topology(())
        self.yardstick = False  # run it on the next views, too
        self.aside_ns = 0  # of measuring, inside of plans
        self.clear()

    def clear(self) -> None:
        self.plans_ns: list[int] = []
        self.explains_ns: list[int] = []
        self.yardsticks_ns: list[int] = []
        self.placed: list[int] = []

    def plan(self, view: View) -> Proposal:
        begin = time.thread_time_ns()
        proposal = super().plan(view)
        planned = time.thread_time_ns()
        self._find_ranks(view, proposal.places)
        found = time.thread_time_ns()
        reasons = [place.because for place in proposal.places] + [cap.because for cap in proposal.caps]
        for because in reasons:  # their values are written out when they are first read
            assert because is None or because.values is not None
        explained = time.thread_time_ns()
        self.plans_ns.append(found - begin)
        self.explains_ns.append(explained - found)
        self.placed.append(len(proposal.places))
        if self.yardstick:
            jobs = jobs_of(view)
            asked = time.thread_time_ns()
            edf_best_fit(jobs, view.now_s, view.free)
            self.yardsticks_ns.append(time.thread_time_ns() - asked)
        self.aside_ns += time.thread_time_ns() - planned
        return proposal

    def _find_ranks(self, view: View, places: Sequence[Place]) -> None:
        """What the core does with an accepted place."""
        idle = IdleRanks(view.idle, self.topology)
        for place in places:
            usable = idle if place.within is None else idle & place.within
            own = self.group_of(view.ids[place.row])
            idle.take(choose_ranks(place.degree, usable, own, self.topology, place.prefer))


class SteadyWorld:
    """`requests` live requests on `gpus` ranks, moved on window by window."""

    def __init__(self, policy: Measured, requests: int, gpus: int, cost: CostModel, seed: int = 0) -> None:
        self.policy = policy
        self.clock = VirtualClock()
        self.scheduler = build_scheduler(policy, cost, gpus, always_evaluate=True)
        policy.topology = self.scheduler.topology
        policy.group_of = lambda request_id: self.scheduler.trajectories[request_id].group
        self._made = Requests(cost, requests, gpus, seed)
        self.fleet = SimFleet(
            self.clock, cost, gpus, (self._made.next(None) for _ in range(requests)), seed=seed, noise=NOISE
        )
        self.tick_ns: list[int] = []
        self._observe(self._made.span_ns)  # all are here, none was planned for
        self._tick()

    def move_on(self, window_s: float) -> None:
        """To the end of the first window that brings news, and one tick."""
        while not self._observe(self.clock.now() + to_ns(window_s)):
            pass
        self._tick()

    def _observe(self, until: int) -> int:
        count = 0
        while self.clock.now() < until:
            for event in self.fleet.poll(until):
                self.scheduler.observe(event)
                count += 1
        return count

    def _tick(self) -> None:
        self.policy.aside_ns = 0
        begin = time.thread_time_ns()
        evaluate_undisturbed(self.scheduler, self.clock.now())  # as the driver does
        decision = self.scheduler.tick(self.clock.now())
        self.tick_ns.append(time.thread_time_ns() - begin - self.policy.aside_ns)
        if self.scheduler.policy_errors:
            raise GfditError(f"the policy failed while it was measured: {decision.policy_news}")
        self.fleet.send(decision.commands)
        for command in decision.commands:
            if isinstance(command, EndRequest):
                self.fleet.submit(self._made.next(self.clock.now()))


class Requests:
    """Images and video of several sizes, classes and budgets, one in ten without a budget.

    `drain_s`: what serving as many as are live takes. Budgets are spread evenly over that, beyond what a request takes
    alone: what is due by any instant is about as much as the cluster can do by then, so that there is something to
    decide. The first ones arrive within `span_ns`.
    """

    def __init__(self, cost: CostModel, live: int, gpus: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._cost = cost
        self._count = 0
        self.drain_s, self.span_ns = 0.0, 0
        sample = [single_gpu_s(self.next(0), cost) for _ in range(64)]
        self.drain_s = live * sum(sample) / len(sample) / gpus
        self.span_ns = to_ns(self.drain_s / 8)

    def next(self, arrival_ns: int | None) -> Request:
        """One more; `arrival_ns` None: some time within the span."""
        draw = self._random
        model, height, width, frames = draw.choice(SHAPES)
        arrival = draw.randrange(self.span_ns) if arrival_ns is None else arrival_ns
        self._count += 1
        request = Request(
            id=f"r{self._count:06}",
            model=model,
            class_name="",
            arrival_ns=arrival,
            height=height,
            width=width,
            frames=frames,
            steps=draw.choice((20, 28, 50)),
            tokens=Geometry(16, 16, 4).tokens(height, width, frames),
            text_tokens=TEXT_TOKENS,
            priority=draw.choice((0, 50, 100)),
            tag=draw.choice(("interactive", "interactive", "standard", "standard", "standard", "standard", "batch")),
        )
        if draw.random() < WITHOUT_BUDGET:
            return request
        alone = single_gpu_s(request, self._cost)
        return replace(request, slo_ns=to_ns(1.5 * alone + draw.uniform(0, 1) * self.drain_s))


def measure(name: str, cell: Cell, effort: Effort, yardstick_us: float | None, seed: int = 0) -> Row:
    """One policy at one size. `yardstick_us` None: measure that, too, on the same views."""
    policy = Measured(load_policy(name).program)
    world = SteadyWorld(policy, cell.requests, cell.gpus, shipped_cost(), seed)
    first_us = policy.plans_ns[0] / 1e3
    for _ in range(effort.warmup):
        world.move_on(WARMUP_S)
    policy.clear()
    world.tick_ns.clear()
    for tick in range(effort.ticks):
        policy.yardstick = yardstick_us is None and tick % (effort.ticks // effort.yardsticks) == 0
        world.move_on(WINDOW_S)
    return Row(
        policy=name,
        requests=cell.requests,
        gpus=cell.gpus,
        p50_us=_percentile(policy.plans_ns, 50),
        p99_us=_percentile(policy.plans_ns, 99),
        yardstick_p50_us=_percentile(policy.yardsticks_ns, 50) if yardstick_us is None else yardstick_us,
        target_us=cell.target_us,
        first_us=round(first_us, 1),
        tick_p50_us=_percentile(world.tick_ns, 50),
        explain_us=_percentile(policy.explains_ns, 50),
        placed=float(np.mean(policy.placed)),
        ticks=len(policy.plans_ns),
    )


def measure_all(
    effort: Effort,
    policies: Sequence[str] = POLICIES,
    seed: int = 0,
    done: Callable[[Row], None] = lambda row: None,
    cells: Sequence[Cell] = CELLS,
) -> Report:
    """All policies at all sizes; the yardstick is measured once a size, in the world that its own rules make."""
    rows: list[Row] = []
    for cell in cells:
        base = measure(YARDSTICK, cell, effort, None, seed)
        for name in policies:
            row = base if name == YARDSTICK else measure(name, cell, effort, base.yardstick_p50_us, seed)
            rows.append(row)
            done(row)
    return Report(tuple(rows), check_ms(), cli_cold_ms(), knapsack_ms(seed))


def check_ms(name: str = "slo", repeats: int = 7) -> float:
    """CPU milliseconds to parse, check and compile one shipped policy; the grammar is loaded already."""
    text = read_text(name)[0]
    return round(median(_cpu_ns(lambda: CompiledPolicy(checked_program(text, name))) for _ in range(repeats)) / 1e6, 2)


def cli_cold_ms(repeats: int = 3) -> float:
    """CPU milliseconds of a whole `gfdit check` in a process of its own; the best of some."""
    command = [sys.executable, "-c", "from gfdit.cli.app import main; raise SystemExit(main(['check', 'slo']))"]
    taken = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(1e3 * min(taken), 1)


def knapsack_ms(seed: int = 0, candidates: int = 256, gpus: int = 64, repeats: int = 9) -> float:
    """CPU milliseconds to choose among `candidates` with four degrees each for `gpus` ranks."""
    random_ = np.random.default_rng(seed)
    gains = random_.random((candidates, 4)) * np.array([1.0, 1.7, 2.8, 4.0])
    weights = np.array([1, 2, 4, 8])
    return round(median(_cpu_ns(lambda: solve(gains, weights, gpus)) for _ in range(repeats)) / 1e6, 3)


def _cpu_ns(work: Callable[[], object]) -> int:
    begin = time.thread_time_ns()
    work()
    return time.thread_time_ns() - begin


def shipped_cost() -> CostModel:
    """The shipped tables of `COSTS` as one."""
    folder = Path(__file__).resolve().parent.parent / "_data" / "cost"
    images, video = (load_cost_model(folder / f"{name}.cost.json") for name in COSTS)
    return replace(images, name="+".join(COSTS), models={**images.models, **video.models})


def _percentile(values_ns: Sequence[int], share: float) -> float:
    """In microseconds."""
    return round(float(np.percentile(values_ns, share)) / 1e3, 1)
