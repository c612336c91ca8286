"""`gfdit check`, `gfdit fmt` and the lookup of shipped policies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.errors import UsageError
from gfdit.policy import library

GOOD = 'policy mine version 1 "t"\n\norder by arrival\nstage encode, denoise, decode { sp fixed 1 gpu }\n'
BAD = GOOD.replace("arrival", "arival")


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def test_check_says_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", GOOD)
    assert main(["check", path]) == 0
    assert capsys.readouterr().out == f"{path}: ok\n"
    assert main(["check", path, "slo.pol", "fcfs"]) == 0
    assert capsys.readouterr().out == "3 policies: ok\n"


def test_check_shows_findings_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", BAD)
    assert main(["check", path]) == 1
    out = capsys.readouterr().out
    assert "error[N101]: unknown name `arival`" in out
    assert out.endswith(f"{path}: 1 error, 1 info\n")
    assert main(["check", "--format", "json", str(tmp_path)]) == 1
    assert [item["code"] for item in json.loads(capsys.readouterr().out)] == ["L501", "N101"]


def test_check_takes_params_and_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "slo", "--set", "age_step=30s", "--format", "short"]) == 0
    assert main(["check", "slo", "--set", "age_step=1h"]) == 1
    assert main(["check", "slo", "--set", "age_step"]) == 2
    assert main(["check", "slo", "--gpus", "2"]) == 0
    assert main(["check", "slo", "--gpus", "2", "--strict"]) == 1
    assert "degree 8 never fits in 2 gpu" in capsys.readouterr().out


def test_check_knows_neighbours_as_fallbacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", GOOD + "fallback other after 3 errors\n")
    assert main(["check", path]) == 1
    write(tmp_path, "other.pol", GOOD)
    assert main(["check", path]) == 0


def test_bad_usage_is_2_and_bad_files_are_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "slow.pol"]) == 2
    assert "did you mean `slo`?" in capsys.readouterr().err
    assert main(["check", "--format", "xml", "slo"]) == 2
    assert main(["check", str(tmp_path)]) == 2
    binary = tmp_path / "b.pol"
    binary.write_bytes(b"policy \xff")
    assert main(["check", str(binary)]) == 1
    assert "not UTF-8 text (byte 7)" in capsys.readouterr().err


def test_fmt_writes_shows_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mine.pol", GOOD.replace(" by ", "   by "))
    assert main(["fmt", "--check", path]) == 1
    assert capsys.readouterr().out == f"would reformat {path}\n"
    assert main(["fmt", "--diff", path]) == 1
    assert "+order by arrival\n" in capsys.readouterr().out
    assert main(["fmt", path]) == 0
    assert Path(path).read_text("utf-8") == GOOD
    assert main(["fmt", "--check", str(tmp_path)]) == 0
    assert main(["fmt", write(tmp_path, "bad.pol", "policy order")]) == 1
    assert main(["fmt", "nowhere.pol"]) == 2


def test_an_existing_file_goes_before_a_shipped_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = library.shipped_policy("slo.pol")
    assert shipped == library.shipped_policy("slo") == library.find_policy("slo")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "slo.pol", GOOD)
    assert library.find_policy("slo.pol") == Path("slo.pol")
    assert library.find_policy("slo") == shipped
    with pytest.raises(UsageError, match=r"did you mean `edf_best_fit`\?"):
        library.find_policy("edf_bestfit.pol")
    with pytest.raises(UsageError, match=r"no policy file `sub/slo\.pol`"):
        library.find_policy("sub/slo.pol")


def test_the_package_data_goes_before_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gfdit"
    (package / "_data" / "policies").mkdir(parents=True)
    write(package / "_data" / "policies", "mine.pol", GOOD)
    monkeypatch.setattr(library, "__file__", str(package / "policy" / "library.py"))
    assert library.names() == ("mine",)
