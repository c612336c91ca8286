"""One simulation, from a config to its result: the object that `gfdit sim --json` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
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
from gfdit.sim.faults import Faults
from gfdit.sim.fleet import SimFleet, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SimConfig:
    """What is simulated. `noise`: relative sigma of durations; `faults`: what goes wrong; `truth`: what work really
    takes, where that is not what `cost` lets the policy believe.

    `check`: verify the scheduler's invariants on every tick. `always_evaluate`: ask the policy even where its answer is
    certain, which changes no decision.
    """

    policy: Policy
    requests: Sequence[Request]
    workload: str
    cost: CostModel
    gpus: int
    gpus_per_node: int = 8
    seed: int = 0
    noise: float = 0.0
    faults: Faults | None = None
    truth: CostModel | None = None
    check: bool = False
    always_evaluate: bool = False


@dataclass(frozen=True, slots=True)
class SimOutcome:
    """`result`: the documented fields; `summary`: everything they were computed from."""

    result: Mapping[str, object]
    summary: Summary
    observers: tuple[Observer, ...] = field(default=())


def build_scheduler(
    policy: Policy, cost: CostModel, gpus: int, gpus_per_node: int = 8, *, always_evaluate: bool = False
) -> Scheduler:
    """The production scheduler for a uniform cluster that the cost model alone describes."""
    topology = Topology.uniform(gpus, gpus_per_node)
    return Scheduler(policy, topology, Estimator(cost, gpus), always_evaluate=always_evaluate)


def simulate(
    config: SimConfig, observers: Sequence[Observer] | Callable[[Scheduler], Sequence[Observer]] = ()
) -> SimOutcome:
    """Run it to the end. Equal config, equal result, byte for byte (but for the tick times, which are measured).

    `observers` may be a function of the scheduler, for those that need to look at it. Raises CostModelError for a
    cost that the workload needs and the model lacks, InvariantError with `check`.
    """
    scheduler = build_scheduler(
        config.policy, config.cost, config.gpus, config.gpus_per_node, always_evaluate=config.always_evaluate
    )
    truth = config.truth or config.cost
    for request in config.requests:  # a missing cost is an error before anything starts
        config.cost.stages(request.model)
        truth.stages(request.model)
    clock = VirtualClock()
    fleet = SimFleet(
        clock,
        truth,
        config.gpus,
        config.requests,
        seed=config.seed,
        noise=config.noise,
        faults=config.faults,
        topology=scheduler.topology,
    )
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
    if config.faults is not None:
        result["faults"] = {"asked": config.faults.text, **asdict(fleet.fault_count)}
    return SimOutcome(result, summary, extra)


class _InvariantCheck:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        invariants.check(self._scheduler)
