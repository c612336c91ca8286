"""Workload and cost model files: what is right reads back the same, what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import make_cost

from gfdit.core.work import Request
from gfdit.errors import CostModelError, WorkloadError
from gfdit.runtime.costfile import cost_model_to_json, load_cost_model, parse_cost_model
from gfdit.runtime.workload import load_workload, parse_workload, workload_line

SHARED = Path(__file__).parents[3] / "shared" / "data"
GOOD = {
    "id": "a", "arrival_s": 0.5, "model": "m", "class": "S", "height": 64, "width": 96, "frames": 1, "steps": 4,
    "tokens": 96, "text_tokens": 24, "cfg": False, "priority": 3, "slo_s": 2.5,
}  # fmt: skip


def parse(**changes: object) -> list[Request]:
    entry = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return parse_workload([json.dumps(entry)], "w.jsonl")


def test_a_line_reads_back_as_the_same_request() -> None:
    (request,) = parse(prompt="a red circle", seed=7, tag="ui", tenant="t", preemptible=False)
    assert parse_workload([workload_line(request)], "again") == [request]


@given(arrival=st.integers(0, 10**13), slo=st.none() | st.integers(1, 10**13), priority=st.integers(-5, 200))
def test_times_survive_a_round_trip(arrival: int, slo: int | None, priority: int) -> None:
    request = Request("r", "m", "c", arrival, 64, 64, 4, 64, slo_ns=slo, priority=priority, tag="c")
    (back,) = parse_workload([workload_line(request)], "w")
    assert abs(back.arrival_ns - arrival) <= 1 and back.priority == priority
    assert (back.slo_ns is None) == (slo is None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": ...}, "field `steps` is missing"),
        ({"stpes": 4}, "did you mean `steps`"),
        ({"steps": "4"}, "field `steps` is `4`"),
        ({"slo_s": 0}, "field `slo_s` is `0`"),
        ({"height": -1}, "field `height` is `-1`"),
        ({"tokens": ...}, "`tokens` is missing"),
    ],
)
def test_a_wrong_line_names_field_and_fix(changes: dict[str, object], says: str) -> None:
    with pytest.raises(WorkloadError) as error:
        parse(**changes)
    assert says in str(error.value) and "w.jsonl:1" in str(error.value)


def test_missing_tokens_come_from_the_geometry() -> None:
    line = json.dumps({key: value for key, value in GOOD.items() if key != "tokens"})
    (request,) = parse_workload([line], "w", tokens_of=lambda model, height, width, frames: height * width // 64)
    assert request.tokens == 96


def test_no_requests_and_twice_the_same_id_are_errors() -> None:
    with pytest.raises(WorkloadError, match="no requests"):
        parse_workload(["", "  "], "w")
    with pytest.raises(WorkloadError, match="used twice"):
        parse_workload([json.dumps(GOOD)] * 2, "w")


def test_a_cost_model_reads_back_as_the_same_model() -> None:
    cost = make_cost()
    assert parse_cost_model(cost_model_to_json(cost)) == cost
    assert "reshard_across_nodes" not in cost_model_to_json(cost)  # only where it is known: others read the file too
    two_nodes = replace(cost, reshard_across_s=0.25)
    assert parse_cost_model(cost_model_to_json(two_nodes)) == two_nodes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["models"]["m"]["stages"].pop("denoise"), "`denoise` is missing"),
        (lambda d: d["models"]["m"]["stages"]["prepare"]["degrees"].pop("4"), "no cost for degree 4"),
        (lambda d: d["models"]["m"]["stages"]["decode"]["degrees"].update({"1": {}}), "either `quadratic_s`"),
        (lambda d: d["models"]["m"]["stages"].update(polish=d["models"]["m"]["stages"]["decode"]), "`polish`"),
        (lambda d: d.update(format="gfdit-cost/9"), "format"),
        (lambda d: d["overheads_s"].update(reshard=-1), "overheads_s.reshard"),
    ],
)
def test_a_wrong_cost_model_is_refused(change: object, says: str) -> None:
    document = json.loads(cost_model_to_json(make_cost()))
    change(document)
    with pytest.raises(CostModelError) as error:
        parse_cost_model(json.dumps(document))
    assert says in str(error.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
def test_published_files_load_and_the_hand_checked_case_holds() -> None:
    for path in sorted((SHARED / "cost").glob("*.cost.json")):
        load_cost_model(path)
    workloads = [load_workload(path) for path in sorted((SHARED / "workloads").glob("*.jsonl"))]
    assert sum(map(len, workloads)) > 1000
    cost = load_cost_model(SHARED / "cost" / "qwen-h20.cost.json")
    request = Request("r", "qwen-image", "M", 0, 1024, 1024, 4, 4096, text_tokens=512)
    alone = sum(
        cost.seconds(request, stage, 1) * (4 if stage == "denoise" else 1) for stage in cost.stages("qwen-image")
    )
    assert alone == pytest.approx(2.648, abs=0.001)
