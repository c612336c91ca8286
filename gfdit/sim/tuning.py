"""Searches a policy's params on training cells, and believes what it found only if held-out cells confirm it.

A *cell* is one workload on one cluster with one cost table and one seed. The sampler is Optuna's TPE, seeded, asked
for a batch of settings at a time whose size does not depend on the number of processes: equal arguments, equal search.
Every simulation's figures are kept under a key of all that it depends on (as comparisons are), so a search that was
interrupted is resumed by running it again: the sampler asks for the same settings, and what is known is not simulated.

One setting, the best in training, is then simulated on the held-out cells beside the default. The gain has a bootstrap
interval: cells are drawn with replacement, and within a cell blocks of requests that are neighbours in time (a queue
makes neighbours alike, so that single requests would pretend to know more than they do). Only when the whole interval
lies above no gain is the setting recommended. It is the only one that is tried on them: no choice is made there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import numpy as np

from gfdit.core.commands import EndRequest
from gfdit.core.events import Event, RequestArrived
from gfdit.core.scheduler import Decision
from gfdit.core.view import B1, F8, I8
from gfdit.core.work import Outcome, Request
from gfdit.errors import UsageError
from gfdit.lang.program import Param
from gfdit.lang.types import GPU, PLAIN, SECOND, Kind
from gfdit.lang.units import with_unit
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.store import load_policy
from gfdit.sim.compare import CONFIDENCE, Keys, Record, ResultFile, Task, Workers, config_of
from gfdit.sim.run import simulate
from gfdit.units import to_s

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as Asked

BATCH = 8
RESAMPLES = 2000
AT_ONCE = 100  # of them
DIGITS = 3  # of a tuned value
WIDE = 20.0  # a range whose ends differ by this factor is searched by magnitude
Setting = Mapping[str, str]


class Objective(StrEnum):
    """What is tuned for. Latencies are the smaller the better, and of unfinished requests as long as the whole run."""

    ATTAINMENT = "attainment"
    WORST_CLASS = "worst_class_attainment"
    MEAN_LATENCY = "mean_latency"
    P95_LATENCY = "p95_latency"

    @property
    def of_time(self) -> bool:
        return self in (Objective.MEAN_LATENCY, Objective.P95_LATENCY)


@dataclass(frozen=True, slots=True)
class Served:
    """How the requests of a cell fared, in order of arrival: `on_time[N]` (0 or 1), `latency_s[N]`, `kinds[N]` (a
    number a class)."""

    on_time: F8
    latency_s: F8
    kinds: F8

    def value(self, objective: Objective) -> float:
        """The objective over all requests."""
        return float(self.values(objective, np.arange(len(self.on_time))[None])[0])

    def values(self, objective: Objective, rows: I8) -> F8:
        """The objective [R] over the requests `rows[R, N]`, which may repeat."""
        match objective:
            case Objective.ATTAINMENT:
                return np.asarray(self.on_time[rows].mean(axis=1))
            case Objective.WORST_CLASS:
                kinds, on_time = self.kinds[rows], self.on_time[rows]
                shares = [_mean_where(on_time, kinds == kind) for kind in np.unique(self.kinds)]
                return np.asarray(np.min(shares, axis=0))
            case Objective.MEAN_LATENCY:
                return np.asarray(self.latency_s[rows].mean(axis=1))
            case Objective.P95_LATENCY:
                return np.asarray(np.percentile(self.latency_s[rows], 95, axis=1))
            case _:
                assert_never(objective)


def _mean_where(values: F8, mask: B1) -> F8:
    """Means of the rows over `mask`; 1 where it is empty."""
    count = mask.sum(axis=1)
    return np.where(count > 0, (values * mask).sum(axis=1) / np.maximum(1, count), 1.0)


def merit(objective: Objective, values: F8) -> F8:
    """`values` [..., cells] as one number, higher is better: the mean share, or minus the mean log of a latency, so
    that a cell of long requests does not outweigh the others."""
    return np.asarray(-np.log(np.maximum(values, 1e-9)).mean(axis=-1) if objective.of_time else values.mean(axis=-1))


@dataclass(frozen=True, slots=True)
class TunePlan:
    """`cells`: training tasks with the default setting, `held_out` likewise. `only`: params to tune, () for all."""

    policy: str
    cells: Sequence[Task]
    held_out: Sequence[Task]
    objective: Objective = Objective.ATTAINMENT
    trials: int = 50
    seed: int = 0
    only: Sequence[str] = ()

    @property
    def simulations(self) -> int:
        return self.trials * len(self.cells) + 2 * len(self.held_out)


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting on all training cells. Number 0 is the default."""

    number: int
    setting: Setting
    values: tuple[float, ...]
    merit: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One held-out cell: the objective under the default and under the tuned setting."""

    workload: str
    gpus: int
    cost_model: str
    seed: int
    default: float
    tuned: float


@dataclass(frozen=True, slots=True)
class Gain:
    """Tuned against default on held-out cells: points of attainment or the share of latency saved; its interval."""

    mean: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        return self.low > 0.0


@dataclass(frozen=True, slots=True)
class Tuned:
    """`setting`: the best in training; use it only when `recommended`. `gain` None: that is the default itself."""

    policy: str
    policy_sha: str
    objective: Objective
    default: Setting
    setting: Setting
    trials: tuple[Trial, ...]
    held_out: tuple[HeldOut, ...] = ()
    gain: Gain | None = None
    seed: int = 0

    @property
    def recommended(self) -> bool:
        return self.gain is not None and self.gain.is_sure

    @property
    def params(self) -> Setting:
        """What to use: the tuned setting when it is recommended, else nothing, which is the default."""
        return {k: v for k, v in self.setting.items() if v != self.default[k]} if self.recommended else {}

    @property
    def line(self) -> str:
        """Options for a command line; empty when the default is to be kept."""
        return " ".join(f"--set '{name}={value}'" for name, value in self.params.items())

    def gain_in_training(self, trial: Trial) -> float:
        """Over the default."""
        return _as_gain(self.objective, trial.merit - self.trials[0].merit)

    def training_gain(self) -> float:
        """Of the best setting."""
        return max(map(self.gain_in_training, self.trials))

    def result(self) -> dict[str, object]:
        """The object of `tuned.json`."""
        return {
            "policy": self.policy,
            "policy_sha": self.policy_sha,
            "objective": str(self.objective),
            "seed": self.seed,
            "trials": len(self.trials),
            "recommended": self.recommended,
            "params": dict(self.params),
            "set": self.line,
            "default": dict(self.default),
            "best_in_training": dict(self.setting),
            "training_gain": self.training_gain(),
            "held_out_gain": None if self.gain is None else {**asdict(self.gain), "confidence": CONFIDENCE},
            "held_out": [asdict(cell) for cell in self.held_out],
        }


def tune(plan: TunePlan, out: Path | None = None, jobs: int = 1, on_done: Callable[[int], None] | None = None) -> Tuned:
    """Search, then try the best on the held-out cells. `out`: file of finished simulations; `on_done(n)`: so many more
    are known.

    Raises UsageError when nothing can be tuned or a held-out workload is a training one, and whatever a simulation
    raises.
    """
    policy = load_policy(plan.policy)
    search = SearchSpace.of(policy, plan.only, max(task.gpus for task in plan.cells))
    bench = _Bench(ResultFile(out), Keys(), on_done or (lambda _: None))
    bench.refuse_overlap(plan)
    with Workers(min(jobs, BATCH * len(plan.cells))) as workers:
        trials = _search(plan, search, bench, workers)
        best = max(trials, key=lambda trial: (trial.merit, -trial.number))
        found = Tuned(
            policy.name, policy.sha, plan.objective, search.default, best.setting, tuple(trials), seed=plan.seed
        )
        if best.setting == search.default:
            return found
        return _confirmed(found, plan, bench, workers)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The params that are tuned, with their ranges as Optuna's distributions, and as text in their units."""

    params: Mapping[str, Param]
    distributions: Mapping[str, BaseDistribution]

    @classmethod
    def of(cls, policy: CompiledPolicy, only: Sequence[str], gpus: int) -> SearchSpace:
        """Raises UsageError for an unknown param, one without a range, or when none is left."""
        declared = {param.name: param for param in policy.program.params}
        for name in only:
            if name not in declared:
                known = ", ".join(declared) or "none"
                raise UsageError(f"policy `{policy.name}` has no param `{name}`", hint=f"it has {known}")
        ranges = {name: _distribution(param, gpus) for name, param in declared.items() if not only or name in only}
        for name in only:
            if ranges[name] is None:
                raise UsageError(
                    f"param `{name}` of policy `{policy.name}` has no range to search",
                    hint="write one behind its default, such as `within 1s .. 10min`",
                )
        distributions = {name: found for name, found in ranges.items() if found is not None}
        if not distributions:
            raise UsageError(
                f"policy `{policy.name}` has no param with a range: nothing can be tuned",
                hint="`param worth: ratio = 120% within 100% .. 300%` makes one",
            )
        return cls({name: declared[name] for name in distributions}, distributions)

    @property
    def default(self) -> Setting:
        return {name: _text(param, param.default) for name, param in self.params.items()}

    def start(self) -> dict[str, float | bool | int]:
        """The default as the sampler names it."""
        return {name: _sampled(param, param.default) for name, param in self.params.items()}

    def setting(self, sampled: Mapping[str, object]) -> Setting:
        """A sampler's values as text; those that it did not move keep the default's own text."""
        return {name: _text(param, _meant(param, sampled[name])) for name, param in self.params.items()}


