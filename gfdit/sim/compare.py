"""Many simulations of one question: policies x workloads x cluster sizes x seeds, resumable, over several processes.

A workload is a file (one seed is enough unless durations are noisy or something breaks), or `profile:load` or
`profile:load+variant`, made anew for every seed. What is finished goes to a JSON lines file at once; a later call with
the same file does only what is missing. A result's key covers everything that it depends on, the code that computed it
included (`engine.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import numpy as np
from scipy.stats import t as student

from gfdit.core.cost import CostModel
from gfdit.core.proposal import Policy
from gfdit.core.work import Request
from gfdit.errors import InputError, UsageError
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import load_cost_model
from gfdit.runtime.geometry import tokens_of
from gfdit.runtime.workload import load_workload
from gfdit.sim.bounds import bounds_of
from gfdit.sim.engine import bound_digest, engine_digest
from gfdit.sim.faults import parse_faults
from gfdit.sim.generate import WorkloadSpec, generate
from gfdit.sim.profiles import FAILURES, PROFILES, VARIANTS
from gfdit.sim.run import SimConfig, simulate

CONFIDENCE = 0.95
FIGURES = ("attainment", "mean_latency_s", "p95_latency_s", "makespan_s", "throughput_rps")
BOUNDS = ("attainment_ub", "mean_latency_lb_s", "makespan_lb_s")
BOUND = ""  # the policy of a task that computes bounds
Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class WorkloadSource:
    """`path` of a file, or a `profile` with the `load` and the window to make it for, and "" or a `variant` of it."""

    label: str
    path: Path | None = None
    profile: str = ""
    load: float = 1.0
    window_s: float | None = None
    variant: str = ""

    def requests(self, cost: CostModel, model: str, gpus: int, seed: int) -> list[Request]:
        if self.path is not None:
            return load_workload(self.path, tokens_of)
        spec = WorkloadSpec(self.profile, model, gpus, seed, self.load, self.window_s, variant=self.variant)
        return generate(spec, cost)


@dataclass(frozen=True, slots=True)
class Task:
    """One simulation, or (`policy` empty) the bounds of one workload. Small enough to send to another process.

    `faults`: what goes wrong, as `gfdit sim --faults` takes it."""

    policy: str
    params: tuple[tuple[str, str], ...]
    workload: WorkloadSource
    cost: Path
    model: str
    gpus: int
    gpus_per_node: int
    seed: int
    noise: float
    faults: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared. `model`: which of the cost model's the generated workloads ask for. `faults`: of all
    simulations; "" leaves it to the workloads' variants."""

    policies: Sequence[str]
    workloads: Sequence[WorkloadSource]
    cost: Path
    model: str
    gpus: Sequence[int]
    seeds: Sequence[int] = (0,)
    noise: float = 0.0
    gpus_per_node: int = 8
    params: Mapping[str, str] = field(default_factory=dict)
    bound: bool = False
    faults: str = ""

    def tasks(self) -> Iterator[Task]:
        for workload in self.workloads:
            for gpus in self.gpus:
                for seed in self.seeds_of(workload):
                    shared = (workload, self.cost, self.model, gpus, self.gpus_per_node, seed)
                    for policy in self.policies:
                        yield Task(
                            policy, tuple(sorted(self.params.items())), *shared, self.noise, self.faults_of(workload)
                        )
                    if self.bound and (workload.path is None or seed == self.seeds[0]):
                        yield Task(BOUND, (), *shared, 0.0)

    def seeds_of(self, workload: WorkloadSource) -> Sequence[int]:
        """A file without noise and faults is the same for every seed."""
        same = workload.path is not None and not self.noise and not self.faults
        return self.seeds[:1] if same else self.seeds

    def faults_of(self, workload: WorkloadSource) -> str:
        return self.faults or (FAILURES if workload.variant == "failure" else "")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over seeds and half the width of its 95 % confidence interval (None for a single seed)."""

    mean: float
    half_width: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one workload and cluster. `bound`: means over seeds, or None where none was asked for."""

    policy: str
    workload: str
    gpus: int
    figures: Mapping[str, Estimate | None]
    bound: Mapping[str, float] | None


def workload_source(text: str, find_file: Callable[[str], Path], window_s: float | None = None) -> WorkloadSource:
    """`shift:0.85` is a profile at a load, `shift:0.85+overload` a variant; anything else a file. Raises UsageError."""
    name, colon, load = text.partition(":")
    if name not in PROFILES:
        path = find_file(text)
        return WorkloadSource(path.name, path)
    load, plus, variant = load.partition("+")
    if plus and variant not in VARIANTS:
        raise UsageError(f"workload `{text}`: no variant `{variant}`", hint=f"variants are {', '.join(VARIANTS)}")
    try:
        value = float(load) if colon else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"workload `{text}` needs a load above 0", hint=f"such as {name}:0.85")
    return WorkloadSource(f"{name}:{value:g}{plus}{variant}", None, name, value, window_s, variant)


def compare(
    plan: Plan, store: Path | None = None, jobs: int = 1, on_done: Callable[[], None] | None = None
) -> list[Row]:
    """Run what `store` does not have yet; rows by workload, cluster and (best first) policy.

    `on_done` is called once for every task, also for those that were there already. Raises InputError for a store that
    is none, and whatever a simulation raises.
    """
    kept = ResultFile(store)
    keys = Keys()
    tasks = {task: keys.of(task) for task in plan.tasks()}
    missing = {key: task for task, key in tasks.items() if key not in kept.records}
    tell = on_done or (lambda: None)
    for _ in range(len(tasks) - len(missing)):
        tell()
    with Workers(min(jobs, len(missing))) as workers:
        for key, result in workers.run(run_task, missing):
            kept.add({"key": key, **result})
            tell()
    return rows_of(plan, {task: kept.records[key] for task, key in tasks.items()})


