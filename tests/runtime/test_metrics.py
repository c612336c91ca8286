"""Metrics: what a scrape says is what happened, and clients cannot make it grow without bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from small_worlds import make_cost, make_workload

from gfdit.core.commands import EndRequest
from gfdit.core.events import RequestArrived, TaskFinished, WorkerJoined, WorkerLost
from gfdit.core.scheduler import Decision, MoveKind, Scheduler
from gfdit.core.work import Outcome, Stage
from gfdit.policy.store import load_policy
from gfdit.runtime.metrics import MOST_VALUES, OTHER, Metrics
from gfdit.runtime.timeline import Timeline
from gfdit.sim.run import SimConfig, build_scheduler, simulate
from gfdit.units import NS_PER_S

GPUS = 4
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> Samples:
    content, media_type = metrics.exposition("text/plain")
    assert media_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }


def total(samples: Samples, series: str, /, **labels: str) -> float:
    return sum(v for (name, pairs), v in samples.items() if name == series and set(labels.items()) <= set(pairs))


@pytest.fixture(scope="module")
def told() -> tuple[Samples, Timeline]:
    """A simulated run: what a scrape at its end says, and what the timeline of the same run knows."""
    cost, timeline = make_cost(), Timeline(GPUS)
    config = SimConfig(load_policy("slo"), make_workload(7, 30), "made", cost, GPUS)

    def observers(scheduler: Scheduler) -> tuple[Metrics, Timeline]:
        return Metrics(scheduler, GPUS, cost), timeline

    outcome = simulate(config, observers)
    (metrics, _) = outcome.observers
    assert isinstance(metrics, Metrics)
    return scrape(metrics), timeline


def test_requests_are_counted_as_they_ended(told: tuple[Samples, Timeline]) -> None:
    samples, timeline = told
    totals = timeline.totals
    assert total(samples, "gfdit_requests_total") == totals.ended == 30
    for outcome in Outcome:
        assert total(samples, "gfdit_requests_total", outcome=str(outcome)) == totals.outcomes[outcome]
    assert total(samples, "gfdit_slo_attained_total") == totals.on_time
    assert total(samples, "gfdit_slo_missed_total") == totals.ended - totals.on_time
    for name in ("queued", "running", "paused"):
        assert total(samples, f"gfdit_requests_{name}") == 0
    latencies = [life.latency_ns or 0 for life in timeline.ended() if life.end and life.end.outcome == "completed"]
    assert total(samples, "gfdit_request_latency_seconds_sum") == pytest.approx(sum(latencies) / NS_PER_S)
    waits = [life.first_start - life.request.arrival_ns for life in timeline.ended() if life.first_start is not None]
    assert total(samples, "gfdit_queue_wait_seconds_count") == len(waits)
    assert total(samples, "gfdit_queue_wait_seconds_sum") == pytest.approx(sum(waits) / NS_PER_S)


def test_work_is_counted_task_by_task(told: tuple[Samples, Timeline]) -> None:
    samples, timeline = told
    for stage in Stage:
        tasks = [task for task in timeline.tasks if task.command.stage is stage]
        assert total(samples, "gfdit_step_duration_seconds_count", stage=str(stage)) == len(tasks)
    busy = Counter(dict.fromkeys(range(GPUS), 0))
    for task in timeline.tasks:
        for rank in task.command.ranks:
            busy[rank] += (task.end or 0) - task.start
    for rank in range(GPUS):
        assert total(samples, "gfdit_rank_busy_seconds_total", rank=str(rank)) == pytest.approx(busy[rank] / NS_PER_S)
        assert 0 <= total(samples, "gfdit_rank_busy_ratio", rank=str(rank)) <= 1
    moves = timeline.totals.moves
    for kind in (MoveKind.GROW, MoveKind.SHRINK, MoveKind.MIGRATE):
        assert total(samples, "gfdit_resizes_total", direction=str(kind)) == moves[kind]
    assert total(samples, "gfdit_preemptions_total") == moves[MoveKind.PAUSE]
    moved = [task for task in timeline.tasks if task.command.has_handover]
    assert total(samples, "gfdit_reshard_seconds_count") == len(moved) > 0


def test_a_simulation_without_noise_takes_what_the_cost_model_says(told: tuple[Samples, Timeline]) -> None:
    samples, _ = told
    steps = total(samples, "gfdit_cost_model_error_ratio_count")
    assert steps == total(samples, "gfdit_step_duration_seconds_count", stage="denoise")
    assert total(samples, "gfdit_cost_model_error_ratio_sum") == pytest.approx(steps, rel=1e-6)


def fresh() -> tuple[Metrics, Scheduler]:
    scheduler = build_scheduler(load_policy("slo"), make_cost(), GPUS)
    return Metrics(scheduler, GPUS), scheduler


def test_classes_that_clients_make_up_do_not_add_series_for_ever() -> None:
    metrics, _ = fresh()
    request = make_workload(1, 1)[0]
    for number in range(3 * MOST_VALUES):
        one = replace(request, id=f"r{number}", class_name=f"c{number}")
        ended = EndRequest(one.id, Outcome.REJECTED, one.arrival_ns, None, "rejected")
        metrics.record(one.arrival_ns, [RequestArrived(one.arrival_ns, one)], Decision((ended,), None), 1e-4)
    samples = scrape(metrics)
    classes = {dict(labels)["class"] for name, labels in samples if name == "gfdit_requests_total"}
    assert len(classes) == MOST_VALUES + 1
    assert total(samples, "gfdit_requests_total", **{"class": OTHER}) == 2 * MOST_VALUES
    assert total(samples, "gfdit_admission_rejected_total", code="rejected") == 3 * MOST_VALUES


def test_a_worker_that_comes_back_is_a_restart_with_a_cause() -> None:
    metrics, scheduler = fresh()
    for at, event in enumerate(
        [WorkerJoined(0, 2, 1), WorkerLost(1, 2, 1, "its process ended: killed by signal 9"), WorkerJoined(2, 2, 2)]
    ):
        scheduler.observe(event)
        metrics.record(at, [event], Decision((), None), 1e-4)
    samples = scrape(metrics)
    assert total(samples, "gfdit_worker_restarts_total", rank="2", cause="its process ended") == 1
    assert total(samples, "gfdit_workers_alive") == 1


def test_reports_of_unknown_tasks_change_nothing() -> None:
    metrics, _ = fresh()
    before = scrape(metrics)
    metrics.record(5, [TaskFinished(5, 77, 1, 0)], Decision((), None), 1e-4)
    after = scrape(metrics)
    assert {key for key in after if after[key] != before.get(key)} <= {
        key for key in after if key[0].startswith("gfdit_policy_tick")
    }


def test_the_policy_in_charge_is_told() -> None:
    metrics, scheduler = fresh()
    metrics.record(0, [], Decision((), None), 1e-4)
    assert total(scrape(metrics), "gfdit_policy_info", name="slo", sha=scheduler.policy.sha) == 1
