"""Figures of a run, live or simulated, gathered by looking on: who was on time, how long it took, how often groups
changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.events import Event, RequestArrived, TaskFinished
from gfdit.core.scheduler import Decision, MoveKind, NewsKind
from gfdit.core.work import Outcome, Request
from gfdit.units import to_s

RESIZES = (MoveKind.GROW, MoveKind.SHRINK, MoveKind.MIGRATE)


@dataclass(frozen=True, slots=True)
class Ended:
    """One request and how it ended."""

    request: Request
    end: EndRequest

    @property
    def latency_s(self) -> float:
        return to_s(self.end.at - self.request.arrival_ns)


class Summary:
    """An observer. Latency figures cover completed requests; a request that is rejected or unfinished counts as a
    miss."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        self.requests: dict[str, Request] = {}
        self.ended: list[Ended] = []
        self.moves: Counter[MoveKind] = Counter()
        self.tick_seconds: list[float] = []
        self.tasks = 0
        self.policy_errors = 0
        self._ranks_of: dict[int, int] = {}
        self._busy_ns = 0
        self._last_end = 0

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        for event in events:
            match event:
                case RequestArrived(request=request):
                    self.requests.setdefault(request.id, request)
                case TaskFinished(epoch=epoch, busy_ns=busy_ns, handover_ns=handover_ns):
                    self.tasks += 1
                    self._busy_ns += self._ranks_of.pop(epoch, 0) * (busy_ns + handover_ns)
                case _:
                    pass
        for command in decision.commands:
            match command:
                case RunTask():
                    self._ranks_of[command.epoch] = len(command.ranks)
                case EndRequest():
                    self.ended.append(Ended(self.requests[command.request_id], command))
                    self._last_end = max(self._last_end, command.at)
                case _:
                    pass
        for move in decision.moves:
            self.moves[move.kind] += 1
        self.tick_seconds.append(tick_seconds)
        self.policy_errors += sum(news.kind is NewsKind.ERROR for news in decision.policy_news)

    def figures(self) -> dict[str, object]:
        """The measured fields of the simulation result, in their documented order."""
        outcomes = Counter(ended.end.outcome for ended in self.ended)
        makespan = to_s(self._last_end)
        return {
            "requests": len(self.requests),
            "completed": outcomes[Outcome.COMPLETED],
            "rejected": outcomes[Outcome.REJECTED],
            "failed": outcomes[Outcome.FAILED] + outcomes[Outcome.CANCELLED],
            "attainment": self._attainment(None),
            "attainment_by_class": {name: self._attainment(name) for name in self._classes()},
            **self._latency(),
            "mean_latency_by_class_s": {name: _mean(self._latencies(name)) for name in self._classes()},
            "makespan_s": makespan,
            "throughput_rps": outcomes[Outcome.COMPLETED] / makespan if makespan else 0.0,
            "gpu_busy": to_s(self._busy_ns) / (self.gpus * makespan) if makespan else 0.0,
            "resizes": sum(self.moves[kind] for kind in RESIZES),
            "preemptions": self.moves[MoveKind.PAUSE],
            "ticks": len(self.tick_seconds),
            "tick_p50_us": _percentile(self.tick_seconds, 50, 1e6),
            "tick_p99_us": _percentile(self.tick_seconds, 99, 1e6),
        }

    def resizes_by_kind(self) -> dict[str, int]:
        return {str(kind): self.moves[kind] for kind in MoveKind}

    def _classes(self) -> list[str]:
        return sorted({request.class_name for request in self.requests.values()})

    def _attainment(self, name: str | None) -> float:
        asked = sum(name in (None, request.class_name) for request in self.requests.values())
        on_time = sum(ended.end.on_time for ended in self.ended if name in (None, ended.request.class_name))
        return on_time / asked if asked else 1.0

    def _latencies(self, name: str | None = None) -> list[float]:
        return [
            ended.latency_s
            for ended in self.ended
            if ended.end.outcome is Outcome.COMPLETED and name in (None, ended.request.class_name)
        ]

    def _latency(self) -> dict[str, object]:
        latencies = self._latencies()
        return {
            "mean_latency_s": _mean(latencies),
            "p50_latency_s": _percentile(latencies, 50),
            "p95_latency_s": _percentile(latencies, 95),
            "p99_latency_s": _percentile(latencies, 99),
        }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], percent: float, scale: float = 1.0) -> float | None:
    return float(np.percentile(values, percent)) * scale if values else None
