"""`gfdit test`: what it runs, what it says of a failure, and what it says the tests have left out."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gfdit.cli.app import main
from gfdit.errors import PolicyError
from gfdit.policy import library
from gfdit.policy.coverage import Coverage, Covered
from gfdit.policy.store import compile_text
from gfdit.policy.suite import load_suite
from gfdit.policy.testing import run_tests

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]
POLICY = """\
policy mine version 1 "Mine"

class fast when tag == "ui" { rank 0 }
class slow otherwise { rank 1 }
admit {
  reject when tokens > 100000 tok because "too large"
  accept when class == slow
  accept
}
order by rank, deadline, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise {
  sp in {1, 2, 4} gpu
      smallest where finish(sp) <= deadline
      else minimizing finish(sp)
  grow by order where gain(next) > 110%
}
guard calm: longest_wait(any) < 1min else alert
"""
TESTS = """\
test "one is wide" {
  cluster 4 gpu
  request a { stage = "denoise", deadline = now + 1s, steps_left = 20 step }
  request b { stage = "denoise", steps_left = 20 step }
  expect a.sp == 1 gpu and b.waiting
}
"""


def covered(tests: str) -> dict[str, Covered]:
    policy = compile_text(POLICY + tests)
    coverage = Coverage(policy.program)
    run_tests(policy, coverage=coverage)
    return {clause.id: clause for clause in coverage.clauses()}


def test_the_tests_of_shipped_policies_pass_and_try_the_clauses(capsys: Capture) -> None:
    assert main(["test", str(ROOT / "policies"), "--min-coverage", "98", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [policy["file"] for policy in report["policies"]] == [f"{name}.pol" for name in library.names()]
    for policy in report["policies"]:
        assert policy["tests"] and all(test["expectations"] for test in policy["tests"])
        assert policy["coverage"]["percent"] >= 90


def test_every_clause_that_decides_is_counted_once() -> None:
    clauses = covered("")
    assert list(clauses) == [
        "class.fast", "class.slow", "admit.1", "admit.2", "admit.3", "order", "stage.encode.sp",
        "stage.denoise.sp.1", "stage.denoise.sp.2", "stage.denoise.grow", "guard.calm",
    ]  # fmt: skip
    assert {clause.gap for clause in clauses.values()} == {"never evaluated"}


def test_outcomes_are_told_apart() -> None:
    clauses = covered(TESTS)
    assert clauses["class.fast"].gap == "never true"  # and so the rule for all others was used
    assert clauses["class.slow"].gap == ""
    assert clauses["admit.2"].gap == "never false"
    assert clauses["admit.3"].gap == "never evaluated"
    assert clauses["stage.denoise.sp.1"].gap == "never true" or clauses["stage.denoise.sp.1"].false
    assert clauses["stage.denoise.sp.2"].decided
    assert clauses["stage.encode.sp"].gap == "never evaluated"
    assert clauses["guard.calm"].gap == "never false"


def test_a_rule_behind_another_is_shadowed() -> None:
    rules = "accept when rank >= 0\n  reject when rank > 0"
    both = compile_text(POLICY.replace("accept when class == slow", rules) + TESTS)
    coverage = Coverage(both.program)
    run_tests(both, coverage=coverage)
    assert {clause.id: str(clause.gap) for clause in coverage.clauses()}["admit.3"] == "shadowed"


ALL = """\
policy all version 1 "Every clause that counts"

