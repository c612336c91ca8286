"""One simulation, from a config to its result: the object that `gfdit sim --json` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gfdit.core import invariants
from gfdit.core.cost import CostModel
from gfdit.core.estimate import Estimator
from gfdit.core.events import Event
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.core.topology import Topology
from gfdit.core.work import Request
from gfdit.runtime.driver import drive
from gfdit.runtime.ports import Observer
from gfdit.runtime.summary import Summary
from gfdit.sim.fleet import SimFleet, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SimConfig:
    """What is simulated. `noise`: relative sigma of durations; `check`: verify the scheduler's invariants on every
    tick."""

    policy: Policy
    requests: Sequence[Request]
    workload: str
    cost: CostModel
    gpus: int
    gpus_per_node: int = 8
    seed: int = 0
    noise: float = 0.0
    check: bool = False


@dataclass(frozen=True, slots=True)
class SimOutcome:
    """`result`: the documented fields; `summary`: everything they were computed from."""

    result: Mapping[str, object]
    summary: Summary
    observers: tuple[Observer, ...] = field(default=())


def build_scheduler(policy: Policy, cost: CostModel, gpus: int, gpus_per_node: int = 8) -> Scheduler:
    """The production scheduler for a uniform cluster that the cost model alone describes."""
    return Scheduler(policy, Topology.uniform(gpus, gpus_per_node), Estimator(cost, gpus))


def simulate(
    config: SimConfig, observers: Sequence[Observer] | Callable[[Scheduler], Sequence[Observer]] = ()
) -> SimOutcome:
    """Run it to the end. Equal config, equal result, byte for byte (but for the tick times, which are measured).

    `observers` may be a function of the scheduler, for those that need to look at it. Raises CostModelError for a
    cost that the workload needs and the model lacks, InvariantError with `check`.
    """
    scheduler = build_scheduler(config.policy, config.cost, config.gpus, config.gpus_per_node)
    for request in config.requests:  # a missing cost is an error before anything starts
        config.cost.stages(request.model)
    clock = VirtualClock()
    fleet = SimFleet(clock, config.cost, config.gpus, config.requests, seed=config.seed, noise=config.noise)
    summary = Summary(config.gpus)
    extra = tuple(observers(scheduler) if callable(observers) else observers)
    checks: tuple[Observer, ...] = (_InvariantCheck(scheduler),) if config.check else ()
    drive(scheduler, clock, fleet, (*checks, summary, *extra))
    result = {
        "policy": config.policy.name,
        "policy_sha": config.policy.sha,
        "workload": config.workload,
        "cost_model": config.cost.name,
        "gpus": config.gpus,
        "seed": config.seed,
        **summary.figures(),
        "bound": None,
    }
    return SimOutcome(result, summary, extra)


class _InvariantCheck:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        invariants.check(self._scheduler)
