"""Prometheus metrics of a live system: an observer that counts, and the text that a scrape gets.

All times are seconds of the system's clock (the table's seconds under a time scale). Label values that clients choose
are bounded: after the first `MOST_VALUES` of a label the rest is counted as `other`. Nothing here is kept per request
after its end. `record` runs in the driver's thread, `exposition` in any.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder

from gfdit.core.commands import EndRequest, RunTask
from gfdit.core.cost import CostModel
from gfdit.core.events import Event, PolicySwapped, RequestArrived, TaskFailed, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.lifecycle import State
from gfdit.core.scheduler import Decision, Move, MoveKind, NewsKind, Scheduler
from gfdit.core.work import Outcome, Request, Stage
from gfdit.units import NS_PER_S, to_s

MOST_VALUES = 32
OTHER = "other"
BUSY_WINDOW_NS, BUSY_EVERY_NS = 60 * NS_PER_S, 5 * NS_PER_S
LATENCY = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300, 600, 1200)
SLACK = (-600, -120, -60, -30, -10, -5, -1, 0, 1, 5, 10, 30, 60, 120, 600)
STEP = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
SHORT = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
RATIO = (0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2, 4)


class Bounded:
    """The first `MOST_VALUES` different values as they are, `other` for those that come after."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._seen:
            if len(self._seen) >= MOST_VALUES:
                return OTHER
            self._seen.add(value)
        return value


@dataclass(slots=True)
class _Live:
    request: Request
    state: State = State.WAITING
    started: bool = False


@dataclass(frozen=True, slots=True)
class _Flight:
    command: RunTask
    began: int