class fast when tag == "ui" { rank 0 }
class slow otherwise { rank 1 preemptible }
mode busy when count(where waiting) > 1 until count(where waiting) < 1
state price: num = 0 within 0 .. 9 next price + count(where waiting) - 1 every 1s
pool aux = 1 gpu
pool dit = rest
batch by tokens max 2 where price < 5
order by rank, price, arrival
aging every 60s raise 1
stage encode on aux { sp fixed 1 gpu }
stage decode on aux { sp fixed 1 gpu spill to dit when backlog(aux) > 1s }
stage denoise on dit { sp in {1, 2} gpu smallest where busy else largest hold for 1s }
resize aux by 1 gpu when busy(aux) > 50% within 1 gpu .. 2 gpu
preempt for fast when waited > 1s from slow where steps_left > 1 step do pause
react late when class == fast do alert "late"
react busy do raise 1 for 1s
guard calm: longest_wait(any) < 1min else alert
"""
EVERY = """\
test "busy" {
  cluster 3 gpu
  request z { age = 9s, stage = "decode", steps_left = 0 step }
  request y { age = 8s, stage = "encode" }
  request a { age = 7s, stage = "denoise", tag = "ui", deadline = now - 1s }
  request b { age = 6s, stage = "denoise" }
  request c { age = 5s, stage = "denoise" }
  request d { age = 4s, stage = "denoise" }
  expect a.sp + b.sp + c.sp + d.sp <= 2 gpu
  at 2s
  expect busy
  at 4s
  expect price > 0
}
"""


def test_every_kind_of_clause_is_counted() -> None:
    def gaps(tests: str) -> dict[str, str]:
        policy = compile_text(ALL + tests)
        coverage = Coverage(policy.program)
        run_tests(policy, coverage=coverage)
        return {clause.id: str(clause.gap) for clause in coverage.clauses()}

    nothing, something = gaps(""), gaps(EVERY)
    assert list(nothing) == [
        "class.fast", "class.slow", "mode.busy.until", "mode.busy.when", "state.price", "pool.aux", "pool.dit", "batch",
        "order", "aging", "stage.encode.sp", "stage.decode.sp", "stage.decode.spill", "stage.denoise.hold",
        "stage.denoise.sp.1", "stage.denoise.sp.2", "resize.1", "preempt.1", "preempt.1.when", "preempt.1.where",
        "react.1", "react.2", "guard.calm",
    ]  # fmt: skip
    assert set(nothing.values()) == {"never evaluated"}
    assert {name for name, gap in something.items() if gap == "never evaluated"} == {
        "aging", "stage.encode.sp", "stage.denoise.hold", "stage.denoise.sp.2", "preempt.1", "preempt.1.when",
        "preempt.1.where",
    }  # fmt: skip
    assert something["mode.busy.when"] == something["guard.calm"] == "never false"
    assert something["stage.decode.spill"] == something["resize.1"] == "never true"
    assert something["state.price"] == something["pool.dit"] == something["react.2"] == ""


def test_a_failure_names_what_was_expected_and_the_clause_that_decided(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.pol"
    path.write_text(POLICY + TESTS, "utf-8")
    assert main(["test", str(path)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  one is wide" in out
    assert "expected  a.sp == 1 gpu and b.waiting  (line 23)" in out
    assert "a.sp = 4" in out and "sp, 2nd alternative, line 15" in out
    assert main(["test", str(path), "--json"]) == 1
    (failure,) = json.loads(capsys.readouterr().out)["policies"][0]["tests"][0]["failures"]
    assert failure["line"] == 23
    assert failure["actual"]["a.sp"] == "4"
    assert failure["decided"]["a"] == {"sp": 4, "by": "sp, 2nd alternative, line 15"}
    assert main(["test", str(path), "--format", "short"]) == 1
    assert capsys.readouterr().out.startswith(f"{path}:23: one is wide: expected a.sp == 1 gpu")


def test_tests_beside_the_policy_run_with_their_own_lines(tmp_path: Path, capsys: Capture) -> None:
    path, beside = tmp_path / "mine.pol", tmp_path / "mine_test.pol"
    path.write_text(POLICY, "utf-8")
    beside.write_text(TESTS, "utf-8")
    assert main(["test", str(tmp_path), "--format", "junit"]) == 1  # the folder has one policy
    (suite,) = ElementTree.fromstring(capsys.readouterr().out)
    assert suite.attrib == {"name": str(path), "tests": "1", "failures": "1"}
    (case,) = suite
    assert (case.get("file"), case.get("line")) == (str(beside), "1")
    assert "expected a.sp == 1 gpu" in (case[0].get("message") or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TESTS.replace("a.sp == 1", "a.spp == 1"), "mine_test.pol:5:12"),
        ("order by arrival\n", "mine_test.pol:1: a file of tests holds `test` blocks only, found `order`"),
        (TESTS.replace("expect", "expct"), "mine_test.pol:5:3"),
    ],
)
def test_what_is_wrong_with_a_file_of_tests_is_said_in_its_own_lines(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.pol"
    path.write_text(POLICY, "utf-8")
    (tmp_path / "mine_test.pol").write_text(text, "utf-8")
    with pytest.raises(PolicyError, match=message.replace(".", r"\.")):
        load_suite(str(path))


def test_too_little_coverage_and_wrong_options_are_exit_codes(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.pol"
    path.write_text(POLICY, "utf-8")
    assert main(["test", str(path)]) == 0
    assert main(["test", str(path), "--min-coverage", "50"]) == 1
    assert "0 % of all clauses were tried, expected 50 %" in capsys.readouterr().out
    assert main(["test", str(path), "--format", "xml"]) == 2
    assert main(["test", str(tmp_path / "none.pol")]) == 2
