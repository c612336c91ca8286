"""`gfdit lint`: warnings are findings, and what `--fix` changes decides nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.lang.check import check
from gfdit.lang.source import Source
from gfdit.policy import library, store
from gfdit.policy.vocabulary import schema

Capture = pytest.CaptureFixture[str]
SLOPPY = """\
policy sloppy version 1 "Sloppy"

param unread: dur = 10s  # goes with its comment
# stays
let inner = 1 gpu
let outer = inner + 1 gpu
class ui when tag == "ui" { rank 0 }
class bulk otherwise { rank 1 }
order by rank, deadline, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp in {4, 1, 2, 2} gpu smallest }
preempt for ui from bulk by deadline do pause
aging every 1min raise 1
"""


def codes(text: str) -> list[str]:
    return sorted({item.code for item in check(Source(text), schema()).diagnostics})


@pytest.fixture
def sloppy(tmp_path: Path) -> Path:
    path = tmp_path / "sloppy.pol"
    path.write_text(SLOPPY, "utf-8")
    return path


def test_warnings_are_findings(sloppy: Path, capsys: Capture) -> None:
    assert main(["check", str(sloppy)]) == 0
    assert main(["lint", str(sloppy)]) == 1
    out = capsys.readouterr().out
    assert all(f"warning[{code}]" in out for code in ("L504", "L506", "L508"))
    assert main(["lint", str(sloppy), "--rules", "L506", "--json"]) == 1
    assert {item["code"] for item in json.loads(capsys.readouterr().out)} == {"L506"}
    assert main(["lint", str(sloppy), "--rules", "L505"]) == 0


def test_fix_mends_what_decides_nothing(sloppy: Path, capsys: Capture) -> None:
    assert main(["lint", str(sloppy), "--fix"]) == 1  # one finding needs a decision
    mended = sloppy.read_text("utf-8")
    assert codes(mended) == ["L506"]
    assert "unread" not in mended and "inner" not in mended and "outer" not in mended  # the second round's too
    assert "# stays\n" in mended and "goes with" not in mended
    assert "{1, 2, 4} gpu" in mended
    before, after = store.checked_program(SLOPPY.replace("{4, 1, 2, 2}", "{1, 2, 4}")), store.checked_program(mended)
    assert (before.order, before.classes, before.stages, before.preempts) == (
        after.order,
        after.classes,
        after.stages,
        after.preempts,
    )


@pytest.mark.parametrize(
    ("by", "found"),
    [("deadline", True), ("deadline desc", False), ("rank", True), ("tokens", False), ("arrival", True)],
)
def test_victims_in_the_order_of_urgency(by: str, found: bool) -> None:
    text = SLOPPY.replace("by deadline do", f"by {by} do")
    assert ("L506" in codes(text)) is found


def test_shipped_policies_leave_nothing_to_say(capsys: Capture) -> None:
    assert main(["lint", *library.names(), "--json"]) == 0
    assert [item for item in json.loads(capsys.readouterr().out) if item["severity"] == "warning"] == []


def test_what_is_wrong_is_said(sloppy: Path, capsys: Capture) -> None:
    assert main(["lint", str(sloppy), "--rules", "L999"]) == 2
    assert main(["lint", "slo", "--fix"]) == 2
    assert main(["lint", str(sloppy), "--format", "yaml"]) == 2
