"""Figures of a run: those that the events alone give, and a memory that does not grow with a server's age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import make_cost, make_workload

from gfdit.core.commands import EndRequest
from gfdit.core.events import Event, RequestArrived
from gfdit.core.scheduler import Decision
from gfdit.core.work import Outcome, Request
from gfdit.policy.store import load_policy
from gfdit.runtime.summary import MOST_CLASSES, MOST_ENDED, OTHER_CLASSES, Latest, Summary
from gfdit.sim.run import SimConfig, simulate
from gfdit.units import to_ns, to_s


class Everything:
    """Keeps all that happened."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.ends: list[EndRequest] = []
        self.tick_seconds: list[float] = []

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        self.requests.update({e.request.id: e.request for e in events if isinstance(e, RequestArrived)})
        self.ends.extend(command for command in decision.commands if isinstance(command, EndRequest))
        self.tick_seconds.append(tick_seconds)


def test_figures_are_those_of_all_requests() -> None:
    workload = [replace(one, class_name="ab"[n % 2]) for n, one in enumerate(make_workload(5, 50))]
    everything = Everything()
    outcome = simulate(SimConfig(load_policy("slo"), workload, "made", make_cost(), 4), (everything,))
    figures, ends, of = outcome.summary.figures(), everything.ends, everything.requests
    done = [end for end in ends if end.outcome is Outcome.COMPLETED]
    latencies = [to_s(end.at - of[end.request_id].arrival_ns) for end in done]
    assert figures["mean_latency_s"] == float(np.mean(latencies))
    for percent in (50, 95, 99):
        assert figures[f"p{percent}_latency_s"] == float(np.percentile(latencies, percent))
    assert figures["attainment"] == sum(end.on_time for end in ends) / len(of)
    assert figures["attainment_by_class"] == {
        name: sum(end.on_time for end in ends if of[end.request_id].class_name == name) / 25 for name in "ab"
    }
    named = [of[end.request_id].class_name for end in done]
    assert figures["mean_latency_by_class_s"] == {
        name: float(np.mean([s for s, other in zip(latencies, named, strict=True) if other == name])) for name in "ab"
    }
    assert (figures["requests"], figures["ticks"]) == (50, len(everything.tick_seconds))
    assert figures["tick_p50_us"] == float(np.percentile(everything.tick_seconds, 50)) * 1e6


def serve(summary: Summary, count: int, classes: int = 1) -> None:
    """`count` requests, one after the other, of one second plus a millisecond for each before it."""
    pattern = make_workload(1, 1)[0]
    for n in range(count):
        request = replace(pattern, id=f"r{n}", class_name=f"c{n % classes}", arrival_ns=to_ns(float(n)))
        end = EndRequest(request.id, Outcome.COMPLETED, request.arrival_ns + to_ns(1 + n / 1000), None)
        summary.record(request.arrival_ns, [RequestArrived(request.arrival_ns, request)], Decision((end,), None), 1e-4)


def test_counts_cover_everything_and_latencies_the_latest() -> None:
    summary = Summary(1, most_values=100)
    serve(summary, 350)
    figures = summary.figures()
    assert (figures["requests"], figures["completed"], figures["ticks"], figures["attainment"]) == (350, 350, 350, 1.0)
    assert figures["mean_latency_s"] == pytest.approx(1 + np.mean(range(250, 350)) / 1000)
    assert figures["p50_latency_s"] == pytest.approx(1 + np.percentile(range(250, 350), 50) / 1000)


def test_memory_does_not_grow_with_the_number_of_requests() -> None:
    summary = Summary(1, most_values=100)
    serve(summary, MOST_ENDED + 50, classes=MOST_CLASSES + 7)
    assert len(summary.ended) == MOST_ENDED and summary.ended[-1].request.id == f"r{MOST_ENDED + 49}"
    shares = summary.figures()["attainment_by_class"]
    assert isinstance(shares, dict) and len(shares) == MOST_CLASSES + 1 and shares[OTHER_CLASSES] == 1.0
    sizes = {name: len(value) for name, value in vars(summary).items() if isinstance(value, dict)}
    assert max(sizes.values()) <= MOST_CLASSES + 1
    assert summary._latencies.values().size == summary.tick_seconds.values().size == 100


@given(st.lists(st.floats(-1e9, 1e9), max_size=60), st.integers(1, 20))
def test_latest_keeps_the_latest_in_order(numbers: list[float], most: int) -> None:
    latest = Latest(most)
    for number in numbers:
        latest.append(number)
    assert latest.values().tolist() == numbers[-most:]
    assert len(latest) == len(numbers)
