"""Figures of a run, live or simulated, gathered by looking on: who was on time, how long it took, how often groups
changed.

A server never ends, so what is kept is bounded: counts cover everything, while means and percentiles are those of the
latest `MOST_VALUES` requests or ticks, which no finite run exceeds by accident.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.events import Event, RequestArrived, TaskFailed, TaskFinished
from gfdit.core.scheduler import Decision, MoveKind, NewsKind
from gfdit.core.work import Outcome, Request
from gfdit.units import to_s

RESIZES = (MoveKind.GROW, MoveKind.SHRINK, MoveKind.MIGRATE)
MOST_VALUES = 1 << 20
MOST_ENDED = 10_000
MOST_CLASSES = 1000  # clients name them: further ones are told together
OTHER_CLASSES = "(others)"


@dataclass(frozen=True, slots=True)
class Ended:
    """One request and how it ended."""

    request: Request
    end: EndRequest

    @property
    def latency_s(self) -> float:
        return to_s(self.end.at - self.request.arrival_ns)


class Latest:
    """The latest `most` numbers. `len` is how many there were in all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values = array("d")
        self._count = 0

    def append(self, value: float) -> None:
        if self._count < self._most:
            self._values.append(value)
        else:
            self._values[self._count % self._most] = value
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def values(self) -> npt.NDArray[np.float64]:
        """Oldest first."""
        oldest = self._count % self._most if self._count > self._most else 0
        return np.roll(np.array(self._values, dtype=np.float64), -oldest)


class Summary:
    """An observer. Latency figures cover completed requests; a request that is rejected or unfinished counts as a miss.

    `ended`: the latest requests that ended. `most_values`: see the module.
    """

    def __init__(self, gpus: int, most_values: int = MOST_VALUES) -> None:
        self.gpus = gpus
        self.ended: deque[Ended] = deque(maxlen=MOST_ENDED)
        self.moves: Counter[MoveKind] = Counter()
        self.tick_seconds = Latest(most_values)
        self.tasks = 0
        self.policy_errors = 0
        self._live: dict[str, Request] = {}
        self._classes: dict[str, int] = {}
        self._asked: Counter[str] = Counter()
        self._on_time: Counter[str] = Counter()
        self._outcomes: Counter[Outcome] = Counter()
        self._latencies, self._class_codes = Latest(most_values), Latest(most_values)
        self._ranks_of: dict[int, int] = {}
        self._busy_ns = 0
        self._last_end = 0

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        for event in events:
            match event:
                case RequestArrived(request=request):
                    self._arrived(request)
                case TaskFinished(epoch=epoch, busy_ns=busy_ns, handover_ns=handover_ns):
                    self.tasks += 1
                    self._busy_ns += self._ranks_of.pop(epoch, 0) * (busy_ns + handover_ns)
                case TaskFailed(epoch=epoch):
                    self._ranks_of.pop(epoch, None)
                case _:
                    pass
        for command in decision.commands:
            match command:
                case RunTask():
                    self._ranks_of[command.epoch] = len(command.ranks)
                case EndRequest():
                    self._end(command)
                case _:
                    pass
        for move in decision.moves:
            self.moves[move.kind] += 1
        self.tick_seconds.append(tick_seconds)
        self.policy_errors += sum(news.kind is NewsKind.ERROR for news in decision.policy_news)

    def _arrived(self, request: Request) -> None:
        if request.id not in self._live:
            self._live[request.id] = request
            self._asked[self._class_of(request)] += 1

    def _end(self, command: EndRequest) -> None:
        request = self._live.pop(command.request_id)
        ended = Ended(request, command)
        self.ended.append(ended)
        name = self._class_of(request)
        self._outcomes[command.outcome] += 1
        self._on_time[name] += command.on_time
        self._last_end = max(self._last_end, command.at)
        if command.outcome is Outcome.COMPLETED:
            self._latencies.append(ended.latency_s)
            self._class_codes.append(self._classes[name])

    def _class_of(self, request: Request) -> str:
        name = request.class_name
        if name not in self._classes:
            if len(self._classes) >= MOST_CLASSES:
                name = OTHER_CLASSES
            self._classes.setdefault(name, len(self._classes))
        return name

    def figures(self) -> dict[str, object]:
        """The measured fields of the simulation result, in their documented order."""
        outcomes = self._outcomes
        makespan = to_s(self._last_end)
        latencies, codes = self._latencies.values(), self._class_codes.values()
        classes = sorted(self._classes)
        ticks = self.tick_seconds.values()
        return {
            "requests": self._asked.total(),
            "completed": outcomes[Outcome.COMPLETED],
            "rejected": outcomes[Outcome.REJECTED],
            "failed": outcomes[Outcome.FAILED] + outcomes[Outcome.CANCELLED],
            "attainment": _share(self._on_time.total(), self._asked.total()),
            "attainment_by_class": {name: _share(self._on_time[name], self._asked[name]) for name in classes},
            "mean_latency_s": _mean(latencies),
            "p50_latency_s": _percentile(latencies, 50),
            "p95_latency_s": _percentile(latencies, 95),
            "p99_latency_s": _percentile(latencies, 99),
            "mean_latency_by_class_s": {name: _mean(latencies[codes == self._classes[name]]) for name in classes},
            "makespan_s": makespan,
            "throughput_rps": outcomes[Outcome.COMPLETED] / makespan if makespan else 0.0,
            "gpu_busy": to_s(self._busy_ns) / (self.gpus * makespan) if makespan else 0.0,
            "resizes": sum(self.moves[kind] for kind in RESIZES),
            "preemptions": self.moves[MoveKind.PAUSE],
            "ticks": len(self.tick_seconds),
            "tick_p50_us": _percentile(ticks, 50, 1e6),
            "tick_p99_us": _percentile(ticks, 99, 1e6),
        }

    def resizes_by_kind(self) -> dict[str, int]:
        return {str(kind): self.moves[kind] for kind in MoveKind}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(np.mean(values)) if values.size else None


def _percentile(values: npt.NDArray[np.float64], percent: float, scale: float = 1.0) -> float | None:
    return float(np.percentile(values, percent)) * scale if values.size else None
