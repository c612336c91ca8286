"""`gfdit completion`: the scripts, in bash itself, and what they ask for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gfdit.cli.app import COMMANDS, main

Capture = pytest.CaptureFixture[str]
BASH = shutil.which("bash")
LIMIT_S = 60


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment in which `gfdit` is this checkout's, whatever is installed."""
    script = tmp_path / "bin" / "gfdit"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m gfdit "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    root = str(Path(__file__).resolve().parents[2])
    return os.environ | {"PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": root}


def completed(line: str, environment: dict[str, str], folder: Path) -> list[str]:
    """What bash offers at the end of a line, with the printed script in force."""
    words = line.split(" ")
    asked = (
        'source <(gfdit completion bash); words=("$@"); COMP_WORDS=("${words[@]}"); '
        "COMP_CWORD=$((${#words[@]} - 1)); _gfdit_completion gfdit; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        [str(BASH), "--norc", "-c", asked, "bash", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="no bash")
def test_bash_completes(program: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.pol").write_text("", encoding="utf-8")
    assert completed("gfdit conv", program, tmp_path) == ["convert"]
    assert completed("gfdit check edf_", program, tmp_path) == ["edf_best_fit", "edf_greedy"]
    assert completed("gfdit check mi", program, tmp_path) == ["mine.pol"]


def offered(line: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> list[str]:
    """What a bash that runs in the current folder is told, without the bash."""
    monkeypatch.setenv("_GFDIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    capsys.readouterr()
    assert main([]) == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("gfdit workload ", ["make", "show"]),
        ("gfdit check --stri", ["--strict"]),
        ("gfdit check --format g", ["github"]),
        ("gfdit check mine", ["mine.pol", "mine.py"]),
        ("gfdit check sub/", []),  # left to bash
        ("gfdit compare --policies slo,srt", ["slo,srtf"]),
        ("gfdit sim --workload mix", ["mixed"]),
        ("gfdit sim --cost sha", ["shapes"]),
        ("gfdit sim --policy slo --set age", ["age_step="]),
        ("gfdit completion ", ["bash", "zsh", "fish"]),
        ("gfdit ", list(COMMANDS)),
    ],
)
def test_what_is_offered(
    line: str, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("mine.pol", "mine.py", "mine.txt", "sub/a.pol"):
        (tmp_path / name).write_text("", encoding="utf-8")
    assert offered(line, monkeypatch, capsys) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_every_shell(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_GFDIT_COMPLETE" in script and f"complete_{shell}" in script


def test_other_shells_are_refused(capsys: Capture) -> None:
    assert main(["completion", "csh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_zsh_gets_folders_and_help(program: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.pol").write_text("", encoding="utf-8")
    for line, wanted in (("gfdit check sub/", '"sub/a.pol"'), ("gfdit check slo", '"slo":"Everyone who can')):
        asked = program | {"_GFDIT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
        done = subprocess.run(["gfdit"], env=asked, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
        assert wanted in done.stdout, done.stdout + done.stderr
