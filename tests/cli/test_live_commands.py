"""`gfdit run` and `gfdit submit` with real worker processes, emulated or computing."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gfdit.runtime.journal import JournalReader

ROOT = Path(__file__).resolve().parents[2]
GFDIT = (sys.executable, "-c", "import sys; from gfdit.cli.app import main; sys.exit(main())")
EMULATED = ("--device", "emulated", "--workers", "2", "--time-scale", "20")
LIMIT_S = 100
PNG = b"\x89PNG\r\n\x1a\n"


def gfdit(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*GFDIT, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def line(name: str, **fields: object) -> str:
    common = {"id": name, "arrival_s": 0.0, "model": "shapes", "class": "standard", "height": 64, "width": 64}
    return (
        json.dumps({**common, "steps": 3, "cfg": True, "prompt": "a red circle on a blue background", **fields}) + "\n"
    )


def test_examples_do_what_their_page_says(tmp_path: Path) -> None:
    page = (ROOT / "examples" / "README.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 5
    for command in lines:
        name, *arguments = shlex.split(command)
        assert name == "gfdit"
        shown = gfdit(*arguments, cwd=tmp_path).stdout
        if arguments[0] == "replay":
            assert "decisions are equal" in shown
    summary = json.loads((tmp_path / "burst" / "summary.json").read_text())
    assert summary["completed"] == summary["requests"] == 22
    assert summary["resizes"] == sum(summary["resizes_by_kind"][kind] for kind in ("grow", "shrink", "migrate")) > 0
    assert (tmp_path / "burst" / "report.html").read_text().count("<svg") >= 1


@pytest.mark.slow
def test_real_pictures_come_out_of_a_workload(tmp_path: Path) -> None:
    workload = tmp_path / "three.jsonl"
    names = ("one", "../two", "three")
    workload.write_text("".join(line(name, seed=n, width=64 * n) for n, name in enumerate(names, 1)))
    out = tmp_path / "deep" / "out"
    done = gfdit(
        "run", "-p", "slo.pol", "--workload", workload, "--out", out, "--device", "cpu", "--json", cwd=tmp_path
    )
    summary = json.loads(done.stdout)
    assert summary == json.loads((out / "summary.json").read_text())
    assert (summary["completed"], summary["gpus"], summary["device"]) == (
        3,
        max(2, len(os.sched_getaffinity(0))),
        "cpu",
    )
    pictures = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert set(pictures) == {"one.png", "_two.png", "three.png"}
    assert all(content.startswith(PNG) for content in pictures.values())
    assert not list(tmp_path.glob("*.png"))
    gfdit("replay", out / "journal.sqlite", cwd=tmp_path)


def test_without_a_workload_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [*GFDIT, "run", "-p", "slo", "--port", "0", *EMULATED, "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        assert server.stdout is not None and server.stderr is not None
        try:
            url = next(found[1] for text in server.stdout if (found := re.search(r"serving on (http://\S+);", text)))
            asked = ("submit", "a cat", "--size", "512x512", "-o", "a.out", "--url", url, "--steps", "4", "--seed", "3")
            first = gfdit(*asked, "--class", "interactive", "--deadline", "60", "--json", cwd=tmp_path)
            how = json.loads(first.stdout)
            assert (how["steps"], how["seed"], how["deadline_met"], how["policy"]) == (4, 3, True, "slo")
            shown = gfdit(*asked, cwd=tmp_path).stdout
            assert shown.startswith("a.out: 4 steps, seed 3; waited ")
            refused = gfdit("submit", "a cat", "--size", "500x512", "-o", "b.out", "--url", url, cwd=tmp_path, code=1)
            assert refused.stderr == "error: `size` is `500x512`: 500 is not a multiple of 16; 496 is\n"
            assert not (tmp_path / "b.out").exists()
            assert re.fullmatch(r"[0-9a-f]{64}", (tmp_path / "a.out").read_text())
        finally:
            server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=LIMIT_S)
    assert server.returncode == 0, errors
    assert "draining" in rest and "2 requests, 2 completed" in rest
    assert errors == ""
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["completed"], summary["failed"]) == (2, 0)


def test_an_interrupted_workload_finishes_what_runs_and_forgets_the_rest(tmp_path: Path) -> None:
    workload = tmp_path / "w.jsonl"
    big = {"model": "qwen-image", "width": 1024, "height": 1024, "steps": 8, "text_tokens": 512, "cfg": False}
    workload.write_text(line("now", **big) + line("never", arrival_s=50_000.0, **big))
    command = [*GFDIT, "run", "-p", "slo", "--workload", str(workload), *EMULATED, "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        assert running.stdout is not None
        for text in running.stdout:
            if " start " in text:
                running.send_signal(signal.SIGINT)
                break
        rest, errors = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130, errors
    assert "draining" in rest
    reader = JournalReader(tmp_path / "out" / "journal.sqlite")
    assert reader.meta["recipe"]["about"]["device"] == "emulated"
    reader.close()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["requests"], summary["completed"]) == (1, 1)
