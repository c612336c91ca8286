"""The trace: what viewers need holds for every event, and every task, hand-over and count of the run is in it."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gfdit.cli.app import main
from gfdit.report.perfetto import RANKS, REQUESTS, trace_events, write_trace
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.timeline import Timeline
from tests.console.stories import tell

Json = dict[str, Any]


@pytest.fixture(scope="module")
def story() -> tuple[Timeline, list[Json]]:
    timeline = Timeline(4)
    tell(timeline.record)
    return timeline, [dict(event) for event in trace_events(timeline)]


def of(events: list[Json], phase: str) -> list[Json]:
    return [event for event in events if event["ph"] == phase]


def check_format(events: list[Json]) -> None:
    """What the Trace Event Format asks of each kind of event that we use."""
    for event in events:
        assert {"ph", "pid", "tid", "name"} <= set(event), event
        if event["ph"] != "M":
            assert event["ts"] >= 0
    lanes: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for slice_ in of(events, "X"):
        assert slice_["dur"] >= 0 and slice_["pid"] == RANKS
        lanes[slice_["tid"]].append((slice_["ts"], slice_["ts"] + slice_["dur"]))
    for lane in lanes.values():
        for (begin, end), (after, until) in pairwise(lane):
            assert after >= end - 1e-6 or (after >= begin and until <= end + 1e-6), "slices of a thread must nest"
    starts = {event["id"]: event for event in of(events, "s")}
    ends = {event["id"]: event for event in of(events, "f")}
    assert len(starts) == len(of(events, "s")) and set(starts) == set(ends)
    for number, start in starts.items():
        assert start["ts"] <= ends[number]["ts"] and ends[number]["bp"] == "e"
        for arrow_end in (start, ends[number]):
            assert any(begin <= arrow_end["ts"] <= end for begin, end in lanes[arrow_end["tid"]])
    open_: dict[int, list[str]] = defaultdict(list)
    for event in events:
        if event["ph"] == "b":
            open_[event["id"]].append(event["name"])
        elif event["ph"] == "e":
            assert open_[event["id"]].pop() == event["name"]
    assert not any(open_.values())


def test_the_format_holds(story: tuple[Timeline, list[Json]]) -> None:
    check_format(story[1])


def test_every_rank_has_a_named_track_in_order(story: tuple[Timeline, list[Json]]) -> None:
    _, events = story
    names = {event["tid"]: event["args"]["name"] for event in of(events, "M") if event["name"] == "thread_name"}
    assert names == {1: "rank 0", 2: "rank 1", 3: "rank 2", 4: "rank 3"}
    order = [event["args"]["sort_index"] for event in of(events, "M") if event["name"] == "thread_sort_index"]
    assert order == [0, 1, 2, 3]


def test_slices_are_the_tasks(story: tuple[Timeline, list[Json]]) -> None:
    timeline, events = story
    slices = [event for event in of(events, "X") if event["cat"] != "handover"]
    assert len(slices) == sum(len(task.command.occupied) for task in timeline.tasks)
    (grown,) = [e for e in slices if e["tid"] == 3 and e["ts"] == 5e6]
    assert (grown["name"], grown["dur"], grown["cat"]) == ("big-1", 3e6, "denoise")
    assert grown["args"] == {
        "request": "big-1", "class": "batch", "size": "256x256x1", "stage": "denoise", "degree": 4,
        "ranks": [0, 1, 2, 3], "epoch": 3, "compute_ms": 2500.0, "handover_ms": 500.0, "step": "2/4",
        "state_from": [0],
    }  # fmt: skip
    moved = [e for e in of(events, "X") if e["cat"] == "handover" and e["ts"] == 5e6]
    assert [(e["tid"], e["dur"]) for e in moved] == [(rank + 1, 0.5e6) for rank in range(4)]
    (failed,) = {e["args"]["failed"]: e["args"]["epoch"] for e in slices if "failed" in e["args"]}.items()
    assert failed[0] == "worker_lost"


def test_arrows_lead_from_the_holder_to_each_rank_that_lacked_the_state(story: tuple[Timeline, list[Json]]) -> None:
    _, events = story
    arrows = [(s["tid"] - 1, f["tid"] - 1, f["ts"]) for s, f in zip(of(events, "s"), of(events, "f"), strict=True)]
    # it grew from rank 0 to the other three, and was resumed on rank 3 from rank 0 after the loss
    assert arrows == [(0, 1, 5e6), (0, 2, 5e6), (0, 3, 5e6), (0, 3, 16e6)]
    assert all(s["ts"] < f["ts"] for s, f in zip(of(events, "s"), of(events, "f"), strict=True))


def test_counters_and_marks_say_what_the_timeline_says(story: tuple[Timeline, list[Json]]) -> None:
    timeline, events = story
    counted = [(e["ts"], e["args"]["busy"]) for e in of(events, "C") if e["name"] == "busy ranks"]
    assert counted == [(sample.at / 1000, sample.busy) for sample in timeline.samples]
    queue = [e["args"] for e in of(events, "C") if e["name"] == "queue"]
    assert {"waiting": 1, "paused": 0} in queue and {"waiting": 0, "paused": 1} in queue
    marks = [e["name"] for e in of(events, "i")]
    assert marks == ["joined", "lost", "set back big-1", "missed late-4", "rejected no-5", "joined"]


def test_every_request_has_a_row(story: tuple[Timeline, list[Json]]) -> None:
    timeline, events = story
    rows = {e["name"]: e for e in of(events, "b") if e["name"] in timeline.lives}
    assert list(rows) == list(timeline.lives)
    assert {e["pid"] for e in rows.values()} == {REQUESTS}
    assert rows["small-2"]["args"]["on_time"] is True and rows["late-4"]["args"]["on_time"] is False
    assert "on_time" not in rows["big-1"]["args"]


def test_the_command_writes_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal, out = tmp_path / "run.sqlite", tmp_path / "run.perfetto.json"
    line = ["sim", "-p", "slo", "--workload", "burst", "--cost", "qwen-h20", "--gpus", "8", "--journal", str(journal)]
    assert main(line) == 0
    capsys.readouterr()
    assert main(["trace", str(journal), "-o", str(out)]) == 0
    trace = json.loads(out.read_text("utf-8"))
    check_format(trace["traceEvents"])
    timeline = Timeline.from_journal(JournalReader(journal), 8)
    slices = sum(len(task.command.occupied) for task in timeline.tasks)
    arrows = len(of(trace["traceEvents"], "s"))
    assert arrows > 20
    assert f"8 ranks, 22 requests, {slices} slices, {arrows} arrows" in capsys.readouterr().out
    assert trace["otherData"]["policy"] == "slo"


def test_a_timeline_of_nothing_is_a_trace(tmp_path: Path) -> None:
    counts = write_trace(Timeline(2), tmp_path / "empty.json")
    assert (counts.slices, counts.arrows) == (0, 0)
    assert of(json.loads((tmp_path / "empty.json").read_text("utf-8"))["traceEvents"], "X") == []
