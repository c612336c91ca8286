"""The wheel works where there is no checkout: data files are inside, and bare names find them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 100


def _run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed; none of this process's Python settings reach it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with a virtual environment in which only the wheel is installed; libraries are borrowed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    _run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (borrowed,) = (folder / "env" / "lib").glob("python*/site-packages")
    # a plain line in a .pth adds one folder and reads no .pth files in it: an editable install there stays out
    (borrowed / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_its_data_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for policy in (ROOT / "policies").glob("*.pol"):
        assert f"gfdit/_data/policies/{policy.name}" in names
    for cost in (ROOT / "gfdit" / "_data" / "cost").glob("*.json"):
        assert f"gfdit/_data/cost/{cost.name}" in names
    checkpoint = ROOT / "gfdit" / "models" / "shapes" / "checkpoint"
    for path in checkpoint.rglob("*"):
        if path.is_file():
            assert path.relative_to(ROOT).as_posix() in names
    assert {"gfdit/_data/grammar/policy.lark", "gfdit/_data/examples/mixed.jsonl"} <= names
    for page in (ROOT / "docs" / "reference" / "errors").glob("*.md"):
        assert f"gfdit/_data/docs/reference/errors/{page.name}" in names
    assert not [name for name in names if name.startswith(("tests", "docs", "policies", "grammar", "hatch_build"))]


def test_the_installed_command_finds_what_was_shipped(elsewhere: Path) -> None:
    gfdit = elsewhere / "env" / "bin" / "gfdit"
    empty = elsewhere / "empty"
    empty.mkdir()
    where = _run(elsewhere / "env" / "bin" / "python", "-c", "import gfdit; print(gfdit.__file__)", cwd=empty)
    assert Path(where.strip()).is_relative_to(elsewhere / "env")
    assert "ok" in _run(gfdit, "check", "slo.pol", cwd=empty)
    assert "--policy" in _run(gfdit, "run", "--policy", "slo.pol", "--help", cwd=empty)
    simulated = ("sim", "--policy", "slo.pol", "--workload", "mixed.jsonl", "--cost", "shapes", "--gpus", "2", "--json")
    result = json.loads(_run(gfdit, *simulated, cwd=empty))
    assert (
        result["requests"] == result["completed"] == len((ROOT / "examples" / "mixed.jsonl").read_text().splitlines())
    )
    assert not list(empty.iterdir())


def test_the_installed_command_runs_a_live_system(elsewhere: Path, tmp_path: Path) -> None:
    workload = tmp_path / "two.jsonl"
    lines = [
        {
            "id": name,
            "arrival_s": 0.0,
            "model": "qwen-image",
            "class": "M",
            "height": 512,
            "width": 512,
            "steps": 2,
            "text_tokens": 64,
        }
        for name in ("a", "b")
    ]
    workload.write_text("".join(json.dumps(line) + "\n" for line in lines))
    gfdit = elsewhere / "env" / "bin" / "gfdit"
    emulated = ("--device", "emulated", "--workers", "2", "--time-scale", "20", "--json", "--out", tmp_path / "out")
    result = json.loads(_run(gfdit, "run", "--policy", "slo.pol", "--workload", workload, *emulated, cwd=tmp_path))
    assert (result["requests"], result["completed"], result["failed"]) == (2, 2, 0)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"journal.sqlite", "report.html", "summary.json"}
