"""The command line as a person uses it: what it prints where, and with which exit code."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import cli_reference
import pytest

from gfdit.cli.app import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
BURST = ("--workload", "burst.jsonl", "--cost", "qwen-h20", "--gpus", "8")
FIELDS = [
    "policy",
    "policy_sha",
    "workload",
    "cost_model",
    "gpus",
    "seed",
    "requests",
    "completed",
    "rejected",
    "failed",
    "attainment",
    "attainment_by_class",
    "mean_latency_s",
    "p50_latency_s",
    "p95_latency_s",
    "p99_latency_s",
    "mean_latency_by_class_s",
    "makespan_s",
    "throughput_rps",
    "gpu_busy",
    "resizes",
    "preemptions",
    "ticks",
    "tick_p50_us",
    "tick_p99_us",
    "bound",
]
MEASURED = ("tick_p50_us", "tick_p99_us")

Capture = pytest.CaptureFixture[str]


def test_help_lists_every_command_with_what_it_does(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        (line,) = [line for line in out.splitlines() if line.strip().startswith(name + " ")]
        assert len(line.split()) > 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: Capture) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: gfdit {command}" in capsys.readouterr().out


def test_version(capsys: Capture) -> None:
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gfdit {versions['gfdit']}\n"
    assert {"python", "torch", "diffusers"} <= set(versions)


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion(capsys: Capture) -> None:
    assert main(["replai"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "did you mean `replay`?" in err


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ("sim -p slo --workload burst --cost h20", 2, "no cost model `h20`"),
        ("sim -p slo --workload burts --cost qwen-h20", 2, "did you mean `burst`?"),
        ("sim -p sloo --workload burst --cost qwen-h20", 2, "no policy `sloo`"),
        ("sim -p slo --workload burst --cost shapes", 1, "no model `qwen-image`"),
        ("sim -p slo --workload burst --cost qwen-h20 --set", 2, "requires an argument"),
        ("sim -p slo --workload burst --cost qwen-h20 --set worth", 2, "not PARAM=VALUE"),
        ("sim -p slo --workload burst --cost qwen-h20 --set wurth=2", 1, "worth"),
        ("sim -p slo --workload burst --cost qwen-h20 --gpus 0", 2, "--gpus"),
        ("replay nowhere.sqlite", 1, "no journal at `nowhere.sqlite`"),
        ("run -p slo --time-scale 3", 2, "needs emulated devices"),
        ("run -p slo --workers many", 2, "`auto` or a number"),
        ("run -p slo --device emulated --model .", 2, "exclude each other"),
        ("run -p slo --port 70000", 2, "0 to 65535"),
        ("run -p slo --model nowhere", 2, "no model folder `nowhere`"),
        ("run -p slo --device tpu", 2, "tpu"),
        ("submit x --size 64 -o a.png", 2, "`128x128`"),
        ("submit x -o nowhere/a.png", 2, "no folder `nowhere`"),
        ("submit x -o a.png --url nowhere", 2, "no server's address"),
        ("submit x -o a.png --url http://127.0.0.1:1", 1, "gfdit run"),
        ("profile --device emulated", 2, "nothing to measure"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(
    line: str, code: int, part: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    assert part in err
    assert out == "" and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_an_error_of_our_own_has_a_code_of_its_own(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        """Fail."""
        raise ZeroDivisionError

    monkeypatch.setattr("gfdit.cli.policies.policies", broken)
    assert main(["policies"]) == 70
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err and err.rstrip().endswith("the lines above say where")


def test_the_shipped_policies_are_listed_and_shown(capsys: Capture) -> None:
    assert main(["policies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {path.stem for path in (ROOT / "policies").glob("*.pol") if not path.stem.endswith("_test")}
    assert {line.split()[0] for line in lines} == names
    assert all(len(line.split()) > 3 for line in lines)
    assert main(["policies", "slo.pol"]) == 0
    assert capsys.readouterr().out == (ROOT / "policies" / "slo.pol").read_text()


def test_check_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from gfdit.cli.app import main; code = main(['check', 'slo.pol']);"
        "heavy = {'torch', 'diffusers', 'transformers', 'zmq', 'numpy', 'scipy', 'rich', 'fastapi'} & set(sys.modules);"
        "sys.exit(str(sorted(heavy)) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_sim_prints_the_documented_object_and_is_deterministic(capsys: Capture) -> None:
    noisy = ("--noise", "0.1", "--seed", "5", "--check", "--json")
    results = []
    for _ in range(2):
        assert main(["sim", "-p", "slo", *BURST, *noisy]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert list(results[0]) == FIELDS
    assert (results[0]["workload"], results[0]["cost_model"], results[0]["seed"]) == ("burst.jsonl", "qwen-h20", 5)
    for result in results:
        for name in MEASURED:
            del result[name]
    assert results[0] == results[1]


def test_a_policy_param_changes_the_result(capsys: Capture) -> None:
    def resizes(*more: str) -> int:
        assert main(["sim", "-p", "slo", *BURST, "--json", *more]) == 0
        return int(json.loads(capsys.readouterr().out)["resizes"])

    assert resizes("--set", "worth=300%") < resizes()


def test_a_journal_replays_to_equal_decisions_and_a_forged_one_does_not(tmp_path: Path, capsys: Capture) -> None:
    journal, report = tmp_path / "journal.sqlite", tmp_path / "report.html"
    command = ["sim", "-p", "slo", *BURST, "--set", "worth=120%", "--journal", str(journal), "--report", str(report)]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "interactive" in table and "22 requests, 22 completed" in table
    assert report.stat().st_size > 10_000
    assert main(["replay", str(journal), "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)
    assert replayed["equal"] and replayed["ticks"] > 500 and replayed["differences"] == []
    with sqlite3.connect(journal) as db:
        db.execute("UPDATE meta SET value = replace(value, '120%', '300%')")
    db.close()
    assert main(["replay", str(journal)]) == 1
    assert "decisions differ" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not here")
def test_edf_best_fit_is_always_on_time_on_the_published_workload(capsys: Capture) -> None:
    workload, cost = SHARED / "workloads" / "qwen_tridentserve_med_g8.jsonl", SHARED / "cost" / "qwen-h20.cost.json"
    line = [
        "sim",
        "--policy",
        "edf_best_fit.pol",
        "--workload",
        str(workload),
        "--cost",
        str(cost),
        "--gpus",
        "8",
        "--json",
    ]
    assert main(line) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == FIELDS
    assert (result["completed"], result["attainment"]) == (252, 1.0)


def test_the_reference_page_is_what_the_commands_say() -> None:
    assert cli_reference.PAGE.read_text() == cli_reference.page(), "run `make docs`"


def test_the_policy_in_the_readme_checks(tmp_path: Path, capsys: Capture) -> None:
    text = (ROOT / "README.md").read_text()
    policy = tmp_path / "readme.pol"
    policy.write_text(next(block for block in text.split("```\n") if block.startswith("policy ")))
    assert main(["check", "--strict", str(policy)]) == 0, capsys.readouterr().out