class Metrics:
    """See the module. `cost`: the table that measured steps are compared with, none to leave that out."""

    def __init__(self, scheduler: Scheduler, ranks: int, cost: CostModel | None = None) -> None:
        self.registry = CollectorRegistry()
        self._scheduler, self._cost = scheduler, cost
        self._class, self._model, self._clause, self._cause = Bounded(), Bounded(), Bounded(), Bounded()
        self._live: dict[str, _Live] = {}
        self._flights: dict[int, _Flight] = {}
        self._states: Tally[State] = Tally()
        self._lost: dict[int, str] = {}  # rank -> why, until its successor is there
        self._busy: dict[int, int] = dict.fromkeys(range(ranks), 0)
        self._busy_then: deque[tuple[int, dict[int, int]]] = deque([(0, dict(self._busy))])
        self._busy_children: dict[int, Counter] = {}
        self._policy = ""
        self._request_metrics()
        self._work_metrics()
        self._system_metrics()

    def _request_metrics(self) -> None:
        of = self.registry
        self._requests = Counter("gfdit_requests", "Requests that ended.", ["model", "class", "outcome"], registry=of)
        self._queued = Gauge("gfdit_requests_queued", "Requests that have not begun.", registry=of)
        self._running = Gauge("gfdit_requests_running", "Requests with ranks.", registry=of)
        self._paused = Gauge("gfdit_requests_paused", "Requests that have begun and have no ranks.", registry=of)
        self._latency = Histogram(
            "gfdit_request_latency_seconds", "Arrival to completion.", ["class"], buckets=LATENCY, registry=of
        )
        self._wait = Histogram(
            "gfdit_queue_wait_seconds", "Arrival to the first task.", ["class"], buckets=LATENCY, registry=of
        )
        self._slack = Histogram(
            "gfdit_deadline_slack_seconds", "Deadline minus completion; negative is late.", ["class"],
            buckets=SLACK, registry=of,
        )  # fmt: skip
        self._attained = Counter("gfdit_slo_attained", "Requests that were on time.", ["class"], registry=of)
        self._missed = Counter(
            "gfdit_slo_missed", "Requests that ended otherwise; without those that clients gave up.", ["class"],
            registry=of,
        )  # fmt: skip
        self._rejected = Counter("gfdit_admission_rejected", "Requests that were not taken.", ["code"], registry=of)

    def _work_metrics(self) -> None:
        of = self.registry
        self._step = Histogram(
            "gfdit_step_duration_seconds", "Compute time of one task (one step, for denoise).", ["stage", "sp"],
            buckets=STEP, registry=of,
        )  # fmt: skip
        self._ratio = Histogram(
            "gfdit_cost_model_error_ratio", "Measured over estimated time of denoising steps.", ["sp"],
            buckets=RATIO, registry=of,
        )  # fmt: skip
        self._reshard = Histogram(
            "gfdit_reshard_seconds", "Moving state at the beginning of a task.", buckets=STEP, registry=of
        )
        self._preemptions = Counter(
            "gfdit_preemptions", "Requests that lost their ranks to others, by the clause that decided.", ["reason"],
            registry=of,
        )  # fmt: skip
        self._resizes = Counter("gfdit_resizes", "Groups that changed.", ["direction"], registry=of)
        self._failures = Counter("gfdit_task_failures", "Tasks that did not finish.", ["code"], registry=of)
        self._busy_seconds = Counter("gfdit_rank_busy_seconds", "Time in tasks.", ["rank"], registry=of)
        self._busy_ratio = Gauge(
            "gfdit_rank_busy_ratio", "Share of the last minute that the rank spent in tasks.", ["rank"], registry=of
        )
        for direction in (MoveKind.GROW, MoveKind.SHRINK, MoveKind.MIGRATE):
            self._resizes.labels(str(direction))  # a rate needs the zero before the first one
        for rank in self._busy:
            self._busy_seconds_of(rank)
            self._busy_ratio.labels(str(rank))

    def _system_metrics(self) -> None:
        of = self.registry
        self._workers = Gauge("gfdit_workers_alive", "Workers that are ready.", registry=of)
        self._out = Gauge("gfdit_workers_out", "Ranks that died too often and are not started again.", registry=of)
        self._storage = Gauge("gfdit_storage_failing", "1 while requests cannot be written to disk.", registry=of)
        self._ledger = Histogram(
            "gfdit_ledger_fsync_seconds",
            "Requests and their ends becoming durable, one fsync for all that waited (wall time).",
            buckets=SHORT,
            registry=of,
        )
        self._restarts = Counter(
            "gfdit_worker_restarts", "Workers that were replaced, by why.", ["rank", "cause"], registry=of
        )
        self._tick = Histogram("gfdit_policy_tick_seconds", "One tick (wall time).", buckets=SHORT, registry=of)
        self._errors = Counter("gfdit_policy_errors", "Ticks on which the policy failed.", registry=of)
        self._swaps = Counter(
            "gfdit_policy_swaps", "Policies that took over, by what was asked for.", ["how"], registry=of
        )
        self._ejections = Counter(
            "gfdit_policy_ejections", "Policies that lost their place, by why and whose fault.", ["cause", "blame"],
            registry=of,
        )  # fmt: skip
        self._policy_info = Info("gfdit_policy", "The policy in charge.", registry=of)
        self._show_policy()
        self._commit = Histogram(
            "gfdit_journal_commit_seconds", "Writing one tick to the journal (wall time).", buckets=SHORT, registry=of
        )

    # ---- the scrape, and what others tell ---------------------------------------------------------------------------

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics in the newest format that `accept` (an HTTP header) takes, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def refused(self, code: str) -> None:
        """A request was turned away before the scheduler heard of it. `code` is ours, never a client's."""
        self._rejected.labels(code).inc()

    def journal_committed(self, seconds: float) -> None:
        self._commit.observe(seconds)

    def ledger_committed(self, seconds: float) -> None:
        """Requests, or their ends, were written to the ledger and are on disk."""
        self._ledger.observe(seconds)

    def stands(self, *, ranks_out: int, storage_failing: bool) -> None:
        """What no event tells."""
        self._out.set(ranks_out)
        self._storage.set(storage_failing)

    # ---- the observer -----------------------------------------------------------------------------------------------

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        settling = [live for event in events if (live := self._event(event)) is not None]
        for command in decision.commands:
            match command:
                case RunTask():
                    self._began(command, now)
                case EndRequest():
                    self._ended(command)
                case _:
                    pass
        for live in settling:  # its task ended, and it got no other
            if live.state is State.READY:
                self._enter(live, State.PAUSED)
        for move in decision.moves:
            self._moved(move)
        self._tick.observe(tick_seconds)
        self._errors.inc(sum(news.kind is NewsKind.ERROR for news in decision.policy_news))
        if decision.ejection is not None:
            self._ejections.labels(str(decision.ejection.cause), str(decision.ejection.blame)).inc()
        self._show(now)

    def _event(self, event: Event) -> _Live | None:
        """Take note; the live request, if it is one whose task has just ended."""
        match event:
            case RequestArrived(request=request):
                if request.id not in self._live:
                    self._live[request.id] = live = _Live(request)
                    self._states[live.state] += 1
            case TaskFinished():
                return self._finished(event)
            case TaskFailed(at=at, epoch=epoch, code=code):
                self._failures.labels(code).inc()
                return self._landed(epoch, at)
            case PolicySwapped(how=how):
                self._swaps.labels(how.replace(" ", "_")).inc()
            case WorkerJoined(rank=rank):
                if (cause := self._lost.pop(rank, None)) is not None:
                    self._restarts.labels(str(rank), cause).inc()
            case WorkerLost(rank=rank, cause=cause):
                self._lost[rank] = self._cause(cause.partition(":")[0])
            case _:
                pass
        return None

    def _finished(self, event: TaskFinished) -> _Live | None:
        flight = self._flights.get(event.epoch)
        if flight is not None:
            command, seconds = flight.command, to_s(event.busy_ns)
            sp = str(len(command.ranks))
            self._step.labels(str(command.stage), sp).observe(seconds / command.steps)
            if command.has_handover:
                self._reshard.observe(to_s(event.handover_ns))
            live = self._live.get(command.request_id)
            if self._cost is not None and live is not None and command.stage is Stage.DENOISE:
                table = self._cost.seconds(live.request, command.stage, len(command.ranks)) * command.steps
                if table > 0:
                    self._ratio.labels(sp).observe(seconds / table)
        return self._landed(event.epoch, event.at)

    def _landed(self, epoch: int, at: int) -> _Live | None:
        flight = self._flights.pop(epoch, None)
        if flight is None:
            return None
        took = max(0, at - flight.began)
        for rank in flight.command.ranks:
            self._busy[rank] = self._busy.get(rank, 0) + took
            self._busy_seconds_of(rank).inc(to_s(took))
        live = self._live.get(flight.command.request_id)
        if live is not None:
            self._enter(live, State.READY)
        return live

    def _busy_seconds_of(self, rank: int) -> Counter:
        """Looked up once a rank: a wide group would ask for many on every step."""
        if rank not in self._busy_children:
            self._busy_children[rank] = self._busy_seconds.labels(str(rank))
        return self._busy_children[rank]

    def _began(self, command: RunTask, now: int) -> None:
        live = self._live[command.request_id]
        self._flights[command.epoch] = _Flight(command, now)
        if not live.started:
            live.started = True
            self._wait.labels(self._class(live.request.class_name)).observe(to_s(now - live.request.arrival_ns))
        self._enter(live, State.RUNNING)

    def _ended(self, command: EndRequest) -> None:
        live = self._live.pop(command.request_id)
        self._enter(live, State(command.outcome.value))
        request, name = live.request, self._class(live.request.class_name)
        self._requests.labels(self._model(request.model), name, str(command.outcome)).inc()
        if command.outcome is Outcome.COMPLETED:
            self._latency.labels(name).observe(to_s(command.at - request.arrival_ns))
            if command.deadline_ns is not None:
                self._slack.labels(name).observe(to_s(command.deadline_ns - command.at))
        if command.outcome is Outcome.REJECTED:
            self._rejected.labels(command.code or "rejected").inc()
        if command.on_time:
            self._attained.labels(name).inc()
        elif command.outcome is not Outcome.CANCELLED:
            self._missed.labels(name).inc()

    def _enter(self, live: _Live, state: State) -> None:
        self._states[live.state] -= 1
        live.state = state
        self._states[state] += 1

    def _moved(self, move: Move) -> None:
        match move.kind:
            case MoveKind.GROW | MoveKind.SHRINK | MoveKind.MIGRATE:
                self._resizes.labels(str(move.kind)).inc()
            case MoveKind.PAUSE:
                reason = "order" if move.because is None else move.because.clause
                self._preemptions.labels(self._clause(reason)).inc()
            case MoveKind.START | MoveKind.RESUME:
                pass

    def _show(self, now: int) -> None:
        """The gauges."""
        self._queued.set(self._states[State.WAITING])
        self._running.set(self._states[State.RUNNING])
        self._paused.set(self._states[State.PAUSED])
        self._workers.set(len(self._scheduler.alive))
        self._show_policy()
        then = self._busy_then
        if now - then[-1][0] >= BUSY_EVERY_NS:
            then.append((now, dict(self._busy)))
            while len(then) > 2 and now - then[1][0] >= BUSY_WINDOW_NS:
                then.popleft()
            at, busy = then[0]
            for rank, total in self._busy.items():
                self._busy_ratio.labels(str(rank)).set(min(1.0, (total - busy.get(rank, 0)) / (now - at)))

    def _show_policy(self) -> None:
        policy = self._scheduler.policy
        if policy.sha != self._policy:
            self._policy = policy.sha
            self._policy_info.info({"name": policy.name, "sha": policy.sha})


def metric_names(metrics: Metrics) -> set[str]:
    """Names of all series that a scrape may hold, suffixes (`_total`, `_bucket`, ...) included."""
    names: set[str] = set()
    for family in metrics.registry.collect():
        suffixes = {
            "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",),
        }.get(family.type, ("",))  # fmt: skip
        names.update(family.name + suffix for suffix in suffixes)
    return names


__all__ = ["Metrics", "metric_names"]
