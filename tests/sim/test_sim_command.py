"""What `gfdit sim` takes beside a policy and a workload: faults, a true table, nodes, a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.runtime.costfile import cost_model_to_json, load_cost_model

Capture = pytest.CaptureFixture[str]
BURST = ("sim", "-p", "edf_best_fit", "--workload", "burst", "--cost", "qwen-h20")
FAULTS = "crash 300/h restart 5s, straggler 2x 30% for 5s, slow_link 3x 50%"


def result_of(capsys: Capture, *more: str) -> dict[str, object]:
    assert main([*BURST, "--json", *more]) == 0
    result: dict[str, object] = json.loads(capsys.readouterr().out)
    return {name: value for name, value in result.items() if not name.startswith("tick_")}


def test_faults_are_reported_and_repeat_with_the_seed(tmp_path: Path, capsys: Capture) -> None:
    trace, report, journal = tmp_path / "run.json", tmp_path / "run.html", tmp_path / "run.sqlite"
    files = ("--trace", str(trace), "--report", str(report), "--journal", str(journal))
    first = result_of(capsys, "--faults", FAULTS, "--seed", "2", "--check", *files)
    assert first == result_of(capsys, "--faults", FAULTS, "--seed", "2")
    counted = first["faults"]
    assert isinstance(counted, dict) and counted["asked"] == FAULTS
    assert min(counted["crashes"], counted["failed_tasks"], counted["slowed_tasks"], counted["slowed_handovers"]) > 0
    assert first["makespan_s"] > result_of(capsys)["makespan_s"]  # type: ignore[operator]
    told = json.loads(trace.read_text())
    assert told["otherData"]["faults"] == FAULTS
    assert any("lost" in event["name"] for event in told["traceEvents"])
    assert FAULTS in report.read_text()
    assert main(["replay", str(journal), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"]
    assert main([*BURST, "--faults", FAULTS, "--seed", "2"]) == 0
    assert f"{counted['crashes']} crashes, {counted['failed_tasks']} failed tasks" in capsys.readouterr().out


def test_faults_that_are_not_understood_are_named(capsys: Capture) -> None:
    assert main([*BURST, "--faults", "crash 2/h, flood 1m"]) == 2
    assert "fault `flood 1m` is not understood" in capsys.readouterr().err


def test_a_true_table_changes_what_happens_and_not_what_is_believed(tmp_path: Path, capsys: Capture) -> None:
    from gfdit.cli.shipped import find_cost

    cost = load_cost_model(find_cost("qwen-h20"))
    text = json.loads(cost_model_to_json(cost))
    text["overheads_s"]["dispatch"] = 0.2
    slow = tmp_path / "slow.cost.json"
    slow.write_text(json.dumps(text))
    plain, misled = result_of(capsys), result_of(capsys, "--truth", str(slow))
    assert misled["cost_model"] == plain["cost_model"] == "qwen-h20"
    assert misled["mean_latency_s"] > plain["mean_latency_s"]  # type: ignore[operator]
    assert main([*BURST, "--truth", str(slow), "--bound"]) == 2
    assert "--bound does not go with --truth" in capsys.readouterr().err


def test_nodes_say_how_many_ranks_and_where(capsys: Capture) -> None:
    assert result_of(capsys, "--nodes", "4x2") == result_of(capsys, "--gpus", "8", "--gpus-per-node", "2")
    for wrong in ("8", "0x8", "2x", "axb"):
        assert main([*BURST, "--nodes", wrong]) == 2
        assert f"`{wrong}`" in capsys.readouterr().err