def _distribution(param: Param, gpus: int) -> BaseDistribution | None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if param.type.kind is Kind.BOOL:
        return CategoricalDistribution([False, True])
    if not param.type.is_num or param.low is None or param.high is None or param.low >= param.high:
        return None
    low, high = param.low, param.high
    if param.type.dim == GPU:  # degrees are powers of two
        return IntDistribution(math.ceil(math.log2(max(1, low))), max(0, int(math.log2(min(high, max(gpus, low))))))
    wide = low > 0 and high / low >= WIDE
    if param.type.dim not in (PLAIN, SECOND):  # a count of something
        return IntDistribution(math.ceil(low), math.floor(high), log=wide)
    return FloatDistribution(low, high, log=wide)


def _sampled(param: Param, value: float | bool | str) -> float | bool | int:
    assert not isinstance(value, str)
    if param.type.dim == GPU and not isinstance(value, bool):
        return round(math.log2(max(1.0, value)))
    return value if isinstance(value, bool) or param.type.dim in (PLAIN, SECOND) else round(value)


def _meant(param: Param, sampled: object) -> float | bool:
    assert isinstance(sampled, int | float)
    if isinstance(sampled, bool):
        return sampled
    if param.type.dim == GPU:
        return float(2 ** int(sampled))
    assert param.low is not None and param.high is not None
    counted = param.type.dim not in (PLAIN, SECOND)
    rounded = float(sampled if counted else f"{sampled:.{DIGITS}g}")
    return min(max(rounded, param.low), param.high)


