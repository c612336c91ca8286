"""The example of the README runs as it stands, and the benchmark reports what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gfdit.collectives
from gfdit.collectives.bench import bench_collectives

ROOT = Path(gfdit.collectives.__file__).parents[2]


def test_readme_example_runs(tmp_path: Path) -> None:
    text = (Path(gfdit.collectives.__file__).parent / "README.md").read_text()
    script = tmp_path / "example.py"
    script.write_text(text.split("```python\n")[1].split("```")[0])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["group (0, 1, 2): hello", "group (2, 0): ['rank 2', 'rank 0']"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_quick_benchmark_reports_every_field() -> None:
    """And, side by side in one run, forming a group beats a new gloo group by far."""
    report = bench_collectives(quick=True)
    assert report["bench"] == "collectives"
    for row in report["rows"]:
        assert set(row) == {"op", "ranks", "bytes", "p50_us", "p99_us", "gloo_p50_us", "memcpy_us"}
        assert 0 < row["p50_us"] <= row["p99_us"] and row["gloo_p50_us"] > 0
    ops = {row["op"] for row in report["rows"]}
    assert {"barrier", "all_gather", "all_to_all", "broadcast"} <= ops
    assert 0 < report["formation_p50_us"] < report["formation_barrier_p50_us"]
    assert report["formation_barrier_p50_us"] * 5 < report["gloo_new_group_p50_us"]