class Keys:
    """What a result depends on, as a short name: two tasks with one key have one result. Reads every file once."""

    def __init__(self) -> None:
        self._policies: dict[tuple[object, ...], str] = {}
        self._files: dict[Path, str] = {}

    def of(self, task: Task) -> str:
        path = task.workload.path
        what = {
            "code": engine_digest() if task.policy else bound_digest(),
            "policy": self._policy(task) if task.policy else "bound",
            "params": task.params,
            "workload": self._file(path) if path else [task.workload.label, task.workload.window_s],
            "cost": self._file(task.cost),
            "cluster": [task.model, task.gpus, task.gpus_per_node],
            "random": [task.seed, task.noise, task.faults],
        }
        return _digest(json.dumps(what))

    def _policy(self, task: Task) -> str:
        which = (task.policy, task.params)
        if which not in self._policies:
            self._policies[which] = _digest("".join(_chain(load_policy(task.policy, dict(task.params)))))
        return self._policies[which]

    def _file(self, path: Path) -> str:
        if path not in self._files:
            self._files[path] = _digest(path.read_text("utf-8"))
        return self._files[path]


def _chain(policy: Policy | None) -> Iterator[str]:
    """What identifies a policy and its fallbacks."""
    while policy is not None:
        yield policy.sha
        policy = policy.fallback


def run_task(task: Task) -> Record:
    """One record without its key: a simulation's result, or `bound`, both with what they are about."""
    if task.policy == BOUND:
        cost = load_cost_model(task.cost)
        requests = task.workload.requests(cost, task.model, task.gpus, task.seed)
        about = {"workload": task.workload.label, "cost_model": cost.name, "gpus": task.gpus, "seed": task.seed}
        return {**about, "bound": bounds_of(requests, cost, task.gpus).result()}
    return simulate(config_of(task)).result


def config_of(task: Task) -> SimConfig:
    """The simulation that a task asks for."""
    cost = load_cost_model(task.cost)
    return SimConfig(
        policy=load_policy(task.policy, dict(task.params)),
        requests=task.workload.requests(cost, task.model, task.gpus, task.seed),
        workload=task.workload.label,
        cost=cost,
        gpus=task.gpus,
        gpus_per_node=task.gpus_per_node,
        seed=task.seed,
        noise=task.noise,
        faults=parse_faults(task.faults) if task.faults else None,
    )


class Workers:
    """Runs tasks in `jobs` processes, which live as long as the context; in this one when that is one or none."""

    def __init__(self, jobs: int) -> None:
        self._pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) if jobs > 1 else None

    def run(self, work: Callable[[Task], Record], tasks: Mapping[str, Task]) -> Iterator[tuple[str, Record]]:
        """Results by key, as they come."""
        if self._pool is None:
            for key, task in tasks.items():
                yield key, work(task)
            return
        running: dict[Future[Record], str] = {self._pool.submit(work, task): key for key, task in tasks.items()}
        for future in as_completed(running):
            yield running[future], future.result()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)


class ResultFile:
    """Records by key, in memory and (with a path) on disk. A line that a crash cut short is dropped."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.records: dict[str, Record] = {}
        if path is None or not path.exists():
            return
        text = path.read_text("utf-8")
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            self._take(line, f"{path}:{number}")
        if whole != text:
            path.write_text(whole, encoding="utf-8")

    def add(self, record: Record) -> None:
        self.records[str(record["key"])] = record
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _take(self, line: str, where: str) -> None:
        try:
            record = json.loads(line)
            self.records[str(record["key"])] = record
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"{where}: not a result of `gfdit compare`", hint="name another file, or remove this one"
            ) from None


def rows_of(plan: Plan, records: Mapping[Task, Record]) -> list[Row]:
    """Means over seeds; within a workload and cluster the policy with the best attainment first, then latency."""
    rows: list[Row] = []
    for workload in plan.workloads:
        for gpus in plan.gpus:
            here = {task: r for task, r in records.items() if task.workload == workload and task.gpus == gpus}
            bound = _bound_of([record for task, record in here.items() if task.policy == BOUND])
            block = [
                Row(policy, workload.label, gpus, _figures_of(found), bound)
                for policy in plan.policies
                if (found := [record for task, record in here.items() if task.policy == policy])
            ]
            rows += sorted(block, key=_rank)
    return rows


def _rank(row: Row) -> tuple[float, float]:
    attainment, latency = row.figures["attainment"], row.figures["mean_latency_s"]
    return (-attainment.mean if attainment else 0.0, latency.mean if latency else math.inf)


def _figures_of(records: Sequence[Record]) -> dict[str, Estimate | None]:
    return {name: _estimate(record[name] for record in records) for name in FIGURES}


def _bound_of(records: Sequence[Record]) -> dict[str, float] | None:
    bounds = [record["bound"] for record in records]
    if not bounds:
        return None
    return {name: float(np.mean([b[name] for b in bounds if isinstance(b, Mapping)])) for name in BOUNDS}


def _estimate(values: Iterable[object]) -> Estimate | None:
    """None when nothing was measured (no request completed)."""
    known = [float(value) for value in values if isinstance(value, int | float)]
    if not known:
        return None
    if len(known) == 1:
        return Estimate(known[0], None, 1)
    spread = float(np.std(known, ddof=1)) / math.sqrt(len(known))
    return Estimate(
        float(np.mean(known)), float(student.ppf((1 + CONFIDENCE) / 2, len(known) - 1)) * spread, len(known)
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
