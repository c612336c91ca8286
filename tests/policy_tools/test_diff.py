"""`gfdit diff`: which requests two policies treat differently, and on which tick first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_worlds import make_cost

from gfdit.cli.app import main
from gfdit.policy.differ import Comparison, Driven
from gfdit.policy.store import compile_text
from gfdit.runtime.costfile import cost_model_to_json
from gfdit.runtime.workload import workload_line
from gfdit.sim.run import SimConfig, simulate
from tests.policy_tools.journals import GPUS, TAKING, contended, record

Capture = pytest.CaptureFixture[str]
WITHOUT = TAKING.replace("preempt for ui from bulk do pause\n", "")
NARROW = TAKING.replace("sp fixed 2 gpu", "sp fixed 1 gpu")
OPEN = TAKING.replace("tokens > 5000 tok", "tokens > 50000 tok")
REVERSED = TAKING.replace("order by rank, arrival", "order by rank desc, arrival")


def compared(a: str, b: str) -> Comparison:
    comparison = Comparison(compile_text(a), compile_text(b))
    simulate(SimConfig(Driven(comparison), contended(), "made", make_cost(), GPUS))
    return comparison


def concerned(comparison: Comparison) -> dict[str, set[str]]:
    return {str(aspect): set(counter) for aspect, counter in comparison.requests.items() if counter}


def test_a_policy_does_not_differ_from_itself() -> None:
    comparison = compared(TAKING, TAKING)
    assert comparison.equal and comparison.ticks > 10 and comparison.differing == 0


def test_the_driver_is_not_disturbed() -> None:
    alone = simulate(SimConfig(compile_text(TAKING), contended(), "made", make_cost(), GPUS)).summary
    driven = simulate(
        SimConfig(
            Driven(Comparison(compile_text(TAKING), compile_text(NARROW))), contended(), "made", make_cost(), GPUS
        )
    ).summary
    assert driven.ended == alone.ended and driven.moves == alone.moves


def test_a_degree_that_differs_names_both_clauses() -> None:
    comparison = compared(TAKING, NARROW)
    assert set(concerned(comparison)) == {"degree"}
    first = comparison.first[0]
    assert (first.a.text, first.b.text) == ("2 gpu", "1 gpu")
    assert first.at_s == pytest.approx(0.02, abs=1e-3)  # the end of encoding


def test_what_only_one_of_them_takes_is_found() -> None:
    comparison = compared(TAKING, WITHOUT)
    assert comparison.first[0].at_s == pytest.approx(0.4)  # when the urgent one comes
    (victim,) = [one for one in comparison.first if one.aspect == "degree"]
    assert (victim.request, victim.a.text) == ("r002", "0 gpu from its next boundary")


def test_fate_and_order() -> None:
    assert concerned(compared(TAKING, OPEN))["fate"] == {"r004"}
    by_order = compared(TAKING, REVERSED)
    assert "order" in concerned(by_order) and concerned(by_order).keys() <= {"order", "degree"}
    assert any(one.a.text.endswith(f"of {one.b.text.split()[-1]}") for one in by_order.first)


def test_what_admission_degrades_is_a_fate() -> None:
    def degrading(to: str) -> str:
        return TAKING.replace("admit {", f"admit {{\n  degrade when rank > 0 to {to}\n")

    assert "admit {" in TAKING
    comparison = compared(TAKING, degrading("steps = max(steps * 50%, 1 step), cache = 20%"))
    (first,) = [one for one in comparison.first if one.aspect == "fate"][:1]
    assert first.a.text == "admit" and first.b.text.startswith("admit with") and "cache 20%" in first.b.text


def test_the_command_on_a_journal_and_on_a_workload(tmp_path: Path, capsys: Capture) -> None:
    for name, text in (("taking", TAKING), ("narrow", NARROW)):
        (tmp_path / f"{name}.pol").write_text(text, "utf-8")
    a, b = str(tmp_path / "taking.pol"), str(tmp_path / "narrow.pol")
    journal = record(tmp_path / "run.sqlite", TAKING, contended())
    assert main(["diff", a, a, "--on", str(journal)]) == 0
    assert "none differ" in capsys.readouterr().out
    assert main(["diff", a, b, "--on", str(journal), "--json"]) == 1
    on_journal = json.loads(capsys.readouterr().out)
    workload, cost = tmp_path / "made.jsonl", tmp_path / "made.cost.json"
    workload.write_text("\n".join(map(workload_line, contended())), "utf-8")
    cost.write_text(cost_model_to_json(make_cost()), "utf-8")
    options = ["--on", str(workload), "--cost", str(cost), "--gpus", str(GPUS)]
    assert main(["diff", a, b, *options, "--json"]) == 1
    on_workload = json.loads(capsys.readouterr().out)
    for key in ("ticks", "differing_ticks", "requests", "first"):
        assert on_journal[key] == on_workload[key]  # A drove both
    assert on_workload["outcomes"]["a"]["completed"] == on_workload["outcomes"]["b"]["completed"] == 3
    assert set(on_workload["ends"]) <= {"r001", "r002", "r003"}
    assert main(["diff", a, b, *options]) == 1
    out = capsys.readouterr().out
    assert "the first difference, at 20.0 ms:" in out and "each on its own:" in out
    assert main(["diff", a, b, "--on", str(workload)]) == 2
    assert "--cost" in capsys.readouterr().err