def _text(param: Param, value: float | bool | str) -> str:
    """As `--set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    assert not isinstance(value, str)
    plain = format(Decimal(repr(value)).normalize(), "f")
    return plain if param.type.dim == PLAIN else with_unit(plain, param.type)


# ---- the search -----------------------------------------------------------------------------------------------------


def _search(plan: TunePlan, space: SearchSpace, bench: _Bench, workers: Workers) -> list[Trial]:
    """In the order they were asked for; the first is the default."""
    study = _study(plan)
    study.enqueue_trial(space.start())
    trials: list[Trial] = []
    while len(trials) < plan.trials:
        asked = [study.ask(dict(space.distributions)) for _ in range(min(BATCH, plan.trials - len(trials)))]
        settings = [space.default if one.number == 0 else space.setting(one.params) for one in asked]
        records = bench.run(workers, _measure, [_with(task, s) for s in settings for task in plan.cells])
        for index, (one, setting) in enumerate(zip(asked, settings, strict=True)):
            mine = records[index * len(plan.cells) : (index + 1) * len(plan.cells)]
            trials.append(_told(study, one, setting, [_value(record, plan.objective) for record in mine], plan))
    return trials


def _study(plan: TunePlan) -> Study:
    import warnings

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():  # joint sampling and the constant liar are labelled experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        startup = max(BATCH, min(2 * BATCH, plan.trials // 4))
        sampler = optuna.samplers.TPESampler(
            seed=plan.seed, multivariate=True, constant_liar=True, n_startup_trials=startup
        )
    return optuna.create_study(direction="maximize", sampler=sampler)


def _told(study: Study, asked: Asked, setting: Setting, values: Sequence[float], plan: TunePlan) -> Trial:
    found = float(merit(plan.objective, np.array(values)))
    study.tell(asked, found)
    return Trial(asked.number, setting, tuple(values), found)


def _with(task: Task, setting: Setting) -> Task:
    return replace(task, params=tuple(sorted(setting.items())))


def _value(record: Record, objective: Objective) -> float:
    values = record["objectives"]
    assert isinstance(values, Mapping)
    return float(values[str(objective)])


class _Bench:
    """Runs cells, or finds their records."""

    def __init__(self, kept: ResultFile, keys: Keys, tell: Callable[[int], None]) -> None:
        self._kept, self._keys, self._tell = kept, keys, tell

    def run(self, workers: Workers, work: Callable[[Task], Record], tasks: Sequence[Task]) -> list[Record]:
        """One record a task, in their order."""
        keys = [f"{self._keys.of(task)}-{work.__name__.strip('_')}" for task in tasks]
        missing = {key: task for key, task in zip(keys, tasks, strict=True) if key not in self._kept.records}
        self._tell(len(tasks) - len(missing))
        for key, record in workers.run(work, missing):
            self._kept.add({"key": key, **record})
            self._tell(1)
        return [self._kept.records[key] for key in keys]

    def refuse_overlap(self, plan: TunePlan) -> None:
        """Raises UsageError when a held-out cell is a training one."""
        seen = {self._keys.of(task) for task in plan.cells}
        for task in plan.held_out:
            if self._keys.of(task) in seen:
                raise UsageError(
                    f"held-out workload `{task.workload.label}` (seed {task.seed}, {task.gpus} GPUs) is a training one",
                    hint="hold out another file or seed: what a search has seen cannot confirm it",
                )


def _measure(task: Task) -> Record:
    """A training cell: every objective, so that another one can be tuned for without simulating again."""
    served = served_by(task)
    return {
        "workload": task.workload.label,
        "gpus": task.gpus,
        "params": dict(task.params),
        "objectives": {str(objective): served.value(objective) for objective in Objective},
    }


def _measure_each(task: Task) -> Record:
    """A held-out cell: every request."""
    served = served_by(task)
    each = {name: getattr(served, name).tolist() for name in ("on_time", "latency_s", "kinds")}
    return {"workload": task.workload.label, "gpus": task.gpus, "params": dict(task.params), "each": each}


def served_by(task: Task) -> Served:
    """Simulate it, request by request."""
    watch = _Outcomes()
    simulate(config_of(task), (watch,))
    return watch.served()


@dataclass(slots=True)
class _Outcomes:
    """An observer that keeps how every request ended."""

    requests: dict[str, Request] = field(default_factory=dict)
    ends: dict[str, EndRequest] = field(default_factory=dict)

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        for event in events:
            if isinstance(event, RequestArrived):
                self.requests.setdefault(event.request.id, event.request)
        for command in decision.commands:
            if isinstance(command, EndRequest):
                self.ends[command.request_id] = command

    def served(self) -> Served:
        ordered = sorted(self.requests.values(), key=lambda request: (request.arrival_ns, request.id))
        last = max((end.at for end in self.ends.values()), default=0)
        kinds = {name: number for number, name in enumerate(sorted({request.class_name for request in ordered}))}
        ends = [self.ends.get(request.id) for request in ordered]
        done = [end is not None and end.outcome is Outcome.COMPLETED for end in ends]
        seconds = [
            to_s(end.at - request.arrival_ns if end is not None and completed else last)
            for request, end, completed in zip(ordered, ends, done, strict=True)
        ]
        return Served(
            np.array([float(end is not None and end.on_time) for end in ends]),
            np.array(seconds),
            np.array([float(kinds[request.class_name]) for request in ordered]),
        )


# ---- held out -------------------------------------------------------------------------------------------------------


def _confirmed(found: Tuned, plan: TunePlan, bench: _Bench, workers: Workers) -> Tuned:
    """With what the held-out cells say."""
    tasks = [_with(task, setting) for setting in (found.default, found.setting) for task in plan.held_out]
    served = [_served(record) for record in bench.run(workers, _measure_each, tasks)]
    default, tuned = served[: len(plan.held_out)], served[len(plan.held_out) :]
    cells = tuple(
        HeldOut(
            task.workload.label, task.gpus, task.cost.name.removesuffix(".cost.json"), task.seed,
            before.value(plan.objective), after.value(plan.objective),
        )
        for task, before, after in zip(plan.held_out, default, tuned, strict=True)
    )  # fmt: skip
    gain = bootstrap(plan.objective, default, tuned, plan.seed)
    return replace(found, held_out=cells, gain=gain)


def _served(record: Record) -> Served:
    each = record["each"]
    assert isinstance(each, Mapping)
    return Served(*(np.array(each[name], dtype=np.float64) for name in ("on_time", "latency_s", "kinds")))


def bootstrap(objective: Objective, default: Sequence[Served], tuned: Sequence[Served], seed: int) -> Gain:
    """The gain of `tuned` over `default` (the same cells and requests, in order), with its percentile interval."""
    random = np.random.Generator(np.random.PCG64([seed, 2]))
    before, after = np.empty((RESAMPLES, len(default))), np.empty((RESAMPLES, len(default)))
    for cell, (old, new) in enumerate(zip(default, tuned, strict=True)):
        for some in np.array_split(np.arange(RESAMPLES), RESAMPLES // AT_ONCE):
            rows = _blocks(len(old.on_time), len(some), random)
            before[some, cell], after[some, cell] = old.values(objective, rows), new.values(objective, rows)
    cells = random.integers(len(default), size=before.shape)
    samples = random.integers(RESAMPLES, size=before.shape)
    gains = merit(objective, after[samples, cells]) - merit(objective, before[samples, cells])
    low, high = np.quantile(gains, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    whole = [np.array([cell.value(objective) for cell in cells]) for cells in (default, tuned)]
    mean = float(merit(objective, whole[1]) - merit(objective, whole[0]))
    return Gain(*(_as_gain(objective, float(value)) for value in (mean, low, high)))


def _blocks(count: int, samples: int, random: np.random.Generator) -> I8:
    """Row numbers [samples, count]: runs of neighbours of length sqrt(count), from anywhere, the last row's neighbour
    being the first."""
    length = max(1, math.isqrt(count))
    starts = random.integers(count, size=(samples, -(-count // length)))
    return ((starts[:, :, None] + np.arange(length)) % count).reshape(samples, -1)[:, :count]


def _as_gain(objective: Objective, difference: float) -> float:
    """Of merits: points of attainment, or the share of latency that is saved."""
    return 1.0 - math.exp(-difference) if objective.of_time else difference
